"""What one run looks like: hosts, paths, services and addresses, all drawn from one seed.

Nothing that a classifier sees may follow from the service by construction. So hosts and paths
are shared by all services, every service is put on a host by chance, and addresses (and, in
half of the runs, ports) are drawn anew for every run.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = [
    "Endpoint",
    "Host",
    "PathParams",
    "RunPlan",
    "ServiceDraw",
    "draw_run",
    "plan_from_dict",
    "plan_to_dict",
]

CLIENT_HOSTS = 5
SERVER_HOSTS = 3
RANDOM_PORTS = (1024, 49151)
"""Where drawn server ports lie: behind the well-known ones, before Linux's ephemeral ones end."""


@dataclass(frozen=True)
class PathParams:
    """The wire between one host and the middle, the same in both directions."""

    delay_ms: float
    jitter_ms: float
    loss: float
    rate_mbit: float
    queue_ms: float
    reorder: float
    hops: int
    """How much the path takes off the time to live."""


@dataclass(frozen=True)
class Host:
    """A network namespace with one interface and its own TCP/IP settings."""

    name: str
    role: str
    """``client`` or ``server``."""
    ipv4: str
    ipv6: str
    peer_ipv4: str
    """A second address, on which only peer-to-peer programs of this host speak."""
    peer_ipv6: str
    mtu: int
    ttl: int
    timestamps: int
    window_scaling: int
    sack: int
    ecn: int
    congestion: str
    receive_buffer: int
    initial_window: int
    ephemeral_ports: tuple[int, int]
    path: PathParams


@dataclass(frozen=True)
class Endpoint:
    """Where a service listens in a run, and which of its kinds it is."""

    service: str
    host: str
    ipv4: str
    ipv6: str
    port: int
    aux_port: int
    """A second port for services that need one (FTP data, RTP, a tracker)."""
    variant: str
    seed: int


@dataclass(frozen=True)
class RunPlan:
    """All draws of one run."""

    name: str
    split: str
    seed: int
    seconds: float
    port_mode: str
    """``default`` or ``random``."""
    prefix4: int
    hosts: tuple[Host, ...]
    endpoints: tuple[Endpoint, ...]
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def pcap(self) -> str:
        """The name of the run's capture in its split's folder."""
        return f"run-{self.name.rpartition('-')[2]}.pcap"

    def host(self, name: str) -> Host:
        """The host of that name."""
        return next(host for host in self.hosts if host.name == name)

    def labels(self) -> dict[str, str]:
        """Each address that belongs to one service, with that service's name.

        A server's address speaks only its service. A client host's second address speaks only
        BitTorrent, since there clients also talk to each other.
        """
        labels = {}
        for endpoint in self.endpoints:
            labels[endpoint.ipv4] = labels[endpoint.ipv6] = endpoint.service
        for host in self.hosts:
            if host.role == "client":
                labels[host.peer_ipv4] = labels[host.peer_ipv6] = "bittorrent"
        return labels


@dataclass(frozen=True)
class ServiceDraw:
    """What the plan must know of a service to draw an endpoint for it."""

    name: str
    port: int
    variants: tuple[str, ...]


class _Addresses:
    """Draws addresses of one IPv4 and one IPv6 network, none of them twice."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        base = rng.choice(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"])
        wide = ipaddress.ip_network(base)
        start = int(wide.network_address) + (rng.randrange(wide.num_addresses) & ~0xFF)
        self._v4 = start
        self._v6 = (0xFD << 120) | (rng.getrandbits(56) << 64)
        self._used: set[int] = set()

    def pair(self) -> tuple[str, str]:
        """One unused address of each version."""
        while True:
            last = self._rng.randrange(2, 254)
            if last not in self._used:
                break
        self._used.add(last)
        v6 = self._v6 | (self._rng.getrandbits(40) << 8) | last
        return str(ipaddress.IPv4Address(self._v4 + last)), str(ipaddress.IPv6Address(v6))


def _draw_path(rng: random.Random, role: str) -> PathParams:
    # The capture point lies between the two wires; servers are mostly nearer to it than clients.
    delay = (
        rng.choice([0.3, 1.5, 5, 12, 25, 45]) if role == "client" else rng.choice([0.2, 1, 4, 12])
    )
    delay *= rng.uniform(0.7, 1.4)
    rate = rng.choice([4, 8, 16, 30, 60, 100]) if role == "client" else rng.choice([40, 80, 150])
    return PathParams(
        delay_ms=round(delay, 3),
        jitter_ms=round(delay * rng.choice([0.01, 0.05, 0.15, 0.3]), 3),
        loss=round(rng.choice([0.0, 0.0005, 0.002, 0.006, 0.015]), 5)
        if role == "client"
        else round(rng.choice([0.0, 0.0, 0.001, 0.003]), 5),
        rate_mbit=round(rate * rng.uniform(0.8, 1.2), 2),
        queue_ms=round(rng.choice([25, 60, 120, 250]) * rng.uniform(0.8, 1.2), 1),
        reorder=rng.choice([0.0, 0.0, 0.001, 0.004]),
        hops=rng.randrange(1, 12),
    )


def _draw_host(rng: random.Random, name: str, role: str, addresses: _Addresses) -> Host:
    ipv4, ipv6 = addresses.pair()
    peer_ipv4, peer_ipv6 = addresses.pair()
    low = rng.choice([32768, 49152, 10240, 20000])
    return Host(
        name=name,
        role=role,
        ipv4=ipv4,
        ipv6=ipv6,
        peer_ipv4=peer_ipv4,
        peer_ipv6=peer_ipv6,
        mtu=rng.choice([1500, 1500, 1492, 1460, 1420, 1380]),
        ttl=rng.choice([64, 64, 128, 255]),
        timestamps=rng.choice([1, 1, 0]),
        window_scaling=rng.choice([1, 1, 1, 0]),
        sack=rng.choice([1, 1, 1, 0]),
        ecn=rng.choice([2, 2, 1, 0]),
        congestion=rng.choice(["cubic", "cubic", "bbr", "reno"]),
        receive_buffer=rng.choice([65536, 131072, 262144, 1048576]),
        initial_window=rng.choice([0, 0, 2, 4, 20]),
        ephemeral_ports=(low, min(low + rng.choice([12000, 15000]), 65535)),
        path=_draw_path(rng, role),
    )


def draw_run(
    name: str,
    split: str,
    seed: int,
    seconds: float,
    port_mode: str,
    services: Sequence[ServiceDraw],
) -> RunPlan:
    """Draw one run; the same arguments give the same plan."""
    rng = random.Random(seed)
    addresses = _Addresses(rng)
    hosts = [_draw_host(rng, f"c{n}", "client", addresses) for n in range(CLIENT_HOSTS)]
    hosts += [_draw_host(rng, f"s{n}", "server", addresses) for n in range(SERVER_HOSTS)]
    ports = rng.sample(range(*RANDOM_PORTS), 2 * len(services))
    endpoints = []
    for index, service in enumerate(services):
        ipv4, ipv6 = addresses.pair()
        endpoints.append(
            Endpoint(
                service=service.name,
                host=f"s{rng.randrange(SERVER_HOSTS)}",
                ipv4=ipv4,
                ipv6=ipv6,
                port=ports[2 * index] if port_mode == "random" else service.port,
                aux_port=ports[2 * index + 1],
                variant=rng.choice(service.variants),
                seed=rng.getrandbits(32),
            )
        )
    prefix4 = 24
    return RunPlan(name, split, seed, seconds, port_mode, prefix4, tuple(hosts), tuple(endpoints))


def plan_to_dict(plan: RunPlan) -> dict[str, Any]:
    """The plan as plain JSON values."""
    return asdict(plan)


def plan_from_dict(values: dict[str, Any]) -> RunPlan:
    """The plan back from :func:`plan_to_dict`."""
    hosts = []
    for host in values["hosts"]:
        path = PathParams(**host["path"])
        hosts.append(
            Host(**{**host, "path": path, "ephemeral_ports": tuple(host["ephemeral_ports"])})
        )
    endpoints = tuple(Endpoint(**endpoint) for endpoint in values["endpoints"])
    return RunPlan(**{**values, "hosts": tuple(hosts), "endpoints": endpoints})
