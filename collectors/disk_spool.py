"""The spool of a collector at work: its journal, what earlier runs left, what was set aside."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from collectors.collector import Collector
from collectors.delivery import Delivery
from collectors.drain import Drain
from collectors.exchange import CollectorSettings, Journals
from collectors.journal import (
    OBSERVED,
    SETTLED,
    Journal,
    Moment,
    SpoolSettings,
    decoded,
    new_meta,
    settled_numbers,
)
from collectors.past_runs import PastRun, past_runs, without
from collectors.settled_notes import Acknowledging, SettledNotes
from collectors.spool_segments import FolderLock, read_records
from collectors.status import SpoolCounters
from flows.packet import Records, packet_dtype
from flows.service_schema import ServiceSchema
from flows.table import END_DTYPE, FLOW_DTYPE

__all__ = ["DiskSpool"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _SettledOnly:
    """Notes that flows of some run have their verdicts; they are journaled already."""

    notes: SettledNotes
    run: int

    def observed(
        self,
        flows: Records,
        packets: Records,
        numbers: npt.NDArray[np.uint64],
        ends: Records,
        clock_ns: int,
    ) -> bool:
        return True

    def settled(self, numbers: npt.NDArray[np.uint64]) -> None:
        self.notes.settled(numbers, self.run)


@dataclass(frozen=True, slots=True)
class _Noting:
    """The journal of this run's collector, in which settled flows are noted a little later."""

    journal: Journal
    notes: SettledNotes

    def observed(
        self,
        flows: Records,
        packets: Records,
        numbers: npt.NDArray[np.uint64],
        ends: Records,
        clock_ns: int,
    ) -> bool:
        return self.journal.observed(flows, packets, numbers, ends, clock_ns)

    def settled(self, numbers: npt.NDArray[np.uint64]) -> None:
        self.notes.settled(numbers, self.journal.meta.run)


@dataclass(frozen=True, slots=True)
class _Aside:
    """Flows of this run that are in the journal alone: those from ``base`` to before ``until``."""

    base: int
    until: int
    count: int
    clock_ns: int  # when they were set aside
    wire: Collector  # what still comes of them comes by this one


class DiskSpool:
    """Keeps flows on disk; serves as :class:`collectors.agent.Spool`.

    Args:
        folder: Where; no other collector's.
        settings: How to spool.
        name: The collector.
        schema: What the service wants.
        sinks: Who must have written a verdict before its flow is no longer kept.

    Raises:
        SettingsError: The folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        settings: SpoolSettings,
        name: str,
        schema: ServiceSchema,
        sinks: Sequence[Acknowledging] = (),
    ) -> None:
        self._lock = FolderLock(folder)
        self._settings = settings
        self._left = past_runs(folder)
        self._schema = schema
        meta = new_meta(name, schema.depth, schema.max_wait_s, with_header=schema.header)
        try:
            self._journal = Journal(
                folder, settings, meta, self._left.next_number, self._left.bytes
            )
        except BaseException:
            self._lock.close()
            raise
        self._notes = SettledNotes(self._journal, sinks)
        for sink in sinks:
            self._journal.before_sync.append(sink.sync)
        self._waiting: deque[Callable[[], Drain]] = deque()
        self._active: Drain | None = None
        self._asides: list[_Aside] = []  # not drained yet, the oldest first
        self._past = 0  # earlier runs that are not drained yet
        self._collector_settings = CollectorSettings()
        self._delivery_of: Callable[[Collector], Delivery] | None = None
        self._recovered = self._set_aside = self._drained = 0
        self._open = 0
        self._closed = False

    @property
    def seed(self) -> int:
        """See :class:`collectors.agent.Spool`."""
        return self._journal.meta.seed

    @property
    def journal(self) -> Journals:
        """See :class:`collectors.agent.Spool`."""
        return _Noting(self._journal, self._notes)

    @property
    def must_wait(self) -> bool:
        """See :class:`collectors.agent.Spool`."""
        return self._settings.policy == "block" and self._journal.full

    @property
    def draining(self) -> bool:
        """See :class:`collectors.agent.Spool`."""
        return self._active is not None or bool(self._waiting)

    @property
    def counters(self) -> SpoolCounters:
        """See :class:`collectors.agent.Spool`."""
        active = self._active.collector.ledger if self._active is not None else None
        settled = self._drained + (active.settled if active else 0)
        return SpoolCounters(
            spooled_bytes=self._journal.spooled_bytes,
            bytes=self._journal.size_bytes,
            limit_bytes=self._settings.max_bytes,
            waiting_flows=max(self._recovered + self._set_aside - settled, 0),
            recovered_flows=self._recovered,
            dropped_flows=self._journal.dropped_flows,
            unspooled_records=self._journal.unwritten,
            damaged_bytes=self._left.damaged_bytes,
        )

    def begin(
        self,
        schema: ServiceSchema,
        settings: CollectorSettings,
        delivery_of: Callable[[Collector], Delivery],
    ) -> None:
        """See :class:`collectors.agent.Spool`."""
        self._schema, self._collector_settings = schema, settings
        self._delivery_of = delivery_of
        for run in self._left.runs:
            if not run.unsettled:
                self._discard(run)
                continue
            _log.info("spool: %d flows of an earlier run are to be sent", run.unsettled)
            self._past += 1
            self._recovered += run.unsettled
            self._waiting.append(lambda own=run: self._drain_of_run(own))  # type: ignore[misc]

    def pump(self, *, healthy: bool) -> None:
        """See :class:`collectors.agent.Spool`."""
        self._notes.write()
        if self._active is None and self._waiting and healthy:
            self._active = self._waiting.popleft()()
        if self._active is not None and self._active.pump():
            self._drained += self._active.expected
            self._active = None

    def handed_over(self) -> None:
        """See :class:`collectors.agent.Spool`."""
        self._notes.handed_over()

    @property
    def noting(self) -> bool:
        """See :class:`collectors.agent.Spool`."""
        return self._notes.waiting

    def set_aside(self, collector: Collector) -> int:
        """See :class:`collectors.agent.Spool`."""
        base, count, clock_ns = collector.ledger.base, collector.open_flows, collector.clock_ns
        aside = _Aside(base, collector.set_aside(), count, clock_ns, collector)
        self._set_aside += count
        self._asides.append(aside)
        self._waiting.append(lambda: self._drain_of_aside(aside))
        return count

    def forget_settled(self, collector: Collector) -> None:
        """See :class:`collectors.agent.Spool`."""
        self._open = collector.open_flows
        if not self._past:  # else what is noted of them stands among what would be deleted
            base = self._asides[0].base if self._asides else collector.ledger.base
            held = self._notes.lowest_of(self._journal.meta.run)
            self._journal.forget_before(base if held is None else min(base, held))

    def close(self) -> None:
        """Let the disk have everything, and close; to be called when sinks have been closed."""
        if not self._closed:
            self._closed = True
            self._notes.write()
            over = not self._open and not self.draining and not self._notes.waiting
            self._journal.close(delete=over)
            self._lock.close()

    def _drain_of_run(self, run: PastRun) -> Drain:
        def discard() -> None:
            self._discard(run)
            self._past -= 1
            _log.info("spool: the earlier run's flows have their verdicts")

        def done() -> None:
            self._notes.afterwards(discard)

        meta = run.meta
        schema = replace(self._schema, depth=meta.depth, header=meta.with_header)
        return self._drain(
            "of an earlier run", run.records(), schema, meta.seed, meta.run, done, run.unsettled
        )

    def _drain_of_aside(self, aside: _Aside) -> Drain:
        own = self._journal.meta
        return self._drain(
            "set aside", self._follow(aside), self._schema, own.seed, own.run,
            lambda: self._asides.remove(aside), aside.count,
        )  # fmt: skip

    def _drain(
        self,
        what: str,
        records: Iterator[Moment | None],
        schema: ServiceSchema,
        seed: int,
        run: int,
        on_done: Callable[[], None],
        expected: int,
    ) -> Drain:
        assert self._delivery_of is not None  # noqa: S101 (begin comes first)
        collector = Collector(
            schema,
            self._collector_settings,
            name=self._journal.meta.name,
            seed=seed,
            journal=_SettledOnly(self._notes, run),
        )
        delivery = self._delivery_of(collector)
        return Drain(what, records, collector, delivery, on_done, expected)

    def _follow(self, aside: _Aside) -> Iterator[Moment | None]:
        """Yield what the journal tells of flows set aside, what is still to come of them too."""
        run, header = self._journal.meta.run, self._journal.meta.with_header
        self._journal.sync()
        settled = np.unique(
            np.concatenate(
                [self._notes.held_of(run)]
                + [
                    settled_numbers(payload, run)
                    for path, begins_at in self._journal.positions()
                    for kind, payload, _ in read_records(path, begins_at)
                    if kind == SETTLED
                ]
            )
        )
        over_ns = aside.clock_ns + int(self._schema.max_wait_s * 1e9)
        done: dict[Path, int] = {}
        while True:
            came = False
            for path, begins_at in self._journal.positions():
                at = done.get(path, begins_at)
                for kind, payload, end in read_records(path, at):
                    done[path] = end
                    moment = decoded(payload, with_header=header) if kind == OBSERVED else None
                    if moment is None:
                        continue
                    came = True
                    if moment.clock_ns > over_ns:
                        return
                    yield _between(without(moment, settled), aside)
            clock_ns = aside.wire.clock_ns
            if clock_ns > over_ns:
                return
            # A quiet wire moves the clock on too.
            yield None if came else replace(_nothing(header), clock_ns=clock_ns)

    def _discard(self, run: PastRun) -> None:
        self._journal.release(sum(segment.path.stat().st_size for segment in run.segments))
        run.discard()


def _nothing(with_header: bool) -> Moment:
    return Moment(
        np.empty(0, FLOW_DTYPE), np.empty(0, packet_dtype(with_header)), np.empty(0, np.uint64),
        np.empty(0, END_DTYPE), 0,
    )  # fmt: skip


def _between(moment: Moment, aside: _Aside) -> Moment:
    """Return a moment without what is about other flows than those set aside."""

    def own(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
        return np.flatnonzero((numbers >= aside.base) & (numbers < aside.until))

    packets = own(moment.numbers)
    return replace(
        moment,
        flows=moment.flows[own(moment.flows["flow_number"])],
        packets=moment.packets[packets],
        numbers=moment.numbers[packets],
        ends=moment.ends[own(moment.ends["flow_number"])],
    )
