"""Names of flows: Community ID against its public baselines, keys without direction."""

from __future__ import annotations

from ipaddress import ip_address

import numpy as np
import pytest

from flows.keys import FiveTuple, addresses_of, community_id
from flows.table import FLOW_DTYPE

# From the baseline files of the Community ID specification, seed 0.
BASELINES = [
    ("128.232.110.120", "66.35.250.204", 34855, 80, 6, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    ("192.168.1.52", "8.8.8.8", 54585, 53, 17, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    ("192.168.170.8", "192.168.170.56", 7, 80, 132, "1:jQgCxbku+pNGw8WPbEc/TS/uTpQ="),
    ("192.168.0.89", "192.168.0.1", 8, 0, 1, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    (
        "fe80::200:86ff:fe05:80da",
        "fe80::260:97ff:fe07:69ea",
        135,
        136,
        58,
        "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=",
    ),
]


@pytest.mark.parametrize(("src", "dst", "src_port", "dst_port", "protocol", "expected"), BASELINES)
def test_community_id_agrees_with_the_public_baselines(
    src: str, dst: str, src_port: int, dst_port: int, protocol: int, expected: str
) -> None:
    flow = FiveTuple(ip_address(src), ip_address(dst), src_port, dst_port, protocol)
    assert community_id(flow) == expected
    assert community_id(flow.reversed) == expected
    assert community_id(flow, seed=1) != expected


def test_an_icmp_message_without_an_answer_has_a_direction() -> None:
    flow = FiveTuple(ip_address("192.168.0.89"), ip_address("192.168.0.1"), 3, 3, 1)
    assert community_id(flow) != community_id(flow.reversed)


def test_the_flow_key_has_no_direction() -> None:
    flow = FiveTuple(ip_address("10.0.0.2"), ip_address("10.0.0.10"), 443, 40000, 6)
    assert flow.key == flow.reversed.key
    assert flow != flow.reversed
    assert str(flow) == "10.0.0.2:443 > 10.0.0.10:40000 proto 6"


def test_addresses_come_back_as_they_went_in() -> None:
    flows = np.zeros(2, FLOW_DTYPE)
    flows["ip_version"] = [4, 6]
    flows["src_lo"] = [0xFFFF_0A00_0001, 1]
    flows["src_hi"] = [0, 0x20010DB8 << 32]
    src, _ = addresses_of(flows)
    assert [str(a) for a in src] == ["10.0.0.1", "2001:db8::1"]
