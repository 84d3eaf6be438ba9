"""True labels of flows: a labels.csv, joined by capture and five-tuple."""

from __future__ import annotations

import csv
import ipaddress
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flows.errors import LabelsError
from flows.packet import Protocol, Records

__all__ = ["LabelBook"]

_COLUMNS = ("pcap", "src_ip", "src_port", "dst_ip", "dst_port", "proto")
_PROTOCOLS = {
    "icmp": Protocol.ICMP,
    "tcp": Protocol.TCP,
    "udp": Protocol.UDP,
    "icmp6": Protocol.ICMPV6,
    "icmpv6": Protocol.ICMPV6,
    "ipv6-icmp": Protocol.ICMPV6,
}
_ICMP = (Protocol.ICMP, Protocol.ICMPV6)
_V4_MAPPED = 0xFFFF << 32

_End = tuple[int, int]  # address as a 128-bit number, port
_Tuple = tuple[int, _End, _End]  # protocol, lesser end, greater end


class _Row(NamedTuple):
    start_ns: int  # the least integer: unknown
    order: int
    label: str


_UNKNOWN_NS = -(2**63)


class LabelBook:
    """The labels of flows, by capture and direction-free five-tuple.

    Args:
        rows: Label rows by capture name and five-tuple, each list in the order of time.

    Attributes:
        size: Rows that were read.
        skipped: Rows that could not be read, in words; the first few.
        skipped_count: How many those are.
    """

    def __init__(self, rows: dict[str, dict[_Tuple, list[_Row]]]) -> None:
        self._rows = rows
        self.size = sum(len(found) for flows in rows.values() for found in flows.values())
        self.skipped: tuple[str, ...] = ()
        self.skipped_count = 0

    def __repr__(self) -> str:
        return f"<LabelBook {self.size} rows of {len(self._rows)} captures>"

    @classmethod
    def read(cls, path: Path, column: str = "label") -> LabelBook:
        """Read a labels file.

        Args:
            path: A CSV file with a head line and the columns ``pcap`` (file name or path below
                the captures' folder), ``src_ip``, ``src_port``, ``dst_ip``, ``dst_port``,
                ``proto`` (number or name), the label's, and maybe ``start_time`` (seconds since
                the epoch), which tells flows of the same five-tuple apart.
            column: Name of the label's column.

        Raises:
            LabelsError: The file cannot be read, lacks columns or holds no readable row.
        """
        rows: dict[str, dict[_Tuple, list[_Row]]] = {}
        bad: list[str] = []
        try:
            with Path(path).open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                wanted = (*_COLUMNS, column)
                missing = [name for name in wanted if name not in (reader.fieldnames or ())]
                if missing:
                    raise LabelsError(
                        f"{path}: columns {', '.join(missing)} are missing; "
                        f"it has {', '.join(reader.fieldnames or ()) or 'none'}"
                    )
                for line, fields in enumerate(reader, start=2):
                    try:
                        name, key, row = _read_row(fields, column, line)
                    except (KeyError, ValueError, TypeError, AttributeError) as error:
                        bad.append(f"line {line}: {error}")
                        continue
                    rows.setdefault(name, {}).setdefault(key, []).append(row)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise LabelsError(f"{path}: cannot be read: {error}") from None
        if not rows:
            first = f"; the first is {bad[0]}" if bad else ""
            raise LabelsError(f"{path}: none of its {len(bad)} rows can be read{first}")
        for flows in rows.values():
            for found in flows.values():
                found.sort()
        book = cls(rows)
        book.skipped, book.skipped_count = tuple(bad[:5]), len(bad)
        return book

    def match(
        self, capture_name: str, flows: Records
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.str_]]:
        """Look up the labels of one capture's flows.

        Args:
            capture_name: The capture's file name, or its path below the captures' folder.
            flows: ``FLOW_DTYPE [n]``.

        Returns:
            Whether each flow's label is known, bool ``[n]``, and the labels, str ``[n]``, empty
            where they are not.
        """
        known = np.zeros(len(flows), np.bool_)
        labels: list[str] = [""] * len(flows)
        of_capture = self._of(capture_name)
        if of_capture:
            for i, (flow, start_ns) in enumerate(_tuples(flows)):
                found = _look_up(of_capture, flow)
                if found:
                    known[i] = True
                    labels[i] = _nearest(found, start_ns).label
        return known, np.array(labels, np.str_)

    def _of(self, capture_name: str) -> dict[_Tuple, list[_Row]] | None:
        """Find a capture by its path, by the longest end of it, or by a row's file name."""
        parts = PurePosixPath(capture_name.replace("\\", "/")).parts
        for i in range(len(parts)):
            found = self._rows.get("/".join(parts[i:]))
            if found is not None:
                return found
        ending = "/" + "/".join(parts)
        longer = [name for name in self._rows if name.endswith(ending)]
        return self._rows[longer[0]] if len(longer) == 1 else None


def _read_row(fields: dict[str, str], column: str, line: int) -> tuple[str, _Tuple, _Row]:
    protocol = _protocol(fields["proto"])
    ends = [
        (_address(fields[f"{side}_ip"]), _port(fields[f"{side}_port"])) for side in ("src", "dst")
    ]
    label = fields[column].strip()
    if not label:
        raise ValueError(f"{column} is empty")
    text = (fields.get("start_time") or "").strip()
    start_ns = round(float(text) * 1e9) if text else _UNKNOWN_NS
    name = "/".join(PurePosixPath(fields["pcap"].strip().replace("\\", "/")).parts)
    return name, (protocol, min(ends), max(ends)), _Row(start_ns, line, label)


def _protocol(text: str) -> int:
    name = text.strip().lower()
    if name in _PROTOCOLS:
        return int(_PROTOCOLS[name])
    if not name.isdigit() or int(name) > 255:
        raise ValueError(f"proto {text!r} is neither a number nor one of {', '.join(_PROTOCOLS)}")
    return int(name)


def _address(text: str) -> int:
    address = ipaddress.ip_address(text.strip())
    return int(address) if address.version == 6 else _V4_MAPPED | int(address)


def _port(text: str) -> int:
    port = int(text.strip() or 0)
    if not 0 <= port <= 65_535:
        raise ValueError(f"port {text} is out of range")
    return port


def _tuples(flows: Records) -> Iterator[tuple[_Tuple, int]]:
    columns = (
        flows[name].tolist()
        for name in (
            "protocol", "src_hi", "src_lo", "src_port", "dst_hi", "dst_lo", "dst_port",
            "start_time_ns",
        )
    )  # fmt: skip
    for protocol, s_hi, s_lo, s_port, d_hi, d_lo, d_port, start_ns in zip(*columns, strict=True):
        a, b = (s_hi << 64 | s_lo, s_port), (d_hi << 64 | d_lo, d_port)
        yield (protocol, min(a, b), max(a, b)), start_ns


def _look_up(of_capture: dict[_Tuple, list[_Row]], flow: _Tuple) -> list[_Row] | None:
    found = of_capture.get(flow)
    if found is None and flow[0] in _ICMP:
        # Label files put ICMP's type and code in the ports, or 0, or the echo's identifier.
        protocol, a, b = flow
        found = of_capture.get((protocol, *sorted(((a[0], 0), (b[0], 0)))))  # type: ignore[arg-type]
        if found is None:
            rows = [
                row
                for (p, x, y), own in of_capture.items()
                if p == protocol and {x[0], y[0]} == {a[0], b[0]}
                for row in own
            ]
            found = sorted(rows) or None
    return found


def _nearest(rows: list[_Row], start_ns: int) -> _Row:
    """Return the row whose start is nearest; of equals, the first in the file."""
    at = bisect_left(rows, start_ns, key=lambda row: row.start_ns)
    near = [row for row in rows[max(0, at - 1) : at + 1] if row.start_ns != _UNKNOWN_NS]
    if not near:
        return rows[0]
    gap = min(abs(row.start_ns - start_ns) for row in near)
    times = {row.start_ns for row in near if abs(row.start_ns - start_ns) == gap}
    return min((row for row in rows if row.start_ns in times), key=lambda row: row.order)
