"""Notes in the journal that flows are settled, once every sink has written their verdicts.

Noted before, a kill in between would lose verdicts that no sink has and that nobody asks for again.
Noted after, it repeats those that were written and not noted: a flow too often, never none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from collectors.journal import Journal

__all__ = ["Acknowledging", "SettledNotes"]

Numbers = npt.NDArray[np.uint64]


class Acknowledging(Protocol):
    """A sink that tells how far it has come; see :class:`collectors.queued_sink.QueuedSink`."""

    @property
    def accepted(self) -> int:
        """Verdicts taken so far."""

    @property
    def done(self) -> int:
        """How many of these, the first ones, have been written or given up."""

    def sync(self) -> None:
        """Have the disk keep what is written; from any thread."""


@dataclass(frozen=True, slots=True)
class _Held:
    """What waits for sinks to come to some place."""

    marks: tuple[int, ...]
    run: int  # whose flows
    numbers: Numbers
    lowest: int
    then: Callable[[], None] | None = None


class SettledNotes:
    """Holds back who is settled, in order, until sinks have the verdicts.

    Args:
        journal: Where it is noted.
        sinks: Who has to write first; none: it is noted at once.
    """

    def __init__(self, journal: Journal, sinks: Sequence[Acknowledging] = ()) -> None:
        self._journal = journal
        self._sinks = sinks
        self._new: list[tuple[int, Numbers]] = []  # not handed to sinks yet
        self._held: deque[_Held] = deque()

    def settled(self, numbers: Numbers, run: int) -> None:
        """Take flows of a run that are settled; their verdicts go to sinks before the next call."""
        if len(numbers):
            self._new.append((run, numbers.copy()))

    def handed_over(self) -> None:
        """Learn that sinks have been given the verdicts of all flows taken so far."""
        marks = self._marks()
        self._held += [_Held(marks, run, numbers, int(numbers.min())) for run, numbers in self._new]
        self._new = []
        self.write()

    def afterwards(self, then: Callable[[], None]) -> None:
        """Call ``then`` once all that was taken so far is noted."""
        self.handed_over()
        self._held.append(_Held(self._marks(), -1, np.empty(0, np.uint64), 0, then))
        self.write()

    def write(self) -> None:
        """Note what sinks have written by now; all of it if the journal is full."""
        while self._held and (self._written(self._held[0].marks) or self._journal.full):
            held = self._held.popleft()
            if held.then is not None:
                held.then()
            else:
                self._journal.settled(held.numbers, held.run)

    @property
    def waiting(self) -> bool:
        """Whether anything is held back."""
        return bool(self._held or self._new)

    def held_of(self, run: int) -> Numbers:
        """Return the flows of a run that are held back, uint64 ``[n]``."""
        found = [one.numbers for one in self._held if one.run == run]
        found += [numbers for own, numbers in self._new if own == run]
        return np.concatenate([*found, np.empty(0, np.uint64)])

    def lowest_of(self, run: int) -> int | None:
        """Return the lowest flow of a run that is held back; None: there is none."""
        found = [one.lowest for one in self._held if one.run == run]
        found += [int(numbers.min()) for own, numbers in self._new if own == run]
        return min(found, default=None)

    def _marks(self) -> tuple[int, ...]:
        return tuple(sink.accepted for sink in self._sinks)

    def _written(self, marks: tuple[int, ...]) -> bool:
        return all(sink.done >= mark for sink, mark in zip(self._sinks, marks, strict=True))
