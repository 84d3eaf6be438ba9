"""Names of what the models see of a flow, and the version of all that."""

from __future__ import annotations

from dataclasses import dataclass

from flows.packet import HOST_DTYPE

__all__ = ["FEATURE_SCHEMA", "FIRST", "HOST", "LATER", "SUMMARY", "Sight", "feature_names"]

FEATURE_SCHEMA = 2
"""Version of all that changes a number that a model sees, here and in :mod:`models.features`."""

FIRST = (
    "protocol",
    "ip_version",
    "ip_bytes",
    "ip_header_bytes",
    "payload_bytes",
    "ttl",
    "tos",
    "ip_flags",
    "tcp_flags",
    "tcp_window",
    "tcp_mss",
    "tcp_window_scale",
    "tcp_options",
    "tcp_timestamps",
    "tcp_sack_permitted",
    "tcp_header_bytes",
    "icmp_type",
    "icmp_code",
    "sender_address_kind",
    "receiver_address_kind",
    "ip_id",
    "log_tcp_timestamp",
)
LATER = ("signed_ip_bytes", "signed_payload_bytes", "log_gap_us", "tcp_flags", "tcp_window")
SUMMARY = (
    "packets",
    "packets_from_originator",
    "packets_from_responder",
    "bytes_from_originator",
    "bytes_from_responder",
    "payload_from_originator",
    "payload_from_responder",
    "min_ip_bytes",
    "max_ip_bytes",
    "mean_ip_bytes",
    "direction_changes",
    "log_duration_us",
    "log_max_gap_us",
    "responder_ttl",
    "responder_tcp_window",
    "responder_tcp_mss",
    "responder_tcp_window_scale",
    "responder_tcp_options",
    "responder_ip_id",
    "responder_log_tcp_timestamp",
    "ip_id_step",
)
HOST = tuple(f"host_{name}" for name in HOST_DTYPE.names or ())
HOST = tuple(f"host_{name}" for name in HOST_DTYPE.names or ())
_NFIRST = len(FIRST)
_NLATER = len(LATER)
_NSUMMARY = len(SUMMARY)


@dataclass(frozen=True, slots=True)
class Sight:
    """What a model sees beyond the headers of the flow's own packets.

    Attributes:
        port: The responder's port.
        host: What the flow's host did before. Of flows that come without it, it is all 0, as of a
            host that has done nothing yet.
    """

    port: bool = False
    host: bool = False


def feature_names(depth: int, sight: Sight) -> tuple[str, ...]:
    """Return the names of the columns of :func:`flow_features`, in order.

    Args:
        depth: First packets that count.
        sight: What is seen.
    """
    names = list(FIRST)
    if depth > 1:
        names += [f"{name}_{i + 1}" for i in range(1, depth) for name in LATER]
        names += SUMMARY
    if sight.host:
        names += HOST
    return (*names, "responder_port") if sight.port else tuple(names)
