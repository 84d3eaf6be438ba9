"""Labelled flows with what the service would see of them, and when."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flows.capture import CaptureReader
from flows.errors import CaptureError, LabelsError
from flows.packet import HOST_DTYPE, FlowEndReason, Records, packet_dtype
from flows.table import FLOW_DTYPE, FlowTable
from flows.verdict import Reason
from models.labels import LabelBook
from models.manifest import MAX_WAIT_S

__all__ = ["Dataset", "Progress", "load_dataset"]

Progress = Callable[[str, int, int], None]
"""Told of a step by name, how much of it is done, and how much there is."""

_SUFFIXES = {".pcap", ".pcapng", ".cap", ".gz"}
_ENDINGS = (FlowEndReason.END_OF_FLOW, FlowEndReason.FORCED_END)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled flows; all arrays have one row per flow unless they say otherwise.

    Attributes:
        packets: First packets of the flows that count, ``PACKET_DTYPE [m]``, or with their headers'
            bytes ``packet_dtype(True)``: without gaps, up to the depth, none later than the longest
            wait after the first.
        offsets: Where each flow's packets begin, int64 ``[n + 1]``.
        over_ns: From the first packet to when no further packet could count: at the flow's end
            or the longest wait; int64. Of no meaning for flows that reach the depth.
        reasons: Why it was over then, ``Reason.ENDED`` or ``Reason.TIMEOUT``, uint8.
        labels: True labels, str.
        groups: Values that must not stand on both sides of a split, int64.
        depth: Packets looked at, at most.
        captures: Files that were read.
        seen: Flows in them.
        unlabelled: Of those, without a label; they are left out here.
        damaged: Files that could not be read to their end, with the reason; what lies before the
            damage is here.
        group_names: Names of the groups, by the numbers in ``groups``.
    """

    packets: Records
    offsets: npt.NDArray[np.int64]
    over_ns: npt.NDArray[np.int64]
    reasons: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.str_]
    groups: npt.NDArray[np.int64]
    depth: int
    captures: int = 0
    seen: int = 0
    unlabelled: int = 0
    damaged: tuple[tuple[str, str], ...] = ()
    group_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Packets of each flow that count, int64 ``[n]``."""
        return np.diff(self.offsets)

    @property
    def digest(self) -> str:
        """SHA-256 over all that a model may learn from."""
        sha = hashlib.sha256()
        # Ids depend on the reader, times on the day: models see neither.
        packets = self.packets.copy()
        packets["flow_id"] = 0
        for array in (packets, self.offsets, self.groups):
            sha.update(array.tobytes())
        sha.update("\0".join(self.labels.tolist()).encode())
        return sha.hexdigest()

    def wait_ns(self, depth: int) -> npt.NDArray[np.int64]:
        """Return how long each flow waits for ``depth`` packets, or for what comes first.

        Args:
            depth: From 1 to the dataset's depth.

        Returns:
            int64 ``[n]``: from the first packet to packet ``depth``, else to the flow's end or
            the longest wait.
        """
        times = self.packets["time_ns"]
        first = self.offsets[:-1]
        there = self.sizes >= depth
        at = np.where(there, first + depth - 1, first)
        return np.asarray(np.where(there, times[at] - times[first], self.over_ns))

    def select(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Dataset:
        """Return the flows ``which``, as a mask or by index."""
        rows = np.flatnonzero(which) if which.dtype == np.bool_ else which
        flows = _Flows(self.packets, self.offsets, self.over_ns, self.reasons)
        kept = flows.select(np.asarray(rows, np.int64))
        return replace(
            self,
            packets=kept.packets,
            offsets=kept.offsets,
            over_ns=kept.over_ns,
            reasons=kept.reasons,
            labels=self.labels[rows],
            groups=self.groups[rows],
        )

    def with_idle_timeout(self, idle_timeout_s: float) -> Dataset:
        """Return the same flows as one sees them who gives a silent flow up.

        A flow is over once ``idle_timeout_s`` have passed since its last packet, if it is not over
        before: packets behind a longer silence do not count.

        Args:
            idle_timeout_s: Longest silence between two packets (capture time), from 0 to 1e9.

        Raises:
            ValueError: ``idle_timeout_s`` is out of range.
        """
        if not 0 <= idle_timeout_s <= 1e9:
            raise ValueError(f"an idle timeout of {idle_timeout_s} s is out of range")
        idle_ns = round(idle_timeout_s * 1e9)
        times, first, sizes = self.packets["time_ns"], self.offsets[:-1], self.sizes
        silence_ns = np.diff(times, prepend=times[:1])
        silence_ns[first] = 0  # what lies between two flows is no silence of either
        silences = np.cumsum(silence_ns > idle_ns)
        flow = np.repeat(np.arange(len(self)), sizes)
        counts = silences == silences[first][flow]
        kept = np.bincount(flow[counts], minlength=len(self)).astype(np.int64)
        given_up_ns = times[first + kept - 1] - times[first] + idle_ns
        idle = (kept < sizes) | (given_up_ns < self.over_ns)
        return replace(
            self,
            packets=self.packets[counts],
            offsets=_offsets(kept),
            over_ns=np.where(idle, given_up_ns, self.over_ns),
            reasons=np.where(idle, Reason.TIMEOUT, self.reasons).astype(np.uint8),
        )

    def without_host(self) -> Dataset:
        """Return the same flows without what their hosts did before."""
        packets = self.packets.copy()
        packets["host"] = np.zeros((), HOST_DTYPE)
        return replace(self, packets=packets)

    def without_port(self) -> Dataset:
        """Return the same flows without their responders' ports."""
        packets = self.packets.copy()
        packets["responder_port"] = 0
        return replace(self, packets=packets)

    def with_end_known(self) -> Dataset:
        """Return the same flows as one sees them who knows at once that a flow is over.

        It is the limit of ever shorter idle timeouts that give no living flow up: nobody waits
        for packets that do not come.
        """
        times, first = self.packets["time_ns"], self.offsets[:-1]
        return replace(self, over_ns=times[self.offsets[1:] - 1] - times[first])


def load_dataset(
    captures: Path,
    labels: Path,
    *,
    label_column: str = "label",
    group_by: str = "pcap",
    depth: int = 10,
    max_wait_s: float = MAX_WAIT_S,
    with_header: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Read the labelled flows of a folder of captures.

    Args:
        captures: The folder; captures may lie deeper in it. A single file will do, too.
        labels: The labels, see :meth:`models.labels.LabelBook.read`.
        label_column: Name of the label's column.
        group_by: ``pcap``, or the column of ``labels`` whose values are the groups.
        depth: Packets that count, at most.
        max_wait_s: How long after its first packet a flow's packets count (capture time).
        with_header: Keep the packets' header bytes, as tiers that read bits need them.
        progress: Told of each file.

    Raises:
        LabelsError: The labels cannot be read, or none fits a flow of the captures.
    """
    book = LabelBook.read(labels, label_column)
    group_book = None if group_by == "pcap" else LabelBook.read(labels, group_by)
    found = list(_captures(captures))
    if not found:
        raise LabelsError(f"{captures}: there are no captures ({', '.join(sorted(_SUFFIXES))})")
    parts: list[_Flows] = []
    texts: list[npt.NDArray[np.str_]] = []
    names: list[npt.NDArray[np.str_]] = []
    damaged = []
    seen = 0
    for i, (path, name) in enumerate(found):
        if progress is not None:
            progress("reading captures", i, len(found))
        flows, read, damage = _read_capture(path, depth, int(max_wait_s * 1e9), with_header)
        if damage is not None:
            damaged.append((name, damage))
        seen += len(flows)
        known, said = book.match(name, flows)
        groups = np.full(len(flows), name)
        if group_book is not None:
            groups = group_book.match(name, flows)[1]
        parts.append(read.select(np.flatnonzero(known)))
        texts.append(said[known])
        names.append(groups[known])
    if progress is not None:
        progress("reading captures", len(found), len(found))
    joined = np.concatenate(texts)
    group_names, group_at = np.unique(np.concatenate(names), return_inverse=True)
    if not len(joined):
        raise LabelsError(
            f"{labels}: fits none of the {seen:,} flows in {captures}; its pcap column must hold "
            f"the captures' file names, such as {found[0][1]}"
        )
    return Dataset(
        packets=np.concatenate([part.packets for part in parts]),
        offsets=_offsets(np.concatenate([np.diff(part.offsets) for part in parts])),
        over_ns=np.concatenate([part.over_ns for part in parts]),
        reasons=np.concatenate([part.reasons for part in parts]),
        labels=joined,
        groups=group_at.astype(np.int64),
        depth=depth,
        captures=len(found),
        seen=seen,
        unlabelled=seen - len(joined),
        damaged=tuple(damaged),
        group_names=tuple(map(str, group_names)),
    )


@dataclass(frozen=True, slots=True)
class _Flows:
    """The columns of a Dataset that come from a capture."""

    packets: Records
    offsets: npt.NDArray[np.int64]
    over_ns: npt.NDArray[np.int64]
    reasons: npt.NDArray[np.uint8]

    def select(self, rows: npt.NDArray[np.int64]) -> _Flows:
        sizes = np.diff(self.offsets)[rows]
        offsets = _offsets(sizes)
        at = np.repeat(self.offsets[rows] - offsets[:-1], sizes) + np.arange(offsets[-1])
        return _Flows(self.packets[at], offsets, self.over_ns[rows], self.reasons[rows])


def _offsets(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    out = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=out[1:])
    return out


def _captures(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield captures and their names in labels files, in an order that is the same everywhere."""
    if folder.is_file():
        yield folder, folder.name
        return
    if not folder.is_dir():
        raise LabelsError(f"{folder}: there is no such folder of captures")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            yield path, path.relative_to(folder).as_posix()


def _read_capture(
    path: Path, depth: int, max_wait_ns: int, with_header: bool
) -> tuple[Records, _Flows, str | None]:
    """Read one capture's flows; return them, what counts of them, and what is wrong, if so."""
    table = FlowTable(first_packets=depth)
    packets, numbers = [np.empty(0, packet_dtype(with_header))], [np.empty(0, np.uint64)]
    flows = [np.empty(0, FLOW_DTYPE)]
    ends = []
    damage = None
    try:
        for chunk in CaptureReader(path, with_header=with_header).chunks():
            update = table.update(chunk.packets, chunk.endpoints)
            packets.append(chunk.packets[update.kept])
            numbers.append(update.flow_number[update.kept])
            flows.append(update.new_flows)
            ends.append(update.ends)
    except CaptureError as error:
        damage = error.reason
    ends.append(table.finish())
    all_flows = np.concatenate(flows)
    return (
        all_flows,
        _what_counts(
            np.concatenate(packets),
            np.concatenate(numbers).astype(np.int64),
            np.concatenate(ends),
            max_wait_ns,
        ),
        damage,
    )


def _what_counts(
    packets: Records, numbers: npt.NDArray[np.int64], ends: Records, max_wait_ns: int
) -> _Flows:
    """Cut flows off at their deadlines; the rule of :mod:`flows.join`, for files."""
    order = np.argsort(numbers, kind="stable")
    packets, numbers = packets[order], numbers[order]
    n = int(numbers[-1]) + 1 if len(numbers) else 0
    start_ns = packets["time_ns"][np.searchsorted(numbers, np.arange(n))]
    deadline_ns = start_ns + max_wait_ns
    counts = packets["time_ns"] <= deadline_ns[numbers]
    sizes = np.bincount(numbers[counts], minlength=n).astype(np.int64)
    end_ns = np.full(n, np.iinfo(np.int64).max)
    reason = np.zeros(n, np.uint8)
    at = ends["flow_number"].astype(np.int64)
    end_ns[at], reason[at] = ends["time_ns"], ends["reason"]
    in_time = end_ns <= deadline_ns
    by_end = in_time & np.isin(reason, _ENDINGS)
    return _Flows(
        packets[counts],
        _offsets(sizes),
        np.where(in_time, end_ns - start_ns, max_wait_ns),
        np.where(by_end, Reason.ENDED, Reason.TIMEOUT).astype(np.uint8),
    )
