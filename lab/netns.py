"""Network namespaces, processes inside them, and the clean-up of both."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from lab.errors import LabError
from lab.plan import Host, RunPlan

__all__ = ["Network", "Processes"]

_START_DEADLINE = 15.0


class Processes:
    """Starts processes and ends every one of them, with their children, on leaving.

    Args:
        logs: the folder that takes each process's output, one file each.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def start(
        self, name: str, command: Sequence[str], cwd: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own, so that Ctrl-C reaches only the lab."""
        # Python programs of the lab start in other folders and must find this package.
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=environment,
                start_new_session=True,
            )
        self._running.append((name, process))
        return process

    def dead(self) -> list[str]:
        """The names of processes that ended by themselves with an error."""
        return [name for name, process in self._running if process.poll() not in (None, 0)]

    def end(self, grace: float = 3.0) -> None:
        """End all processes: ask, wait, then kill."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for _, process in self._running:
                # The group outlives its leader where a server forks, so signal it in any case.
                _signal_group(process.pid, number)
            until = time.monotonic() + grace
            while time.monotonic() < until and any(p.poll() is None for _, p in self._running):
                time.sleep(0.05)
        self._running.clear()


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Network:
    """The namespaces of one run: hosts, and a middle with a bridge that joins all wires.

    Args:
        plan: the run.
        logs: the folder for the relays' output.
    """

    def __init__(self, plan: RunPlan, logs: Path) -> None:
        self._plan = plan
        self._tag = f"sfl{os.getpid()}"
        self._relays = Processes(logs)
        self._made: list[str] = []

    def __enter__(self) -> Network:
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def namespace(self, host: str) -> str:
        """The namespace's name of a host, or of the middle (``mid``)."""
        return f"{self._tag}-{host}"

    def inside(self, host: str, command: Sequence[str]) -> list[str]:
        """The command that runs ``command`` on a host."""
        return ["ip", "netns", "exec", self.namespace(host), *command]

    def listening(self, host: str) -> set[tuple[str, str]]:
        """What listens on a host: pairs of ``tcp`` or ``udp`` and ``address:port``."""
        done = subprocess.run(
            self.inside(host, ["ss", "-Hnltu"]), capture_output=True, text=True, check=False
        )
        lines = [line.split() for line in done.stdout.splitlines()]
        # Programs that bind to a device show it behind the address.
        return {(words[0], re.sub(r"%\w+", "", words[4])) for words in lines}

    def _add(self, host: str) -> str:
        name = self.namespace(host)
        _ip("netns", "add", name)
        self._made.append(name)
        _ip("-n", name, "link", "set", "lo", "up")
        return name

    def _build(self) -> None:
        plan = self._plan
        middle = self._add("mid")
        # Without snooping the bridge passes all neighbour discovery; without a delay it
        # forwards at once.
        _ip("-n", middle, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0",
            "forward_delay", "0")  # fmt: skip
        self._sysctl(middle, {"net.ipv6.conf.br0.disable_ipv6": 1})
        _ip("-n", middle, "link", "set", "br0", "up")
        for index, host in enumerate(plan.hosts):
            name = self._add(host.name)
            self._sysctl(name, _settings(host))
            config = {
                "namespace": name,
                "middle": middle,
                "device": f"w{index}",
                "path": {**vars(host.path)},
                "seed": plan.seed * 31 + index,
            }
            command = [sys.executable, "-m", "lab.relay", "--config", json.dumps(config)]
            self._relays.start(f"relay-{host.name}", command)
        for index, host in enumerate(plan.hosts):
            self._join(middle, f"w{index}", host)

    def _join(self, middle: str, device: str, host: Host) -> None:
        name = self.namespace(host.name)
        until = time.monotonic() + _START_DEADLINE
        while not (_has_link(name, "eth0") and _has_link(middle, device)):
            if time.monotonic() > until or self._relays.dead():
                raise LabError(f"the relay of host {host.name} did not make its devices")
            time.sleep(0.05)
        self._sysctl(middle, {f"net.ipv6.conf.{device}.disable_ipv6": 1})
        _ip("-n", middle, "link", "set", device, "master", "br0", "up")
        _ip("-n", name, "link", "set", "eth0", "mtu", str(host.mtu), "up")
        plan = self._plan
        v4 = [host.ipv4, host.peer_ipv4]
        v6 = [host.ipv6, host.peer_ipv6]
        for endpoint in plan.endpoints:
            if endpoint.host == host.name:
                v4.append(endpoint.ipv4)
                v6.append(endpoint.ipv6)
        for address in v4:
            _ip("-n", name, "addr", "add", f"{address}/{plan.prefix4}", "dev", "eth0")
        for address in v6:
            _ip("-n", name, "addr", "add", f"{address}/64", "dev", "eth0", "nodad")
        net4 = ".".join(host.ipv4.split(".")[:3]) + ".0/24"
        net6 = str(ipaddress.ip_network(f"{host.ipv6}/64", strict=False))
        # By route, since the sysctl takes only algorithms that the kernel gives to everyone.
        options = ["congctl", host.congestion]
        if host.initial_window:
            options += ["initcwnd", str(host.initial_window)]
        _ip("-n", name, "route", "replace", net4, "dev", "eth0", "proto", "kernel", "scope", "link",
            "src", host.ipv4, *options)  # fmt: skip
        _ip("-n", name, "-6", "route", "del", net6, "dev", "eth0")
        _ip("-n", name, "-6", "route", "add", net6, "dev", "eth0", "src", host.ipv6, *options)

    def _sysctl(self, namespace: str, values: dict[str, int | str]) -> None:
        words = [f"{key}={value}" for key, value in values.items()]
        done = subprocess.run(
            ["ip", "netns", "exec", namespace, "sysctl", "-q", "-w", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise LabError(f"sysctl in {namespace}: {done.stderr.strip()}")

    def _remove(self) -> None:
        self._relays.end(grace=1.0)
        for name in reversed(self._made):
            # Servers that leave their process group (and killed clients' children) are still here.
            for process in _pids(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        self._made.clear()


def _pids(namespace: str) -> list[int]:
    done = subprocess.run(
        ["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False
    )
    return [int(word) for word in done.stdout.split()]


def _has_link(namespace: str, device: str) -> bool:
    done = subprocess.run(
        ["ip", "-n", namespace, "link", "show", "dev", device], capture_output=True, check=False
    )
    return done.returncode == 0


def _settings(host: Host) -> dict[str, int | str]:
    low, high = host.ephemeral_ports
    return {
        "net.ipv4.ip_default_ttl": host.ttl,
        "net.ipv6.conf.all.hop_limit": host.ttl,
        "net.ipv6.conf.default.hop_limit": host.ttl,
        "net.ipv6.conf.default.accept_dad": 0,
        "net.ipv6.conf.default.router_solicitations": 0,
        "net.ipv4.tcp_timestamps": host.timestamps,
        "net.ipv4.tcp_window_scaling": host.window_scaling,
        "net.ipv4.tcp_sack": host.sack,
        "net.ipv4.tcp_ecn": host.ecn,
        "net.ipv4.tcp_rmem": f"4096 {host.receive_buffer} 4194304",
        "net.ipv4.ip_local_port_range": f"{low} {high}",
        "net.ipv4.ip_unprivileged_port_start": 0,
    }
