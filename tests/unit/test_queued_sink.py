"""A slow or failing sink is waited for by its own thread, up to a bound; every loss is counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from collectors.queued_sink import QueuedSink, QueueSettings, close_all
from collectors.sink_fakes import MemorySink
from flows.errors import SettingsError
from made_verdicts import made

QUICK = QueueSettings(gather_s=0.0, retry_s=0.01, longest_retry_s=0.02)


def until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(2_000):
        if condition():
            return
        time.sleep(0.005)
    pytest.fail(f"{what} did not come about")


@pytest.fixture
def sink() -> Iterator[MemorySink]:
    memory = MemorySink()
    yield memory
    memory.trouble, memory.broken = "", False
    memory.resume()


def test_what_is_written_arrives_in_order_and_is_counted(sink: MemorySink) -> None:
    queued = QueuedSink("memory", sink)
    for k in range(50):
        queued.write(made(3, first_id=3 * k))
    queued.close(10.0)
    assert sink.flow_ids == list(range(150))
    assert sink.closed
    told = queued.counters()
    assert (told.name, told.written, told.waiting) == ("memory", 150, 0)
    assert (told.lost, told.last_error) == ({}, "")


def test_portions_are_written_together_but_for_those_of_other_names(sink: MemorySink) -> None:
    sink.pause()
    queued = QueuedSink("memory", sink, replace(QUICK, most_at_once=10))
    queued.write(made(1))
    until(lambda: sink.attempts == 1, "writing")
    for k in range(4):
        queued.write(made(4, first_id=4 * k))
    queued.write(replace(made(2), model_version="another"))
    sink.resume()
    queued.close(10.0)
    assert [len(found) for found in sink.written] == [1, 8, 8, 2]
    assert sink.written[-1].model_version == "another"


def test_a_paused_sink_loses_nothing_while_there_is_room(sink: MemorySink) -> None:
    """Nobody waits for it, and all that waited is written when it goes on."""
    sink.pause()
    queued = QueuedSink("memory", sink, replace(QUICK, max_verdicts=1_000))
    for k in range(100):
        queued.write(made(10, first_id=10 * k))
    told = queued.counters()
    assert (told.waiting, told.written, told.lost) == (1_000, 0, {})
    sink.resume()
    until(lambda: queued.counters().written == 1_000, "draining")
    assert sink.flow_ids == list(range(1_000))
    queued.close(10.0)


def test_beyond_the_bound_verdicts_of_a_slow_sink_are_counted_lost(sink: MemorySink) -> None:
    sink.pause()
    queued = QueuedSink("memory", sink, replace(QUICK, max_verdicts=25))
    for k in range(4):
        queued.write(made(10, first_id=10 * k))
    told = queued.counters()
    assert (told.waiting, told.lost) == (25, {"sink_full": 15})
    sink.resume()
    queued.close(10.0)
    assert sink.flow_ids == list(range(25))
    assert queued.counters().written == 25


def test_what_a_failing_sink_did_not_take_is_tried_again(
    sink: MemorySink, caplog: pytest.LogCaptureFixture
) -> None:
    sink.trouble = "the disk is full"
    queued = QueuedSink("memory", sink, replace(QUICK, max_verdicts=25))
    with caplog.at_level(logging.WARNING):
        for k in range(4):
            queued.write(made(10, first_id=10 * k))
            until(lambda: sink.attempts > 0, "an attempt")
        until(lambda: sink.attempts >= 5, "further attempts")
    assert [record.message for record in caplog.records] == ["the disk is full"]
    told = queued.counters()
    assert (told.waiting, told.last_error) == (25, "the disk is full")
    assert told.lost["sink_error"] == 15
    sink.trouble = ""
    queued.close(10.0)
    assert sink.flow_ids == list(range(25))
    told = queued.counters()
    assert (told.written, told.lost, told.last_error) == (25, {"sink_error": 15}, "")


def test_rows_that_were_written_before_a_failure_are_not_written_twice(sink: MemorySink) -> None:
    sink.trouble, sink.takes = "half", 3
    queued = QueuedSink("memory", sink, QUICK)
    queued.write(made(8))
    until(lambda: len(sink.flow_ids) >= 3, "the first rows")
    sink.trouble = ""
    queued.close(10.0)
    assert sorted(sink.flow_ids) == list(range(8))
    assert queued.counters().written == 8


def test_a_mistake_in_a_sink_costs_a_portion_and_not_the_thread(sink: MemorySink) -> None:
    sink.broken = True
    queued = QueuedSink("memory", sink, QUICK)
    queued.write(made(5))
    until(lambda: queued.counters().lost == {"sink_error": 5}, "the loss")
    sink.broken = False
    queued.write(made(5))
    queued.close(10.0)
    assert queued.counters().written == 5


@pytest.mark.parametrize(("trouble", "reason"), [("", "sink_closed"), ("away", "sink_error")])
def test_what_is_not_written_at_the_end_is_counted(
    sink: MemorySink, trouble: str, reason: str
) -> None:
    sink.trouble = trouble
    if not trouble:
        sink.pause()
    queued = QueuedSink("memory", sink, QUICK)
    queued.write(made(5))
    until(lambda: sink.attempts > 0, "an attempt")
    if trouble:
        until(lambda: queued.counters().last_error == "away", "the error")
    queued.write(made(7))
    queued.close(0.05)
    assert queued.counters().lost == {reason: 12}
    queued.write(made(1))
    assert queued.counters().lost["sink_closed"] == (1 if trouble else 13)
    assert queued.counters().waiting == 0
    sink.trouble = ""
    sink.resume()
    queued.close(1.0)
    assert queued.counters().written == 0


def test_it_is_opened_anew_before_what_follows_even_while_it_fails(sink: MemorySink) -> None:
    queued = QueuedSink("memory", sink, QUICK)
    queued.reopen()
    until(lambda: sink.reopened == 1, "reopening")
    sink.trouble = "away"
    queued.write(made(5))
    until(lambda: sink.attempts > 1, "attempts")
    queued.reopen()
    until(lambda: queued.counters().last_error != "", "the error")
    sink.trouble = ""
    queued.reopen()
    until(lambda: sink.reopened >= 2, "reopening")
    queued.close(10.0)
    assert sink.flow_ids == list(range(5))
    assert queued.counters().last_error == ""


def test_a_sink_without_verdicts_is_looked_after_all_the_same(
    sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collectors.queued_sink._IDLE_S", 0.01)
    queued = QueuedSink("memory", sink)
    until(lambda: sink.flushes > 2, "flushing")
    queued.close(10.0)


def test_all_sinks_are_closed_within_one_time() -> None:
    sinks = [MemorySink() for _ in range(8)]
    queues = [QueuedSink(str(k), sink) for k, sink in enumerate(sinks)]
    for sink, queued in zip(sinks, queues, strict=True):
        sink.pause()
        queued.write(made(2))
    began_s = time.monotonic()
    close_all(queues, 0.1)
    assert time.monotonic() - began_s < 8 * 0.3
    assert [queued.counters().lost for queued in queues] == [{"sink_closed": 2}] * 8
    for sink in sinks:
        sink.resume()


def test_a_bound_below_1_is_refused() -> None:
    with pytest.raises(SettingsError, match="max_verdicts"):
        QueueSettings(max_verdicts=0)
