"""Watchers: those who follow the verdicts as they are given, each with a bounded queue.

A watcher must never slow classification down. So giving a batch to it is one append, its choice
is applied when it takes the batch, and a full queue drops its oldest batches and counts them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from flows.errors import ServiceUnavailableError
from flows.packet import Records
from flows.verdict import VERDICT_DTYPE

__all__ = [
    "MAX_QUEUED_BATCHES",
    "MAX_QUEUED_VERDICTS",
    "MAX_WATCHERS",
    "Choice",
    "Seen",
    "Watcher",
    "Watchers",
]

MAX_WATCHERS = 16  # of one Router: each holds one of its requests (max_ongoing_requests) open
MAX_QUEUED_BATCHES = 1_024
MAX_QUEUED_VERDICTS = 262_144  # 10 MB


@dataclass(frozen=True, slots=True)
class Choice:
    """Which verdicts a watcher wants.

    Attributes:
        collector: A collector incarnation, or a collector's name (all its incarnations); empty:
            all.
        labels: Indices of labels; None: all.
        only_final: Leave provisional verdicts out.
    """

    collector: str = ""
    labels: tuple[int, ...] | None = None
    only_final: bool = False

    def wants(self, collector: str) -> bool:
        """Tell whether verdicts on flows of ``collector`` are wanted."""
        return not self.collector or self.collector in (collector, collector.rpartition("#")[0])

    def of(self, verdicts: Records) -> Records:
        """Return those that are wanted of ``VERDICT_DTYPE [n]``."""
        if self.only_final:
            verdicts = verdicts[verdicts["final"] == 1]
        if self.labels is not None:
            verdicts = verdicts[np.isin(verdicts["label"], self.labels)]
        return verdicts


@dataclass(frozen=True, slots=True)
class Seen:
    """What a watcher takes from its queue.

    Attributes:
        collector: The collector incarnation; empty in a sign of life.
        verdicts: ``VERDICT_DTYPE [n]``, what the choice left.
        dropped_batches: Batches that were dropped since the last one.
        dropped_verdicts: Verdicts in them, before the choice.
    """

    collector: str
    verdicts: Records
    dropped_batches: int = 0
    dropped_verdicts: int = 0


class Watcher:
    """One watcher's queue.

    Args:
        choice: What it wants.
    """

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._queue: deque[tuple[str, Records]] = deque()
        self._queued_verdicts = 0
        self._dropped_batches = 0
        self._dropped_verdicts = 0
        self._filled = asyncio.Event()

    def put(self, collector: str, verdicts: Records) -> None:
        """Queue ``VERDICT_DTYPE [n]``, which must not change any more; drop the oldest if full."""
        if not len(verdicts) or not self._choice.wants(collector):
            return
        self._queue.append((collector, verdicts))
        self._queued_verdicts += len(verdicts)
        while len(self._queue) > 1 and (
            len(self._queue) > MAX_QUEUED_BATCHES or self._queued_verdicts > MAX_QUEUED_VERDICTS
        ):
            _, oldest = self._queue.popleft()
            self._queued_verdicts -= len(oldest)
            self._dropped_batches += 1
            self._dropped_verdicts += len(oldest)
        self._filled.set()

    async def take(self, patience_s: float) -> Seen:
        """Return the oldest batch that holds something wanted.

        When none comes within ``patience_s`` (wall clock), return a sign of life: no collector
        and no verdicts. Either one says what was dropped since the last call.
        """
        try:
            async with asyncio.timeout(patience_s):
                while True:
                    while not self._queue:
                        self._filled.clear()
                        await self._filled.wait()
                    collector, verdicts = self._queue.popleft()
                    self._queued_verdicts -= len(verdicts)
                    wanted = self._choice.of(verdicts)
                    if len(wanted):
                        return self._seen(collector, wanted)
        except TimeoutError:
            return self._seen("", np.empty(0, VERDICT_DTYPE))

    def _seen(self, collector: str, verdicts: Records) -> Seen:
        seen = Seen(collector, verdicts, self._dropped_batches, self._dropped_verdicts)
        self._dropped_batches = self._dropped_verdicts = 0
        return seen


class Watchers:
    """The watchers of one Router."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    def __len__(self) -> int:
        return len(self._watchers)

    def publish(self, collector: str, verdicts: Records) -> None:
        """Give ``VERDICT_DTYPE [n]`` on flows of ``collector`` to those who want them."""
        for watcher in self._watchers:
            watcher.put(collector, verdicts)

    @contextmanager
    def watching(self, choice: Choice) -> Iterator[Watcher]:
        """Let someone watch for as long as the context lasts.

        Raises:
            ServiceUnavailableError: There are too many already.
        """
        if len(self._watchers) >= MAX_WATCHERS:
            raise ServiceUnavailableError(
                f"{MAX_WATCHERS} watch already: let one of them go, or watch another replica"
            )
        watcher = Watcher(choice)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
