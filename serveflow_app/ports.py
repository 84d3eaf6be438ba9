"""Ports for what a service needs besides those that its users know."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

__all__ = ["free_ports", "free_range"]

# Below what Linux gives to outgoing connections (32768 and more), any of which might take a port
# between our look and its use; above Ray's worker ports.
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
            if _listens(port, stack):
                found.append(port)
    raise OSError(f"no {count} free ports between {_RANGE.start} and {_RANGE.stop - 1}")


def free_range(count: int) -> range:
    """Return ports of 127.0.0.1 in a row that nobody listens on.

    Raises:
        OSError: There are not so many in a row.
    """
    starts = range(_RANGE.start, _RANGE.stop - count + 1, count)
    for start in random.SystemRandom().sample(starts, len(starts)):
        ports = range(start, start + count)
        with ExitStack() as stack:
            if all(_listens(port, stack) for port in ports):
                return ports
    raise OSError(f"no {count} free ports in a row from {_RANGE.start} to {_RANGE.stop - 1}")


def _listens(port: int, stack: ExitStack) -> bool:
    """Listen on a port for as long as the stack lives, if nobody else does."""
    probe = stack.enter_context(socket.socket())
    # A connection that ended lately does not keep a server from its port.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", port))
        probe.listen()
    except OSError:
        return False
    return True
