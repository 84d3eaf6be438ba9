"""Header bits, against nPrint's rules in plain Python."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

import frames as f
from flows.capture import CaptureReader
from flows.packet import PACKET_DTYPE, packet_dtype
from models.bits import PACKET_BITS, bit_names, packet_bits
from models.dataset import load_dataset
from models.features import Sight
from models.inputs import columns_of, needs_header, see

OPTIONS = bytes([2, 4, 5, 0xB4, 4, 2, 8, 10, *range(200, 208), 1, 3, 3, 7])
HOP = bytes([6, 0]) + bytes(6)
NAMES = bit_names(1)
MASKED = {"cksum", "src", "dst", "sprt", "dprt", "sport", "dport"}


def read(*frames: bytes, link: int = 101, snaplen: int | None = None) -> np.ndarray:
    source = io.BytesIO(f.pcap(frames, link=link, snaplen=snaplen))
    return np.concatenate([c.packets for c in CaptureReader(source, with_header=True).chunks()])


def bits(packets: np.ndarray, depth: int = 1) -> np.ndarray:
    """Return the bits of each packet as a flow of its own."""
    return packet_bits(packets, np.arange(len(packets) + 1), depth, sight=Sight())


def plain(ip: bytes, transport_at: int, protocol: int, captured: int) -> list[int]:
    """Return a packet's bits as nPrint would, but for what is masked."""
    cut = ip[:captured] + bytes(len(ip) - captured)
    parts = [b"", b"", b""]
    if ip[0] >> 4 == 4:
        parts[0] = cut[:transport_at]
    if protocol == 6:
        parts[1] = cut[transport_at : transport_at + (ip[transport_at + 12] >> 4) * 4]
    if protocol == 17:
        parts[2] = cut[transport_at : transport_at + 8]
    out = []
    for part, size in zip(parts, (60, 60, 8), strict=True):
        text = "".join(f"{byte:08b}" for byte in part)
        out += [int(bit) for bit in text] + [-1] * (8 * (size - len(part)))
    return [-1 if name.split("_")[1] in MASKED else b for name, b in zip(NAMES, out, strict=True)]


@pytest.mark.parametrize(
    ("packet", "transport_at", "protocol"),
    [
        (f.ipv4(f.tcp(options=OPTIONS, payload=b"abc"), tos=0x2E, ttl=57), 20, 6),
        (f.ipv4(f.tcp(), options=bytes([148, 4, 0, 0])), 24, 6),
        (f.ipv4(f.udp(payload=b"abc"), 17, fragment=0x4000), 20, 17),
        (f.ipv4(f.icmp(), 1), 20, 1),
        (f.ipv6(f.tcp(options=OPTIONS)), 40, 6),
        (f.ipv6(HOP + f.tcp(), 0), 48, 6),
        (f.ipv6(f.udp(payload=b"abc"), 17), 40, 17),
        (f.ipv6(f.icmp(128), 58), 40, 58),
    ],
)
def test_a_packet_s_bits_are_nprint_s(packet: bytes, transport_at: int, protocol: int) -> None:
    want = plain(packet, transport_at, protocol, len(packet))
    assert bits(read(packet)).tolist() == [want]
    tagged = f.ethernet(packet, 0x0800 if packet[0] >> 4 == 4 else 0x86DD, tags=[0x8100])
    assert bits(read(tagged, link=1)).tolist() == [want]


def test_what_was_not_captured_is_0_as_if_it_had_been_sent_so() -> None:
    packet = f.ipv4(f.tcp(options=OPTIONS))
    for captured in (40, 44, 46, 56):  # between options
        want = plain(packet, 20, 6, captured)
        assert bits(read(packet, snaplen=captured)).tolist() == [want]


def test_bits_have_names() -> None:
    packet = f.ipv4(f.tcp(seq=5, options=OPTIONS), ttl=57, tos=0x81)
    value = dict(zip(NAMES, bits(read(packet))[0].tolist(), strict=True))
    assert [value[f"ipv4_ttl_{i}_p1"] for i in range(8)] == [0, 0, 1, 1, 1, 0, 0, 1]
    assert [value[f"ipv4_tos_{i}_p1"] for i in (0, 7)] == [1, 1]
    assert (value["tcp_syn_0_p1"], value["tcp_ackf_0_p1"], value["tcp_seq_31_p1"]) == (1, 0, 1)
    assert [value[f"tcp_opt_{i}_p1"] for i in range(8)] == [0, 0, 0, 0, 0, 0, 1, 0]
    assert value["ipv4_opt_0_p1"] == value["udp_len_0_p1"] == -1
    names = bit_names(3)
    assert len(set(names)) == len(names) == 3 * PACKET_BITS == columns_of("bits", 3, Sight())
    assert names[PACKET_BITS].endswith("_p2")
    assert "tcp_opt_17_p2" in names


def test_no_record_whatever_it_holds_shows_a_masked_bit() -> None:
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (400, packet_dtype(True).itemsize), np.uint8)
    packets = raw.view(packet_dtype(True)).reshape(-1)
    packets["ip_version"], packets["protocol"] = rng.choice([4, 6], 400), rng.choice([6, 17], 400)
    found = bits(packets)
    assert set(np.unique(found)) == {-1, 0, 1}
    masked = np.array([name.split("_")[1] in MASKED for name in NAMES])
    assert (found[:, masked] == -1).all()
    assert (found[:, ~masked] != -1).any(axis=0).all()


def test_flows_are_laid_out_packet_by_packet() -> None:
    sent = [f.ipv4(f.udp(payload=bytes(k)), 17) for k in range(6)]
    packets = read(*sent)
    offsets = np.array([0, 1, 1, 6])
    one = bits(packets)
    found = packet_bits(packets, offsets, 3, sight=Sight())
    assert found.shape == (3, 3 * PACKET_BITS)
    assert found.dtype == np.float32
    assert (found[0] == np.r_[one[0], np.full(2 * PACKET_BITS, -1)]).all()
    assert (found[1] == -1).all()
    assert (found[2] == one[1:4].ravel()).all()
    rows = np.array([2, 0])
    assert (see("bits", packets, offsets, 3, Sight(), rows) == found[rows]).all()
    frozen = packets.copy()
    frozen.flags.writeable = False
    assert (packet_bits(frozen, offsets, 3, Sight()) == found).all()


@pytest.mark.parametrize("sight", [Sight(port=True), Sight(host=True)])
def test_bits_show_neither_port_nor_host(sight: Sight) -> None:
    with pytest.raises(ValueError, match="neither the port nor the host"):
        packet_bits(np.zeros(1, packet_dtype(True)), np.array([0, 1]), 1, sight=sight)


def test_bits_need_headers() -> None:
    assert [needs_header(form) for form in ("columns", "sequence", "bits")] == [False, False, True]
    with pytest.raises(ValueError, match="with_header"):
        packet_bits(np.zeros(1, PACKET_DTYPE), np.array([0, 1]), 1, sight=Sight())


def test_a_dataset_has_headers_if_asked_to(test_runs: Path) -> None:
    capture, labels = sorted(test_runs.glob("*.pcap"))[0], test_runs / "labels.csv"
    narrow = load_dataset(capture, labels, depth=2)
    wide = load_dataset(capture, labels, depth=2, with_header=True)
    assert narrow.packets.dtype == PACKET_DTYPE
    assert (wide.packets[list(PACKET_DTYPE.names)].astype(PACKET_DTYPE) == narrow.packets).all()
    assert wide.digest != narrow.digest
    assert (wide.offsets == narrow.offsets).all()
    sizes = wide.packets["header"][:, 2].astype(int) << 8 | wide.packets["header"][:, 3]
    assert (sizes == wide.packets["ip_bytes"])[wide.packets["ip_version"] == 4].all()
