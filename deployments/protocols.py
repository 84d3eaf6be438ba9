"""What the dispatch has to know of a bundle, and of those that it calls."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from flows.errors import ServiceUnavailableError
from flows.join import Due
from flows.packet import Records

__all__ = [
    "Absorb",
    "Absorbed",
    "CascadeSpec",
    "FastTiers",
    "SlowTiers",
    "Tracker",
    "TrackersAwayError",
]


@dataclass(frozen=True, slots=True)
class CascadeSpec:
    """What the dispatch has to know of a bundle.

    Attributes:
        depths: First packets that each tier wants, by tier, not decreasing.
        tiers: Names of the tiers.
        fast_tiers: Leading tiers that want packet 1 only.
        max_wait_s: How long after its first packet a flow waits for more (capture time).
        classes: Names of the labels, by index.
        model_version: Short digest of the bundle.
        needs_header: A tier reads the packets' header bytes (:func:`flows.packet.packet_dtype`).
    """

    depths: tuple[int, ...]
    tiers: tuple[str, ...]
    fast_tiers: int
    max_wait_s: float
    classes: tuple[str, ...]
    model_version: str
    needs_header: bool = False


class TrackersAwayError(ServiceUnavailableError):
    """Trackers did not take their rows of a batch; what the others had to say has been said.

    Args:
        trackers: Which ones.
    """

    def __init__(self, trackers: frozenset[int]) -> None:
        names = ", ".join(map(str, sorted(trackers)))
        super().__init__(f"no answer from FlowTracker {names}: send the batch again")
        self.trackers = trackers


class FastTiers(Protocol):
    """The tiers that answer on packet 1."""

    async def answer(self, packets: Records) -> Records:
        """Judge first packets, ``PACKET_DTYPE [n]``, one a flow; return ``ANSWER_DTYPE [n]``."""


@dataclass(frozen=True, slots=True)
class Absorb:
    """What one collector has for one tracker; see :meth:`flows.join.Join.absorb`."""

    collector: str
    watermark_ns: int
    packets: Records
    marks: Records
    settled: npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Absorbed:
    """A tracker's reply to one :class:`Absorb`.

    Attributes:
        due: What became due.
        duplicates: Packets of the call that it had already.
        incarnation: Which incarnation of the tracker says so.
    """

    due: Due
    duplicates: int
    incarnation: str


class Tracker(Protocol):
    """Keeps the packets of the uncertain flows that are pinned to it."""

    def absorb(self, requests: list[Absorb]) -> Coroutine[Any, Any, list[Absorbed]]:
        """Take packets and marks of several collectors in; return what became due of each."""


class SlowTiers(Protocol):
    """The deeper tiers."""

    async def answer(self, due: Due) -> Records:
        """Judge the due flows; return ``ANSWER_DTYPE [n]``."""
