"""The obvious script: dpkt, a dictionary of flows, a scikit-learn forest that judges each alone.

``classify FLOWS CAPTURE`` fits the forest, judges, and prints one JSON object; ``prepare FLOWS
FOLDER`` makes the training flows of the captures in a folder and their ``labels.csv`` (npz).
"""

from __future__ import annotations

import csv
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import dpkt
import numpy as np
from sklearn.ensemble import RandomForestClassifier

PACKETS = 10
Key = tuple[bytes, int, bytes, int, int]


def packets_of(path: str) -> Iterator[tuple[Key, float, int, int]]:
    """Yield five-tuple, time, bytes and TCP flags of each TCP or UDP packet."""
    with open(path, "rb") as file:
        for time_s, frame in dpkt.pcap.Reader(file):
            ip = dpkt.ethernet.Ethernet(frame).data
            if not isinstance(ip, dpkt.ip.IP | dpkt.ip6.IP6):
                continue
            segment = ip.data
            if not isinstance(segment, dpkt.tcp.TCP | dpkt.udp.UDP):
                continue
            length = ip.len if isinstance(ip, dpkt.ip.IP) else ip.plen + 40
            flags = getattr(segment, "flags", 0)
            yield (ip.src, segment.sport, ip.dst, segment.dport, ip.p), time_s, length, flags


def features(flow: list[tuple[float, int, int]], key: Key) -> list[float]:
    """Return what the forest sees: signed lengths, times between packets, flags, the port."""
    row = [0.0] * (3 * PACKETS + 2)
    for i, (time_s, length, flags) in enumerate(flow):
        row[3 * i] = float(length)
        row[3 * i + 1] = float(time_s - flow[i - 1][0]) if i else 0.0
        row[3 * i + 2] = float(flags)
    row[-2:] = [float(key[3]), float(key[4])]
    return row


def flows_of(path: str) -> Iterator[tuple[Key, list[tuple[float, int, int]], int]]:
    """Yield each flow when it has its packets, or at the end; and how many packets were read."""
    flows: dict[Key, list[tuple[float, int, int]]] = {}
    count = 0
    for key, time_s, length, flags in packets_of(path):
        count += 1
        back = (key[2], key[3], key[0], key[1], key[4])
        if back in flows:
            key, length = back, -length
        flow = flows.setdefault(key, [])
        if len(flow) < PACKETS:
            flow.append((time_s, length, flags))
            if len(flow) == PACKETS:
                yield key, flow, count
    for key, flow in flows.items():
        if len(flow) < PACKETS:
            yield key, flow, count


def address(packed: bytes) -> str:
    """Return an address as text."""
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def prepare(flows: Path, folder: Path) -> None:
    """Make the training flows."""
    labels = {}
    with (folder / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            ends = (row["src_ip"], row["src_port"], row["dst_ip"], row["dst_port"])
            labels[(row["pcap"], *ends)] = row["label"]
    rows, truths = [], []
    for path in sorted(folder.glob("*.pcap")):
        for key, flow, _ in flows_of(str(path)):
            ends = (address(key[0]), str(key[1]), address(key[2]), str(key[3]))
            label = labels.get((path.name, *ends))
            if label is not None:
                rows.append(features(flow, key))
                truths.append(label)
    np.savez(flows, rows=np.array(rows), labels=np.array(truths))
    sys.stdout.write(json.dumps({"flows": len(rows)}) + "\n")


def classify(training: Path, capture: str) -> None:
    """Judge each flow on its own."""
    with np.load(training) as known:
        forest = RandomForestClassifier(n_estimators=100, random_state=0)
        forest.fit(known["rows"], known["labels"])
    flows = packets = 0
    verdicts: dict[str, int] = {}
    for key, flow, packets in flows_of(capture):  # noqa: B007 (the last one counts)
        (label,) = forest.predict([features(flow, key)])
        verdicts[label] = verdicts.get(label, 0) + 1
        flows += 1
    sys.stdout.write(json.dumps({"flows": flows, "packets": packets, "labels": verdicts}) + "\n")


if __name__ == "__main__":
    command, first, second = sys.argv[1:]
    if command == "prepare":
        prepare(Path(first), Path(second))
    else:
        classify(Path(first), second)
