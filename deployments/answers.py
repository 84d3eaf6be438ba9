"""What HTTP and gRPC share: a submitted body in, the verdicts' parts out, and all of it counted."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deployments.dispatch import Dispatcher
from deployments.protocols import CascadeSpec, TrackersAwayError
from deployments.watchers import Watchers
from flows.errors import BodyTooLargeError, OverloadedError, WireError
from flows.packet import Records, packet_dtype
from flows.service_schema import ServiceSchema
from flows.verdict import VERDICT_DTYPE
from flows.verdict_wire import VerdictWriter
from flows.wire import MAX_BATCH_PACKETS, PacketBatch, encode_batch, open_batch

if TYPE_CHECKING:
    from deployments.metrics import Metrics  # Ray, which tests of this module do without

__all__ = ["Answers", "Piece", "too_large"]


def too_large(limit: int) -> BodyTooLargeError:
    """Return the error that refuses a body of over ``limit`` bytes."""
    return BodyTooLargeError(f"the body is over {limit:,} bytes: send smaller batches")


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an encoded answer.

    Attributes:
        data: Its bytes.
        last: Whether the answer ends with it.
    """

    data: bytes
    last: bool = False


class Answers:
    """Answers batches, whichever way they came.

    Args:
        spec: The bundle's cascade.
        dispatcher: The cascade's data path.
        metrics: Counts verdicts and packets.
        trackers: Number of trackers.
        max_body_bytes: The most bytes of one body.

    Attributes:
        spec: The bundle's cascade.
        max_body_bytes: The most bytes of one body.
        watchers: Those who follow the verdicts.
    """

    def __init__(
        self,
        spec: CascadeSpec,
        dispatcher: Dispatcher,
        metrics: Metrics,
        trackers: int,
        max_body_bytes: int,
    ) -> None:
        self.spec = spec
        self.max_body_bytes = max_body_bytes
        self.watchers = Watchers()
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._trackers = trackers

    def schema(self) -> ServiceSchema:
        """Return what a collector has to know."""
        spec = self.spec
        return ServiceSchema(
            depth=spec.depths[-1],
            max_wait_s=spec.max_wait_s,
            classes=spec.classes,
            tiers=spec.tiers,
            depths=spec.depths,
            model_version=spec.model_version,
            trackers=self._trackers,
            max_batch_packets=MAX_BATCH_PACKETS,
            max_body_bytes=self.max_body_bytes,
            header=spec.needs_header,
        )

    def warm_up(self) -> None:
        """Compile what a batch goes through in this process; nothing is counted or sent."""
        packets = np.zeros(2, packet_dtype(self.spec.needs_header))
        batch = PacketBatch("warm-up", 0, packets)
        for _ in range(2):  # what has been read or written once goes another way the second time
            body = encode_batch(batch)
            batch = open_batch(body, with_header=self.spec.needs_header).read()
            writer = VerdictWriter(self.spec.classes, self.spec.model_version)
            writer.part(np.zeros(1, VERDICT_DTYPE), {})
        self._dispatcher.warm_up(batch)

    def read(self, body: bytes) -> PacketBatch:
        """Read a submitted Arrow stream.

        Raises:
            BodyTooLargeError: It is over the limit.
            OverloadedError: Too much is being worked on for it.
            WireError: It is no packet batch; see :func:`flows.wire.decode_batch`.
        """
        if len(body) > self.max_body_bytes:
            raise too_large(self.max_body_bytes)
        try:
            opened = open_batch(body, with_header=self.spec.needs_header)
        except WireError:
            self._dispatcher.counters.batches_malformed += 1
            self._metrics.changed()
            raise
        self.make_sure_of_room(opened.new_flows)  # before it costs anything more
        return opened.read()

    def make_sure_of_room(self, new_flows: int) -> None:
        """Refuse a batch if too much is being worked on for it.

        Raises:
            OverloadedError: It is refused.
        """
        try:
            self._dispatcher.make_sure_of_room(new_flows)
        except OverloadedError:
            self._metrics.changed()
            raise

    async def parts(self, batch: PacketBatch) -> AsyncGenerator[Records, None]:
        """Yield the verdicts on ``batch``, ``VERDICT_DTYPE [n]``, in up to two parts."""
        begin_ns = time.perf_counter_ns()
        self._metrics.changed()
        try:
            async for part in self._dispatcher.handle(batch):
                self._metrics.verdicts(part, time.perf_counter_ns() - begin_ns)
                self.watchers.publish(batch.collector, part)
                yield part
        finally:
            self._metrics.changed()

    async def encoded(self, batch: PacketBatch) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of one Arrow stream of verdicts: each part, then the stream's end."""
        writer = VerdictWriter(self.spec.classes, self.spec.model_version)
        last = b""
        async with aclosing(self.parts(batch)) as parts:
            try:
                async for part in parts:
                    yield Piece(writer.part(part, self._notes()))
            except TrackersAwayError as error:
                none = np.empty(0, VERDICT_DTYPE)
                last = writer.part(none, {**self._notes(), "away": sorted(error.trackers)})
        yield Piece(last + writer.end(), last=True)

    def _notes(self) -> dict[str, Any]:
        return {"trackers": {str(t): i for t, i in self._dispatcher.incarnations.items()}}
