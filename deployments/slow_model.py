"""SlowModel: the deeper tiers, as autoscaled replicas."""

from __future__ import annotations

from pathlib import Path

from ray import serve

from deployments.local import LocalSlowTiers
from deployments.packed import PackedDue, pack, unpack_due
from deployments.scaling import BusyTime
from models.cascade import load_cascade

__all__ = ["SlowModel"]


@serve.deployment
class SlowModel(LocalSlowTiers, BusyTime):
    """The deeper tiers, behind a handle.

    Args:
        bundle: The bundle's folder.
        fast_tiers: Leading tiers, which are not loaded here.
        tiers: Number of all tiers.
    """

    def __init__(self, bundle: Path, fast_tiers: int, tiers: int) -> None:
        super().__init__(load_cascade(bundle, tiers=range(fast_tiers, tiers)))
        self.warm_up()

    async def ready(self) -> None:
        """Answer: everything is loaded and compiled."""

    async def answer_packed(self, due: PackedDue) -> bytes:
        """Judge the due flows as :meth:`answer` does; return the answers' bytes."""
        return pack(await self.answer(unpack_due(due)))
