"""What earlier runs of a collector have left in its spool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from collectors.journal import OBSERVED, SETTLED, JournalMeta, Moment, decoded, settled_numbers
from collectors.spool_segments import Segment, read_records, segments
from flows.records import taken

__all__ = ["Left", "PastRun", "past_runs", "unsettled", "without"]


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run's segments.

    Attributes:
        meta: Whose flows these are.
        segments: The oldest first.
        settled: Numbers of the flows that got their final verdicts, uint64, ascending.
        unsettled: How many did not, as far as can be read.
    """

    meta: JournalMeta
    segments: tuple[Segment, ...]
    settled: npt.NDArray[np.uint64]
    unsettled: int

    def records(self) -> Iterator[Moment]:
        """Yield what was observed of flows without a final verdict."""
        places = [(segment.path, segment.begins_at) for segment in self.segments]
        yield from unsettled(places, self.meta, self.settled)

    def discard(self) -> None:
        """Delete its segments: every flow of it has its final verdict."""
        for segment in self.segments:
            segment.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Left:
    """What is in a spool's folder.

    Attributes:
        runs: Earlier runs, the oldest first.
        next_number: Of the next segment.
        bytes: What segments take.
        damaged_bytes: What of them cannot be read.
    """

    runs: tuple[PastRun, ...]
    next_number: int
    bytes: int
    damaged_bytes: int


def past_runs(folder: Path) -> Left:
    """Read through a spool's folder.

    Segments whose header is damaged are renamed to ``….damaged`` and left for people to look at.
    """
    found, broken = segments(folder)
    damaged = sum(path.stat().st_size for path in broken)
    for path in broken:
        path.rename(path.with_suffix(".damaged"))
    by_run: dict[int, tuple[JournalMeta, list[Segment]]] = {}
    for segment in found:
        meta = JournalMeta.of(segment.meta)
        if meta is None:
            segment.path.rename(segment.path.with_suffix(".damaged"))
            damaged += segment.path.with_suffix(".damaged").stat().st_size
            continue
        by_run.setdefault(meta.run, (meta, []))[1].append(segment)
    known = [segment for _, own in by_run.values() for segment in own]
    settled: dict[int, list[npt.NDArray[np.uint64]]] = {run: [] for run in by_run}
    begun: dict[int, list[npt.NDArray[np.uint64]]] = {run: [] for run in by_run}
    for run, (meta, own) in by_run.items():
        for segment in own:
            until = segment.begins_at
            for kind, payload, behind in read_records(segment.path, segment.begins_at):
                until = behind
                if kind == SETTLED:
                    for other, numbers in settled.items():
                        numbers.append(settled_numbers(payload, other))
                elif kind == OBSERVED:
                    moment = decoded(payload, with_header=meta.with_header)
                    if moment is not None:
                        begun[run].append(moment.flows["flow_number"])
            damaged += segment.path.stat().st_size - until
    runs = []
    for run, (meta, own) in by_run.items():
        final = np.unique(np.concatenate([*settled[run], np.empty(0, np.uint64)]))
        first = np.concatenate([*begun[run], np.empty(0, np.uint64)])
        open_flows = int((~np.isin(first, final)).sum())
        runs.append(PastRun(meta, tuple(own), final, open_flows))
    return Left(
        tuple(runs),
        max((segment.number for segment in found), default=-1) + 1,
        sum(segment.path.stat().st_size for segment in known),
        damaged,
    )


def unsettled(
    places: Sequence[tuple[Path, int]], meta: JournalMeta, settled: npt.NDArray[np.uint64]
) -> Iterator[Moment]:
    """Yield what segments tell of flows that are not among ``settled`` (ascending)."""
    for path, begins_at in places:
        if not path.exists():
            continue  # deleted meanwhile, for want of room
        for kind, payload, _ in read_records(path, begins_at):
            moment = decoded(payload, with_header=meta.with_header) if kind == OBSERVED else None
            if moment is not None:
                yield without(moment, settled)


def without(moment: Moment, settled: npt.NDArray[np.uint64]) -> Moment:
    """Return a moment without what is about settled flows (ascending numbers)."""
    packets = ~_among(moment.numbers, settled)
    return replace(
        moment,
        flows=taken(moment.flows, np.flatnonzero(~_among(moment.flows["flow_number"], settled))),
        packets=taken(moment.packets, np.flatnonzero(packets)),
        numbers=moment.numbers[packets],
        ends=taken(moment.ends, np.flatnonzero(~_among(moment.ends["flow_number"], settled))),
    )


def _among(
    numbers: npt.NDArray[np.uint64], settled: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    if not len(settled):
        return np.zeros(len(numbers), np.bool_)
    at = np.minimum(np.searchsorted(settled, numbers), len(settled) - 1)
    return np.asarray(settled[at] == numbers)
