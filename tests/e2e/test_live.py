"""A live interface: real packets on virtual cables, in namespaces made for each test (root)."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.veth import Namespace
from collectors.file_sources import FileSource, StreamSource
from collectors.open_source import SourceSettings, open_source
from collectors.ring_settings import RingSettings
from collectors.ring_source import RingSource
from flows.capture import CaptureReader
from flows.errors import CaptureError, SettingsError
from flows.packet import Records
from flows.table import FlowTable
from frames import ACK, FIN, RST, SYN, ethernet, icmp, ipv4, ipv6, pcap, tcp, udp
from namespaces import namespace, packets_of, send_frames, veth

__all__ = ["namespace", "veth"]

# What a wire may carry: everything that makes a flow, much that makes none, tags of all kinds.
FRAMES = [
    ethernet(ipv4(tcp(options=b"\x02\x04\x05\xb4\x01\x03\x03\x07"))),
    ethernet(ipv4(tcp(flags=SYN | ACK, payload=b"x" * 1_400))),
    ethernet(ipv4(udp(payload=b"y" * 8_000), 17)),  # far over what is looked at
    ethernet(ipv6(tcp()), 0x86DD),
    ethernet(ipv6(udp(), 17), 0x86DD),
    ethernet(ipv4(icmp(), 1)),
    ethernet(ipv4(tcp()), tags=[0x8100]),
    ethernet(ipv4(tcp(flags=FIN)), tags=[0x88A8, 0x8100]),
    ethernet(ipv6(tcp(flags=RST)), 0x86DD, tags=[0x8100, 0x8100, 0x8100]),
    ethernet(ipv4(tcp()), tags=[0x8100] * 9),  # more than any network uses
    ethernet(b"\xaa\xaa\x03\0\0\0\x08\0" + ipv4(udp(), 17), 54),  # IEEE 802.3 with SNAP
    ethernet(b"\0\x28\xaa\xaa\x03\0\0\0\x08\0" + ipv4(udp(), 17), 0x8100)[:14] + b"\0\x2a\0\x36"
    + b"\xaa\xaa\x03\0\0\0\x08\0" + ipv4(udp(), 17),  # the same, tagged
    ethernet(bytes(46), 0x0806),
    ethernet(ipv4(udp(), 17, fragment=0x2000)),
    ethernet(ipv4(b"z" * 40, 17, fragment=185)),
    ethernet(ipv4(b"\0" * 30, 47)),
    ethernet(b"\x45" + bytes(30)),
    ethernet(ipv4(tcp())[:30]),
    ethernet(b"", 0x0800),
]  # fmt: skip


def live_on(where: Namespace, interface: str = "sf1", **settings: Any) -> RingSource:
    with where.entered():
        return RingSource(RingSettings(interface, **{"ring_bytes": 8 << 20, **settings}))


@contextmanager
def closing(source: RingSource) -> Iterator[RingSource]:
    try:
        yield source
    finally:
        source.close()


def without_time(packets: Records) -> Records:
    packets = packets.copy()
    packets["time_ns"] = 0
    return packets


def test_a_live_interface_gives_what_a_file_gives(veth: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "same.pcap"
    path.write_bytes(pcap(FRAMES))
    with closing(live_on(veth, with_header=True)) as source:
        began_ns = time.time_ns()
        send_frames(veth, FRAMES)
        live = packets_of(source, len(FRAMES))
        seen = source.counters
    file = FileSource([path], with_header=True)
    packets = packets_of(file)
    assert np.array_equal(without_time(live), without_time(packets))
    assert (seen.frames, seen.malformed) == (file.counters.frames, file.counters.malformed)
    assert seen.skipped == file.counters.skipped
    assert seen.ring_packets == len(FRAMES)
    assert (seen.kernel_drops, seen.broken_entries) == (0, 0)
    times_ns = live["time_ns"]
    assert (np.diff(times_ns) >= 0).all()
    assert began_ns <= times_ns[0] <= times_ns[-1] <= time.time_ns()


def test_the_same_packets_are_the_same_live_and_from_a_file(
    veth: Namespace, test_runs: Path, tmp_path: Path
) -> None:
    """To the nanosecond: a collector and tcpdump watch the same wire."""
    path = tmp_path / "written.pcap"
    frames = frames_of(sorted(test_runs.glob("*.pcap"))[0])
    with path.open("wb") as file, tcpdump_on(veth, file), closing(live_on(veth)) as source:
        send_frames(veth, frames)
        live = packets_of(source, len(frames))
        until_s = time.monotonic() + 20.0
        while time.monotonic() < until_s and len(frames_of(path)) < len(frames):
            time.sleep(0.1)
    packets = packets_of(FileSource([path]))
    assert len(live) > 10_000
    assert np.array_equal(live, packets)


@contextmanager
def tcpdump_on(where: Namespace, file: Any) -> Iterator[Any]:
    """Capture on ``sf1`` into a file or pipe; yield its standard output."""
    tcpdump = subprocess.Popen(
        where.inside(["tcpdump", "-U", "-i", "sf1", "-w", "-", "--immediate-mode",
                      "--time-stamp-precision=nano", "-s", "512", "-B", "32768"]),
        stdout=file, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert tcpdump.stderr is not None
    while b"listening" not in tcpdump.stderr.readline():
        pass
    yield tcpdump.stdout
    tcpdump.terminate()
    tcpdump.communicate()


def test_a_whole_run_gives_the_same_flows(veth: Namespace, test_runs: Path) -> None:
    (path, *_) = sorted(test_runs.glob("*.pcap"))
    with closing(live_on(veth)) as source:
        live, live_ends = both_of(source, send_frames(veth, frames_of(path)))
    packets, endpoints = (np.concatenate(part) for part in zip(*_chunks(path), strict=True))
    assert np.array_equal(live_ends, endpoints)
    live["time_ns"] = packets["time_ns"]  # flows end by time
    numbers = [
        FlowTable(first_packets=10).update(p, e).flow_number
        for p, e in ((live, live_ends), (packets, endpoints))
    ]
    assert np.array_equal(*numbers)
    assert np.array_equal(live, packets)


def both_of(source: RingSource, frames: int) -> tuple[Records, Records]:
    """Return packets and endpoints, until so many frames have been seen."""
    found, ends = [], []
    until_s = time.monotonic() + 20.0
    while source.counters.frames < frames and time.monotonic() < until_s:
        decoded = source.read(0.1)
        assert decoded is not None
        found.append(decoded.packets)
        ends.append(decoded.endpoints)
    return np.concatenate(found), np.concatenate(ends)


def frames_of(path: Path) -> list[bytes]:
    data, at, frames = path.read_bytes(), 24, []
    while at + 16 <= len(data):
        held = struct.unpack_from("<I", data, at + 8)[0]
        if at + 16 + held > len(data):
            break
        frames.append(data[at + 16 : at + 16 + held])
        at += 16 + held
    return frames


def _chunks(path: Path) -> list[tuple[Records, Records]]:
    return [(c.packets, c.endpoints) for c in CaptureReader(path).chunks()]


def test_a_filter_lets_pass_what_it_says_tags_or_not(veth: Namespace) -> None:
    with closing(live_on(veth, bpf="udp port 53 or vlan 42")) as source:
        send_frames(veth, FRAMES)
        send_frames(veth, [ethernet(ipv4(udp(dst_port=99), 17))])
        live = packets_of(source, source.counters.ring_packets)
        assert set(live["protocol"].tolist()) == {6, 17}
        tagged = sum(frame[12:14] in (b"\x81\0", b"\x88\xa8") for frame in FRAMES)
        untagged = 4  # among them the first fragment
        assert source.counters.ring_packets == tagged + untagged - 1


def test_a_quiet_wire_moves_the_clock_on(veth: Namespace) -> None:
    with closing(live_on(veth)) as source:
        before_ns = source.quiet_until_ns()
        for _ in range(3):
            decoded = source.read(0.05)
            assert decoded is not None
            assert not len(decoded.packets)
        quiet_ns = source.quiet_until_ns()
        assert before_ns < quiet_ns <= time.time_ns()
        send_frames(veth, FRAMES[:1])
        assert packets_of(source, 1)["time_ns"][0] > quiet_ns


def test_reading_never_says_quiet_while_a_packet_waits(veth: Namespace) -> None:
    """Packets that are in the ring, and not handed out yet, hold the clock back."""
    with closing(live_on(veth)) as source:
        stop = threading.Event()

        def chatter() -> None:
            while not stop.is_set():
                send_frames(veth, FRAMES[:2])
                time.sleep(0.001)

        thread = threading.Thread(target=chatter)
        thread.start()
        try:
            until_s = time.monotonic() + 2.0
            quiet_ns = 0
            while time.monotonic() < until_s:
                decoded = source.read(0.0)
                assert decoded is not None
                assert (decoded.packets["time_ns"] > quiet_ns).all()
                quiet_ns = source.quiet_until_ns()
        finally:
            stop.set()
            thread.join()


def test_loopback_packets_are_seen_once(namespace: Namespace) -> None:
    with closing(live_on(namespace, "lo")) as source, namespace.entered():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for size in (10, 60_000):  # the second as one frame, far over what is looked at
                sender.sendto(bytes(size), ("127.0.0.1", 9_999))
        live = packets_of(source, 2)
    udp_packets = live[live["protocol"] == 17]
    assert udp_packets["ip_bytes"].tolist() == [38, 60_028]


@pytest.mark.parametrize("libpcap", [True, False])
def test_the_way_to_the_service_is_not_seen(
    namespace: Namespace, libpcap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not libpcap:
        monkeypatch.setattr("collectors.bpf._LIBRARIES", ())
    with namespace.entered():
        servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    service, other = (server.getsockname()[1] for server in servers)
    with closing(live_on(namespace, "lo", exclude=[("127.0.0.1", service)])) as source:
        with namespace.entered():
            for port in (service, other):
                with socket.create_connection(("127.0.0.1", port)) as client:
                    client.sendall(b"x" * 1_000)
        time.sleep(0.2)
        live = packets_of(source, 3)
        hidden = source.counters.skipped.get("own_traffic", 0)
    for server in servers:
        server.close()
    assert len(live) >= 3
    assert set(live["payload_bytes"].tolist()) == {0, 1_000}
    assert (live["payload_bytes"] == 1_000).sum() == 1
    assert (hidden == 0) == libpcap


@contextmanager
def tunnel(where: Namespace, kind: int | None = None) -> Iterator[int]:
    """An interface ``sftun`` whose other end is a file; ``kind`` is an ARPHRD value."""
    with where.entered(), Path("/dev/net/tun").open("r+b", buffering=0) as end:
        fcntl.ioctl(end, 0x400454CA, struct.pack("16sH22x", b"sftun", 0x1001))  # TUN, no header
        if kind is not None:
            fcntl.ioctl(end, 0x400454CD, kind)  # TUNSETLINK
        where.sysctl("net.ipv6.conf.sftun.disable_ipv6=1")
        where.ip("link", "set", "sftun", "up")
        yield end.fileno()


def test_raw_ip_of_a_tunnel_is_read(namespace: Namespace) -> None:
    with (
        tunnel(namespace) as end,
        closing(live_on(namespace, "sftun", bpf="tcp or udp")) as source,
    ):
        for packet in (ipv4(tcp()), ipv4(icmp(), 1), ipv6(udp(), 17)):
            os.write(end, packet)
        live = packets_of(source, 2)
    assert live["protocol"].tolist() == [6, 17]
    assert live["ip_version"].tolist() == [4, 6]


def test_interfaces_of_a_kind_not_known_are_refused(namespace: Namespace) -> None:
    with tunnel(namespace, kind=512), pytest.raises(CaptureError, match="ARPHRD 512"):
        live_on(namespace, "sftun", wait_for_interface=True)


def test_a_ring_that_nobody_empties_counts_what_it_loses(veth: Namespace) -> None:
    frame = ethernet(ipv4(udp(payload=b"x" * 400), 17))
    with closing(live_on(veth, ring_bytes=1 << 18)) as source:
        sent = send_frames(veth, [frame] * 5_000)
        time.sleep(0.1)
        live = packets_of(source, frames=1)
        counters = source.counters
        assert counters.kernel_drops > 0
        assert counters.ring_packets + counters.kernel_drops == sent
        assert len(live) == counters.frames == counters.ring_packets
        # It goes on afterwards, without a further loss.
        send_frames(veth, FRAMES)
        packets_of(source, counters.frames + len(FRAMES))
        assert source.counters.kernel_drops == counters.kernel_drops


def test_an_interface_that_is_removed_is_an_error_after_its_last_packets(veth: Namespace) -> None:
    with closing(live_on(veth)) as source:
        send_frames(veth, FRAMES)
        veth.ip("link", "del", "sf0")
        seen: list[Records] = []
        with veth.entered(), pytest.raises(CaptureError, match=r"sf1: there is no such interface"):
            read_on(source, seen)
        assert source.counters.frames == len(FRAMES)
        assert sum(map(len, seen)) == len(FRAMES) - sum(source.counters.skipped.values())


def read_on(source: RingSource, seen: list[Records]) -> None:
    for _ in range(100):
        decoded = source.read(0.1)
        assert decoded is not None
        seen.append(decoded.packets)


def test_an_interface_that_goes_down_is_an_error_that_says_so(veth: Namespace) -> None:
    with closing(live_on(veth)) as source:
        veth.ip("link", "set", "sf1", "down")
        with veth.entered(), pytest.raises(CaptureError, match="ip link set sf1 up"):
            read_on(source, [])
    with pytest.raises(CaptureError, match="it is down"):
        live_on(veth)


def test_an_interface_can_be_waited_for(veth: Namespace) -> None:
    with closing(live_on(veth, wait_for_interface=True)) as source, veth.entered():
        send_frames(veth, FRAMES)
        packets_of(source, len(FRAMES))
        veth.ip("link", "set", "sf1", "down")
        before_ns = source.quiet_until_ns()
        for _ in range(3):
            assert source.read(0.1) is not None
        assert source.quiet_until_ns() > before_ns
        veth.ip("link", "set", "sf1", "up")
        source.read(0.1)
        time.sleep(0.2)
        send_frames(veth, FRAMES)
        packets_of(source, 2 * len(FRAMES))
        veth.ip("link", "del", "sf0")
        for _ in range(5):
            assert source.read(0.1) is not None
        veth.add_veth()
        until_s = time.monotonic() + 10.0
        while time.monotonic() < until_s and source._ring is None:
            source.read(0.1)
        send_frames(veth, FRAMES)
        packets_of(source, 3 * len(FRAMES))
        assert source.counters.frames == source.counters.ring_packets == 3 * len(FRAMES)
    with closing(live_on(veth, "sf7", wait_for_interface=True)) as source:
        assert source.read(0.01) is not None


CHILD = """
import json, sys, time
from collectors.ring_settings import RingSettings
from collectors.ring_source import RingSource
source = RingSource(RingSettings("sf1", fanout=4711, ring_bytes=16 << 20))
print("ready", flush=True)
flows, last_s = {}, time.monotonic()
while time.monotonic() - last_s < 3.0:
    decoded = source.read(0.1)
    if len(decoded.packets):
        last_s = time.monotonic()
    for e in decoded.endpoints.tolist():
        one, other = (e[0], e[1], e[4]), (e[2], e[3], e[5])
        key = str((min(one, other), max(one, other), e[7]))
        way = "there" if one <= other else "back"
        flows.setdefault(key, {}).setdefault(way, 0)
        flows[key][way] += 1
drops = source.counters.kernel_drops
print(json.dumps({"flows": flows, "drops": drops}))
"""


def test_processes_share_flows_and_never_a_flow(veth: Namespace, test_runs: Path) -> None:
    (path, *_) = sorted(test_runs.glob("*.pcap"))
    children = [
        subprocess.Popen(
            veth.inside([sys.executable, "-c", CHILD]), stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told: list[dict[str, Any]] = []
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    send_frames(veth, frames_of(path))
    for child in children:
        out, _ = child.communicate(timeout=60)
        told.append(json.loads(out))
    one, other = (set(part["flows"]) for part in told)
    assert not one & other
    ends = np.concatenate([ends for _, ends in _chunks(path)])
    packets = sum(sum(way.values()) for part in told for way in part["flows"].values())
    assert packets == len(ends)
    assert [part["drops"] for part in told] == [0, 0]
    assert min(len(one), len(other)) > (len(one) + len(other)) // 4
    both_ways = sum(len(way) == 2 for part in told for way in part["flows"].values())
    assert both_ways > 100


def test_fragments_stay_with_their_flow(veth: Namespace) -> None:
    """Of a fragment the kernel cannot see the ports; it puts datagrams together first."""
    frames = []
    for port in range(1_000, 1_100):
        whole = udp(port, 53, payload=bytes(64))
        frames.append(ethernet(ipv4(whole, 17)))
        for fragment, part in ((0x2000, whole[:40]), (5, whole[40:])):
            frames.append(ethernet(_with_id(ipv4(part, 17, fragment=fragment), port)))
    sources = [live_on(veth, fanout=12) for _ in range(2)]
    send_frames(veth, frames)
    time.sleep(0.1)
    ports = []
    for source in sources:
        packets, ends = both_of(source, source.counters.ring_packets)
        assert set(packets["ip_bytes"].tolist()) == {92}  # whole ones
        ports.append(np.unique(ends["src_port"], return_counts=True))
        source.close()
    (one, counts), (other, more) = ports
    assert not set(one.tolist()) & set(other.tolist())
    assert len(one) + len(other) == 100
    assert {*counts.tolist(), *more.tolist()} == {2}
    assert min(len(one), len(other)) > 20


def _with_id(packet: bytes, number: int) -> bytes:
    """Set an IPv4 packet's identification, by which fragments are put together."""
    return packet[:4] + struct.pack(">H", number) + packet[6:]


def test_a_group_that_is_another_interfaces_is_refused(veth: Namespace) -> None:
    told = "fanout: group 9 cannot be joined"
    with closing(live_on(veth, "sf0", fanout=9)), pytest.raises(SettingsError, match=told):
        live_on(veth, "sf1", fanout=9)


RIGHTS = """
from collectors.open_source import SourceSettings, open_source
from flows.errors import CaptureError
try:
    source = open_source(SourceSettings(interface="sf1", bpf="tcp", ring_bytes=1 << 20, fanout=1))
    source.read(0.01)
    source.close()
    print("captured")
except CaptureError as error:
    print(error)
"""


@pytest.mark.parametrize(("rights", "told"), [("+net_raw", "captured"), ("", "setcap cap_net_raw")])
def test_one_right_is_enough_and_its_lack_is_told(veth: Namespace, rights: str, told: str) -> None:
    sets = f"-all,{rights}".rstrip(",")
    command = [
        "setpriv", "--bounding-set", sets, "--inh-caps", sets, sys.executable, "-c", RIGHTS
    ]  # fmt: skip
    done = subprocess.run(veth.inside(command), capture_output=True, text=True, check=False)
    assert told in done.stdout, done.stderr


def test_a_pipe_from_tcpdump_is_a_source(veth: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "same.pcap"
    path.write_bytes(pcap(FRAMES))
    with tcpdump_on(veth, subprocess.PIPE) as pipe:
        source = StreamSource(pipe.fileno(), live=True)
        send_frames(veth, FRAMES)
        live = packets_of(source, len(FRAMES))
    assert np.array_equal(without_time(live), without_time(packets_of(FileSource([path]))))
    assert source.counters.captures == 1


def test_tshark_captures_from_an_interface_too(veth: Namespace) -> None:
    for wanted, least in (("", 10), ("tcp and not vlan", 3)):
        with veth.entered():
            source = open_source(
                SourceSettings(interface="sf1", display_filter=wanted, tshark=True)
            )
            source.read(0.0)
        until_s = time.monotonic() + 30.0
        found = 0
        # tshark does not tell when it has begun.
        while found < least and time.monotonic() < until_s:
            send_frames(veth, FRAMES)
            decoded = source.read(0.5)
            assert decoded is not None
            found += len(decoded.packets)
        assert found >= least
        assert source.quiet_until_ns() < time.time_ns()
        source.close()
