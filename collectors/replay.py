"""Replay captures: read, pace, submit, retry, until every flow has its final verdict."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from collectors.collector import Collector, CollectorSettings, Settled
from collectors.delivery import Delivery, DeliverySettings
from collectors.sender import Part, Sender
from collectors.warm_up import warm_up
from flows.capture import CaptureReader
from flows.errors import CaptureError
from flows.packet import Records
from flows.service_schema import ServiceSchema

__all__ = ["CaptureOutcome", "Replay", "ReplaySettings"]

_SWITCH_S = 0.0005


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """How captures are replayed.

    Attributes:
        speed: Multiple of capture speed; None: as fast as the service takes it.
        delivery: How batches are delivered.
        collector: How the collector works.
    """

    speed: float | None = None
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    collector: CollectorSettings = field(default_factory=CollectorSettings)


@dataclass(slots=True)
class CaptureOutcome:
    """What became of one capture.

    Attributes:
        path: The file.
        flows: Flows admitted.
        open: Of those, without a final verdict; 0 unless the service was lost.
        packets: Packets that belong to flows.
        frames: Frames read, those of other protocols included.
        malformed: Frames that are broken.
        skipped: Frames that make no flow, by reason.
        protocols: Flows and packets by protocol.
        resent: Flows that had to be sent again.
        duplicates: Packets that were sent more than once for it.
        damage: What is wrong with the file; what lies before the damage has been classified.
    """

    path: Path
    flows: int = 0
    open: int = 0
    packets: int = 0
    frames: int = 0
    malformed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    protocols: dict[str, dict[str, int]] = field(default_factory=dict)
    resent: int = 0
    duplicates: int = 0
    damage: str | None = None


class Replay:
    """Replays captures to a service, one after the other, each as a collector of its own.

    Args:
        sender: The way to the service.
        settings: How to replay.
        on_settled: Called with the capture, the flows that got their final verdict, and the
            answer's part that brought it.
        on_progress: Called now and then with the collector at work.
    """

    def __init__(
        self,
        sender: Sender,
        settings: ReplaySettings,
        on_settled: Callable[[Path, Settled, Part], None],
        on_progress: Callable[[Collector], None] = lambda _: None,
    ) -> None:
        self._sender = sender
        self._settings = settings
        self._on_settled = on_settled
        self._on_progress = on_progress
        self._schema: ServiceSchema = sender.schema()
        warm_up(with_header=self._schema.header)
        self._pool = ThreadPoolExecutor(settings.delivery.max_open, thread_name_prefix="sender")

    @property
    def schema(self) -> ServiceSchema:
        """What the service wants."""
        return self._schema

    def close(self) -> None:
        """Stop the threads that submit."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, path: Path) -> CaptureOutcome:
        """Replay one capture and wait until each of its flows has a final verdict.

        Raises:
            ServiceUnavailableError: The service was away for too long.
            ServiceRefusedError: The service refuses the batches.
        """
        # A thread that has an answer must not wait long for the one that takes packets in.
        usual_s = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        try:
            return self._run(path)
        finally:
            sys.setswitchinterval(usual_s)

    def _run(self, path: Path) -> CaptureOutcome:
        outcome = CaptureOutcome(path)
        collector = Collector(self._schema, self._settings.collector, name=path.name[:64])
        delivery = Delivery(
            self._sender,
            collector,
            self._settings.delivery,
            self._pool,
            partial(self._on_settled, path),
        )
        reader = CaptureReader(path, with_header=self._schema.header)

        def pump(wait_s: float, *, hurry: bool = False) -> None:
            delivery.pump(wait_s, hurry=hurry)
            self._on_progress(collector)

        try:
            for packets, endpoints, seen_ns in self._paced(reader, collector, delivery):
                collector.observe(packets, endpoints, seen_ns)
                pump(0.0)
                while collector.lags_behind:
                    pump(0.1)
        except CaptureError as error:
            outcome.damage = error.reason
        collector.finish(time.monotonic_ns())
        while collector.open_flows:
            pump(0.05, hurry=True)
        while collector.in_flight:
            pump(0.05)
        _fill(outcome, reader, collector)
        return outcome

    def _paced(
        self, reader: CaptureReader, collector: Collector, delivery: Delivery
    ) -> Iterator[tuple[Records, Records, npt.NDArray[np.int64]]]:
        """Yield packets when they are due, with the wall clock (ns) at which each one was."""
        speed = self._settings.speed
        start_ns = time.monotonic_ns()
        first_ns: int | None = None
        latest_ns = 0
        for chunk in reader.chunks():
            n = len(chunk.packets)
            if speed is None:
                yield chunk.packets, chunk.endpoints, np.full(n, time.monotonic_ns(), np.int64)
                continue
            if not n:
                continue
            times = np.maximum.accumulate(np.maximum(chunk.packets["time_ns"], latest_ns))
            latest_ns = int(times[-1])
            if first_ns is None:
                first_ns = int(times[0])
            due_ns = start_ns + ((times - first_ns) / speed).astype(np.int64)
            at = 0
            while True:
                now_ns = time.monotonic_ns()
                until = int(np.searchsorted(due_ns, now_ns, side="right"))
                if until > at:
                    yield chunk.packets[at:until], chunk.endpoints[at:until], due_ns[at:until]
                    at = until
                if at == n:
                    break
                clock_ns = first_ns + int((now_ns - start_ns) * speed)
                collector.advance(min(clock_ns, int(times[at])), now_ns)
                delivery.send()
                delivery.hear(delivery.rest_s(int(due_ns[at])))
                self._on_progress(collector)


def _fill(outcome: CaptureOutcome, reader: CaptureReader, collector: Collector) -> None:
    counters = collector.table.counters
    outcome.flows = collector.ledger.admitted
    outcome.open = collector.open_flows
    outcome.packets = counters.packets
    outcome.frames = reader.frames
    outcome.malformed = reader.malformed
    outcome.skipped = dict(reader.skipped)
    outcome.protocols = counters.protocols
    outcome.resent = collector.ledger.resent_flows
    outcome.duplicates = collector.ledger.resent_packets
