"""The fast tiers, the trackers and the slow tiers as objects of this process, without Ray.

``serveflow classify`` runs on these, a Router with ``placement: colocated`` uses the model ones,
and the deployments of the same names are these behind Ray Serve handles.
"""

from __future__ import annotations

import secrets

import numpy as np

from deployments.dispatch import Dispatcher
from deployments.protocols import Absorb, Absorbed, CascadeSpec
from flows.join import MARK_DTYPE, Due, Join
from flows.packet import Records, packet_dtype
from models.cascade import Cascade

__all__ = ["LocalFastTiers", "LocalSlowTiers", "LocalTracker", "local_dispatcher", "spec_of"]


def spec_of(cascade: Cascade) -> CascadeSpec:
    """Return what the dispatch has to know of ``cascade``."""
    return CascadeSpec(
        depths=tuple(tier.depth for tier in cascade.tiers),
        tiers=tuple(tier.name for tier in cascade.tiers),
        fast_tiers=cascade.fast_tiers,
        max_wait_s=cascade.max_wait_s,
        classes=cascade.classes,
        model_version=cascade.model_version,
        needs_header=cascade.needs_header,
    )


class LocalFastTiers:
    """The tiers that answer on packet 1.

    Args:
        cascade: A cascade in which at least those tiers are loaded.
    """

    def __init__(self, cascade: Cascade) -> None:
        self._cascade = cascade

    async def answer(self, packets: Records) -> Records:
        """Judge first packets, ``PACKET_DTYPE [n]``, one a flow; return ``ANSWER_DTYPE [n]``."""
        return self._judge(packets)

    def warm_up(self) -> None:
        """Compile and touch everything that an answer needs."""
        self._cascade.warm_up()
        self._judge(np.zeros(2, packet_dtype(self._cascade.needs_header)))

    def _judge(self, packets: Records) -> Records:
        n = len(packets)
        none = np.zeros(n, np.uint8)
        return self._cascade.answer(
            packets, np.arange(n + 1), none, none, stop_tier=self._cascade.fast_tiers
        )


class LocalSlowTiers:
    """The deeper tiers.

    Args:
        cascade: A cascade in which at least those tiers are loaded.
    """

    def __init__(self, cascade: Cascade) -> None:
        self._cascade = cascade

    async def answer(self, due: Due) -> Records:
        """Judge the due flows; return ``ANSWER_DTYPE [n]``."""
        return self._cascade.answer(
            due.packets,
            due.offsets,
            np.ascontiguousarray(due.flows["next_tier"]),
            np.ascontiguousarray(due.flows["over"]),
        )

    def warm_up(self) -> None:
        """Compile and touch everything that an answer needs."""
        self._cascade.warm_up()
        n = self._cascade.depth
        first = np.full(1, self._cascade.fast_tiers, np.uint8)
        over = np.ones(1, np.uint8)
        if self._cascade.fast_tiers < len(self._cascade.tiers):
            packets = np.zeros(n, packet_dtype(self._cascade.needs_header))
            self._cascade.answer(packets, np.array([0, n]), first, over)


class LocalTracker:
    """Keeps the packets of the uncertain flows that are pinned to it; see :mod:`flows.join`.

    Args:
        spec: The bundle's cascade.
    """

    def __init__(self, spec: CascadeSpec) -> None:
        self._spec = spec
        self.join = Join(spec.depths, spec.max_wait_s, with_header=spec.needs_header)
        self.incarnation = secrets.token_hex(8)

    async def absorb(self, requests: list[Absorb]) -> list[Absorbed]:
        """Take packets and marks of several collectors in; return what became due of each."""
        return [self._absorbed(request) for request in requests]

    def _absorbed(self, request: Absorb) -> Absorbed:
        duplicates = self.join.counters.packets_duplicate
        due = self.join.absorb(
            request.collector,
            request.watermark_ns,
            request.packets,
            request.marks,
            request.settled,
        )
        return Absorbed(due, self.join.counters.packets_duplicate - duplicates, self.incarnation)

    def warm_up(self) -> None:
        """Compile everything that absorbing needs. Leaves a flow behind: use it on a spare."""
        mark = np.zeros(1, MARK_DTYPE)
        mark["next_tier"] = len(self._spec.depths) - 1
        packet = np.zeros(1, packet_dtype(self._spec.needs_header))
        self.join.absorb("warm-up", 0, packet, mark, np.zeros(0, np.uint64))


def local_dispatcher(cascade: Cascade, trackers: int = 1) -> Dispatcher:
    """Return a dispatcher with everything in this process.

    Args:
        cascade: A cascade with all tiers loaded.
        trackers: Number of trackers; verdicts do not depend on it.
    """
    spec = spec_of(cascade)
    fast, slow = LocalFastTiers(cascade), LocalSlowTiers(cascade)
    for part in (fast, slow, LocalTracker(spec)):
        part.warm_up()
    return Dispatcher(spec, fast, [LocalTracker(spec) for _ in range(trackers)], slow)
