"""Whether everything that a Router calls has answered: what is true only once all have started."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

__all__ = ["Readiness"]

_PATIENCE_S = 1.0


class Readiness:
    """Asks each part until it has answered once.

    A part that dies later does not count: its flows wait for the next one, all others go on, and
    the metrics tell.

    Args:
        parts: By name, what asks a part; anything that it returns will do.
    """

    def __init__(self, parts: Mapping[str, Callable[[], Awaitable[Any]]]) -> None:
        self._parts = dict(parts)
        self._asked: dict[str, asyncio.Task[Any]] = {}

    async def missing(self) -> list[str]:
        """Return the names of the parts that have never answered, after a second at most.

        However many ask this at once, each part is asked once at a time.
        """
        for name, ask in self._parts.items():
            if name not in self._asked:
                self._asked[name] = asyncio.create_task(_answer(ask))
        if self._asked:
            await asyncio.wait(self._asked.values(), timeout=_PATIENCE_S)
        for name, task in list(self._asked.items()):
            if task.done():
                del self._asked[name]
                if task.exception() is None:
                    self._parts.pop(name, None)
        return list(self._parts)


async def _answer(ask: Callable[[], Awaitable[Any]]) -> Any:
    return await ask()
