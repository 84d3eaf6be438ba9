"""What a ledger would need to be made anew, written down as it happens; on top of segments."""

from __future__ import annotations

import logging
import os
import secrets
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collectors.spool_segments import SegmentWriter
from flows.errors import SettingsError
from flows.packet import Records, packet_dtype
from flows.records import as_bytes
from flows.table import END_DTYPE, FLOW_DTYPE

__all__ = [
    "OBSERVED",
    "SETTLED",
    "Journal",
    "JournalMeta",
    "Moment",
    "SpoolSettings",
    "decoded",
    "new_meta",
    "settled_numbers",
]

_log = logging.getLogger(__name__)

OBSERVED, SETTLED = 1, 2
_FORMAT = 1
_COUNTS = struct.Struct("<qIII")
_RUN = struct.Struct("<Q")
_POLICIES = ("block", "drop_oldest", "drop_newest")


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """How to spool.

    Attributes:
        max_bytes: What all segments together may take.
        segment_bytes: When a new one is begun.
        policy: What happens at ``max_bytes``: ``block`` leaves packets where they are,
            ``drop_oldest`` deletes the oldest segment, ``drop_newest`` writes nothing more; what is
            not written is in memory alone.
        fsync_interval_s: Power may fail: what is older than this is on the disk by then, verdicts
            in sinks' files too. A process that is killed loses nothing that was written.
    """

    max_bytes: int = 1 << 30
    segment_bytes: int = 8 << 20
    policy: str = "drop_newest"
    fsync_interval_s: float = 0.2

    def __post_init__(self) -> None:
        if self.policy not in _POLICIES:
            raise SettingsError(f"spool policy {self.policy!r}: give one of {', '.join(_POLICIES)}")
        if self.segment_bytes < 4_096 or self.max_bytes < 2 * self.segment_bytes:
            raise SettingsError(
                f"spool: {self.max_bytes:,} bytes must hold two segments of {self.segment_bytes:,}"
            )
        if self.fsync_interval_s <= 0:
            raise SettingsError("spool: fsync_interval_s must be above 0")


@dataclass(frozen=True, slots=True)
class JournalMeta:
    """Whose flows these are.

    Attributes:
        run: Tells one run of a collector from another.
        name: The collector.
        seed: Of the flow ids.
        depth: First packets kept of each flow.
        with_header: The packets hold their headers' bytes.
        max_wait_s: How long a flow waits for its packets.
        format: Of the records.
    """

    run: int
    name: str
    seed: int
    depth: int
    with_header: bool
    max_wait_s: float
    format: int = _FORMAT

    @classmethod
    def of(cls, meta: dict[str, Any]) -> JournalMeta | None:
        """Read what :meth:`to_dict` gave; None: it is of another format."""
        try:
            found = cls(**meta)
        except TypeError:
            return None
        kinds = {"run": int, "name": str, "seed": int, "depth": int, "with_header": bool}
        right = all(isinstance(getattr(found, key), kind) for key, kind in kinds.items())
        return found if right and found.format == _FORMAT and 1 <= found.depth <= 255 else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Moment:
    """What was observed at once; see :class:`collectors.drain.Observed`."""

    flows: Records
    packets: Records
    numbers: npt.NDArray[np.uint64]
    ends: Records
    clock_ns: int


def decoded(payload: bytes, *, with_header: bool) -> Moment | None:
    """Read the payload of an ``OBSERVED`` record; None: it is none."""
    if len(payload) < _COUNTS.size:
        return None
    clock_ns, *counts = _COUNTS.unpack_from(payload)
    kinds = (FLOW_DTYPE, packet_dtype(with_header), np.dtype("<u8"), END_DTYPE)
    sizes = (counts[0], counts[1], counts[1], counts[2])
    if len(payload) != _COUNTS.size + sum(
        n * kind.itemsize for n, kind in zip(sizes, kinds, strict=True)
    ):
        return None
    at, arrays = _COUNTS.size, []
    for n, kind in zip(sizes, kinds, strict=True):
        arrays.append(np.frombuffer(payload, kind, n, at).copy())
        at += n * kind.itemsize
    flows, packets, numbers, ends = arrays
    return Moment(flows, packets, numbers, ends, clock_ns)


@dataclass(slots=True)
class _Written:
    """A segment of this run."""

    path: Path
    number: int
    begins_at: int
    highest: int = -1  # flow number in it
    flows: int = 0  # that begin in it
    bytes: int = 0


class Journal:
    """Writes one run's records.

    Args:
        folder: Where segments are made.
        settings: How to spool.
        meta: Whose flows these are.
        number: Of the first segment.
        taken_bytes: What segments of earlier runs take.

    Attributes:
        meta: Whose flows these are.
        spooled_bytes: Bytes ever written.
        unwritten: Records that could not be written.
        dropped_flows: Flows that began in segments deleted for want of room.
        before_sync: Called before the disk is made to keep what is written here, by whatever thread
            does it.
        last_error: What the last failure said; empty: there was none since.

    Raises:
        SettingsError: Nothing can be written there.
    """

    def __init__(
        self,
        folder: Path,
        settings: SpoolSettings,
        meta: JournalMeta,
        number: int = 0,
        taken_bytes: int = 0,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self.meta = meta
        self._number = number
        self._taken_bytes = taken_bytes
        self._segments: deque[_Written] = deque()
        self._writer: SegmentWriter | None = None
        self.spooled_bytes = self.unwritten = self.dropped_flows = 0
        self.last_error = ""
        self.before_sync: list[Callable[[], None]] = []
        self._lock = threading.Lock()  # of the writer, which a thread syncs
        try:
            self._roll()
        except OSError as error:
            raise SettingsError(f"spool {folder}: {error.strerror or error}") from None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sync_often, name="spool", daemon=True)
        self._thread.start()

    @property
    def size_bytes(self) -> int:
        """What all segments take."""
        return self._taken_bytes + sum(one.bytes for one in self._segments)

    @property
    def full(self) -> bool:
        """Whether another segment would be too much."""
        return self.size_bytes + self._settings.segment_bytes > self._settings.max_bytes

    def observed(
        self,
        flows: Records,
        packets: Records,
        numbers: npt.NDArray[np.uint64],
        ends: Records,
        clock_ns: int,
    ) -> bool:
        """See :meth:`collectors.exchange.Journals.observed`."""
        counts = _COUNTS.pack(clock_ns, len(flows), len(packets), len(ends))
        arrays = (flows, packets, np.ascontiguousarray(numbers, "<u8"), ends)
        parts = [counts, *(as_bytes(np.ascontiguousarray(each)).tobytes() for each in arrays)]
        highest = max(
            int(found.max()) if len(found) else -1 for found in (numbers, ends["flow_number"])
        )
        return self._append(OBSERVED, parts, highest, len(flows))

    def settled(self, numbers: npt.NDArray[np.uint64], run: int | None = None) -> None:
        """Write that flows of this run, or of another one, got their final verdicts."""
        own = self.meta.run if run is None else run
        parts = [_RUN.pack(own), np.ascontiguousarray(numbers, "<u8").tobytes()]
        self._append(SETTLED, parts, -1, 0)

    def forget_before(self, number: int) -> None:
        """Delete the segments, but for the last one, that hold nothing of later flows."""
        while len(self._segments) > 1 and self._segments[0].highest < number:
            self._drop()

    def release(self, count: int) -> None:
        """Note that so many bytes of earlier runs have gone."""
        self._taken_bytes -= count

    def positions(self) -> list[tuple[Path, int]]:
        """Return the segments of this run that are there, and where their records begin."""
        return [(one.path, one.begins_at) for one in self._segments]

    def sync(self) -> None:
        """Have the disk keep all that is written."""
        if self._writer is None or self._writer.synced:
            return
        for action in self.before_sync:
            action()
        with self._lock:
            try:
                if self._writer is not None:
                    self._writer.sync()
            except OSError as error:
                self._tell(error)

    def close(self, *, delete: bool = False) -> None:
        """Let the disk have everything; with ``delete``, nothing of it is needed any more."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        self.sync()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        while delete and self._segments:
            self._drop()

    def _append(self, kind: int, parts: list[bytes], highest: int, flows: int) -> bool:
        try:
            if self._writer is None or self._writer.bytes >= self._settings.segment_bytes:
                if not self._make_room():
                    self.unwritten += 1
                    return False
                self._roll()
            writer, own = self._writer, self._segments[-1]
            assert writer is not None  # noqa: S101 (it has just been made)
            before = writer.bytes
            with self._lock:
                writer.append(kind, parts)
        except OSError as error:
            self.unwritten += 1
            self._tell(error)
            return False
        self.last_error = ""
        own.bytes = writer.bytes
        own.highest, own.flows = max(own.highest, highest), own.flows + flows
        self.spooled_bytes += writer.bytes - before
        return True

    def _make_room(self) -> bool:
        if self._settings.policy == "drop_oldest":
            while self.full and len(self._segments) > 1:
                self.dropped_flows += self._segments[0].flows
                self._drop()
        return not self.full or self._settings.policy == "block"

    def _roll(self) -> None:
        writer = SegmentWriter(self._folder, self._number, self.meta.to_dict())
        with self._lock:
            old, self._writer = self._writer, writer
        if old is not None:
            old.sync()
            old.close()
        self._segments.append(_Written(writer.path, self._number, writer.begins_at))
        self._segments[-1].bytes = writer.bytes
        self._number += 1

    def _drop(self) -> None:
        self._segments.popleft().path.unlink(missing_ok=True)

    def _tell(self, error: OSError) -> None:
        if not self.last_error:
            _log.error("spool %s: %s: flows are in memory alone", self._folder, error.strerror)
        self.last_error = error.strerror or os.strerror(error.errno or 0)

    def _sync_often(self) -> None:
        while not self._ended.wait(self._settings.fsync_interval_s):
            self.sync()


def new_meta(name: str, depth: int, max_wait_s: float, *, with_header: bool) -> JournalMeta:
    """Return the meta of a run that begins now."""
    return JournalMeta(
        secrets.randbits(63), name, secrets.randbits(63), depth, with_header, max_wait_s
    )


def settled_numbers(payload: bytes, run: int) -> npt.NDArray[np.uint64]:
    """Return the flows of a run that a ``SETTLED`` record tells of, uint64 ``[n]``."""
    if len(payload) < _RUN.size or len(payload) % 8 or _RUN.unpack_from(payload)[0] != run:
        return np.empty(0, np.uint64)
    return np.frombuffer(payload, "<u8", offset=_RUN.size).copy()
