"""Replay captures: read, pace, submit, retry, until every flow has its final verdict."""

from __future__ import annotations

import queue
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from collectors.collector import Collector, CollectorSettings, Outgoing, Settled
from collectors.sender import Part, Sender
from collectors.warm_up import warm_up
from flows.capture import CaptureReader
from flows.errors import CaptureError, OverloadedError, ServiceUnavailableError
from flows.packet import Records
from flows.service_schema import ServiceSchema

__all__ = ["CaptureOutcome", "Replay", "ReplaySettings"]

_NS = 1_000_000_000
_SWITCH_S = 0.0005
_LOOK_S = 0.0005  # least time between two looks for packets that are due
_REST_S = 0.02  # the same while an answer is awaited, which ends it


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """How captures are replayed.

    Attributes:
        speed: Multiple of capture speed; None: as fast as the service takes it.
        max_in_flight: Batches at a time of which no part of the answer has come.
        max_open: Batches at a time of which the answer has not ended.
        batch_delay_s: Least time between two batches, so that small ones grow.
        tick_s: A quiet wire still moves the watermark so often.
        give_up_after_s: How long the service may be away before the replay fails.
        collector: How the collector works.
    """

    speed: float | None = None
    max_in_flight: int = 1
    max_open: int = 32
    batch_delay_s: float = 0.005
    tick_s: float = 0.25
    give_up_after_s: float = 30.0
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


@dataclass(frozen=True, slots=True)
class _Event:
    out: Outgoing
    part: Part | None = None
    error: Exception | None = None
    wall_ns: int = 0


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
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(settings.max_open, thread_name_prefix="sender")
        self._unanswered: set[int] = set()
        self._last_send_ns = 0
        self._last_heard_ns = 0
        self._last_check_ns = 0
        self._failures = 0
        self._retry_at_ns = 0
        self._last_error: Exception | None = None

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
        self._last_heard_ns = time.monotonic_ns()
        reader = CaptureReader(path, with_header=self._schema.header)
        try:
            for packets, endpoints, seen_ns in self._paced(reader, collector):
                collector.observe(packets, endpoints, seen_ns)
                self._pump(collector, path, 0.0)
                while collector.lags_behind:
                    self._pump(collector, path, 0.1)
        except CaptureError as error:
            outcome.damage = error.reason
        collector.finish(time.monotonic_ns())
        while collector.open_flows:
            self._pump(collector, path, 0.05, hurry=True)
        while collector.in_flight:
            self._pump(collector, path, 0.05)
        self._on_progress(collector)
        _fill(outcome, reader, collector)
        return outcome

    def _paced(
        self, reader: CaptureReader, collector: Collector
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
                self._send(collector)
                self._hear(collector, reader.path, self._rest_s(collector, int(due_ns[at])))

    def _pump(
        self, collector: Collector, path: Path, wait_s: float, *, hurry: bool = False
    ) -> None:
        """Take answers in, waiting up to ``wait_s`` for one, and send what is to be sent."""
        self._send(collector, hurry)
        self._hear(collector, path, wait_s)
        self._send(collector, hurry)

    def _hear(self, collector: Collector, path: Path, wait_s: float) -> None:
        """Take answers in, waiting up to ``wait_s`` for one."""
        block = wait_s > 0
        while True:
            try:
                wait = self._wait_s(collector, wait_s) if block else 0.0
                event = self._events.get(timeout=wait) if block else self._events.get_nowait()
            except queue.Empty:
                break
            block = False
            self._take(collector, path, event)
        self._on_progress(collector)

    def _wait_s(self, collector: Collector, wait_s: float) -> float:
        """Wait no longer than until the next batch may go."""
        if collector.has_work and self._may_send(collector):
            return min(wait_s, self._until_send_s())
        return wait_s

    def _rest_s(self, collector: Collector, due_ns: int) -> float:
        """Return how long packets may be left where they are.

        To take them in one by one costs far more than many at once, and before the next batch may
        go none of them is needed.
        """
        if not self._may_send(collector):
            return _REST_S
        until_due_s = max(due_ns - time.monotonic_ns(), 0) / _NS
        return min(max(until_due_s, self._until_send_s(), _LOOK_S), self._settings.tick_s)

    def _until_send_s(self) -> float:
        next_ns = self._last_send_ns + int(self._settings.batch_delay_s * _NS)
        return max(next_ns - time.monotonic_ns(), 0) / _NS

    def _take(self, collector: Collector, path: Path, event: _Event) -> None:
        self._unanswered.discard(event.out.number)
        if event.part is not None:
            self._last_heard_ns = event.wall_ns
            settled = collector.receive(
                event.out, event.part.verdicts, event.part.notes, event.wall_ns
            )
            if len(settled.flows):
                self._on_settled(path, settled, event.part)
        elif event.error is None:
            self._failures = 0
            self._last_heard_ns = event.wall_ns
            collector.acknowledge(event.out, event.wall_ns)
        elif isinstance(event.error, OverloadedError):
            collector.fail(event.out)
            self._last_heard_ns = time.monotonic_ns()
            # Not all collectors at once.
            rest_s = event.error.retry_after_s * random.uniform(0.5, 1.5)  # noqa: S311 (no secret)
            self._retry_at_ns = self._last_heard_ns + int(rest_s * _NS)
        elif isinstance(event.error, ServiceUnavailableError):
            collector.fail(event.out)
            self._last_error = event.error
            self._failures += 1
            back_off_s = min(0.1 * 2**self._failures, 5.0) * random.uniform(0.5, 1.0)  # noqa: S311 (jitter, no secret)
            self._retry_at_ns = time.monotonic_ns() + int(back_off_s * _NS)
            away_s = (time.monotonic_ns() - self._last_heard_ns) / _NS
            if away_s > self._settings.give_up_after_s:
                raise ServiceUnavailableError(
                    f"{event.error} No answer for {away_s:.0f} s; "
                    f"{collector.open_flows:,} flows have no final verdict."
                )
        else:
            collector.fail(event.out)
            raise event.error

    def _send(self, collector: Collector, hurry: bool = False) -> None:
        now_ns = time.monotonic_ns()
        if now_ns - self._last_check_ns > _NS:
            self._last_check_ns = now_ns
            collector.resend_overdue(now_ns)
        while self._may_send(collector) and now_ns >= self._retry_at_ns:
            since_s = (now_ns - self._last_send_ns) / _NS
            grown = since_s >= self._settings.batch_delay_s or hurry or collector.lags_behind
            tick = since_s >= self._settings.tick_s and collector.open_flows > 0
            if not ((collector.has_work and grown) or tick):
                return
            self._last_send_ns = now_ns
            out = collector.next_batch(now_ns)
            self._unanswered.add(out.number)
            self._pool.submit(self._submit, out)

    def _may_send(self, collector: Collector) -> bool:
        """Tell whether the service keeps up: verdicts on packet 1 come long before the others."""
        settings = self._settings
        return (
            len(self._unanswered) < settings.max_in_flight
            and collector.in_flight < settings.max_open
        )

    def _submit(self, out: Outgoing) -> None:
        """Run in a thread of the pool: take one batch to the service, the answer to the queue."""
        try:
            for part in self._sender.submit(out.batch):
                self._events.put(_Event(out, part, None, time.monotonic_ns()))
            self._events.put(_Event(out, None, None, time.monotonic_ns()))
        except Exception as error:  # whatever it is, the thread that waits must learn of it
            self._events.put(_Event(out, None, error))


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
