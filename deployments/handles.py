"""Ray Serve handles behind the dispatch's protocols.

Arguments travel by value: by reference (the object store) costs more at every size measured
(docs/decisions/0004-handles-by-value.md). They travel as bytes (:mod:`deployments.packed`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from ray.serve.handle import DeploymentHandle

from deployments.packed import (
    PackedAbsorbed,
    pack_absorb,
    pack_due,
    pack_packets,
    unpack,
    unpack_absorbed,
)
from deployments.portions import due_portions, packet_portions
from deployments.protocols import Absorb, Absorbed
from flows.join import Due
from flows.packet import Records
from flows.verdict import ANSWER_DTYPE

__all__ = ["HandleFastTiers", "HandleSlowTiers", "HandleTracker"]


def _by_value(handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
    return handle.options(
        _by_reference=False, request_serialization="pickle", response_serialization="pickle"
    )


async def _together(method: DeploymentHandle[Any], portions: Iterable[Any]) -> Records:
    """Call a model with each portion at the same time; return all that it says, in order."""
    calls = [method.remote(portion) for portion in portions]
    if len(calls) == 1:
        return unpack(cast(bytes, await calls[0]), ANSWER_DTYPE)
    return unpack(b"".join([cast(bytes, await call) for call in calls]), ANSWER_DTYPE)


class HandleFastTiers:
    """FastModel behind its handle."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._answer = _by_value(handle).answer_packed

    async def answer(self, packets: Records) -> Records:
        """Judge first packets; see :class:`deployments.protocols.FastTiers`."""
        return await _together(self._answer, map(pack_packets, packet_portions(packets)))


class HandleSlowTiers:
    """SlowModel behind its handle."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._answer = _by_value(handle).answer_packed

    async def answer(self, due: Due) -> Records:
        """Judge the due flows; see :class:`deployments.protocols.SlowTiers`."""
        return await _together(self._answer, map(pack_due, due_portions(due)))


class HandleTracker:
    """One FlowTracker behind its handle."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        by_value = _by_value(handle)
        self._absorb, self._status = by_value.absorb_packed, by_value.status

    async def absorb(self, requests: list[Absorb]) -> list[Absorbed]:
        """Take packets and marks in; see :class:`deployments.protocols.Tracker`."""
        replies = await self._absorb.remote([pack_absorb(request) for request in requests])
        return [unpack_absorbed(reply) for reply in cast(list[PackedAbsorbed], replies)]

    async def status(self) -> dict[str, Any]:
        """Return the tracker's incarnation and its conservation counters."""
        return cast("dict[str, Any]", await self._status.remote())
