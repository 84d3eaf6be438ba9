"""What one batch waits for behind packet 1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np

from deployments.protocols import TrackersAwayError
from flows.packet import Records
from flows.records import joined
from flows.verdict import VERDICT_DTYPE

__all__ = ["Settlement"]

_NO_VERDICTS = np.empty(0, VERDICT_DTYPE)


class Settlement:
    """The verdicts that one batch brings about behind packet 1."""

    def __init__(self) -> None:
        self._parts: list[Records] = []
        self._news = False
        self._away: set[int] = set()
        self._error: BaseException | None = None
        self._shares = 0
        self._changed = asyncio.Event()

    async def parts(self) -> AsyncIterator[Records]:
        """Yield verdicts, ``VERDICT_DTYPE [n]``, as they come; end when nothing more can.

        If there is news of trackers, at least one part comes, maybe without verdicts.

        Raises:
            TrackersAwayError: Trackers did not take their rows; all else has been yielded.
            Exception: What the deeper tiers raised.
        """
        while self._shares or self._parts or self._error:
            await self._changed.wait()
            self._changed.clear()
            if self._parts:
                found = joined(self._parts)
                self._parts.clear()
                self._news = False
                yield found
            if self._error is not None:
                raise self._error
        if self._news:
            yield _NO_VERDICTS
        if self._away:
            raise TrackersAwayError(frozenset(self._away))

    def opened(self) -> None:
        """Note that a share of it is on its way."""
        self._shares += 1

    def closed(self) -> None:
        """Note that a share of it is through."""
        self._shares -= 1
        if not self._shares:
            self._changed.set()

    def add(self, verdicts: Records) -> None:
        """Take in verdicts, ``VERDICT_DTYPE [n]``."""
        self._parts.append(verdicts)
        self._changed.set()

    def tell(self) -> None:
        """Note that there is news of trackers."""
        self._news = True

    def refuse(self, tracker: int) -> None:
        """Note that a tracker did not take its rows."""
        self._away.add(tracker)

    def fail(self, error: BaseException) -> None:
        """Let it end with an error."""
        self._error = error
        self._changed.set()
