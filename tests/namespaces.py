"""Network namespaces for tests: made for one test, removed after it (root)."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from benchmarks.veth import Namespace
from collectors.sources import Source
from flows.packet import Records

__all__ = ["namespace", "packets_of", "send_frames", "veth"]


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A namespace of one's own, with nothing but loopback."""
    with Namespace() as made:
        yield made


@pytest.fixture
def veth(namespace: Namespace) -> Namespace:
    """A namespace in which what is sent into ``sf0`` comes out of ``sf1``."""
    namespace.add_veth()
    return namespace


def send_frames(where: Namespace, frames: Iterable[bytes], interface: str = "sf0") -> int:
    """Send frames as they are; return how many."""
    with where.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        sender.bind((interface, 0))
        return sum(1 for frame in frames if sender.send(frame))


def packets_of(source: Source, frames: int | None = None, most_s: float = 20.0) -> Records:
    """Return packets of a source until it ends, or has seen so many frames and is silent."""
    found = []
    until_s = time.monotonic() + most_s
    while time.monotonic() < until_s:
        decoded = source.read(0.1)
        if decoded is None:
            break
        found.append(decoded.packets)
        if not len(decoded.packets) and frames is not None and source.counters.frames >= frames:
            break
    return np.concatenate(found)
