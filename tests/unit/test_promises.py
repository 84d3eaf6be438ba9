"""Promises with a figure (docs/promises.md) that parts keep by themselves, without a service."""

from __future__ import annotations

import ast
import asyncio
import functools
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.pauses import PAUSED, PauseSettings, measure_pauses
from collectors.collector import Collector, CollectorSettings, Outgoing, Settled
from deployments.dispatch import Dispatcher
from deployments.fakes import FAKE_SPEC, FakeFastTiers, FakeSlowTiers
from deployments.json_form import MAX_JSON_PACKETS, JsonBatch
from deployments.local import LocalTracker
from deployments.protocols import TrackersAwayError
from flows.decode import Decoded
from flows.ids import SLOTS, flow_ids, slots_of
from flows.packet import ENDPOINTS_DTYPE, packet_dtype
from flows.service_schema import ServiceSchema
from flows.table import FlowTable
from flows.wire import decode_batch, encode_batch

S = 10**9
BATCHES, REPEATED, REORDERED = 10_000, 0.2, 0.1
TUPLES, WORST_LOAD = 100_000, 1.3


# -- P1: submitting again is harmless ----------------------------------------------------------


def interleaved(flows: int) -> Decoded:
    """Return packets of flows that take turns, of one to five packets each."""
    rng, order = random.Random(1), []
    waiting: list[list[int]] = []
    for number in range(flows):
        waiting.append([number] * rng.randrange(1, 6))
        while len(waiting) > 40:
            at = rng.randrange(len(waiting))
            order.append(waiting[at].pop())
            if not waiting[at]:
                del waiting[at]
    order += [number for left in waiting for number in left]
    n = len(order)
    rows, ends = np.zeros(n, packet_dtype(False)), np.zeros(n, ENDPOINTS_DTYPE)
    rows["time_ns"] = 1_700_000_000 * S + np.arange(n) * 2_000_000
    rows["protocol"], rows["ip_bytes"] = 17, [rng.randrange(60, 900) for _ in range(n)]
    ends["protocol"], ends["ip_version"] = 17, 6
    ends["src_lo"], ends["dst_lo"], ends["dst_port"] = order, 1 << 40, 53
    return Decoded(rows, ends)


class Clean:
    """Takes packets through a collector and a dispatcher, one batch after the other."""

    def __init__(self, at_once: int = 1_000) -> None:
        self.at_once = at_once
        trackers = [LocalTracker(FAKE_SPEC) for _ in range(4)]
        self.dispatcher = Dispatcher(FAKE_SPEC, FakeFastTiers(), trackers, FakeSlowTiers())
        spec = FAKE_SPEC
        schema = ServiceSchema(
            spec.depths[-1], spec.max_wait_s, spec.classes, spec.tiers, spec.depths,
            spec.model_version, len(trackers), 4_096, 1 << 24,
        )  # fmt: skip
        self.collector = Collector(schema, CollectorSettings(at_once), seed=5)
        self.final: dict[int, tuple[Any, ...]] = {}
        self.submitted: Counter[str] = Counter()
        self.now = 0

    async def run(self, decoded: Decoded) -> None:
        collector, at = self.collector, 0
        while at < len(decoded.packets) or collector.open_flows or collector.in_flight:
            self.now += S // 100
            if at < len(decoded.packets):
                seen = np.full(self.at_once, self.now, np.int64)[: len(decoded.packets) - at]
                to = at + len(seen)
                collector.observe(decoded.packets[at:to], decoded.endpoints[at:to], seen)
                at = to
            elif not collector.has_work:
                collector.finish(self.now)
                collector.expire()
            await self.deliver(collector.next_batch(self.now))
            collector.resend_overdue(self.now)

    async def deliver(self, out: Outgoing) -> None:
        await self.submit(out)
        self.collector.acknowledge(out, self.now)

    async def submit(self, out: Outgoing) -> None:
        self.submitted["batches"] += 1
        try:
            async for part in self.dispatcher.handle(decode_batch(encode_batch(out.batch))):
                self.note(self.collector.receive(out, part, {}, self.now))
        except TrackersAwayError as error:
            raise AssertionError("nothing is wrong with them") from error

    def note(self, settled: Settled) -> None:
        for flow, verdict in zip(settled.flows, settled.verdicts, strict=True):
            number = int(flow["flow_number"])
            assert number not in self.final, "a second final verdict"
            names = ["label", "confidence", "tier", "packets_used", "reason", "wait_ns"]
            self.final[number] = verdict[names].item()


class Repeating(Clean):
    """The same, with batches that come again and batches that overtake others."""

    def __init__(self) -> None:
        super().__init__(at_once=2)
        self._rng = random.Random(7)
        self._held: list[Outgoing] = []
        self._past: list[Outgoing] = []

    async def deliver(self, out: Outgoing) -> None:
        self._held.append(out)
        if len(self._held) < 3 and self._rng.random() < REORDERED:
            self.submitted["reordered"] += 1
            return  # what comes next overtakes it
        while self._held:
            late = self._held.pop()
            await super().deliver(late)
            self._past = [*self._past[-50:], late]
            if self._rng.random() < REPEATED:
                self.submitted["repeated"] += 1
                await self.submit(self._rng.choice(self._past))


def test_ten_thousand_batches_repeated_and_reordered_give_the_clean_runs_verdicts() -> None:
    decoded = interleaved(6_400)
    clean, repeating = Clean(), Repeating()
    asyncio.run(clean.run(decoded))
    asyncio.run(repeating.run(decoded))
    told = repeating.submitted
    own = told["batches"] - told["repeated"]
    assert own >= BATCHES
    assert told["repeated"] / own == pytest.approx(REPEATED, abs=0.02)
    assert told["reordered"] / own == pytest.approx(REORDERED, abs=0.02)
    assert len(clean.final) == 6_400
    assert repeating.final == clean.final
    for run in (clean, repeating):
        counters = run.dispatcher.counters
        assert counters.packets_in == (
            counters.packets_applied + counters.packets_duplicate + counters.packets_malformed
        )
        assert run.collector.ledger.admitted == len(run.final)
    assert repeating.dispatcher.counters.packets_duplicate > 0


# -- P5: ids cannot be steered -----------------------------------------------------------------


@functools.cache
def adversarial() -> dict[str, Decoded]:
    """Return packets of as many flows, their ends chosen so that a plain hash puts them together.

    Of one host with its ports in order; of addresses that differ in high bits alone; and those of
    a million random ones that fall into one slot by the Community ID's own hash or by ours.
    """
    rng = np.random.default_rng(3)
    rows = np.zeros(TUPLES, packet_dtype(False))
    rows["time_ns"], rows["ip_bytes"], rows["protocol"] = S, 40, 17
    ends = np.zeros(TUPLES, ENDPOINTS_DTYPE)
    ends["protocol"], ends["ip_version"] = 17, 6
    ends["dst_lo"], ends["dst_port"] = 1, 53
    ports, high, chosen = ends.copy(), ends.copy(), ends.copy()
    ports["src_port"] = np.arange(TUPLES) % 65_536
    ports["src_lo"] = np.arange(TUPLES) // 65_536
    high["src_hi"] = np.arange(TUPLES).astype(np.uint64) << np.uint64(40)
    tried = rng.integers(0, 1 << 63, 400 * TUPLES, dtype=np.uint64)
    own = tried[slots_of(tried) == 0][:TUPLES]
    assert len(own) == TUPLES, "their addresses are ids of one slot"
    chosen["src_lo"] = own
    return {name: Decoded(rows, one) for name, one in
            {"ports": ports, "high bits": high, "chosen": chosen}.items()}  # fmt: skip


@pytest.mark.parametrize("trackers", [2, 4, 8, 16])
def test_a_hundred_thousand_chosen_tuples_load_all_trackers_alike(trackers: int) -> None:
    for name, decoded in adversarial().items():
        table = FlowTable(first_packets=10)
        numbers = table.update(decoded.packets, decoded.endpoints).new_flows["flow_number"]
        assert len(numbers) == TUPLES, name
        load = np.bincount(slots_of(flow_ids(numbers, 987)) % trackers, minlength=trackers)
        assert load.max() / load.mean() <= WORST_LOAD, name


def test_tuples_that_are_submitted_by_hand_cannot_be_steered_either() -> None:
    """Their ids are a keyed hash: who chose tuples by one key has chosen nothing by another."""
    packets = [
        {"src_ip": f"10.{k >> 16}.{k >> 8 & 255}.{k & 255}", "src_port": 1024, "dest_port": 53,
         "dest_ip": "192.0.2.2", "proto": "UDP", "time_ns": S, "ip_bytes": 60}
        for k in range(4_000)
    ]  # fmt: skip
    batches = [
        JsonBatch.model_validate({"packets": packets[at : at + MAX_JSON_PACKETS]})
        for at in range(0, len(packets), MAX_JSON_PACKETS)
    ]
    one, other = (
        np.concatenate([batch.to_batch(key).packets["flow_id"] for batch in batches])
        for key in (b"1" * 16, b"2" * 16)
    )
    assert len(np.unique(one)) == len(packets)
    chosen = np.flatnonzero(slots_of(one) % 4 == 0)
    load = np.bincount(slots_of(other[chosen]) % 4, minlength=4)
    assert load.max() / load.mean() <= WORST_LOAD
    assert SLOTS == 256


# -- P6: back-pressure, not queues -------------------------------------------------------------


@pytest.mark.parametrize("what", PAUSED)
@pytest.mark.parametrize("spool", [False, True])
def test_what_stands_still_for_a_while_costs_no_flow(what: str, spool: bool) -> None:
    """The figure, 20 s, is that of ``serveflow bench pauses``."""
    settings = PauseSettings((what,), seconds=1.0, rate=1_000.0, spool=spool)
    found = measure_pauses(settings)["paused"][what]
    assert found["written"] == found["flows"] > 1_500
    assert found["lost"] == found["refused_flows"] == found["evicted_flows"] == 0
    assert found["drained_s"] is not None
    assert 0 < found["most_memory_bytes"] <= found["memory_bound_bytes"]
    assert 0 < found["most_sink_bytes"] <= found["sink_bound_bytes"]


# -- the list ----------------------------------------------------------------------------------


def test_every_test_that_the_list_of_promises_names_is_there(root: Path) -> None:
    text = (root / "docs" / "promises.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) >= 12
    for file, test in named:
        path = root / file
        assert path.is_file(), file
        if test:
            tree = ast.parse(path.read_text())
            tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert test in tests, f"{file} has no {test}"
    commands = set(re.findall(r"`serveflow bench ([a-z-]+)", text))
    from benchmarks.cli import app

    known = {(one.name or one.callback.__name__) for one in app.registered_commands}  # type: ignore[union-attr]
    assert commands <= known, commands - known
    listed = re.findall(r"^\| (P\d+) \|", text, re.MULTILINE)
    assert listed == sorted(set(listed), key=lambda name: int(name[1:]))
    assert {f"P{k}" for k in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 17, 18)} <= set(listed)
