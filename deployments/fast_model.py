"""FastModel: the tiers on packet 1, as autoscaled replicas."""

from __future__ import annotations

from pathlib import Path

from ray import serve

from deployments.local import LocalFastTiers
from deployments.packed import PackedPackets, pack, unpack_packets
from deployments.scaling import BusyTime
from models.cascade import load_cascade

__all__ = ["FastModel"]


@serve.deployment
class FastModel(LocalFastTiers, BusyTime):
    """The tiers that answer on packet 1, behind a handle.

    Args:
        bundle: The bundle's folder.
        fast_tiers: Leading tiers that want packet 1 only.
    """

    def __init__(self, bundle: Path, fast_tiers: int) -> None:
        super().__init__(load_cascade(bundle, tiers=range(fast_tiers)))
        self.warm_up()

    async def ready(self) -> None:
        """Answer: everything is loaded and compiled."""

    async def answer_packed(self, packets: PackedPackets) -> bytes:
        """Judge first packets as :meth:`answer` does; return the answers' bytes."""
        return pack(await self.answer(unpack_packets(packets)))
