"""The load generator offers what it says it does, and counts delays from when packets were due."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.feeds import FlowState, Pace, SpreadFeed, WholeFeed
from benchmarks.generator import run_trial
from benchmarks.lane import Trial
from benchmarks.patched import EARLIEST_NS, PatchedBatch
from benchmarks.recorded import RepeatedCaptures, read_captures
from benchmarks.template import FlowTemplate, flow_template
from benchmarks.transports import TRANSPORTS
from flows.errors import OverloadedError, ServiceUnavailableError, SettingsError
from flows.ids import flow_ids, flow_numbers
from flows.packet import FlowEndReason, Records
from flows.table import FlowTable
from flows.verdict import VERDICT_DTYPE, Reason
from flows.wire import decode_batch, new_flows_of

DEPTH = 5
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def template(test_runs: Path) -> FlowTemplate:
    return flow_template(read_captures([test_runs / "run-01.pcap"]), DEPTH, 10.0)


def test_a_template_holds_first_packets_and_natural_ends(template: FlowTemplate) -> None:
    rows = template.rows
    is_mark = rows["flow_end_reason"] != FlowEndReason.NONE
    firsts = rows.take(template.offsets[:-1])
    assert (firsts["packet_index"] == 0).all()
    assert (firsts["time_ns"] == 0).all()
    assert rows["packet_index"][~is_mark].max() == DEPTH - 1
    assert 0 <= rows["time_ns"].min() <= rows["time_ns"].max() <= 10 * SECOND
    assert not (rows["flow_end_reason"] == FlowEndReason.FORCED_END).any()
    assert is_mark.any()
    for flow in range(0, len(template), 50):  # each flow's packets are there without gaps
        own = slice(template.offsets[flow], template.offsets[flow + 1])
        index = rows["packet_index"][own][~is_mark[own]]
        assert index.tolist() == list(range(len(index)))


def test_a_patched_batch_is_other_flows_at_another_time(template: FlowTemplate) -> None:
    """Only ids, times and the watermark differ from what was encoded."""
    batch = PatchedBatch("edge-1", template, 100, 50)
    for copy in range(3):
        numbers = np.arange(50, dtype=np.uint64) + np.uint64(copy * 50)
        starts_ns = EARLIEST_NS + copy * SECOND + np.arange(50) * 1_000
        body = batch.patch(flow_ids(numbers, 7), starts_ns, EARLIEST_NS + copy * SECOND + 1)
        read = decode_batch(bytes(body))
        assert read.collector == "edge-1"
        assert read.watermark_ns == EARLIEST_NS + copy * SECOND + 1
        expected = template.rows[template.offsets[100] : template.offsets[150]].copy()
        of_row = template.flow[template.offsets[100] : template.offsets[150]] - 100
        expected["flow_id"] = flow_ids(numbers, 7)[of_row]
        expected["time_ns"] += starts_ns[of_row]
        assert np.array_equal(read.packets, expected)


def test_a_patched_batch_refuses_a_watermark_that_does_not_fit(template: FlowTemplate) -> None:
    batch = PatchedBatch("edge-1", template, 0, 1)
    with pytest.raises(ValueError, match="19 digits"):
        batch.patch(np.ones(1, np.uint64), np.zeros(1, np.int64), 5)


def test_whole_flows_come_once_each_and_when_the_batch_is_full(template: FlowTemplate) -> None:
    feed = WholeFeed(template, "edge", Pace(1_000.0), 7, 100)
    assert feed.next(50_000_000, more=True) is None, "half the batch has not begun"
    ids: list[np.ndarray] = []
    for k in range(1, 31):
        offered = feed.next(k * 100_000_000, more=True)
        assert offered is not None
        assert offered.flows == 100
        ids.append(np.unique(decode_batch(bytes(offered.body)).packets["flow_id"]))
    numbers = np.sort(flow_numbers(np.concatenate(ids), 7))
    assert numbers.tolist() == list(range(3_000))


def test_spread_flows_begin_on_time_and_wait_for_the_service(template: FlowTemplate) -> None:
    """Later packets follow only for flows that the service is not sure of, with their delays."""
    state = np.zeros(2_000, np.uint8)
    feed = SpreadFeed(template, "edge", Pace(500.0), 7, state)
    sent: dict[tuple[int, int], int] = {}
    for tick in range(1, 61):
        now_ns = tick * 50_000_000
        offered = feed.next(now_ns, more=tick <= 40)
        if offered is None:
            continue
        batch = decode_batch(bytes(offered.body))
        numbers = flow_numbers(batch.packets["flow_id"], 7).astype(np.int64)
        for row, number in zip(batch.packets, numbers.tolist(), strict=True):
            assert int(row["time_ns"]) <= batch.watermark_ns, "nothing comes before it is due"
            key = (number, int(row["packet_index"]) if row["flow_end_reason"] == 0 else -1)
            assert key not in sent, "nothing is sent twice"
            sent[key] = tick
            assert key[1] == 0 or state[number] == FlowState.UNCERTAIN
        fresh = numbers[batch.packets["packet_index"] == 0]
        state[fresh] = np.where(fresh % 2 == 0, FlowState.FINAL, FlowState.UNCERTAIN)
    begun = {number for number, index in sent if index == 0}
    assert begun == set(range(1_001)), "500 a second for 2 s, whatever came of them"
    assert any(index > 0 for _, index in sent)
    assert not any(index != 0 and number % 2 == 0 for number, index in sent)


def test_repeated_captures_are_one_capture_of_other_hosts(test_runs: Path) -> None:
    """Each pass has the flows of the first, and none goes on where another ended."""
    paths = [test_runs / "run-01.pcap"]
    once = FlowTable(first_packets=1)
    for chunk in RepeatedCaptures(paths, 1).chunks():
        once.update(chunk.packets, chunk.endpoints)
    table = FlowTable(first_packets=1)
    for chunk in RepeatedCaptures(paths, 3).chunks():
        table.update(chunk.packets, chunk.endpoints)
    assert table.counters.flows == 3 * once.counters.flows
    assert table.counters.packets == 3 * once.counters.packets


class FakeService:
    """Answers each first packet for good, but for those that it loses."""

    lose_every = 0
    delay_s = 0.0

    def __init__(self, url: str) -> None:
        self._rest = threading.Event()

    def schema(self) -> None:
        raise NotImplementedError

    def submit(
        self, body: bytes | bytearray, new_flows: int
    ) -> Iterator[tuple[Records, dict[str, Any]]]:
        packets = decode_batch(bytes(body)).packets
        assert new_flows == new_flows_of(packets)
        self._rest.wait(self.delay_s)
        firsts = packets[packets["packet_index"] == 0]
        ids = firsts["flow_id"]
        if self.lose_every:
            ids = ids[ids % np.uint64(self.lose_every) != 0]
        verdicts = np.zeros(len(ids), VERDICT_DTYPE)
        verdicts["flow_id"] = ids
        verdicts["final"] = 1
        verdicts["reason"] = Reason.CONFIDENT
        yield verdicts, {}

    def close(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeService]:
    kind = type("Fake", (FakeService,), {})
    monkeypatch.setitem(TRANSPORTS, "fake", kind)
    return kind


@pytest.mark.parametrize("spread", [True, False])
def test_a_load_that_is_held(template: FlowTemplate, fake: type[FakeService], spread: bool) -> None:
    trial = Trial(4_000.0, 0.2, 0.5, spread=spread, batch_flows=100)
    phases: list[str] = []
    outcome = run_trial(trial, template, "fake", "", phases.append)
    assert phases == ["begin", "end"]
    assert outcome.lost_flows == outcome.refused == outcome.doubled == 0
    assert not outcome.gave_up
    assert outcome.admitted == pytest.approx(4_000 * 0.7, abs=201)
    assert outcome.flows == pytest.approx(4_000 * 0.5, abs=201)
    assert outcome.holds(60_000.0)
    assert not outcome.holds(0.0)


def test_flows_without_an_answer_are_lost(template: FlowTemplate, fake: type[FakeService]) -> None:
    fake.lose_every = 10
    outcome = run_trial(Trial(2_000.0, 0.0, 0.5, drain_s=0.2), template, "fake", "")
    assert 0 < outcome.lost_flows < outcome.admitted
    assert not outcome.holds(60_000.0)


def test_a_slow_service_cannot_hide_its_backlog(
    template: FlowTemplate, fake: type[FakeService]
) -> None:
    """Delays count from when packets were due: flows that had to queue are not left out."""
    fake.delay_s = 0.4
    trial = Trial(2_000.0, 0.0, 1.0, collectors=1, drain_s=5.0)
    outcome = run_trial(trial, template, "fake", "")
    assert outcome.lost_flows == 0
    # Those that begin just after a batch has left wait for it and for their own.
    assert outcome.first_ms["p99"] > 600
    assert outcome.first_ms["p50"] > 400


def test_a_refused_batch_ends_the_load(template: FlowTemplate, fake: type[FakeService]) -> None:
    def refuse(
        self: FakeService, body: bytes, new_flows: int
    ) -> Iterator[tuple[Records, dict[str, Any]]]:
        raise ServiceUnavailableError("busy: try again")

    fake.submit = refuse  # type: ignore[method-assign,assignment]
    outcome = run_trial(Trial(1_000.0, 0.0, 30.0, drain_s=0.1), template, "fake", "")
    assert outcome.gave_up
    assert outcome.refused
    assert outcome.error == "busy: try again"
    assert not outcome.holds(60_000.0)


@pytest.mark.parametrize("spread", [True, False])
def test_a_load_goes_on_under_overload_when_told_so(
    template: FlowTemplate, fake: type[FakeService], spread: bool
) -> None:
    """What the service refuses is given up and counted; the rest gets its verdicts."""
    turn = iter(range(10**6))
    answer = fake.submit

    def refuse_every_other(
        self: FakeService, body: bytes, new_flows: int
    ) -> Iterator[tuple[Records, dict[str, Any]]]:
        if next(turn) % 2:
            raise ServiceUnavailableError("busy: try again")
        yield from answer(self, body, new_flows)

    fake.submit = refuse_every_other  # type: ignore[method-assign,assignment]
    trial = Trial(2_000.0, 0.0, 0.5, spread=spread, batch_flows=50, keep_going=True)
    outcome = run_trial(trial, template, "fake", "")
    assert not outcome.gave_up
    assert outcome.lost_flows == 0
    assert 0 < outcome.refused_flows < outcome.admitted
    assert 0 < outcome.answered_per_second < outcome.trial["rate"]
    assert not outcome.holds(60_000.0)


def test_what_an_overloaded_service_does_not_take_is_held_and_sent_again(
    template: FlowTemplate, fake: type[FakeService]
) -> None:
    turn = iter(range(10**6))
    answer = fake.submit

    def put_off_every_other(
        self: FakeService, body: bytes, new_flows: int
    ) -> Iterator[tuple[Records, dict[str, Any]]]:
        if next(turn) % 2 == 0:
            raise OverloadedError("too much to do", retry_after_s=0.01)
        yield from answer(self, body, new_flows)

    fake.submit = put_off_every_other  # type: ignore[method-assign,assignment]
    outcome = run_trial(Trial(1_000.0, 0.0, 0.5, drain_s=5.0), template, "fake", "")
    assert outcome.held_back > 0
    assert (outcome.refused, outcome.lost_flows, outcome.doubled) == (0, 0, 0)
    assert outcome.holds(60_000.0)


@pytest.mark.parametrize("spread", [True, False])
def test_flows_of_a_tracker_that_died_are_sent_again(
    template: FlowTemplate, fake: type[FakeService], spread: bool
) -> None:
    """The service forgets all that it is unsure of, says so, and gets those flows once more."""
    forgotten: set[int] = set()
    lock = threading.Lock()

    def forget_once(
        self: FakeService, body: bytes, new_flows: int
    ) -> Iterator[tuple[Records, dict[str, Any]]]:
        packets = decode_batch(bytes(body)).packets
        ids = packets["flow_id"][packets["packet_index"] == 0]
        with lock:
            again = np.array([int(one) in forgotten for one in ids], np.bool_)
            forgotten.update(ids.tolist())
        verdicts = np.zeros(len(ids), VERDICT_DTYPE)
        verdicts["flow_id"] = ids
        verdicts["final"] = again
        yield verdicts, {"trackers": {"0": "first" if not again.any() else "second"}}
        yield verdicts[:0], {"trackers": {"0": "third"}}

    fake.submit = forget_once  # type: ignore[method-assign,assignment]
    trial = Trial(1_000.0, 0.0, 0.4, spread=spread, batch_flows=50, drain_s=5.0)
    outcome = run_trial(trial, template, "fake", "")
    assert outcome.lost_flows == 0
    assert outcome.resent >= outcome.admitted > 0


def test_captures_without_flows_are_refused(tmp_path: Path, test_runs: Path) -> None:
    empty = tmp_path / "empty.pcap"
    empty.write_bytes((test_runs / "run-01.pcap").read_bytes()[:24])
    with pytest.raises(SettingsError, match="no flow"):
        read_captures([empty])
