"""Where packets come from: one small protocol, and the forms that need no rights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from flows.decode import Decoded

__all__ = ["Source", "SourceCounters"]


@dataclass(frozen=True, slots=True)
class SourceCounters:
    """What a source has seen so far.

    Attributes:
        frames: Frames read, those that make no flow included.
        malformed: Frames that are broken.
        skipped: Frames that make no flow, by reason.
        ring_packets: Packets that the kernel has put into the ring; 0 where there is none.
        kernel_drops: Packets that the kernel could not put there.
        damaged: Captures that could not be read to their end, with the reason; the latest 1,000.
        damaged_captures: How many they were.
        captures: Captures begun, the damaged ones included; 0 for an interface.
        card_drops: Packets that the network card lost before the kernel saw them, as its driver
            counts them.
        broken_entries: What stood where a packet should, and made no sense.
    """

    frames: int = 0
    malformed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    ring_packets: int = 0
    kernel_drops: int = 0
    damaged: tuple[tuple[str, str], ...] = ()
    damaged_captures: int = 0
    captures: int = 0
    card_drops: int = 0
    broken_entries: int = 0


class Source(Protocol):
    """Packets, in the order in which they were captured."""

    @property
    def live(self) -> bool:
        """Whether packets come as they cross a wire: their time is the wall clock's."""

    @property
    def counters(self) -> SourceCounters:
        """What it has seen so far; may be asked by any thread."""

    def read(self, wait_s: float) -> Decoded | None:
        """Return packets that are there, or that come within ``wait_s``; none: they did not.

        Returns None when no more will ever come. What it returned before may be overwritten.

        Raises:
            CaptureError: It cannot be read.
        """

    def quiet_until_ns(self) -> int:
        """Return a capture time up to which all packets have been handed out; 0: not known.

        It is what moves the clock on over a quiet wire.
        """

    def close(self) -> None:
        """Let go of it."""
