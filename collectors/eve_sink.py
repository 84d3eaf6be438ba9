"""Final verdicts as EVE records, Suricata's JSON Lines (docs/schemas/eve-serveflow.schema.json)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from collectors.log_file import LogFile, Rotation, StreamFile
from collectors.sinks import Verdicts
from collectors.text_columns import Bytes, Piece, integers, joined, names, times
from collectors.verdict_columns import json_judgement, json_text, shared_of
from flows.keys import ICMP_PAIRS
from flows.packet import FlowEndReason, Protocol, Records

__all__ = ["EveSink", "eve_lines"]

# Suricata's flow_id has 51 bits, as many readers of JSON hold no larger numbers exactly.
_ID_BITS = np.uint64((1 << 51) - 1)
_NAMES = {int(p): p.name for p in Protocol} | {int(Protocol.ICMPV6): "IPv6-ICMP"}
_ENDS = tuple(
    f',"end_reason":"{reason.name.lower()}"' if reason else "" for reason in FlowEndReason
)
_PROTOCOLS = tuple(_NAMES.get(k, str(k)) for k in range(256))


def eve_lines(found: Verdicts) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Return one EVE record a line.

    ``timestamp`` is the capture time at which the verdict's packets were there.

    Returns:
        The lines, one behind the other, uint8 ``[m]``, and where each one ends, int64 ``[n]``.
    """
    flows = found.settled.flows
    shared = shared_of(found.settled)
    start_ns = flows["start_time_ns"]
    source_port, dest_port = _ports(flows)
    interface = b"" if found.interface is None else b',"in_iface":' + json_text(found.interface)
    collector = json_text(found.collector)
    return joined(
        [
            (b'{"timestamp":"', times(start_ns + shared.latency_ns["wait"], 6)),
            (b'+0000","flow_id":', integers(flows["flow_id"] & _ID_BITS)),
            (interface + b',"event_type":"serveflow","src_ip":"', shared.src),
            *source_port,
            (b',"dest_ip":"', shared.dst),
            *dest_port,
            (b',"proto":"', names(_PROTOCOLS, flows["protocol"])),
            (b'","community_id":"', shared.community_id),
            (b'","host":' + collector + b',"flow":{"start":"', times(start_ns, 6)),
            (b'+0000"', names(_ENDS, found.settled.ends)),
            (b'},"serveflow":{"flow_id":"', integers(flows["flow_id"])),
            *json_judgement(found, shared, b'",'),
        ],
        b"}}}\n",
    )


def _ports(flows: Records) -> tuple[list[Piece], list[Piece]]:
    """Return the members that hold ports, or what stands in their place for ICMP."""
    icmp = np.zeros(len(flows), np.int64)
    answered = np.zeros(len(flows), bool)
    for protocol, types in ICMP_PAIRS.items():
        rows = np.flatnonzero(flows["protocol"] == protocol)
        icmp[rows] = 1
        answered[rows] = np.isin(flows["src_port"][rows], np.array(types))
    # A message with an answer has that one's type in the place of its code, which is not known.
    keys = np.where(answered, 2, icmp)
    return (
        [
            (b'"', names((',"src_port":', ',"icmp_type":', ',"icmp_type":'), keys)),
            (b"", integers(flows["src_port"])),
        ],
        [
            (b'"', names((',"dest_port":', ',"icmp_code":', ""), keys)),
            (b"", integers(flows["dst_port"]).blank(answered)),
        ],
    )


class EveSink:
    """Appends EVE records to a file.

    Args:
        path: The file; None: standard output.
        rotation: When to set the file aside.

    Raises:
        SinkError: The file cannot be opened.
    """

    def __init__(self, path: Path | None, rotation: Rotation | None = None) -> None:
        self._file: LogFile | StreamFile
        if path is None:
            self._file = StreamFile(sys.stdout.fileno(), "standard output")
        else:
            self._file = LogFile(path, rotation)

    def write(self, found: Verdicts) -> None:
        """See :class:`collectors.sinks.Sink`."""
        text, _ = eve_lines(found)
        self._file.write(text.data)

    def flush(self) -> None:
        """See :class:`collectors.sinks.Sink`."""
        self._file.flush()

    def reopen(self) -> None:
        """See :class:`collectors.sinks.Sink`."""
        self._file.reopen()

    def sync(self) -> None:
        """See :class:`collectors.sinks.Sink`."""
        self._file.sync()

    def close(self) -> None:
        """See :class:`collectors.sinks.Sink`."""
        self._file.close()
