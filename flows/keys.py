"""Names of flows for people and logs: the five-tuple, the direction-free key, Community ID v1.

None of these identifies a flow inside ServeFlow, as five-tuples are used again: that is what
``flow_id`` is for (:mod:`flows.ids`).
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

import numpy as np

from flows.packet import Protocol, Records

__all__ = ["ICMP_PAIRS", "Address", "FiveTuple", "FlowKey", "addresses_of", "community_id"]

Address: TypeAlias = IPv4Address | IPv6Address

ICMP_PAIRS: dict[int, tuple[tuple[int, int], ...]] = {
    Protocol.ICMP: ((8, 0), (13, 14), (15, 16), (17, 18), (10, 9)),
    Protocol.ICMPV6: ((128, 129), (130, 131), (133, 134), (135, 136), (139, 140), (144, 145)),
}
"""ICMP messages and their answers, as Community ID v1 pairs them; they stand where ports would."""


@dataclass(frozen=True, slots=True, order=True)
class FlowKey:
    """A five-tuple without its direction: ``low`` and ``high`` are its ends in order."""

    low: tuple[bytes, int]
    high: tuple[bytes, int]
    protocol: int


@dataclass(frozen=True, slots=True)
class FiveTuple:
    """Who sends to whom.

    Attributes:
        src: Address of the sender; of a flow: of its originator.
        dst: Address of the receiver; of a flow: of its responder.
        src_port: ICMP: the message's type.
        dst_port: ICMP: the type of its answer; of a message without one, its code.
        protocol: IANA number.
    """

    src: Address
    dst: Address
    src_port: int
    dst_port: int
    protocol: int

    @property
    def reversed(self) -> FiveTuple:
        """The other direction."""
        return FiveTuple(self.dst, self.src, self.dst_port, self.src_port, self.protocol)

    @property
    def key(self) -> FlowKey:
        """The direction-free key, equal for both directions."""
        ends = sorted([(self.src.packed, self.src_port), (self.dst.packed, self.dst_port)])
        return FlowKey(ends[0], ends[1], self.protocol)

    def __str__(self) -> str:
        return f"{self.src}:{self.src_port} > {self.dst}:{self.dst_port} proto {self.protocol}"


def community_id(five_tuple: FiveTuple, seed: int = 0) -> str:
    """Return the Community ID v1 of a flow (github.com/corelight/community-id-spec).

    Args:
        five_tuple: The flow, in either direction.
        seed: Seed of the hash, 0 to 65535.
    """
    src = (five_tuple.src.packed, five_tuple.src_port)
    dst = (five_tuple.dst.packed, five_tuple.dst_port)
    if dst < src and not _one_way(five_tuple):
        src, dst = dst, src
    packed = b"".join(
        [
            seed.to_bytes(2, "big"),
            src[0],
            dst[0],
            bytes([five_tuple.protocol, 0]),
            src[1].to_bytes(2, "big"),
            dst[1].to_bytes(2, "big"),
        ]
    )
    digest = hashlib.sha1(packed, usedforsecurity=False).digest()
    return "1:" + base64.b64encode(digest).decode()


def _one_way(five_tuple: FiveTuple) -> bool:
    """Tell whether it is an ICMP message that has no answer."""
    pairs = ICMP_PAIRS.get(five_tuple.protocol)
    if pairs is None:
        return False
    return (five_tuple.src_port, five_tuple.dst_port) not in {
        pair for one in pairs for pair in (one, one[::-1])
    }


def addresses_of(flows: Records) -> tuple[list[Address], list[Address]]:
    """Return the originators' and the responders' addresses of ``FLOW_DTYPE [n]``."""
    return _addresses(flows, "src"), _addresses(flows, "dst")


def _addresses(flows: Records, end: str) -> list[Address]:
    packed = np.empty((len(flows), 2), ">u8")
    packed[:, 0], packed[:, 1] = flows[f"{end}_hi"], flows[f"{end}_lo"]
    raw = packed.tobytes()
    return [
        IPv4Address(raw[16 * i + 12 : 16 * i + 16])
        if version == 4
        else IPv6Address(raw[16 * i : 16 * i + 16])
        for i, version in enumerate(flows["ip_version"].tolist())
    ]
