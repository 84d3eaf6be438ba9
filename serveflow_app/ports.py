"""Ports for what a service needs besides those that its users know."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

__all__ = ["free_ports"]

# Below what Linux gives to outgoing connections (32768 and more), any of which might take a port
# between our look and its use; above Ray's worker ports, below Ray Serve's 30000 and more.
_RANGE = range(20_000, 30_000)
_TRIES = 1_000


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on, all different.

    Raises:
        OSError: There are not so many.
    """
    found: list[int] = []
    with ExitStack() as stack:
        for port in random.SystemRandom().sample(_RANGE, _TRIES):
            if len(found) == count:
                return found
            probe = stack.enter_context(socket.socket())
            # A connection that ended lately does not keep a server from its port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                probe.listen()
            except OSError:
                continue
            found.append(port)
    raise OSError(f"no {count} free ports between {_RANGE.start} and {_RANGE.stop - 1}")
