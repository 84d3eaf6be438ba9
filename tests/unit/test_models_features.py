"""Models see header fields of the first packets, and nothing that tells who sent them."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest

from flows.packet import PACKET_DTYPE, Protocol, TcpFlags, TcpOptions
from models.features import (
    FEATURE_SCHEMA,
    SEQUENCE_CHANNELS,
    Sight,
    feature_names,
    flow_features,
    packet_sequence,
)
from models.synthetic import synthetic_dataset

EVERYTHING = Sight(port=True, host=True)


def three_packets() -> np.ndarray:
    packets = np.zeros(3, PACKET_DTYPE)
    packets["packet_index"] = [0, 1, 2]
    packets["time_ns"] = [1_000_000_000, 1_000_010_000, 1_001_010_000]
    packets["from_originator"] = [1, 0, 1]
    packets["ip_version"] = 4
    packets["ip_header_bytes"] = 20
    packets["protocol"] = Protocol.TCP
    packets["ip_bytes"] = [60, 56, 140]
    packets["payload_bytes"] = [0, 0, 100]
    packets["ttl"] = [64, 57, 64]
    packets["tcp_flags"] = [TcpFlags.SYN, TcpFlags.SYN | TcpFlags.ACK, TcpFlags.PSH | TcpFlags.ACK]
    packets["tcp_window"] = [64_240, 28_960, 502]
    packets["tcp_mss"] = [1_460, 1_400, 0]
    packets["tcp_window_scale"] = [8, 0, 0]
    packets["tcp_options"] = [TcpOptions.MSS | TcpOptions.TIMESTAMPS, TcpOptions.MSS, 0]
    packets["tcp_header_bytes"] = [40, 36, 20]
    packets["originator_port"] = 50_000
    packets["responder_port"] = 443
    return packets


def named(packets: np.ndarray, depth: int, with_port: bool = False) -> dict[str, float]:
    offsets = np.array([0, len(packets)])
    row = flow_features(packets, offsets, depth, sight=Sight(port=with_port))[0]
    return dict(zip(feature_names(depth, Sight(port=with_port)), row.tolist(), strict=True))


@pytest.mark.parametrize("depth", [1, 2, 10, 64])
@pytest.mark.parametrize("with_port", [False, True])
def test_there_is_a_name_for_each_column(depth: int, with_port: bool) -> None:
    names = feature_names(depth, Sight(port=with_port))
    data = synthetic_dataset(20)
    found = flow_features(data.packets, data.offsets, depth, sight=Sight(port=with_port))
    assert found.shape == (20, len(names))
    assert found.dtype == np.float32
    assert len(set(names)) == len(names)
    assert np.isfinite(found).all()


def test_the_order_of_columns_is_the_schemas() -> None:
    """A bundle's trees know columns by their place: another order needs another version."""
    digests = {
        depth: sha256("\n".join(feature_names(depth, EVERYTHING)).encode()).hexdigest()[:12]
        for depth in (1, 10)
    }
    assert FEATURE_SCHEMA == 2
    assert digests == {1: "a9396c8be3bb", 10: "f28125abf6ac"}
    first = feature_names(1, Sight())
    assert feature_names(10, Sight())[: len(first)] == first, "packet 1 comes first at any depth"


def test_packet_1_is_described_by_its_headers() -> None:
    found = named(three_packets(), 1)
    assert found["protocol"] == 6
    assert found["ip_bytes"] == 60
    assert found["ttl"] == 64
    assert found["tcp_flags"] == TcpFlags.SYN
    assert found["tcp_window"] == 64_240
    assert found["tcp_mss"] == 1_460
    assert found["tcp_window_scale"] == 8
    assert found["tcp_timestamps"] == 1
    assert found["tcp_sack_permitted"] == 0
    assert found["icmp_type"] == -1


def test_later_packets_carry_their_direction_as_a_sign() -> None:
    found = named(three_packets(), 3)
    assert found["signed_ip_bytes_2"] == -56
    assert found["signed_ip_bytes_3"] == 140
    assert found["signed_payload_bytes_3"] == 100
    assert found["log_gap_us_2"] == pytest.approx(np.log1p(10.0))
    assert found["log_gap_us_3"] == pytest.approx(np.log1p(1_000.0))
    assert found["tcp_window_2"] == 28_960


def test_the_summary_counts_both_directions() -> None:
    found = named(three_packets(), 10)
    assert found["packets"] == 3
    assert found["packets_from_originator"] == 2
    assert found["packets_from_responder"] == 1
    assert found["bytes_from_originator"] == 200
    assert found["bytes_from_responder"] == 56
    assert found["payload_from_originator"] == 100
    assert found["min_ip_bytes"] == 56
    assert found["max_ip_bytes"] == 140
    assert found["mean_ip_bytes"] == pytest.approx(256 / 3)
    assert found["direction_changes"] == 2
    assert found["log_duration_us"] == pytest.approx(np.log1p(1_010.0))
    assert found["log_max_gap_us"] == pytest.approx(np.log1p(1_000.0))
    assert found["responder_ttl"] == 57
    assert found["responder_tcp_mss"] == 1_400


def test_packets_that_are_not_there_read_as_missing() -> None:
    found = named(three_packets()[:1], 2)
    assert found["signed_ip_bytes_2"] == 0
    assert found["log_gap_us_2"] == -1
    assert found["tcp_flags_2"] == -1
    assert found["responder_ttl"] == -1


def test_fields_of_another_protocol_read_as_missing() -> None:
    packets = np.zeros(1, PACKET_DTYPE)
    packets["protocol"] = Protocol.ICMP
    packets["icmp_type"] = 8
    found = named(packets, 1)
    assert found["icmp_type"] == 8
    assert found["tcp_window"] == found["tcp_flags"] == -1


def test_a_flow_without_packets_reads_as_missing() -> None:
    found = flow_features(np.zeros(0, PACKET_DTYPE), np.array([0, 0]), 2, sight=Sight(port=True))
    assert (found == -1).all()


def test_packets_behind_the_depth_are_not_looked_at() -> None:
    packets = three_packets()
    changed = packets.copy()
    changed[2] = np.zeros(1, PACKET_DTYPE)[0]
    assert named(packets, 2) == named(changed, 2)
    assert named(packets, 2) == named(packets[:2], 2)


def test_the_responders_port_is_seen_only_if_asked_for() -> None:
    packets = three_packets()
    other = packets.copy()
    other["responder_port"] = 80
    assert named(packets, 10) == named(other, 10)
    assert named(packets, 10, with_port=True)["responder_port"] == 443
    for with_port in (False, True):
        same = np.array_equal(*(sequence(p, with_port) for p in (packets, other)))
        assert same != with_port


def test_ids_times_of_day_and_the_originators_port_are_never_seen() -> None:
    packets = three_packets()
    other = packets.copy()
    other["originator_port"] = 1
    other["flow_id"] = 99
    other["time_ns"] += 86_400_000_000_000
    assert named(packets, 10, with_port=True) == named(other, 10, with_port=True)
    np.testing.assert_array_equal(sequence(packets, True), sequence(other, True))


def test_rows_pick_flows() -> None:
    data = synthetic_dataset(30)
    rows = np.array([7, 3, 3, 29])
    for see in (flow_features, packet_sequence):
        whole = see(data.packets, data.offsets, 10, sight=Sight(port=True))
        picked = see(data.packets, data.offsets, 10, sight=Sight(port=True), rows=rows)
        np.testing.assert_array_equal(picked, whole[rows])


def test_inputs_may_be_read_only_and_are_not_changed() -> None:
    data = synthetic_dataset(10)
    before = data.packets.copy()
    flow_features(data.packets, data.offsets, 10, sight=Sight(port=True))
    assert data.packets.flags.writeable
    frozen = data.packets.copy()
    frozen.flags.writeable = False
    flow_features(frozen, data.offsets, 10, sight=Sight(port=True))
    np.testing.assert_array_equal(data.packets, before)


def sequence(packets: np.ndarray, with_port: bool = False) -> np.ndarray:
    return packet_sequence(packets, np.array([0, len(packets)]), 10, sight=Sight(port=with_port))


def test_a_sequence_is_padded_and_says_which_packets_are_there() -> None:
    found = sequence(three_packets())
    assert found.shape == (1, 10, SEQUENCE_CHANNELS)
    assert found[0, :, 0].tolist() == [1.0] * 3 + [0.0] * 7
    assert (found[0, 3:] == 0).all()
    assert found[0, :3, 1].tolist() == [1.0, -1.0, 1.0]


def test_a_sequence_stays_within_1_whatever_the_packets_hold() -> None:
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (400, PACKET_DTYPE.itemsize), np.uint8)
    packets = np.ascontiguousarray(raw).view(PACKET_DTYPE).reshape(-1)
    packets["from_originator"] &= 1
    offsets = np.arange(0, 401, 10)
    found = packet_sequence(packets, offsets, 10, sight=Sight(port=True))
    assert np.abs(found).max() <= 1.0
