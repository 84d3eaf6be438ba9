"""The decoder against tshark, field by field, on the embedded captures and on odd frames."""

from __future__ import annotations

import io
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frames as f
from flows.capture import CaptureReader
from flows.packet import IpFlags, Protocol, TcpOptions
from flows.table import FlowTable, FlowTimeouts

pytestmark = pytest.mark.e2e

FIELDS = [
    "frame.time_epoch", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst",
    "ip.len", "ip.hdr_len", "ip.ttl", "ip.dsfield", "ip.flags.df", "ip.flags.mf",
    "ipv6.plen", "ipv6.hlim", "ipv6.tclass",
    "tcp.srcport", "tcp.dstport", "tcp.flags", "tcp.window_size_value", "tcp.len", "tcp.hdr_len",
    "tcp.seq_raw", "tcp.options.mss_val", "tcp.options.wscale.shift", "tcp.option_kind",
    "tcp.stream", "udp.srcport", "udp.dstport", "udp.length", "udp.stream",
    "icmp.type", "icmp.code", "icmpv6.type", "icmpv6.code",
]  # fmt: skip

KINDS = {
    2: TcpOptions.MSS,
    3: TcpOptions.WINDOW_SCALE,
    4: TcpOptions.SACK_PERMITTED,
    5: TcpOptions.SACK,
    8: TcpOptions.TIMESTAMPS,
}


def tshark(path: Path) -> list[dict[str, str]]:
    """Return what tshark says of each TCP, UDP, ICMP or ICMPv6 packet."""
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "occurrence=a"]
    # No reassembly: a frame's fields are to be its own.
    for off in ("ip.defragment", "ipv6.defragment", "tcp.desegment_tcp_streams"):
        command += ["-o", f"{off}:FALSE"]
    for name in FIELDS:
        command += ["-e", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in done.stdout.splitlines()]
    heads = ("tcp.srcport", "udp.srcport", "icmp.type", "icmpv6.type")
    return [row for row in rows if any(row[head] for head in heads)]


def number(row: dict[str, str], *names: str) -> int:
    """Return the first value of the first of these fields that is there."""
    for name in names:
        if row[name]:
            value = row[name].partition(",")[0]
            return int(value == "True") if value in ("True", "False") else int(value, 0)
    return 0


def expected(row: dict[str, str]) -> dict[str, Any]:
    version = 4 if row["ip.src"] else 6
    seconds, _, fraction = row["frame.time_epoch"].partition(".")
    said = {
        "time_ns": int(seconds) * 10**9 + int(fraction.ljust(9, "0")[:9]),
        "ip_version": version,
        "ip_bytes": number(row, "ip.len") or number(row, "ipv6.plen") + 40,
        "ttl": number(row, "ip.ttl", "ipv6.hlim"),
        "tos": number(row, "ip.dsfield", "ipv6.tclass"),
    }
    if version == 4:
        said["ip_header_bytes"] = number(row, "ip.hdr_len")
    if row["tcp.srcport"]:
        kinds = {int(k) for k in row["tcp.option_kind"].split(",") if k} - {0, 1}
        said |= {
            "protocol": Protocol.TCP,
            "payload_bytes": number(row, "tcp.len"),
            "tcp_flags": number(row, "tcp.flags") & 0xFF,
            "tcp_window": number(row, "tcp.window_size_value"),
            "tcp_header_bytes": number(row, "tcp.hdr_len"),
            "tcp_mss": number(row, "tcp.options.mss_val"),
            "tcp_window_scale": number(row, "tcp.options.wscale.shift") + 1 if 3 in kinds else 0,
            "tcp_options": sum({KINDS.get(kind, TcpOptions.OTHER) for kind in kinds}),
        }
    elif row["udp.srcport"]:
        said |= {"protocol": Protocol.UDP, "payload_bytes": number(row, "udp.length") - 8}
    else:
        said |= {
            "protocol": Protocol.ICMP if row["icmp.type"] else Protocol.ICMPV6,
            "icmp_type": number(row, "icmp.type", "icmpv6.type"),
            "icmp_code": number(row, "icmp.code", "icmpv6.code"),
        }
    return said


def compare(path: Path) -> None:
    rows = tshark(path)
    chunks = list(CaptureReader(path).chunks())
    packets = np.concatenate([chunk.packets for chunk in chunks])
    ends = np.concatenate([chunk.endpoints for chunk in chunks])
    assert len(packets) == len(rows) > 0
    for i, row in enumerate(rows):
        said = expected(row)
        ours = {name: int(packets[name][i]) for name in said}
        assert ours == said, f"{path.name}, packet {i}: {row}"
        fragment = number(row, "ip.flags.df") * IpFlags.DONT_FRAGMENT
        fragment |= number(row, "ip.flags.mf") * IpFlags.MORE_FRAGMENTS
        if said["ip_version"] == 4:
            assert int(packets["ip_flags"][i]) & 3 == fragment
        if row["tcp.srcport"] or row["udp.srcport"]:
            assert int(ends["src_port"][i]) == number(row, "tcp.srcport", "udp.srcport")
            assert int(ends["dst_port"][i]) == number(row, "tcp.dstport", "udp.dstport")
            assert int(ends["tcp_seq"][i]) == number(row, "tcp.seq_raw")


@pytest.fixture(scope="module")
def runs(test_runs: Path) -> list[Path]:
    found = sorted(test_runs.glob("*.pcap"))
    assert found
    return found


def test_every_field_of_the_embedded_captures(runs: list[Path]) -> None:
    for path in runs:
        compare(path)


def test_every_field_of_odd_frames(tmp_path: Path) -> None:
    options = bytes([2, 4, 5, 0xB4, 4, 2, 8, 10, *range(8), 1, 3, 3, 9])
    hop = bytes([6, 0]) + b"\1\4" + bytes(4)
    frames = [
        f.ethernet(f.ipv4(f.tcp(options=options, payload=b"x" * 7), tos=0xB8, ttl=3)),
        f.ethernet(f.ipv4(f.tcp(flags=f.ACK | f.PSH | 0xE0), fragment=0x4000), tags=[0x8100]),
        f.ethernet(f.ipv4(f.udp(5000, 5001, b"y" * 30), 17), tags=[0x88A8, 0x8100]),
        f.ethernet(f.ipv4(f.udp(5000, 5001, b"y" * 30), 17, options=b"\x94\4\0\0")),
        f.ethernet(f.ipv6(f.tcp(options=b"\5\x0a" + bytes(8)), traffic_class=0x28), 0x86DD),
        f.ethernet(f.ipv6(hop + f.tcp(flags=f.FIN | f.ACK), 0, hop_limit=1), 0x86DD),
        f.ethernet(f.ipv6(f.icmp(128), 58), 0x86DD, tags=[0x8100]),
        f.ethernet(f.ipv4(f.icmp(13, 0, bytes(12)), 1)),
        f.ethernet(f.ipv4(f.tcp(options=b"\x1e\4\0\0\1\1\1\1"))),
    ]
    for link, head in ((1, b""), (113, None), (276, None), (101, None), (0, None)):
        if head is None:
            inner = [f.ipv4(f.tcp(options=options)), f.ipv6(f.udp(payload=b"z"), 17)]
            kinds = [b"\x08\0", b"\x86\xdd"]
            heads = {
                113: [bytes(4) + struct.pack(">H", 1) + bytes(8) + kind for kind in kinds],
                276: [kind + bytes(8) + struct.pack(">H", 1) + bytes(8) for kind in kinds],
                101: [b"", b""],
                0: [b"\2\0\0\0", b"\x1e\0\0\0"],
            }[link]
            frames = [h + packet for h, packet in zip(heads, inner, strict=True)]
        path = tmp_path / f"link-{link}.pcap"
        path.write_bytes(f.pcap(frames, link=link))
        compare(path)


def test_flows_are_those_of_tshark(runs: list[Path]) -> None:
    """Packets of one flow here are packets of one stream there, up to 1 % of the flows.

    Without timeouts, as tshark has none; ICMP has no streams.
    """
    never = FlowTimeouts(tcp_idle_s=1e8, udp_idle_s=1e8, icmp_idle_s=1e8, active_s=1e8)
    for path in runs:
        streams = [
            ("tcp", row["tcp.stream"]) if row["tcp.stream"] else ("udp", row["udp.stream"])
            for row in tshark(path)
            if row["tcp.srcport"] or row["udp.srcport"]
        ]
        table = FlowTable(first_packets=1, timeouts=never)
        numbers: list[int] = []
        for chunk in CaptureReader(path).chunks():
            update = table.update(chunk.packets, chunk.endpoints)
            with_ports = np.isin(chunk.packets["protocol"], [Protocol.TCP, Protocol.UDP])
            numbers += update.flow_number[with_ports].tolist()
        assert len(numbers) == len(streams)
        pairs = set(zip(numbers, streams, strict=True))
        flows, theirs = len({flow for flow, _ in pairs}), len({stream for _, stream in pairs})
        assert abs(flows - theirs) <= 0.01 * theirs
        assert len(pairs) <= 1.01 * max(flows, theirs)


def test_a_capture_by_tshark_itself_reads_the_same(runs: list[Path], tmp_path: Path) -> None:
    """Tshark rewrites a pcap as pcapng; both read the same."""
    copy = tmp_path / "copy.pcapng"
    subprocess.run(
        ["tshark", "-r", str(runs[0]), "-F", "pcapng", "-w", str(copy)],
        check=True, capture_output=True,
    )  # fmt: skip
    one, other = (
        np.concatenate([c.packets for c in CaptureReader(io.BytesIO(p.read_bytes())).chunks()])
        for p in (runs[0], copy)
    )
    assert np.array_equal(one, other)
