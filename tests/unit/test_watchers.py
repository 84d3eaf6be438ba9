"""Watchers: what they get, and that a slow one costs nobody but itself."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from deployments.watchers import (
    MAX_QUEUED_BATCHES,
    MAX_QUEUED_VERDICTS,
    MAX_WATCHERS,
    Choice,
    Seen,
    Watcher,
    Watchers,
)
from flows.errors import ServiceUnavailableError
from flows.packet import Records
from flows.verdict import VERDICT_DTYPE

AT_ONCE_S = 0.0
FOREVER_S = 60.0


def verdicts(n: int, *, label: int = 0, final: int = 1) -> Records:
    made = np.zeros(n, VERDICT_DTYPE)
    made["flow_id"], made["label"], made["final"] = np.arange(n), label, final
    return made


def take(watcher: Watcher, patience_s: float = FOREVER_S) -> Seen:
    return asyncio.run(watcher.take(patience_s))


def test_batches_come_whole_and_in_order() -> None:
    watchers = Watchers()
    with watchers.watching(Choice()) as watcher:
        watchers.publish("a", verdicts(2))
        watchers.publish("b", verdicts(3))
        first, second = take(watcher), take(watcher)
    assert (first.collector, len(first.verdicts)) == ("a", 2)
    assert (second.collector, len(second.verdicts)) == ("b", 3)
    assert first.dropped_batches == second.dropped_batches == 0


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (Choice(), [("edge#1", 6), ("edge#2", 6), ("other#1", 6)]),
        (Choice(collector="edge"), [("edge#1", 6), ("edge#2", 6)]),
        (Choice(collector="edge#2"), [("edge#2", 6)]),
        (Choice(collector="ed"), []),
        (Choice(labels=(1,)), [("edge#1", 3), ("edge#2", 3), ("other#1", 3)]),
        (Choice("edge#1", (0, 1), only_final=True), [("edge#1", 4)]),
        (Choice(labels=(7,)), []),
    ],
)
def test_a_watcher_gets_what_it_chose(choice: Choice, wanted: list[tuple[str, int]]) -> None:
    watchers = Watchers()
    mixed = np.concatenate([verdicts(2), verdicts(2, label=1), verdicts(1, final=0)])
    mixed = np.concatenate([mixed, verdicts(1, label=1, final=0)])
    got = []
    with watchers.watching(choice) as watcher:
        for collector in ("edge#1", "edge#2", "other#1"):
            watchers.publish(collector, mixed)
        while (seen := take(watcher, AT_ONCE_S)).collector:
            got.append((seen.collector, len(seen.verdicts)))
    assert got == wanted


def test_a_quiet_service_gives_a_sign_of_life() -> None:
    seen = take(Watcher(Choice()), AT_ONCE_S)
    assert (seen.collector, len(seen.verdicts), seen.dropped_batches) == ("", 0, 0)


def test_a_watcher_that_waits_is_woken() -> None:
    async def watch() -> Seen:
        watcher = Watcher(Choice())
        waiting = asyncio.create_task(watcher.take(FOREVER_S))
        await asyncio.sleep(0)
        watcher.put("a", verdicts(4))
        return await waiting

    assert len(asyncio.run(watch()).verdicts) == 4


@pytest.mark.parametrize(
    ("size", "kept"),
    [(1, MAX_QUEUED_BATCHES), (65_536, MAX_QUEUED_VERDICTS // 65_536), (300_000, 1)],
)
def test_a_slow_watcher_loses_the_oldest_and_is_told_how_many(size: int, kept: int) -> None:
    watcher = Watcher(Choice())
    batches = [verdicts(size, label=i % 1000) for i in range(3)]
    for i in range(kept + 7):
        watcher.put(f"c{i}", batches[i % 3])
    first = take(watcher)
    assert first.collector == "c7"
    assert (first.dropped_batches, first.dropped_verdicts) == (7, 7 * size)
    rest = []
    while (seen := take(watcher, AT_ONCE_S)).collector:
        rest.append(seen)
    assert len(rest) == kept - 1
    assert not any(seen.dropped_batches for seen in rest), "each loss is told once"


def test_a_loss_is_told_even_when_nothing_wanted_follows() -> None:
    watcher = Watcher(Choice(labels=(1,)))
    for _ in range(MAX_QUEUED_BATCHES + 2):
        watcher.put("a", verdicts(1))
    seen = take(watcher, AT_ONCE_S)
    while not seen.dropped_batches:
        seen = take(watcher, AT_ONCE_S)
    assert (seen.collector, seen.dropped_batches, seen.dropped_verdicts) == ("", 2, 2)


def test_one_watcher_s_losses_are_not_another_s() -> None:
    watchers = Watchers()
    with watchers.watching(Choice()) as slow, watchers.watching(Choice()) as quick:
        for _ in range(MAX_QUEUED_BATCHES + 1):
            watchers.publish("a", verdicts(1))
            assert take(quick).dropped_batches == 0
        assert take(slow).dropped_batches == 1


def test_there_are_only_so_many_watchers() -> None:
    watchers = Watchers()
    lasting = [watchers.watching(Choice()) for _ in range(MAX_WATCHERS)]
    for one in lasting:
        one.__enter__()
    with (
        pytest.raises(ServiceUnavailableError, match="watch already"),
        watchers.watching(Choice()),
    ):
        pass
    lasting[0].__exit__(None, None, None)
    with watchers.watching(Choice()):
        assert len(watchers) == MAX_WATCHERS
