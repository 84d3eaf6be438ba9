"""The JSON form of batches and verdicts: for people and for trying things out.

It is slower than Arrow by two orders of magnitude and asks for less: a flow may be named by its
five-tuple, a packet's index is its place in the request, and what is not said is 0.
"""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyAddress,
    WithJsonSchema,
    model_validator,
)

from flows.errors import WireSchemaError
from flows.packet import MAX_DEPTH, PACKET_DTYPE, FlowEndReason, Protocol, Records
from flows.verdict import Reason
from flows.wire import PacketBatch

__all__ = ["MAX_JSON_BYTES", "MAX_JSON_PACKETS", "JsonBatch", "JsonPacket", "verdicts_to_json"]

# A packet costs some 50 µs in this form and a wrong one 20, during which the Router does nothing
# else: these bound that to some 60 ms.
MAX_JSON_BYTES = 256 * 1024
MAX_JSON_PACKETS = 1_024


def _whole(value: Any) -> Any:
    """Take 60.0 for 60, as JSON Schema does; text and truth values are no numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Behind the bounds, or pydantic would leave them out of the JSON Schema.
_WHOLE = BeforeValidator(_whole)
_U8 = Annotated[int, Field(ge=0, lt=1 << 8), _WHOLE]
_U16 = Annotated[int, Field(ge=0, lt=1 << 16), _WHOLE]
_U64 = Annotated[int, Field(ge=0, lt=1 << 64), _WHOLE]
_TIME_NS = Annotated[int, Field(ge=0, lt=1 << 62), _WHOLE]


_ADDRESS_SCHEMA = {"anyOf": [{"type": "string", "format": f} for f in ("ipv4", "ipv6")]}


def _text(value: Any) -> Any:
    """Refuse numbers, which Python takes for addresses as well."""
    if isinstance(value, int | float):
        raise ValueError("an address is text")
    return value


_Address = Annotated[IPvAnyAddress, BeforeValidator(_text), WithJsonSchema(_ADDRESS_SCHEMA)]


def _names_its_flow(schema: dict[str, Any]) -> None:
    """Say in JSON Schema what :meth:`JsonPacket._names_its_flow` checks."""
    integer, address = {"type": "integer"}, {"type": "string"}
    schema["anyOf"] = [
        {"required": ["flow_id"], "properties": {"flow_id": integer}},
        {
            "required": ["src_ip", "dest_ip"],
            "properties": {"src_ip": address, "dest_ip": address},
        },
    ]


class JsonPacket(BaseModel):
    """One packet, or with ``flow_end_reason`` the end mark of a flow."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=_names_its_flow)

    flow_id: _U64 | None = Field(None, description="The flow; or else its five-tuple.")
    src_ip: _Address | None = Field(None, description="The sender's address.")
    dest_ip: _Address | None = Field(None, description="The receiver's address.")
    src_port: _U16 = Field(0, description="The sender's port.")
    dest_port: _U16 = Field(0, description="The receiver's port.")
    proto: Literal["TCP", "UDP", "ICMP", "ICMPV6"] = Field(description="Transport protocol.")
    time_ns: _TIME_NS = Field(description="Capture time, nanoseconds since the epoch.")
    packet_index: Annotated[int, Field(ge=0, lt=MAX_DEPTH), _WHOLE] | None = Field(
        None, description="0 for the flow's first packet; by default its place in the request."
    )
    flow_end_reason: Annotated[int, Field(ge=0, le=max(FlowEndReason)), _WHOLE] = Field(
        0, description="IPFIX flowEndReason; not 0: no packet, the flow has ended."
    )
    from_originator: bool | None = Field(
        None, description="Sent by the side that opened the flow; by default as the first sender."
    )
    ip_version: Annotated[Literal[4, 6], _WHOLE] = 4
    ip_bytes: _U16 = Field(description="Length of the IP packet, header included.")
    payload_bytes: _U16 = Field(0, description="Of those, behind the transport header.")
    ttl: _U8 = 64
    tos: _U8 = 0
    ip_flags: _U8 = 0
    ip_header_bytes: _U8 = 20
    tcp_flags: _U8 = 0
    tcp_window: _U16 = 0
    tcp_header_bytes: _U8 = 0
    tcp_options: _U8 = 0
    tcp_mss: _U16 = 0
    tcp_window_scale: _U8 = 0
    icmp_type: _U8 = 0
    icmp_code: _U8 = 0

    @model_validator(mode="after")
    def _names_its_flow(self) -> JsonPacket:
        if self.flow_id is None and (self.src_ip is None or self.dest_ip is None):
            raise ValueError("give flow_id, or src_ip and dest_ip with the ports")
        return self


class JsonBatch(BaseModel):
    """What a collector, or a person, submits at once."""

    model_config = ConfigDict(extra="forbid", strict=True)

    collector: Annotated[str, Field(min_length=1, max_length=128)] = "json"
    watermark_ns: _TIME_NS | None = Field(
        None, description="All packets up to this time have been sent; by default the latest one's."
    )
    packets: Annotated[list[JsonPacket], Field(max_length=MAX_JSON_PACKETS)]

    def to_batch(self, secret: bytes, *, with_header: bool = False) -> PacketBatch:
        """Return the batch in its inner form.

        Args:
            secret: Keys the hash that makes flow ids of five-tuples, so that nobody can choose
                the tracker that a flow goes to.
            with_header: The bundle reads the packets' header bytes, which this form has not.

        Raises:
            WireSchemaError: ``with_header``.
        """
        if with_header:
            raise WireSchemaError(
                "column header is missing: this service's bundle reads it, and the JSON form has "
                "none; send an Arrow stream (GET /v1/schema lists the columns)"
            )
        records = np.zeros(len(self.packets), PACKET_DTYPE)
        counts: dict[int, int] = {}
        originators: dict[int, tuple[str, int]] = {}
        for record, packet in zip(records, self.packets, strict=True):
            flow_id = packet.flow_id
            if flow_id is None:
                flow_id = _keyed_id(secret, self.collector, packet)
            sender = (str(packet.src_ip), packet.src_port)
            originator = originators.setdefault(flow_id, sender)
            for name in PACKET_DTYPE.names or ():
                value = getattr(packet, name, None)
                if value is not None:
                    record[name] = value
            record["flow_id"] = flow_id
            record["protocol"] = Protocol[packet.proto]
            outward = packet.from_originator
            record["from_originator"] = sender == originator if outward is None else outward
            first, second = packet.src_port, packet.dest_port
            ports = (first, second) if record["from_originator"] else (second, first)
            record["originator_port"], record["responder_port"] = ports
            index = counts.get(flow_id, 0) if packet.packet_index is None else packet.packet_index
            record["packet_index"] = min(index, 255)
            if not packet.flow_end_reason:
                counts[flow_id] = index + 1
        latest_ns = int(records["time_ns"].max(initial=0))
        watermark_ns = latest_ns if self.watermark_ns is None else self.watermark_ns
        return PacketBatch(self.collector, watermark_ns, records)


def _keyed_id(secret: bytes, collector: str, packet: JsonPacket) -> int:
    ends = sorted(
        [
            (ipaddress.ip_address(str(packet.src_ip)).packed, packet.src_port),
            (ipaddress.ip_address(str(packet.dest_ip)).packed, packet.dest_port),
        ]
    )
    text = repr((collector, packet.proto, ends)).encode()
    return int.from_bytes(hashlib.blake2b(text, key=secret, digest_size=8).digest(), "little")


def verdicts_to_json(
    verdicts: Records, classes: tuple[str, ...], tiers: tuple[str, ...], model_version: str
) -> list[dict[str, Any]]:
    """Return ``VERDICT_DTYPE [n]`` as JSON objects."""
    return [
        {
            "flow_id": int(v["flow_id"]),
            "label": classes[v["label"]] if v["tier"] < len(tiers) else None,
            "confidence": round(float(v["confidence"]), 4),
            "novelty": round(float(v["novelty"]), 4),
            "tier": tiers[v["tier"]] if v["tier"] < len(tiers) else None,
            "packets_used": int(v["packets_used"]),
            "final": bool(v["final"]),
            "reason": Reason(v["reason"]).text,
            "model_version": model_version,
            "latency_ms": {"wait": int(v["wait_ns"]) / 1e6, "infer": int(v["infer_ns"]) / 1e6},
        }
        for v in verdicts
    ]
