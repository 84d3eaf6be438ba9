"""From what tcpdump wrote to what the lab keeps: headers only, thinned, every flow labelled."""

from __future__ import annotations

import csv
import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab.pcapfile import ACK, FIN, RST, SYN, Frame, PcapWriter, Segment, parse, read_frames

__all__ = ["HEADER", "KEEP_PACKETS", "CaptureStats", "LabelRow", "distil", "write_labels"]

KEEP_PACKETS = 24
"""How many first packets of a flow are kept; later ones only with FIN or RST."""
HEADER = ("pcap", "src_ip", "src_port", "dst_ip", "dst_port", "proto", "label", "start_time")
_UDP_GAP_NS = 60 * 1_000_000_000

_Key = tuple[int, tuple[bytes, int], tuple[bytes, int]]


@dataclass(frozen=True)
class LabelRow:
    """One labelled flow; source is the side that sent its first packet."""

    pcap: str
    src_ip: str
    src_port: int
    dst_ip: str
    dst_port: int
    proto: str
    label: str
    start_ns: int

    def cells(self) -> tuple[str, ...]:
        """The row as ``labels.csv`` has it."""
        seconds, nanos = divmod(self.start_ns, 1_000_000_000)
        return (self.pcap, self.src_ip, str(self.src_port), self.dst_ip, str(self.dst_port),
                self.proto, self.label, f"{seconds}.{nanos:09d}")  # fmt: skip


@dataclass
class CaptureStats:
    """What became of one capture."""

    flows: Counter[str] = field(default_factory=Counter)
    unlabelled_flows: int = 0
    packets_seen: int = 0
    packets_kept: int = 0


@dataclass
class _Flow:
    label: str | None
    first_sequence: int
    last_ns: int
    packets: int = 0


def _key(segment: Segment) -> _Key:
    one = (segment.source, segment.source_port)
    two = (segment.destination, segment.destination_port)
    return (segment.protocol, min(one, two), max(one, two))


def _begins_anew(flow: _Flow, segment: Segment, time_ns: int) -> bool:
    """Whether a packet starts another flow between the same two endpoints."""
    if segment.protocol == 17:
        return time_ns - flow.last_ns > _UDP_GAP_NS
    opening = segment.tcp_flags & (SYN | ACK) == SYN
    # The same sequence number is the same SYN sent again.
    return opening and segment.sequence != flow.first_sequence


def distil(raw: Path, kept: Path, labels: Mapping[str, str]) -> tuple[list[LabelRow], CaptureStats]:
    """Strip payloads, thin long flows and label every flow of a capture.

    Args:
        raw: what tcpdump wrote.
        kept: the file to write.
        labels: address → label; a flow has the label of whichever of its addresses is in here.

    Returns:
        One row per labelled flow, in order of first packets, and the counts.
    """
    by_address = {ipaddress.ip_address(text).packed: label for text, label in labels.items()}
    flows: dict[_Key, _Flow] = {}
    rows: list[LabelRow] = []
    stats = CaptureStats()
    # The bridge hands frames of two processors to tcpdump; they are in order but for microseconds.
    frames = sorted(read_frames(raw), key=lambda frame: frame.time_ns)
    with PcapWriter(kept) as writer:
        for frame in frames:
            segment = parse(frame.data)
            if segment is None:
                continue
            stats.packets_seen += 1
            key = _key(segment)
            flow = flows.get(key)
            if flow is None or _begins_anew(flow, segment, frame.time_ns):
                label = by_address.get(segment.destination) or by_address.get(segment.source)
                flow = flows[key] = _Flow(label, segment.sequence, frame.time_ns)
                if label is None:
                    stats.unlabelled_flows += 1
                else:
                    stats.flows[label] += 1
                    rows.append(_row(kept.name, segment, label, frame.time_ns))
            flow.last_ns = frame.time_ns
            flow.packets += 1
            if flow.label is None:
                continue
            if flow.packets <= KEEP_PACKETS or segment.tcp_flags & (FIN | RST):
                data = frame.data[: segment.header_end]
                writer.write(Frame(frame.time_ns, data, frame.wire_length))
                stats.packets_kept += 1
    return rows, stats


def _row(name: str, segment: Segment, label: str, time_ns: int) -> LabelRow:
    return LabelRow(
        pcap=name,
        src_ip=str(ipaddress.ip_address(segment.source)),
        src_port=segment.source_port,
        dst_ip=str(ipaddress.ip_address(segment.destination)),
        dst_port=segment.destination_port,
        proto="TCP" if segment.protocol == 6 else "UDP",
        label=label,
        start_ns=time_ns,
    )


def write_labels(path: Path, rows: Iterable[LabelRow]) -> None:
    """Write ``labels.csv``."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(row.cells() for row in rows)
