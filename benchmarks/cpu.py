"""CPU time of the service's processes, by what they are to it (Linux, ``/proc``)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PARTS", "cpu_by_process", "cpu_ms", "part_of", "spent_ms"]

PARTS = ("ingress", "fast", "slow", "trackers", "proxy", "ray")
"""The parts of the service; ``ray`` is all of Ray's that is no replica and no proxy."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_REPLICA = re.compile(r"ray::ServeReplica:[^:]+:([A-Za-z]+)")
_REPLICAS = {
    "Router": "ingress",
    "FastModel": "fast",
    "SlowModel": "slow",
    "FlowTracker": "trackers",
}
_PROXY = re.compile(r"ray::(HA)?Proxy|(\S*/)?haproxy\b")


def part_of(title: str) -> str:
    """Return which of :data:`PARTS` a process is, from its command line."""
    replica = _REPLICA.match(title)
    if replica:
        return _REPLICAS.get(replica.group(1), "ray")
    return "proxy" if _PROXY.match(title) else "ray"


def cpu_ms(root: int) -> dict[str, float]:
    """Return the CPU time, milliseconds, that each part has used so far.

    Args:
        root: Process id of the service; it and all its descendants that live count.
    """
    return spent_ms({}, cpu_by_process(root))


def cpu_by_process(root: int) -> dict[int, tuple[str, float]]:
    """Return part and CPU milliseconds so far of each process.

    Args:
        root: As for :func:`cpu_ms`.
    """
    parents: dict[int, int] = {}
    found: dict[int, tuple[str, float]] = {}
    for pid, parent, title, used_ms in _processes():
        parents[pid] = parent
        found[pid] = (part_of(title), used_ms)
    own = {}
    for pid, one in found.items():
        ancestor = pid
        while ancestor not in (0, root):
            ancestor = parents.get(ancestor, 0)
        if ancestor == root:
            own[pid] = one
    return own


def spent_ms(
    before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]]
) -> dict[str, float]:
    """Return the CPU milliseconds that each part used between two :func:`cpu_by_process`.

    A process counts for what it is at the end: Ray's idle workers become replicas, and all that
    they used before is not to be taken for the replica's work. What has ended is not seen.
    """
    used = dict.fromkeys(PARTS, 0.0)
    for pid, (part, so_far_ms) in after.items():
        used[part] += so_far_ms - before.get(pid, (part, 0.0))[1]
    return used


def _processes() -> Iterator[tuple[int, int, str, float]]:
    """Yield id, parent, command line and CPU milliseconds of every process."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text()
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        # The name, in parentheses, may hold anything; state and parent follow it.
        fields = stat.rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        text = title.replace(b"\0", b" ").strip().decode(errors="replace")
        yield int(folder.name), int(fields[1]), text, 1000.0 * ticks / _TICKS_PER_S
