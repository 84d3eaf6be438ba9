"""The lab's plan: everything follows from the seed, and nothing gives the service away."""

from __future__ import annotations

import ipaddress
import json
from collections import Counter

import pytest

from lab.__main__ import _parse_runs, _plans
from lab.errors import LabError
from lab.plan import (
    RANDOM_PORTS,
    RunPlan,
    ServiceDraw,
    draw_run,
    plan_from_dict,
    plan_to_dict,
)
from lab.play import deal_sessions
from lab.services import SERVICES, by_name

DRAWS = [ServiceDraw(s.name, s.port, s.variants) for s in SERVICES]


def plan(seed: int = 3, mode: str = "random") -> RunPlan:
    return draw_run("train-01", "train", seed, 75.0, mode, DRAWS)


def test_a_seed_repeats_a_run() -> None:
    assert plan(3) == plan(3)
    assert plan(3) != plan(4)
    assert deal_sessions(plan(3), 20) == deal_sessions(plan(3), 20)


def test_the_mode_changes_only_the_ports() -> None:
    drawn, usual = plan(mode="random"), plan(mode="default")
    assert drawn.hosts == usual.hosts
    assert [e.variant for e in drawn.endpoints] == [e.variant for e in usual.endpoints]
    assert {e.service: e.port for e in usual.endpoints} == {s.name: s.port for s in SERVICES}


def test_drawn_ports_are_apart_and_in_range() -> None:
    ports = [port for e in plan().endpoints for port in (e.port, e.aux_port)]
    assert len(set(ports)) == len(ports)
    assert min(ports) >= RANDOM_PORTS[0]
    assert max(ports) < RANDOM_PORTS[1]


@pytest.mark.parametrize("seed", range(20))
def test_no_address_is_drawn_twice_and_all_are_private(seed: int) -> None:
    drawn = plan(seed)
    addresses = [a for h in drawn.hosts for a in (h.ipv4, h.ipv6, h.peer_ipv4, h.peer_ipv6)]
    addresses += [a for e in drawn.endpoints for a in (e.ipv4, e.ipv6)]
    assert len(set(addresses)) == len(addresses)
    shared = ipaddress.ip_network("100.64.0.0/10")
    for text in addresses:
        address = ipaddress.ip_address(text)
        assert address.is_private or (address.version == 4 and address in shared)


def test_services_move_between_hosts_and_addresses() -> None:
    hosts, ends = Counter[str](), set()
    for seed in range(60):
        end = plan(seed).endpoints[0]
        hosts[end.host] += 1
        ends.add(end.ipv4)
    assert set(hosts) == {"s0", "s1", "s2"}
    assert min(hosts.values()) > 8
    assert len(ends) == 60


def test_each_address_has_one_label() -> None:
    drawn = plan()
    labels = drawn.labels()
    for end in drawn.endpoints:
        assert labels[end.ipv4] == labels[end.ipv6] == end.service
    for host in drawn.hosts:
        assert host.ipv4 not in labels
        assert labels.get(host.peer_ipv6) == ("bittorrent" if host.role == "client" else None)


def test_a_plan_comes_back_from_json() -> None:
    assert plan_from_dict(json.loads(json.dumps(plan_to_dict(plan())))) == plan()


def test_every_service_has_sessions_by_its_weight() -> None:
    dealt = deal_sessions(plan(), 100)
    counts = Counter(name for names in dealt.values() for name in names)
    assert set(dealt) == {f"c{n}" for n in range(5)}
    for service in by_name().values():
        assert counts[service.name] == pytest.approx(100 * service.weight, rel=0.16)
    assert min(Counter(n for ns in deal_sessions(plan(), 1).values() for n in ns).values()) >= 1


def test_runs_are_counted_and_half_of_them_draw_ports() -> None:
    plans = _plans(_parse_runs("train=4,test=2"), 1, 30.0)
    assert [p.name for p in plans] == [
        *(f"train-0{n}" for n in range(1, 5)),
        *(f"test-0{n}" for n in range(1, 3)),
    ]
    assert [p.pcap for p in plans][:5:4] == ["run-01.pcap", "run-01.pcap"]
    assert [p.port_mode for p in plans] == ["default", "random"] * 3
    assert len({p.seed for p in plans}) == 6


@pytest.mark.parametrize("text", ["", "train", "train=x", "train=0", "train=1,other=2"])
def test_an_odd_number_of_runs_is_refused(text: str) -> None:
    with pytest.raises(LabError, match="--runs"):
        _parse_runs(text)
