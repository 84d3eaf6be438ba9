"""The service in this process: the same dispatch, without Ray and without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from collectors.collector import CollectorSettings
from collectors.delivery import DeliverySettings
from collectors.replay import ReplaySettings
from collectors.sender import Part
from deployments.dispatch import Dispatcher
from deployments.local import local_dispatcher, spec_of
from flows.service_schema import ServiceSchema
from flows.wire import MAX_BATCH_PACKETS, PacketBatch
from models.cascade import Cascade

__all__ = ["LOCAL_REPLAY", "LocalSender"]

LOCAL_REPLAY = ReplaySettings(
    delivery=DeliverySettings(max_open=1, batch_delay_s=0.0),
    collector=CollectorSettings(max_batch_packets=32_768),
)
"""How captures are replayed to it: one batch at a time, as the dispatcher runs in the thread that
submits, and large ones, as most of what a batch costs does not depend on its rows."""


class LocalSender:
    """A :class:`collectors.sender.Sender` to a dispatcher in this process.

    Calls must not overlap.

    Args:
        cascade: A cascade with all tiers loaded.
        trackers: Number of trackers; verdicts do not depend on it.
    """

    def __init__(self, cascade: Cascade, trackers: int = 1) -> None:
        self._spec = spec_of(cascade)
        self._trackers = trackers
        self.dispatcher: Dispatcher = local_dispatcher(cascade, trackers)
        self._loop = asyncio.new_event_loop()

    def schema(self) -> ServiceSchema:
        """Return what the bundle wants."""
        return ServiceSchema(
            depth=self._spec.depths[-1],
            max_wait_s=self._spec.max_wait_s,
            classes=self._spec.classes,
            tiers=self._spec.tiers,
            depths=self._spec.depths,
            model_version=self._spec.model_version,
            trackers=self._trackers,
            max_batch_packets=MAX_BATCH_PACKETS,
            max_body_bytes=2**31,
            header=self._spec.needs_header,
        )

    def submit(self, batch: PacketBatch) -> Iterator[Part]:
        """Answer a batch."""
        parts = self.dispatcher.handle(batch)
        while True:
            try:
                verdicts = self._loop.run_until_complete(anext(parts))
            except StopAsyncIteration:
                return
            yield Part(verdicts, {}, self._spec.classes, self._spec.model_version)

    def close(self) -> None:
        """Let the trackers know all that they have to, and close the event loop."""
        self._loop.run_until_complete(self.dispatcher.drain())
        self._loop.close()
