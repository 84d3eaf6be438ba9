"""Stand-ins for tests: a source that plays chunks, a service that judges by arithmetic."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from collectors.sender import Part
from collectors.sources import SourceCounters
from flows.decode import Decoded
from flows.errors import OverloadedError, ServiceRefusedError, ServiceUnavailableError
from flows.packet import ENDPOINTS_DTYPE, Records, packet_dtype
from flows.service_schema import ServiceSchema
from flows.verdict import VERDICT_DTYPE, Reason
from flows.wire import PacketBatch

__all__ = ["FAKE_SCHEMA", "FakeService", "FakeSource"]

FAKE_SCHEMA = ServiceSchema(
    depth=3,
    max_wait_s=10.0,
    classes=("a", "b", "c", "d", "e", "f", "g"),
    tiers=("fast", "slow"),
    depths=(1, 3),
    model_version="fake",
    trackers=2,
    max_batch_packets=4_096,
    max_body_bytes=1 << 24,
)
"""What a :class:`FakeService` wants."""


class FakeSource:
    """Plays chunks; None among them stands for a quiet wire.

    Args:
        chunks: What to play.
        live: Whether to pass for a wire.
        clock_ns: What :meth:`quiet_until_ns` returns.
    """

    def __init__(
        self, chunks: Iterable[Decoded | None], *, live: bool = False, clock_ns: int = 0
    ) -> None:
        self._chunks = iter(chunks)
        self.live = live
        self.clock_ns = clock_ns
        self.frames = 0
        self.closed = False

    @property
    def counters(self) -> SourceCounters:
        """See :class:`collectors.sources.Source`."""
        return SourceCounters(frames=self.frames)

    def read(self, wait_s: float) -> Decoded | None:
        """See :class:`collectors.sources.Source`; never waits."""
        try:
            chunk = next(self._chunks)
        except StopIteration:
            return None
        if chunk is None:
            return Decoded(np.empty(0, packet_dtype(False)), np.empty(0, ENDPOINTS_DTYPE))
        self.frames += len(chunk.packets)
        return chunk

    def quiet_until_ns(self) -> int:
        """See :class:`collectors.sources.Source`."""
        return self.clock_ns

    def close(self) -> None:
        """See :class:`collectors.sources.Source`."""
        self.closed = True


@dataclass(slots=True)
class _Flow:
    start_ns: int
    packets: dict[int, int] = field(default_factory=dict)
    ended: bool = False


class FakeService:
    """A service whose verdicts are a function of the packets alone, and which can fail.

    A flow is settled on packet 1 where that has an even number of bytes; else when its packets are
    there, it has ended, or its deadline has passed. Serves as a :class:`collectors.sender.Sender`.

    Attributes:
        trouble: ``away``: nobody answers; ``overloaded``: batches are put off; ``refusing``: they
            are refused; ``half``: an answer breaks off before its last part; empty: none.
        batches: Answered to their end.
    """

    def __init__(self, schema: ServiceSchema = FAKE_SCHEMA) -> None:
        self._schema = schema
        self._lock = threading.Lock()
        self._open: dict[str, dict[int, _Flow]] = {}
        self._incarnation = secrets.token_hex(4)
        self.trouble = ""
        self.batches = 0

    def schema(self) -> ServiceSchema:
        """See :class:`collectors.sender.Sender`."""
        self._fail()
        return self._schema

    def die(self) -> None:
        """Forget everything, as trackers do that are killed."""
        with self._lock:
            self._open.clear()
            self._incarnation = secrets.token_hex(4)

    def submit(self, batch: PacketBatch) -> Iterator[Part]:
        """See :class:`collectors.sender.Sender`."""
        self._fail()
        with self._lock:
            first, last = self._first(batch), self._last(batch)
        yield self._part(first)
        if self.trouble == "half":
            raise ServiceUnavailableError("fake: the answer broke off")
        yield self._part(last)
        self.batches += 1

    def close(self) -> None:
        """See :class:`collectors.sender.Sender`."""

    def _fail(self) -> None:
        if self.trouble == "away":
            raise ServiceUnavailableError("fake: nobody answers")
        if self.trouble == "overloaded":
            raise OverloadedError("fake: too much to do", 0.01)
        if self.trouble == "refusing":
            raise ServiceRefusedError("fake: not this")

    def _part(self, verdicts: Records) -> Part:
        notes: dict[str, Any] = {
            "trackers": {str(t): self._incarnation for t in range(self._schema.trackers)}
        }
        return Part(verdicts, notes, self._schema.classes, self._schema.model_version)

    def _first(self, batch: PacketBatch) -> Records:
        """Judge first packets; all at once, as they may be very many."""
        packets = batch.packets
        rows = packets[(packets["packet_index"] == 0) & (packets["flow_end_reason"] == 0)]
        verdicts = np.zeros(len(rows), VERDICT_DTYPE)
        verdicts["flow_id"] = rows["flow_id"]
        verdicts["label"] = rows["ip_bytes"] % len(self._schema.classes)
        verdicts["confidence"], verdicts["packets_used"] = 0.5, 1
        verdicts["final"] = rows["ip_bytes"] % 2 == 0
        verdicts["reason"] = np.where(verdicts["final"], Reason.CONFIDENT, Reason.UNCERTAIN)
        for row in rows[verdicts["final"] == 0]:
            own = self._open.setdefault(batch.collector, {})
            own.setdefault(int(row["flow_id"]), _Flow(int(row["time_ns"])))
        return verdicts

    def _last(self, batch: PacketBatch) -> Records:
        """Judge flows that have their packets, have ended or are out of time."""
        own = self._open.get(batch.collector, {})
        for row in batch.packets:
            flow = own.get(int(row["flow_id"]))
            if flow is None:
                continue
            if row["flow_end_reason"]:
                flow.ended = True
            else:
                flow.packets[int(row["packet_index"])] = int(row["ip_bytes"])
        deadline_ns = batch.watermark_ns - int(self._schema.max_wait_s * 1e9)
        found = []
        for flow_id, flow in list(own.items()):
            used = [flow.packets[k] for k in sorted(flow.packets)][: self._schema.depth]
            if len(used) == self._schema.depth:
                reason = Reason.EXHAUSTED
            elif flow.ended:
                reason = Reason.ENDED
            elif flow.start_ns <= deadline_ns:
                reason = Reason.TIMEOUT
            else:
                continue
            del own[flow_id]
            label = sum((k + 1) * size for k, size in enumerate(used)) % len(self._schema.classes)
            found.append((flow_id, 0, 0, 0.9, 0.0, label, 1, len(used), 1, int(reason)))
        return np.array(found, VERDICT_DTYPE)
