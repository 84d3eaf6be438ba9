"""When batches leave: a made-up clock, collector and service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from collectors import delivery as module
from collectors.delivery import Delivery, DeliverySettings
from collectors.exchange import Outgoing, Settled
from collectors.sender import Part
from flows.packet import PACKET_DTYPE
from flows.table import FLOW_DTYPE
from flows.verdict import VERDICT_DTYPE
from flows.wire import PacketBatch

MS = 1_000_000
NONE = np.empty(0, np.int64)


class Clock:
    """The module's clock."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def monotonic_ns(self) -> int:
        return self.now_ns


class AlwaysBusy:
    """A collector that always has something to send."""

    has_work, lags_behind, open_flows = True, False, 1

    def __init__(self) -> None:
        self.in_flight = 0
        self.number = 0

    def next_batch(self, now_ns: int) -> Outgoing:
        self.number += 1
        self.in_flight += 1
        batch = PacketBatch("edge", 0, np.empty(0, PACKET_DTYPE))
        return Outgoing(self.number, batch, NONE.view(np.uint64), 0, now_ns)

    def receive(self, *_: Any) -> Settled:
        none = np.empty(0, VERDICT_DTYPE)
        return Settled(np.empty(0, FLOW_DTYPE), none, NONE, NONE)

    def acknowledge(self, *_: Any) -> None:
        self.in_flight -= 1

    def resend_overdue(self, _: int) -> None:
        pass


class Pool:
    """Threads that answer when they are told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[..., None], Any]] = []

    def submit(self, function: Callable[..., None], out: Any) -> None:
        self.waiting.append((function, out))


class Service:
    def submit(self, _: PacketBatch) -> Iterator[Part]:
        yield Part(np.empty(0, VERDICT_DTYPE), {}, ("a",), "v")


def gaps_ms(
    monkeypatch: pytest.MonkeyPatch, settings: DeliverySettings, trip_ms: int, batches: int = 60
) -> list[int]:
    """Return the times between batches, where an answer takes ``trip_ms``."""
    clock, pool = Clock(), Pool()
    monkeypatch.setattr(module, "time", clock)
    delivery = Delivery(Service(), AlwaysBusy(), settings, pool, lambda *_: None)
    sent_ns: list[int] = []
    answered = 0
    while len(sent_ns) < batches:
        delivery.send()
        sent_ns += [clock.now_ns] * (answered + len(pool.waiting) - len(sent_ns))
        clock.now_ns += MS
        while pool.waiting and clock.now_ns - sent_ns[answered] >= trip_ms * MS:
            function, out = pool.waiting.pop(0)
            answered += 1
            function(out)
        delivery.hear(0.0)
    return (np.diff(sent_ns) // MS).tolist()


def test_quick_answers_leave_the_least_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DeliverySettings(max_in_flight=2, batch_delay_s=0.003)
    assert set(gaps_ms(monkeypatch, settings, trip_ms=4)) == {3}


def test_two_in_flight_leave_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DeliverySettings(max_in_flight=2, batch_delay_s=0.003)
    assert set(gaps_ms(monkeypatch, settings, trip_ms=20)[-20:]) == {10}


def test_one_in_flight_waits_for_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DeliverySettings(max_in_flight=1, batch_delay_s=0.003)
    assert set(gaps_ms(monkeypatch, settings, trip_ms=20)) == {20}


def test_very_long_answers_do_not_hold_up_batches_that_may_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = DeliverySettings(max_in_flight=4, batch_delay_s=0.003)
    gaps = gaps_ms(monkeypatch, settings, trip_ms=1_000, batches=40)
    assert max(gaps[:3]) <= 25
    assert np.mean(gaps[-20:]) == pytest.approx(250, rel=0.1)
