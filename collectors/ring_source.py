"""Packets of a live interface, read where the kernel put them (AF_PACKET, TPACKET_V3).

The kernel fills block after block of a ring; whole blocks are decoded where they lie, and go back
to the kernel after that. A flow that several processes share by ``fanout`` goes to one of them,
both directions: the kernel hashes addresses and ports regardless of direction (since Linux 4.2).
It never moves packets of a process whose ring is full over to another one, which would tear flows
apart: it drops and counts them.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import time

import numpy as np
import numpy.typing as npt

from collectors import ring_kernels as kernels
from collectors.ring_settings import BLOCK_BYTES, RING_BYTES, RingSettings
from collectors.ring_socket import RingSocket, card_drops, find_interface, packet_socket
from collectors.sources import SourceCounters
from flows.decode import FRAME_DTYPE, MALFORMED, Decoded, Skip, decode_frames
from flows.errors import CaptureError
from flows.link import LinkType
from flows.packet import ENDPOINTS_DTYPE, packet_dtype

__all__ = ["RING_BYTES", "RingSettings", "RingSource"]

_MOST_FRAMES = 8_192  # handed out at once, but for what is left of a block
_UNDERWAY_NS = 20_000_000
_LOOK_S = 0.25  # for an interface that is away
_COUNT_NS = 1_000_000_000
_GONE = {errno.ENETDOWN, errno.ENODEV, errno.ENXIO}

_log = logging.getLogger(__name__)


class RingSource:
    """A live interface as a :class:`collectors.sources.Source`.

    Time stamps are the kernel's, in nanoseconds. VLAN tags that it took out of frames are put
    back, so that a frame is decoded as a file's would be.

    Args:
        settings: How to capture.

    Raises:
        CaptureError: The interface is missing, down (unless it is to be waited for) or of a kind
            not known here, or the right to capture is missing.
        SettingsError: The filter is none, libpcap is missing that compiles it, the ring is too
            large, or the fanout's group is another's.
    """

    live = True

    def __init__(self, settings: RingSettings) -> None:
        self._settings = settings
        self._shape = settings.shape
        self._lock = threading.Lock()  # other threads ask for counters
        most = _MOST_FRAMES + BLOCK_BYTES // kernels.LEAST_ENTRY_BYTES
        self._frames = np.empty(most, FRAME_DTYPE)
        self._skipped = np.zeros(len(Skip), np.int64)
        self._seen = self._broken = self._own_packets = self._packets = self._drops = 0
        self._card_drops = self._card_drops_before = 0
        self._quiet_ns = self._counted_ns = 0
        self._next = 0  # the block that the kernel hands out next
        self._down = self._closed = False
        self._own = settings.own()
        self._ring: RingSocket | None = None
        self._compile()
        if not self._open() and not settings.wait_for_interface:
            raise self._lost()

    def _open(self) -> bool:
        """Make the ring; return False if the interface is away or down."""
        settings = self._settings
        with packet_socket(settings.interface) as asking:
            interface = find_interface(asking, settings.interface)
        if interface is None or not interface.up:
            return False
        ring = RingSocket(
            interface, self._shape, settings.filter(interface.link),
            promiscuous=settings.promiscuous, fanout=settings.fanout,
        )  # fmt: skip
        self._set_memory(ring.memory)
        self._next = 0
        self._down = ring.error() in _GONE
        with self._lock:
            self._ring = ring
            self._card_drops_before = card_drops(settings.interface)
        return True

    def _set_memory(self, memory: npt.NDArray[np.uint8]) -> None:
        self._memory = memory
        self._words: npt.NDArray[np.uint32] = memory.view(np.uint32)
        self._halves: npt.NDArray[np.uint16] = memory.view(np.uint16)

    def _compile(self) -> None:
        """Run what is compiled once, so that the ring does not fill up meanwhile."""
        self._set_memory(np.zeros(BLOCK_BYTES, np.uint8))
        self._scan(0, int(LinkType.ETHERNET), False, 0)
        self._give_back(0)
        self._without_own(self._decode(0))

    @property
    def counters(self) -> SourceCounters:
        """What it has seen so far."""
        self._count()
        skipped = {s.text: int(self._skipped[s]) for s in Skip if self._skipped[s]}
        if self._own_packets:
            skipped["own_traffic"] = self._own_packets
        return SourceCounters(
            frames=self._seen,
            malformed=int(sum(self._skipped[s] for s in MALFORMED)),
            skipped=skipped,
            ring_packets=self._packets,
            kernel_drops=self._drops,
            card_drops=self._card_drops,
            broken_entries=self._broken,
        )

    def read(self, wait_s: float) -> Decoded | None:
        """Return packets of whole blocks; none if none come within ``wait_s``.

        Raises:
            CaptureError: The interface has gone down or away, and is not to be waited for; what
                came before has been handed out.
        """
        if self._closed:
            return None
        if time.monotonic_ns() - self._counted_ns > _COUNT_NS:
            self._count()  # the kernel's counters have 32 bits
        ring = self._ring
        if ring is None:
            self._look_again(wait_s)
            return self._nothing()
        taken = self._taken(ring)
        if taken is not None:
            return taken
        if self._down and self._is_empty():
            self._see_to_it(ring, wait_s)
            return self._nothing()
        ring.wait(wait_s)
        failed = ring.error()
        if failed in _GONE:
            self._down = True  # what is in the ring still comes
        elif failed:
            reason = os.strerror(failed)
            raise CaptureError(self._settings.interface, f"capturing has failed: {reason}")
        return self._taken(ring) or self._nothing()

    def quiet_until_ns(self) -> int:
        """Return the wall clock a moment before the ring was last seen to be empty."""
        return self._quiet_ns

    def close(self) -> None:
        """Stop capturing."""
        self._closed = True
        self._let_go()

    def _let_go(self) -> None:
        self._count()
        with self._lock:
            ring, self._ring = self._ring, None
        if ring is not None:
            self._set_memory(np.zeros(0, np.uint8))  # views keep the mapping alive
            ring.close()

    def _count(self) -> None:
        with self._lock:
            if self._ring is not None:
                packets, drops = self._ring.statistics()
                self._packets += packets
                self._drops += drops
                lost = card_drops(self._settings.interface)
                self._card_drops += max(lost - self._card_drops_before, 0)
                self._card_drops_before = lost
            self._counted_ns = time.monotonic_ns()

    def _see_to_it(self, ring: RingSocket, wait_s: float) -> None:
        """Wait for an interface that has gone down."""
        if not self._settings.wait_for_interface:
            raise self._lost()
        state = ring.state()
        if state is None:
            _log.warning("%s has gone; waiting for it", self._settings.interface)
            self._let_go()
        elif state.up:  # the kernel goes on with the ring by itself
            self._down = False
        else:
            self._quiet_ns = max(self._quiet_ns, time.time_ns() - _UNDERWAY_NS)
            ring.wait(min(wait_s, _LOOK_S))

    def _look_again(self, wait_s: float) -> None:
        """Wait for an interface that is not there."""
        self._quiet_ns = max(self._quiet_ns, time.time_ns() - _UNDERWAY_NS)
        time.sleep(min(wait_s, _LOOK_S))
        if self._open():
            _log.warning("%s is there; capturing", self._settings.interface)

    def _lost(self) -> CaptureError:
        name = self._settings.interface
        with packet_socket(name) as asking:
            found = find_interface(asking, name)
        if found is not None:
            return CaptureError(name, f"it is down; bring it up (ip link set {name} up)")
        there = ", ".join(other for _, other in socket.if_nameindex()) or "none"
        return CaptureError(name, f"there is no such interface (there are: {there})")

    def _is_ready(self) -> bool:
        return bool(self._words[self._next * (BLOCK_BYTES // 4) + 2] & 1)  # TP_STATUS_USER

    def _is_empty(self) -> bool:
        """Tell whether no packet is in the block that the kernel fills."""
        packets = self._words[self._next * (BLOCK_BYTES // 4) + 3]
        return not self._is_ready() and not packets

    def _taken(self, ring: RingSocket) -> Decoded | None:
        """Decode the blocks that are ready and hand them back; None: none is."""
        now_ns = time.time_ns()
        link, loopback = int(ring.interface.link), ring.interface.loopback
        blocks: list[int] = []
        n = 0
        while n < _MOST_FRAMES and len(blocks) < self._shape.blocks and self._is_ready():
            n = self._scan(self._next, link, loopback, n)
            blocks.append(self._next)
            self._next = (self._next + 1) % self._shape.blocks
        if not blocks:
            if self._is_empty():
                # What is on its way to the ring may have been stamped a little earlier.
                self._quiet_ns = max(self._quiet_ns, now_ns - _UNDERWAY_NS)
            return None
        decoded = self._decode(n)
        for block in blocks:
            self._give_back(block)
        return self._without_own(decoded)

    def _scan(self, block: int, link: int, loopback: bool, n: int) -> int:
        n, broken = kernels.scan_block(
            self._memory, self._words, self._halves, block * BLOCK_BYTES, BLOCK_BYTES,
            link, loopback, self._frames, n,
        )  # fmt: skip
        self._broken += broken
        return n

    def _give_back(self, block: int) -> None:
        kernels.give_back(self._words, block * BLOCK_BYTES)

    def _decode(self, n: int) -> Decoded:
        self._seen += n
        return decode_frames(
            self._memory, self._frames[:n], self._skipped, with_header=self._settings.with_header
        )

    def _without_own(self, decoded: Decoded) -> Decoded:
        # The kernel's filter does not see behind the second of two tags, nor is it always there.
        if not len(self._own):
            return decoded
        left = kernels.drop_own(decoded.packets, decoded.endpoints, self._own)
        self._own_packets += len(decoded.packets) - left
        return Decoded(decoded.packets[:left], decoded.endpoints[:left])

    def _nothing(self) -> Decoded:
        dtype = packet_dtype(self._settings.with_header)
        return Decoded(np.empty(0, dtype), np.empty(0, ENDPOINTS_DTYPE))
