"""Takes one collector's batches to the service and the answers back.

Batches grow while one is in flight, so that they are small and prompt at low load and large at
high load. What fails is sent again after a while that grows, with jitter; what the service puts off
waits as long as it says.
"""

from __future__ import annotations

import logging
import queue
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from collectors.collector import Collector
from collectors.exchange import Outgoing, Settled
from collectors.sender import Part, Sender
from collectors.status import DeliveryCounters
from flows.errors import OverloadedError, ServeFlowError, ServiceUnavailableError

__all__ = ["Delivery", "DeliverySettings"]

_log = logging.getLogger(__name__)
_NS = 1_000_000_000
_LOOK_S = 0.0005  # least time between two looks for packets that are due
_REST_S = 0.02  # the same while an answer is awaited, which ends it
_WEIGHT = 0.125  # of the latest answer in what answers take
_LONG_S = 0.1  # what longer answers count as: the next batch need not wait for so long
_FIRST_BACK_OFF_S, _MOST_BACK_OFF_S = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """How batches are delivered.

    Attributes:
        max_in_flight: Batches at a time of which no part of the answer has come.
        max_open: Batches at a time of which the answer has not ended.
        batch_delay_s: Least time between two batches, so that small ones grow. Where several may
            be in flight it is more if answers take long: they leave evenly.
        tick_s: A quiet wire still moves the watermark so often.
        give_up_after_s: How long the service may be away before that is an error; None: for ever,
            and what it refuses is sent again too, as an operator may mend what it is refused for.
    """

    max_in_flight: int = 1
    max_open: int = 32
    batch_delay_s: float = 0.003
    tick_s: float = 0.2
    give_up_after_s: float | None = 30.0


@dataclass(frozen=True, slots=True)
class _Event:
    out: Outgoing
    part: Part | None = None
    error: Exception | None = None
    wall_ns: int = 0


class Delivery:
    """Delivers what one collector has to send; to be asked often, by one thread.

    Args:
        sender: The way to the service.
        collector: Whose batches.
        settings: How to deliver.
        pool: Its threads submit, ``settings.max_open`` at a time.
        on_settled: Called with the flows that got their final verdict, and the answer's part that
            brought it.

    Attributes:
        part: The latest part of an answer; None: there is none yet.
    """

    def __init__(
        self,
        sender: Sender,
        collector: Collector,
        settings: DeliverySettings,
        pool: ThreadPoolExecutor,
        on_settled: Callable[[Settled, Part], None],
    ) -> None:
        self._sender = sender
        self._collector = collector
        self._settings = settings
        self._pool = pool
        self._on_settled = on_settled
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._unanswered: set[int] = set()
        self._last_send_ns = 0
        self._trip_s = 0.0  # what a first answer takes, of late
        self._last_heard_ns = time.monotonic_ns()
        self._last_check_ns = 0
        self._failing = 0  # failures since an answer has come to its end
        self._retry_at_ns = 0
        self._batches = self._failures = self._overloaded = 0
        self._last_error = ""
        self.part: Part | None = None

    @property
    def counters(self) -> DeliveryCounters:
        """What has become of batches so far."""
        collector = self._collector
        away_ns = time.monotonic_ns() - self._last_heard_ns if self._failing else 0
        return DeliveryCounters(
            batches=self._batches,
            in_flight=collector.in_flight,
            failures=self._failures,
            overloaded=self._overloaded,
            replayed_flows=collector.ledger.resent_flows,
            duplicate_packets=collector.ledger.resent_packets,
            tracker_changes=collector.tracker_changes,
            away_s=away_ns / _NS,
            last_error=self._last_error if self._failing else "",
        )

    @property
    def healthy(self) -> bool:
        """Whether the last batch of which anything is known was answered to its end."""
        return not self._failing

    def pump(self, wait_s: float, *, hurry: bool = False) -> None:
        """Take answers in, waiting up to ``wait_s`` for one, and send what is to be sent.

        Args:
            wait_s: How long.
            hurry: Batches need not grow.

        Raises:
            ServiceUnavailableError: The service was away for too long.
            ServiceRefusedError: The service refuses a batch.
        """
        self.send(hurry=hurry)
        self.hear(wait_s)
        self.send(hurry=hurry)

    def hear(self, wait_s: float) -> None:
        """Take answers in, waiting up to ``wait_s`` for one; raises what :meth:`pump` does."""
        block = wait_s > 0
        while True:
            try:
                wait = self._wait_s(wait_s) if block else 0.0
                event = self._events.get(timeout=wait) if block else self._events.get_nowait()
            except queue.Empty:
                return
            block = False
            self._take(event)

    def send(self, *, hurry: bool = False) -> None:
        """Send what is to be sent."""
        collector, settings = self._collector, self._settings
        now_ns = time.monotonic_ns()
        if now_ns - self._last_check_ns > _NS:
            self._last_check_ns = now_ns
            collector.resend_overdue(now_ns)
        while self._may_send() and now_ns >= self._retry_at_ns:
            since_s = (now_ns - self._last_send_ns) / _NS
            grown = since_s >= self._gap_s() or hurry or collector.lags_behind
            tick = since_s >= settings.tick_s and collector.open_flows > 0
            due = collector.has_work or collector.deadline_has_passed
            if not ((due and grown) or tick):
                return
            self._last_send_ns = now_ns
            out = collector.next_batch(now_ns)
            self._unanswered.add(out.number)
            self._pool.submit(self._submit, out)

    def rest_s(self, due_ns: int) -> float:
        """Return how long packets that are due at ``due_ns`` (wall clock) may be left alone.

        To take them in one by one costs far more than many at once, and before the next batch may
        go none of them is needed.
        """
        if not self._may_send():
            return _REST_S
        until_due_s = max(due_ns - time.monotonic_ns(), 0) / _NS
        return min(max(until_due_s, self._until_send_s(), _LOOK_S), self._settings.tick_s)

    def _wait_s(self, wait_s: float) -> float:
        """Wait no longer than until the next batch may go."""
        if self._collector.has_work and self._may_send():
            return min(wait_s, self._until_send_s())
        return wait_s

    def _until_send_s(self) -> float:
        next_ns = self._last_send_ns + int(self._gap_s() * _NS)
        return max(max(next_ns, self._retry_at_ns) - time.monotonic_ns(), 0) / _NS

    def _gap_s(self) -> float:
        """Return the least time from one batch to the next."""
        settings = self._settings
        if settings.max_in_flight == 1:
            return settings.batch_delay_s
        return max(settings.batch_delay_s, self._trip_s / settings.max_in_flight)

    def _may_send(self) -> bool:
        """Tell whether the service keeps up: verdicts on packet 1 come long before the others."""
        settings = self._settings
        return (
            len(self._unanswered) < settings.max_in_flight
            and self._collector.in_flight < settings.max_open
        )

    def _take(self, event: _Event) -> None:
        if event.out.number in self._unanswered:
            self._unanswered.discard(event.out.number)
            if event.part is not None:
                trip_s = min((event.wall_ns - event.out.formed_ns) / _NS, _LONG_S)
                self._trip_s += (trip_s - self._trip_s) * _WEIGHT
        if event.part is not None:
            self._last_heard_ns = event.wall_ns
            self.part = event.part
            settled = self._collector.receive(
                event.out, event.part.verdicts, event.part.notes, event.wall_ns
            )
            if len(settled.flows):
                self._on_settled(settled, event.part)
        elif event.error is None:
            if self._failing and self._settings.give_up_after_s is None:
                _log.info("the service answers again, after %d failures", self._failing)
            self._failing = 0
            self._batches += 1
            self._last_heard_ns = event.wall_ns
            self._collector.acknowledge(event.out, event.wall_ns)
        else:
            self._fail(event.out, event.error)

    def _fail(self, out: Outgoing, error: Exception) -> None:
        self._collector.fail(out)
        now_ns = time.monotonic_ns()
        if isinstance(error, OverloadedError):
            self._overloaded += 1
            self._last_heard_ns = now_ns
            rest_s = error.retry_after_s * random.uniform(0.5, 1.5)  # noqa: S311 (no secret)
        elif self._may_pass(error):
            self._failures += 1
            self._failing += 1
            if self._failing == 1 and self._settings.give_up_after_s is None:
                _log.warning("%s Flows wait until it answers.", error)
            self._last_error = str(error)
            rest_s = min(_FIRST_BACK_OFF_S * 2 ** min(self._failing - 1, 16), _MOST_BACK_OFF_S)
            rest_s *= random.uniform(0.5, 1.0)  # noqa: S311 (jitter, no secret)
            self._give_up(error, (now_ns - self._last_heard_ns) / _NS)
        else:
            raise error
        # Not all collectors at once.
        self._retry_at_ns = max(self._retry_at_ns, now_ns + int(rest_s * _NS))

    def _may_pass(self, error: Exception) -> bool:
        if self._settings.give_up_after_s is None:
            return isinstance(error, ServeFlowError)  # a file of credentials may come back too
        return isinstance(error, ServiceUnavailableError)

    def _give_up(self, error: Exception, away_s: float) -> None:
        most_s = self._settings.give_up_after_s
        if most_s is not None and away_s > most_s:
            raise ServiceUnavailableError(
                f"{error} No answer for {away_s:.0f} s; "
                f"{self._collector.open_flows:,} flows have no final verdict."
            )

    def _submit(self, out: Outgoing) -> None:
        """Run in a thread of the pool: take one batch to the service, the answer to the queue."""
        try:
            for part in self._sender.submit(out.batch):
                self._events.put(_Event(out, part, None, time.monotonic_ns()))
            self._events.put(_Event(out, None, None, time.monotonic_ns()))
        except Exception as error:  # whatever it is, the thread that waits must learn of it
            self._events.put(_Event(out, None, error))
