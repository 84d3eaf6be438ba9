"""The lab's captures: headers only, every flow labelled, and checks that find what is wrong."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from lab.capture import HEADER, KEEP_PACKETS, LabelRow, distil, write_labels
from lab.errors import LabError
from lab.pcapfile import ACK, FIN, SYN, Frame, PcapWriter, parse, read_frames
from lab.verify import verify

CLIENT, SERVER, OTHER = "10.0.0.9", "10.0.0.2", "10.0.0.3"
CLIENT6, SERVER6 = "fd00::9", "fd00::2"
LABELS = {SERVER: "http", SERVER6: "dns"}
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def v4(text: str) -> bytes:
    return bytes(int(part) for part in text.split("."))


def tcp(source: str, destination: str, ports: tuple[int, int], flags: int, sequence: int = 1,
        options: bytes = b"", payload: bytes = b"") -> bytes:  # fmt: skip
    words = (5 + len(options) // 4) << 4
    segment = struct.pack("!HHIIBBHHH", *ports, sequence, 0, words, flags, 100, 0, 0) + options
    total = 20 + len(segment) + len(payload)
    header = struct.pack("!BBHHHBBH", 0x45, 0, total, 0, 0, 64, 6, 0)
    header += v4(source) + v4(destination)
    return b"\x02" * 12 + b"\x08\x00" + header + segment + payload


def udp6(ports: tuple[int, int], payload: bytes = b"question", back: bool = False) -> bytes:
    one, two = bytes.fromhex("fd00" + "0" * 27 + "9"), bytes.fromhex("fd00" + "0" * 27 + "2")
    datagram = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    header = struct.pack("!IHBB", 6 << 28, len(datagram), 17, 64)
    header += two + one if back else one + two
    return b"\x02" * 12 + b"\x86\xdd" + header + datagram


def capture(path: Path, frames: list[tuple[int, bytes]]) -> Path:
    with PcapWriter(path) as writer:
        for moment, data in frames:
            writer.write(Frame(moment, data[:128], len(data)))
    return path


def test_frames_come_back_as_they_were_written(tmp_path: Path) -> None:
    frames = [Frame(START + 123, b"abc", 1500), Frame(START + SECOND - 1, b"", 60)]
    with PcapWriter(tmp_path / "x.pcap") as writer:
        for frame in frames:
            writer.write(frame)
    assert list(read_frames(tmp_path / "x.pcap")) == frames


def test_a_cut_off_frame_is_left_out(tmp_path: Path) -> None:
    path = capture(tmp_path / "x.pcap", [(START, b"abc"), (START, b"defg")])
    path.write_bytes(path.read_bytes()[:-1])
    assert [frame.data for frame in read_frames(path)] == [b"abc"]


def test_microseconds_and_the_other_byte_order_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    head = struct.pack(">IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 128, 1)
    path.write_bytes(head + struct.pack(">IIII", 7, 5, 2, 9) + b"hi")
    assert list(read_frames(path)) == [Frame(7 * SECOND + 5000, b"hi", 9)]


@pytest.mark.parametrize("content", [b"", b"x" * 24, struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0,
                                                                 0, 128, 113)])  # fmt: skip
def test_what_is_no_ethernet_capture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pcap").write_bytes(content)
    with pytest.raises(LabError, match=r"x\.pcap"):
        list(read_frames(tmp_path / "x.pcap"))


def test_a_tcp_header_ends_behind_its_options() -> None:
    segment = parse(tcp(CLIENT, SERVER, (4000, 80), SYN, 77, bytes(12), b"payload"))
    assert segment is not None
    assert (segment.version, segment.protocol, segment.sequence) == (4, 6, 77)
    assert (segment.source_port, segment.destination_port) == (4000, 80)
    assert (segment.tcp_flags, segment.header_end) == (SYN, 14 + 20 + 32)


def test_an_ipv6_datagram_is_parsed() -> None:
    segment = parse(udp6((5000, 53)))
    assert segment is not None
    assert (segment.version, segment.protocol, segment.header_end) == (6, 17, 14 + 40 + 8)


def test_arp_scraps_and_later_fragments_are_nothing() -> None:
    whole = tcp(CLIENT, SERVER, (1, 2), ACK)
    fragment = whole[:20] + b"\x00\x10" + whole[22:]
    for data in (b"", b"\x02" * 12 + b"\x08\x06" + bytes(46), whole[:40], fragment):
        assert parse(data) is None


def test_payloads_go_and_lengths_stay(tmp_path: Path) -> None:
    data = tcp(CLIENT, SERVER, (4000, 80), SYN | ACK, options=bytes(4), payload=b"secret" * 5)
    raw = capture(tmp_path / "raw", [(START, data), (START + 1, udp6((5000, 53)))])
    _, stats = distil(raw, tmp_path / "out.pcap", LABELS)
    kept = list(read_frames(tmp_path / "out.pcap"))
    assert [len(frame.data) for frame in kept] == [58, 62]
    assert [frame.wire_length for frame in kept] == [88, 70]
    assert b"secret" not in (tmp_path / "out.pcap").read_bytes()
    assert (stats.packets_seen, stats.packets_kept) == (2, 2)


def test_a_long_flow_is_thinned_to_its_head_and_its_end(tmp_path: Path) -> None:
    flags = [SYN] + [ACK] * (KEEP_PACKETS + 50) + [FIN | ACK]
    raw = capture(
        tmp_path / "raw",
        [(START + n, tcp(CLIENT, SERVER, (4000, 80), f)) for n, f in enumerate(flags)],
    )
    rows, stats = distil(raw, tmp_path / "out.pcap", LABELS)
    times = [frame.time_ns - START for frame in read_frames(tmp_path / "out.pcap")]
    assert times == [*range(KEEP_PACKETS), len(flags) - 1]
    assert len(rows) == 1
    assert stats.packets_seen == len(flags)


def test_a_row_names_the_side_that_began(tmp_path: Path) -> None:
    raw = capture(tmp_path / "raw", [
        (START + 5, udp6((53, 5000), back=True)),
        (START + 2, tcp(CLIENT, SERVER, (4000, 80), SYN)),
        (START + 3, tcp(SERVER, CLIENT, (80, 4000), SYN | ACK)),
    ])  # fmt: skip
    rows, stats = distil(raw, tmp_path / "out.pcap", LABELS)
    assert rows == [
        LabelRow("out.pcap", CLIENT, 4000, SERVER, 80, "TCP", "http", START + 2),
        LabelRow("out.pcap", SERVER6, 53, CLIENT6, 5000, "UDP", "dns", START + 5),
    ]
    assert stats.flows == {"http": 1, "dns": 1}


def test_flows_of_no_service_are_counted_and_left_out(tmp_path: Path) -> None:
    raw = capture(tmp_path / "raw", [(START, tcp(CLIENT, OTHER, (1, 2), SYN))])
    rows, stats = distil(raw, tmp_path / "out.pcap", LABELS)
    assert (rows, stats.unlabelled_flows) == ([], 1)
    assert list(read_frames(tmp_path / "out.pcap")) == []


@pytest.mark.parametrize(("sequence", "flows"), [(1, 1), (99, 2)])
def test_a_new_syn_is_a_new_flow_but_not_the_same_one_sent_again(
    tmp_path: Path, sequence: int, flows: int
) -> None:
    ports = (4000, 80)
    raw = capture(tmp_path / "raw", [
        (START, tcp(CLIENT, SERVER, ports, SYN, 1)),
        (START + SECOND, tcp(CLIENT, SERVER, ports, SYN, sequence)),
    ])  # fmt: skip
    assert len(distil(raw, tmp_path / "out.pcap", LABELS)[0]) == flows


@pytest.mark.parametrize(("pause", "flows"), [(59, 1), (61, 2)])
def test_a_minute_of_silence_ends_a_udp_flow(tmp_path: Path, pause: int, flows: int) -> None:
    raw = capture(
        tmp_path / "raw", [(START, udp6((5000, 53))), (START + pause * SECOND, udp6((5000, 53)))]
    )
    assert len(distil(raw, tmp_path / "out.pcap", LABELS)[0]) == flows


def made(folder: Path, classes: tuple[str, ...] = ("http",), flows: int = 4) -> Path:
    """A folder of captures such as the lab makes."""
    split = folder / "train"
    split.mkdir()
    servers = {f"10.0.0.{20 + n}": name for n, name in enumerate(classes)}
    frames = [
        (START + n * 1000 + k, tcp(CLIENT, server, (4000 + n, 80), SYN))
        for k, server in enumerate(servers)
        for n in range(flows)
    ]
    raw = capture(folder / "raw", sorted(frames))
    rows, _ = distil(raw, split / "run-01.pcap", servers)
    write_labels(split / "labels.csv", rows)
    return split


def spread(count: int) -> tuple[str, ...]:
    return tuple(f"class{n}" for n in range(count))


def test_labels_have_the_agreed_form(tmp_path: Path) -> None:
    lines = (made(tmp_path) / "labels.csv").read_text().splitlines()
    assert lines[0] == "pcap,src_ip,src_port,dst_ip,dst_port,proto,label,start_time"
    assert lines[0] == ",".join(HEADER)
    assert lines[1] == f"run-01.pcap,{CLIENT},4000,10.0.0.20,80,TCP,http,1700000000.000000000"


def test_good_captures_pass(tmp_path: Path) -> None:
    made(tmp_path, spread(6))
    assert verify(tmp_path, spread(6)) == []


def test_a_missing_class_and_a_lopsided_split_are_found(tmp_path: Path) -> None:
    made(tmp_path, spread(6))
    problems = verify(tmp_path, [*spread(6), "ssh"])
    assert problems == [
        "train/run-01.pcap: only 0 flows of ssh",
        "train: ssh has 0.0% of the flows",
    ]


def test_labels_and_packets_that_do_not_fit_are_found(tmp_path: Path) -> None:
    path = made(tmp_path, spread(6)) / "labels.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace(",4000,", ",4999,")
    path.write_text("\n".join(lines) + "\n")
    assert verify(tmp_path, spread(6)) == [
        "train/run-01.pcap: 1 labels without a first packet",
        "train/run-01.pcap: 1 packets without a label",
    ]


def test_long_and_disordered_packets_are_found(tmp_path: Path) -> None:
    path = made(tmp_path, spread(6)) / "run-01.pcap"
    frames = list(read_frames(path))
    with PcapWriter(path) as writer:
        for frame in [*frames[1:], frames[0]]:
            writer.write(Frame(frame.time_ns, frame.data + bytes(90), 300))
    assert verify(tmp_path, spread(6)) == [
        "train/run-01.pcap: 24 packets of more than 128 captured bytes",
        "train/run-01.pcap: 1 packets out of time order",
    ]


def test_an_empty_folder_is_found(tmp_path: Path) -> None:
    assert verify(tmp_path, ["http"]) == ["there are no labelled flows"]
