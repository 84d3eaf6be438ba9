"""The processes of a running service that a bench may kill (Linux, ``/proc``)."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PARTS", "victim"]

PARTS = ("FlowTracker", "Router", "FastModel", "SlowModel", "proxy", "service", "collector")
"""What can be killed.

``service``: all of it is stopped, and started again 20 s later. ``collector``: it is started again
at once, on its spool; what it had not read by then is lost, and flows that go on begin anew.
"""

_PROXIES = ("ray::ServeProxy", "ray::ProxyActor", "ray::HAProxyManager")


def victim(part: str, service_pid: int, number: int) -> tuple[int, str] | None:
    """Return process and title of one of a part's processes, another one each time.

    Args:
        part: One of :data:`PARTS` that has processes.
        service_pid: Only the service's own descendants count.
        number: Which one, in the order of their titles; beyond the last it begins again.
    """
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                words = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended meanwhile
            if stat[0] == "Z":
                continue  # it has ended, and nobody has asked for its exit status yet
            parents[int(folder.name)] = int(stat[1])
            titles[int(folder.name)] = words.replace(b"\0", b" ").decode(errors="replace").strip()
    found = sorted(
        (title, pid)
        for pid, title in titles.items()
        if _is_part(part, title) and _descends(pid, service_pid, parents)
    )
    if not found:
        return None
    title, pid = found[number % len(found)]
    return pid, title


def _is_part(part: str, title: str) -> bool:
    if part == "proxy":
        return title.split(" ")[0].split("/")[-1] == "haproxy" or title.startswith(_PROXIES)
    return title.startswith("ray::ServeReplica:") and f":{part}" in title


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid not in (0, ancestor):
        pid = parents.get(pid, 0)
    return pid == ancestor
