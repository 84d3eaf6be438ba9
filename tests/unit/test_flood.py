"""Two million SYNs from as many sources grow a collector's memory by no more than its bound."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_FLOOD = 2_000_000
_LONG = 1_000
_MIB = 1 << 20
_BOUND_MIB = 64

_PROGRAM = """
import json
import numpy as np
from collectors.agent import Agent, AgentOptions
from collectors.delivery import DeliverySettings
from collectors.fakes import FAKE_SCHEMA, FakeService, FakeSource
from collectors.memory import edge_limits
from collectors.warm_up import warm_up
from flows.decode import Decoded
from flows.packet import ENDPOINTS_DTYPE, packet_dtype
from flows.verdict import Reason

S, MS = 10**9, 10**6
BEGIN_NS = 1_700_000_000 * S
MAPPED = np.uint64(0xFFFF_0000_0000)
flood, long_flows, bound_mib = map(int, __import__("sys").argv[1:])
rng = np.random.default_rng(1)


def rss_mib():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20


def packets(sources, ports, protocol, ip_bytes, time_ns):
    n = len(sources)
    rows, ends = np.zeros(n, packet_dtype(False)), np.zeros(n, ENDPOINTS_DTYPE)
    rows["time_ns"], rows["ip_bytes"], rows["protocol"] = time_ns, ip_bytes, protocol
    rows["tcp_flags"] = 2 if protocol == 6 else 0
    ends["src_lo"], ends["dst_lo"] = MAPPED + sources, MAPPED + np.uint64(0xC6336401)
    ends["src_port"], ends["dst_port"] = ports, 80
    ends["protocol"], ends["ip_version"] = protocol, 4
    return Decoded(rows, ends)


def long_ones(time_ns):
    ports = np.arange(long_flows) + 1024
    return packets(np.full(long_flows, 7, np.uint64), ports, 17, 29, time_ns)


def chunks():
    yield long_ones(BEGIN_NS)
    step = 8_000
    for at in range(0, flood, step):
        sources = rng.integers(1 << 24, 1 << 32, step, dtype=np.uint64)
        yield packets(sources, rng.integers(1024, 65535, step), 6, 40, BEGIN_NS + at * 500)
        if at == flood // step // 2 * step:
            yield long_ones(BEGIN_NS + at * 500)
        yield None
    yield long_ones(BEGIN_NS + flood * 500)


finals = {"long": 0, "others": 0}


def note(settled, classes, version):
    own = settled.flows["protocol"] == 17
    kept = settled.verdicts["reason"][own] == Reason.EXHAUSTED
    finals["long"] += int(kept.sum())
    finals["others"] += int((~own).sum())


warm_up(with_header=False)
service = FakeService()
limits = edge_limits(bound_mib << 20, FAKE_SCHEMA.depth)
settings = DeliverySettings(batch_delay_s=0.0, give_up_after_s=None)
options = AgentOptions("edge", "fake", "fake:", delivery=settings, limits=limits)
before = rss_mib()
agent = Agent(FakeSource(chunks(), live=True), service, FAKE_SCHEMA, options, note)
agent.run()
agent.close()
table = agent.status().table
print(json.dumps({
    **finals, "grown_mib": rss_mib() - before, "flows": table.flows, "lost": table.lost_flows,
    "refused_packets": table.refused_packets, "packets": table.packets,
    "evicted": table.evicted_flows, "memory_mib": table.memory_bytes / 2**20,
}))
"""


def test_a_flood_of_syns_stays_within_the_bound_and_long_flows_keep_their_state(
    root: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(_FLOOD), str(_LONG), str(_BOUND_MIB)],
        capture_output=True, text=True, check=False, cwd=root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["grown_mib"] <= 1.5 * _BOUND_MIB
    assert told["memory_mib"] <= _BOUND_MIB + 8  # hosts' histories have a bound of their own
    assert told["long"] >= 0.99 * _LONG
    # Whoever found no room is counted, and nobody else is missing.
    assert told["packets"] + told["refused_packets"] == _FLOOD + 3 * _LONG
    assert told["flows"] == told["long"] + told["others"]
    assert told["lost"] == told["evicted"] == 0
    assert told["refused_packets"] > _FLOOD // 2
