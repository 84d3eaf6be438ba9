"""Checks what the lab wrote: every class in every run, balance, and labels that fit the packets."""

from __future__ import annotations

import csv
import ipaddress
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from lab.capture import HEADER
from lab.pcapfile import SNAPLEN, parse, read_frames

__all__ = ["verify"]

MIN_PER_RUN = 3
MIN_SHARE = 0.015
MAX_SHARE = 0.20
MAX_BYTES = 12_000_000


def _check_pcap(path: Path, rows: list[dict[str, str]]) -> list[str]:
    """Each labelled flow's first packet must be there; each packet must belong to a label."""
    starts = {}
    pairs = set()
    for row in rows:
        source = (ipaddress.ip_address(row["src_ip"]).packed, int(row["src_port"]))
        destination = (ipaddress.ip_address(row["dst_ip"]).packed, int(row["dst_port"]))
        seconds, nanos = row["start_time"].split(".")
        moment = int(seconds) * 1_000_000_000 + int(nanos.ljust(9, "0"))
        protocol = 6 if row["proto"] == "TCP" else 17
        starts[(moment, source, destination, protocol)] = row
        pairs |= {(source, destination, protocol), (destination, source, protocol)}
    stray = last = disorder = long = 0
    for frame in read_frames(path):
        segment = parse(frame.data)
        disorder += frame.time_ns < last
        last = frame.time_ns
        long += len(frame.data) > SNAPLEN
        if segment is None:
            stray += 1
            continue
        source = (segment.source, segment.source_port)
        destination = (segment.destination, segment.destination_port)
        starts.pop((frame.time_ns, source, destination, segment.protocol), None)
        stray += (source, destination, segment.protocol) not in pairs
    problems = []
    if starts:
        problems.append(f"{path.name}: {len(starts)} labels without a first packet")
    if stray:
        problems.append(f"{path.name}: {stray} packets without a label")
    if long:
        problems.append(f"{path.name}: {long} packets of more than {SNAPLEN} captured bytes")
    if disorder:
        problems.append(f"{path.name}: {disorder} packets out of time order")
    return problems


def verify(out: Path, classes: Collection[str]) -> list[str]:
    """Check a folder of captures.

    Args:
        out: the folder with ``train`` and ``test``.
        classes: the labels that every run must have.

    Returns:
        What is wrong, one line each; empty when all is well.
    """
    problems: list[str] = []
    total: Counter[str] = Counter()
    size = 0
    for split in ("train", "test"):
        folder = out / split
        if not folder.is_dir():
            continue
        with (folder / "labels.csv").open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            rows = list(reader)
            if tuple(reader.fieldnames or ()) != HEADER:
                problems.append(f"{split}/labels.csv: wrong header")
        per_split = Counter(row["label"] for row in rows)
        total += per_split
        for path in sorted(folder.glob("*.pcap")):
            size += path.stat().st_size
            mine = [row for row in rows if row["pcap"] == path.name]
            counts = Counter(row["label"] for row in mine)
            problems += [
                f"{split}/{path.name}: only {counts[name]} flows of {name}"
                for name in classes
                if counts[name] < MIN_PER_RUN
            ]
            problems += [f"{split}/{line}" for line in _check_pcap(path, mine)]
        problems += _balance(split, per_split, classes)
    if size > MAX_BYTES:
        problems.append(f"the captures have {size / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:.0f}")
    if not total:
        problems.append("there are no labelled flows")
    return problems


def _balance(split: str, counts: Counter[str], classes: Collection[str]) -> list[str]:
    flows = max(1, counts.total())
    problems = []
    for name in sorted(set(classes) | set(counts)):
        share = counts[name] / flows
        if not MIN_SHARE <= share <= MAX_SHARE:
            problems.append(f"{split}: {name} has {share:.1%} of the flows")
    return problems
