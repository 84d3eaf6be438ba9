"""Sends flows that are in the journal alone: those of an earlier run, or set aside in this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from collectors.collector import Collector
from collectors.delivery import Delivery
from flows.packet import Records

__all__ = ["Drain", "Observed"]

_MOST_OPEN = 16_384  # flows at a time


class Observed(Protocol):
    """What a journal tells of one moment; see :meth:`collectors.exchange.Journals.observed`."""

    @property
    def flows(self) -> Records:
        """New flows, ``FLOW_DTYPE [f]``."""

    @property
    def packets(self) -> Records:
        """Packets to keep, ``PACKET_DTYPE [n]``."""

    @property
    def numbers(self) -> npt.NDArray[np.uint64]:
        """Their flows, uint64 ``[n]``."""

    @property
    def ends(self) -> Records:
        """Ends of flows, ``END_DTYPE [e]``."""

    @property
    def clock_ns(self) -> int:
        """The latest capture time."""


class Drain:
    """Takes journaled flows to the service, in order and a bounded number at a time.

    Args:
        what: What flows these are, for people.
        records: What was observed of them; None: nothing more for now.
        collector: Takes them over; of the seed of the one that observed them.
        delivery: The collector's.
        on_done: Called once when each flow has its final verdict.
        expected: How many flows there are; it is done as soon as these have their verdicts.

    Attributes:
        what: What flows these are.
        collector: Who sends them.
        expected: How many there were; fewer are found where the disk was short or damaged.
    """

    def __init__(
        self,
        what: str,
        records: Iterator[Observed | None],
        collector: Collector,
        delivery: Delivery,
        on_done: Callable[[], None],
        expected: int,
    ) -> None:
        self.what = what
        self.collector = collector
        self.delivery = delivery
        self._records = records
        self._on_done = on_done
        self.expected = expected
        self._read = False  # to the end

    def pump(self) -> bool:
        """Do what can be done at once; return whether all is done."""
        collector = self.collector
        while not self._read and collector.open_flows < _MOST_OPEN and not collector.lags_behind:
            try:
                record = next(self._records)
            except StopIteration:
                self._read = True
                collector.expire()
                break
            if record is None:
                break
            collector.restore(
                record.flows, record.packets, record.numbers, record.ends, record.clock_ns
            )
            if not len(record.numbers) and not len(record.ends):
                break  # nothing but the time
        self.delivery.pump(0.0, hurry=self._read)
        complete = self._read or collector.ledger.admitted >= self.expected
        if complete and not collector.open_flows and not collector.in_flight:
            self._on_done()
            return True
        return False
