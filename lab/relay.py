"""The wire: a userspace relay between two TAP devices in two network namespaces.

It delays, jitters, loses, rate-limits and queues Ethernet frames. One process serves one path:
``python -m lab.relay --config '<json>'``; the orchestrator starts and ends it.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import signal
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

__all__ = ["Wire", "WireParams", "decrement_ttl", "main"]

_TUNSETIFF = 0x400454CA
_IFF_TAP_NO_PI = 0x0002 | 0x1000
_CLONE_NEWNET = 0x40000000
_FRAMES_PER_WAKE = 64
_LOSS_RUN = 0.3
"""How likely the frame after a lost one is lost too: real losses come in small runs."""


@dataclass(frozen=True)
class WireParams:
    """One direction of a path, in seconds and bits per second."""

    delay: float
    jitter: float
    loss: float
    rate: float
    queue: float
    reorder: float = 0.0
    burst_bytes: int = 6000


class Wire:
    """Decides, frame by frame, when (or whether) a frame comes out at the far end.

    Args:
        params: the direction's parameters.
        rng: the source of its chance; seed it to repeat a run's draws.
    """

    def __init__(self, params: WireParams, rng: random.Random) -> None:
        self.params = params
        self._rng = rng
        self._link_free = 0.0
        self._last_release = 0.0
        self._losing = False
        self.lost = 0
        self.overflowed = 0

    def admit(self, now: float, size: int) -> float | None:
        """Take a frame of ``size`` bytes at ``now``.

        Returns:
            When to release it, or None if it is lost or the queue is full.
        """
        params, rng = self.params, self._rng
        if params.loss > 0.0:
            self._losing = rng.random() < (_LOSS_RUN if self._losing else params.loss)
            if self._losing:
                self.lost += 1
                return None
        # A token bucket as a virtual clock: unused time is credit, at most one burst of it.
        credit = params.burst_bytes * 8 / params.rate
        start = max(self._link_free, now - credit)
        done = start + size * 8 / params.rate
        if done - now > params.queue:
            self.overflowed += 1
            return None
        self._link_free = done
        jitter = abs(rng.gauss(0.0, params.jitter)) if params.jitter > 0.0 else 0.0
        release = max(done, now) + params.delay + jitter
        if params.reorder > 0.0 and rng.random() < params.reorder:
            return max(done, now) + params.delay * 0.5
        self._last_release = release = max(release, self._last_release)
        return release


def decrement_ttl(frame: bytearray, hops: int) -> None:
    """Take ``hops`` routers off an IP frame's time to live, in place; it never reaches zero."""
    if len(frame) < 34 or hops <= 0:
        return
    kind = frame[12] << 8 | frame[13]
    if kind == 0x0800:
        ttl = frame[22]
        left = max(ttl - hops, 1)
        if left >= ttl:
            return
        frame[22] = left
        # RFC 1624: the header checksum follows from the change of one 16-bit word.
        old = ttl << 8 | frame[23]
        new = left << 8 | frame[23]
        total = (~(frame[24] << 8 | frame[25]) & 0xFFFF) + (~old & 0xFFFF) + new
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        frame[24:26] = struct.pack("!H", ~total & 0xFFFF)
    elif kind == 0x86DD:
        # Neighbour discovery asks for a hop limit of 255 and never crosses a router.
        if frame[20] == 58 and len(frame) > 54 and 133 <= frame[54] <= 137:
            return
        frame[21] = max(frame[21] - hops, min(frame[21], 1))


def _open_tap(namespace: str, device: str) -> int:
    """Make a TAP device inside a network namespace; its file belongs to this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", namespace).open("rb") as handle:
        if libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {namespace}")
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", device.encode(), _IFF_TAP_NO_PI)
    fcntl.ioctl(fd, _TUNSETIFF, request)
    return fd


def _loop(near: int, far: int, wires: dict[int, Wire], hops: int) -> None:
    other = {near: far, far: near}
    waiting: list[tuple[float, int, int, bytes]] = []
    order = 0
    clock = time.monotonic
    while True:
        # select and not epoll: its timeout is exact below a millisecond.
        timeout = max(0.0, waiting[0][0] - clock()) if waiting else None
        readable, _, _ = select.select((near, far), (), (), timeout)
        for fd in readable:
            wire, out = wires[fd], other[fd]
            for _ in range(_FRAMES_PER_WAKE):
                try:
                    frame = bytearray(os.read(fd, 65536))
                except (BlockingIOError, OSError):
                    break
                release = wire.admit(clock(), len(frame))
                if release is None:
                    continue
                decrement_ttl(frame, hops)
                order += 1
                heapq.heappush(waiting, (release, order, out, bytes(frame)))
        now = clock()
        while waiting and waiting[0][0] <= now:
            _, _, out, data = heapq.heappop(waiting)
            try:
                os.write(out, data)
            except OSError:
                continue  # the device is down or full; the frame is lost, as on a real wire


def main(argv: list[str]) -> int:
    """Relay until ended by a signal."""
    config = json.loads(argv[argv.index("--config") + 1])

    def end(signum: int, frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    near = _open_tap(config["namespace"], "eth0")
    far = _open_tap(config["middle"], config["device"])
    path = config["path"]
    params = WireParams(
        delay=path["delay_ms"] / 1e3,
        jitter=path["jitter_ms"] / 1e3,
        loss=path["loss"],
        rate=path["rate_mbit"] * 1e6,
        queue=path["queue_ms"] / 1e3,
        reorder=path["reorder"],
    )
    rng = random.Random(config["seed"])
    wires = {fd: Wire(params, random.Random(rng.getrandbits(32))) for fd in (near, far)}
    # The machine has other work too; a wire that waits for it would be slower than drawn.
    os.nice(-10)
    _loop(near, far, wires, path["hops"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
