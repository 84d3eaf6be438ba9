"""Plays one run: builds its network, starts its servers and clients, and captures in the middle."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lab.capture import CaptureStats, LabelRow, distil
from lab.errors import LabError
from lab.netns import Network, Processes
from lab.plan import Endpoint, RunPlan, plan_to_dict
from lab.services import by_name
from lab.services.base import Site

__all__ = ["deal_sessions", "play"]

_SERVER_DEADLINE = 30.0
_AGENT_DEADLINE = 60.0


def deal_sessions(plan: RunPlan, sessions: int) -> dict[str, list[str]]:
    """Which sessions each client host has: all services, mixed by chance.

    Args:
        plan: the run.
        sessions: how many sessions a service of weight 1 has.

    Returns:
        Host name → services to visit, in order.
    """
    rng = random.Random(plan.seed ^ 0x5E55)
    deck: list[str] = []
    for service in by_name().values():
        deck += [service.name] * max(2, round(sessions * service.weight * rng.uniform(0.85, 1.15)))
    rng.shuffle(deck)
    clients = [host.name for host in plan.hosts if host.role == "client"]
    shares = [rng.uniform(0.6, 1.4) for _ in clients]
    dealt: dict[str, list[str]] = {name: [] for name in clients}
    for service_name in deck:
        dealt[rng.choices(clients, weights=shares)[0]].append(service_name)
    return dealt


def _site(plan: RunPlan, service: str, work: Path, shared: Path) -> Site:
    endpoint = next(e for e in plan.endpoints if e.service == service)
    rng = random.Random(endpoint.seed + 1)
    low = rng.randrange(1100, 47000) if plan.port_mode == "random" else 50000
    place = work / service
    place.mkdir()
    place.chmod(0o755)
    return Site(endpoint, place, shared, (low, low + 1500))


def _start_servers(
    plan: RunPlan, network: Network, processes: Processes, work: Path, shared: Path
) -> None:
    for name, service in by_name().items():
        site = _site(plan, name, work, shared)
        for command in service.commands(site):
            inside = network.inside(site.endpoint.host, command.argv)
            processes.start(f"server-{name}", inside, cwd=site.work)
    waiting = {e.service: e for e in plan.endpoints}
    until = time.monotonic() + _SERVER_DEADLINE
    while waiting:
        shown = {host: network.listening(host) for host in {e.host for e in waiting.values()}}
        for end in list(waiting.values()):
            if all(socket in shown[end.host] for socket in _sockets(end)):
                del waiting[end.service]
        if waiting and time.monotonic() > until:
            name = next(iter(waiting))
            log = (work / "logs" / f"server-{name}.log").read_text("utf-8", "replace")[-600:]
            raise LabError(f"{', '.join(waiting)}: not listening. The log of {name}: {log}")
        time.sleep(0.2)


def _sockets(end: Endpoint) -> set[tuple[str, str]]:
    return {
        (transport, f"{address}:{end.port}")
        for transport in by_name()[end.service].transports
        for address in (end.ipv4, f"[{end.ipv6}]")
    }


def _start_agents(
    plan: RunPlan, network: Network, processes: Processes, work: Path, shared: Path, sessions: int
) -> list[subprocess.Popen[bytes]]:
    agents = []
    for host, mine in deal_sessions(plan, sessions).items():
        config = {
            "plan": plan_to_dict(plan),
            "host": host,
            "shared": str(shared),
            "work": str(work / f"client-{host}"),
            "ready": str(work / f"ready-{host}"),
            "go": str(work / "go"),
            "sessions": mine,
        }
        path = work / f"agent-{host}.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        command = [sys.executable, "-m", "lab.clients.agent", str(path)]
        agents.append(processes.start(f"agent-{host}", network.inside(host, command)))
    return agents


def _wait_for(paths: list[Path], processes: Processes) -> None:
    until = time.monotonic() + _AGENT_DEADLINE
    while not all(path.exists() for path in paths):
        if time.monotonic() > until or any(n.startswith("agent") for n in processes.dead()):
            raise LabError(f"client agents did not start: {processes.dead()}")
        time.sleep(0.1)


def _start_tcpdump(network: Network, processes: Processes, raw: Path) -> subprocess.Popen[bytes]:
    argv = ["tcpdump", "-i", "br0", "-s", "128", "-w", str(raw), "-B", "32768", "-U", "-Z", "root",
            "-n", "--time-stamp-precision=nano", "tcp or udp"]  # fmt: skip
    process = processes.start("tcpdump", network.inside("mid", argv))
    log = raw.parent / "logs" / "tcpdump.log"
    until = time.monotonic() + 10
    while "listening on" not in log.read_text("utf-8", "replace"):
        if time.monotonic() > until or process.poll() is not None:
            raise LabError(f"tcpdump did not start: {log.read_text('utf-8', 'replace')}")
        time.sleep(0.05)
    return process


def play(
    plan: RunPlan,
    shared: Path,
    work: Path,
    out: Path,
    sessions: int,
    tick: Callable[[str, float], None],
) -> tuple[list[LabelRow], CaptureStats]:
    """Play one run and write its capture.

    Args:
        plan: the run.
        shared: what the services prepared once.
        work: an empty folder for this run.
        out: the pcap file to write.
        sessions: sessions of a service of weight 1.
        tick: told what is going on, and how far the run is (0 to 1).

    Returns:
        The labels, and the counts.
    """
    logs = work / "logs"
    logs.mkdir(parents=True)
    work.chmod(0o755)
    raw = work / "raw.pcap"
    tick("network", 0.0)
    with Network(plan, logs) as network, Processes(logs) as processes:
        agents = _start_agents(plan, network, processes, work, shared, sessions)
        tick("servers", 0.0)
        _start_servers(plan, network, processes, work, shared)
        tcpdump = _start_tcpdump(network, processes, raw)
        ready = [work / f"ready-{h.name}" for h in plan.hosts if h.role == "client"]
        _wait_for(ready, processes)
        (work / "go").touch()
        start = time.monotonic()
        while any(agent.poll() is None for agent in agents):
            elapsed = time.monotonic() - start
            tick("traffic", min(1.0, elapsed / plan.seconds))
            if elapsed > plan.seconds + 20:
                break
            time.sleep(0.25)
        time.sleep(0.5)
        tcpdump.send_signal(signal.SIGINT)
        tcpdump.wait(10)
    tick("labels", 1.0)
    return distil(raw, out, plan.labels())
