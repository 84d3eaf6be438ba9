"""A service is ready when each of its parts has answered once."""

from __future__ import annotations

import asyncio

import pytest

from deployments import readiness
from deployments.readiness import Readiness


class Part:
    """A part that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.up = asyncio.Event()
        self.broken = False

    async def __call__(self) -> None:
        self.asked += 1
        await self.up.wait()
        if self.broken:
            raise RuntimeError("died")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_PATIENCE_S", 0.01)


def test_parts_are_missing_until_they_have_answered() -> None:
    async def scenario() -> None:
        tracker, slow = Part(), Part()
        ready = Readiness({"FlowTracker 0": tracker, "SlowModel": slow})
        assert await ready.missing() == ["FlowTracker 0", "SlowModel"]
        slow.up.set()
        assert await ready.missing() == ["FlowTracker 0"]
        tracker.up.set()
        assert await ready.missing() == []
        assert await ready.missing() == []

    asyncio.run(scenario())


def test_a_part_is_asked_once_at_a_time_and_not_again_once_it_answered() -> None:
    async def scenario() -> None:
        part = Part()
        ready = Readiness({"FastModel": part})
        assert await asyncio.gather(*(ready.missing() for _ in range(50))) == [["FastModel"]] * 50
        part.up.set()
        await ready.missing()
        await ready.missing()
        assert part.asked == 1

    asyncio.run(scenario())


def test_a_part_that_fails_is_asked_again() -> None:
    async def scenario() -> None:
        part = Part()
        part.up.set()
        part.broken = True
        ready = Readiness({"FastModel": part})
        assert await ready.missing() == ["FastModel"]
        part.broken = False
        assert await ready.missing() == []
        assert part.asked == 2

    asyncio.run(scenario())


def test_without_parts_it_is_ready() -> None:
    async def scenario() -> None:
        assert await Readiness({}).missing() == []

    asyncio.run(scenario())
