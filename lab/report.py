"""Writes what a reader must know of the captures: ``runs.json`` and ``README.md``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.capture import KEEP_PACKETS, CaptureStats
from lab.plan import RunPlan, plan_to_dict
from lab.services import SERVICES

__all__ = ["PlayedRun", "write_readme", "write_runs"]


@dataclass(frozen=True)
class PlayedRun:
    """A run and what came of it."""

    plan: RunPlan
    stats: CaptureStats
    bytes_written: int


def write_runs(path: Path, runs: Sequence[PlayedRun], versions: dict[str, str]) -> None:
    """Write every draw of every run, and the software's versions."""
    listed: list[dict[str, Any]] = []
    for run in runs:
        plan = plan_to_dict(run.plan)
        plan["pcap"] = f"{run.plan.split}/{run.plan.pcap}"
        plan["flows"] = dict(sorted(run.stats.flows.items()))
        plan["packets_on_the_wire"] = run.stats.packets_seen
        plan["packets_kept"] = run.stats.packets_kept
        plan["unlabelled_flows"] = run.stats.unlabelled_flows
        listed.append(plan)
    text = json.dumps({"versions": versions, "runs": listed}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def _classes_table(runs: Sequence[PlayedRun]) -> list[str]:
    counts: dict[str, Counter[str]] = {"train": Counter(), "test": Counter()}
    for run in runs:
        counts[run.plan.split] += run.stats.flows
    total = max(1, sum(c.total() for c in counts.values()))
    lines = [
        "| class | default port | served by | train | test | share |",
        "|---|--:|---|--:|--:|--:|",
    ]
    for service in SERVICES:
        software = ", ".join(dict.fromkeys(service.software.values()))
        train, test = counts["train"][service.name], counts["test"][service.name]
        lines.append(
            f"| `{service.name}` | {service.port} | {software} | {train} | {test} "
            f"| {(train + test) / total:.1%} |"
        )
    train, test = counts["train"].total(), counts["test"].total()
    lines.append(f"| all | | | {train} | {test} | 100 % |")
    return lines


def _runs_table(runs: Sequence[PlayedRun]) -> list[str]:
    lines = [
        "| capture | seed | ports | seconds | flows | packets kept of seen | kB |",
        "|---|--:|---|--:|--:|--:|--:|",
    ]
    for run in runs:
        plan, stats = run.plan, run.stats
        lines.append(
            f"| `{plan.split}/{plan.pcap}` | {plan.seed} | {plan.port_mode} "
            f"| {plan.seconds:g} | {stats.flows.total()} "
            f"| {stats.packets_kept} of {stats.packets_seen} | {run.bytes_written // 1000} |"
        )
    return lines


_PATH_FIELDS = ("delay_ms", "jitter_ms", "loss", "rate_mbit", "queue_ms", "reorder", "hops")


def _paths_table(runs: Sequence[PlayedRun]) -> list[str]:
    lines = [
        f"| capture | paths of | {' | '.join(_PATH_FIELDS)} |",
        f"|---|---|{'--:|' * len(_PATH_FIELDS)}",
    ]
    for run in runs:
        for role in ("client", "server"):
            paths = [host.path for host in run.plan.hosts if host.role == role]
            cells = []
            for name in _PATH_FIELDS:
                values = [float(getattr(path, name)) for path in paths]
                cells.append(f"{min(values):g} to {max(values):g}")
            lines.append(f"| `{run.plan.split}/{run.plan.pcap}` | {role}s | {' | '.join(cells)} |")
    return lines


_INTRO = """\
# Captures

`make lab` (root) made these files; this page and its figures too. Each capture is one run of
real servers and real clients in Linux network namespaces on one machine. A run has {clients}
client hosts, {servers} server hosts and all {services} services. Nothing here was seen on a public
network. The seeds below draw the plan of a run anew (hosts, paths, addresses, ports, variants,
sessions); the programs' own timing and chance make the packets differ each time.

- `train/*.pcap`, `test/*.pcap`: classic pcap, Ethernet, nanosecond times. Whole runs are kept
  apart for testing: addresses, paths, host settings, server variants and, in every second run,
  ports were drawn anew for each.
- `labels.csv` beside them: `{header}`.
  `src` sent the flow's first packet, `start_time` is that packet's time in that capture, in seconds
  since the epoch.
- `runs.json`: every draw of every run (hosts, paths, addresses, ports, variants, seeds) and the
  versions of the software.

**Labels come from the scenario.** In each run a service has IPv4 and IPv6 addresses of its own; a
flow has the label of the service whose address it speaks with. So FTP's data connections are
`ftp`, the RTP of calls is `sip`, and the UDP tracker, DHT and µTP of BitTorrent are `bittorrent`.
No payload was looked at, and with random ports the port does not tell. Some flows meet a closed
port at a service's address, and some client programs are killed midway; they bear its label too.

**What was left out of the files.** Only headers are kept: a frame ends with its TCP header (options
included) or its 8 bytes of UDP header; its length on the wire stays in the record and in the IP
header. Of each flow the first {keep} packets are kept, and of the later ones those with FIN or RST.
ICMP, ARP, neighbour discovery and later IP fragments are not in the files. A flow ends for
`labels.csv` when a SYN with another sequence number opens the same pair of endpoints again, or
after 60 s of silence (UDP).

**The wire.** netem is not needed: a userspace relay between two TAP devices per host delays,
jitters, loses, rate-limits (token bucket) and queues frames, and takes hops off the time to live.
Each packet crosses the client's wire and the server's; tcpdump listens between the two. Loss comes
in runs: after a lost frame the next is lost with probability 0.3. Host settings drawn per run and
host: MTU, time to live, TCP timestamps, window scaling, SACK, ECN, congestion control, receive
buffer, initial window and ephemeral ports. Clients and paths are shared by all services, and
services are put on server hosts by chance.
"""


def write_readme(path: Path, runs: Sequence[PlayedRun], versions: dict[str, str]) -> None:
    """Write the page about the captures; every figure comes from the runs."""
    hosts = runs[0].plan.hosts
    clients = sum(host.role == "client" for host in hosts)
    intro = _INTRO.format(
        clients=clients,
        servers=len(hosts) - clients,
        services=len(SERVICES),
        keep=KEEP_PACKETS,
        header="pcap,src_ip,src_port,dst_ip,dst_port,proto,label,start_time",
    )
    unlabelled = sum(run.stats.unlabelled_flows for run in runs)
    flows = sum(run.stats.flows.total() for run in runs)
    size = sum(run.bytes_written for run in runs)
    parts = [
        intro,
        "## Flows per class\n",
        *_classes_table(runs),
        f"\nFlows seen on the wire that no scenario claims, and that are not in the files: "
        f"{unlabelled} (beside {flows} labelled). All captures together: {size / 1e6:.1f} MB.\n",
        "## Runs\n",
        *_runs_table(runs),
        "\n## Paths\n",
        "One way, lowest to highest of the run's paths; `runs.json` has each host's.\n",
        *_paths_table(runs),
        "\n## Software\n",
        ", ".join(f"{name} {version}" for name, version in versions.items()) + ".\n",
    ]
    path.write_text("\n".join(parts), encoding="utf-8")
