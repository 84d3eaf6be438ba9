"""Final verdicts as a Zeek log: tab-separated values with Zeek's names and header lines."""

from __future__ import annotations

import re
import time
import zlib
from pathlib import Path

import numpy as np

from collectors.log_file import LogFile, Rotation
from collectors.sinks import Verdicts
from collectors.text_columns import Bytes, base62, decimals, integers, joined, names
from collectors.verdict_columns import REASONS, shared_of
from flows.packet import Protocol

__all__ = ["ZEEK_FIELDS", "ZeekSink", "zeek_lines", "zeek_text"]

ZEEK_FIELDS = (
    ("ts", "time"),
    ("uid", "string"),
    ("id.orig_h", "addr"),
    ("id.orig_p", "port"),
    ("id.resp_h", "addr"),
    ("id.resp_p", "port"),
    ("proto", "enum"),
    ("community_id", "string"),
    ("label", "string"),
    ("confidence", "double"),
    ("novelty", "double"),
    ("tier", "string"),
    ("packets_used", "count"),
    ("reason", "enum"),
    ("wait", "interval"),
    ("queue", "interval"),
    ("infer", "interval"),
    ("total", "interval"),
    ("model_version", "string"),
    ("collector", "string"),
    ("interface", "string"),
)
"""Names and Zeek's types of the columns."""

# As Zeek has it: both ICMPs are one protocol, the addresses tell which.
_NAMES = {1: "icmp", 58: "icmp", int(Protocol.TCP): "tcp", int(Protocol.UDP): "udp"}
_PROTOCOLS = tuple(_NAMES.get(k, "unknown_transport") for k in range(256))
_UNSET, _EMPTY = "-", "(empty)"
_SPECIAL = re.compile(r"[\x00-\x1f\x7f\\]")


def zeek_text(text: str | None) -> bytes:
    r"""Return a text as a Zeek log holds it.

    Control characters and backslashes become ``\xHH``; ``-`` stands for None and ``(empty)`` for an
    empty text, so what reads like one of them has its first character written as ``\xHH``.
    """
    if text is None:
        return _UNSET.encode()
    if not text:
        return _EMPTY.encode()
    first, rest = "", text
    if text in (_UNSET, _EMPTY):
        first, rest = f"\\x{ord(text[0]):02x}", text[1:]
    escaped = _SPECIAL.sub(lambda found: f"\\x{ord(found[0]):02x}", rest)
    return (first + escaped).encode(errors="backslashreplace")


def zeek_lines(found: Verdicts) -> Bytes:
    """Return one log line per verdict, uint8 ``[m]``.

    ``uid`` has Zeek's form, 96 bits as ``C`` and 17 digits in base 62 (0-9, A-Z, a-z): the flow id
    in 11 digits and the CRC-32 of the collector's name in 6.
    """
    flows, verdicts = found.settled.flows, found.settled.verdicts
    shared = shared_of(found.settled)
    collector = np.full(len(flows), zlib.crc32(found.collector.encode()), np.uint64)
    last = (found.model_version, found.collector, found.interface)
    text, _ = joined(
        [
            (b"", decimals(flows["start_time_ns"] // 1_000, 6, short=False)),
            (b"\tC", base62(flows["flow_id"], 11)),
            (b"", base62(collector, 6)),
            (b"\t", shared.src),
            (b"\t", integers(flows["src_port"])),
            (b"\t", shared.dst),
            (b"\t", integers(flows["dst_port"])),
            (b"\t", names(_PROTOCOLS, flows["protocol"])),
            (b"\t", shared.community_id),
            (b"\t", names(found.classes, verdicts["label"], zeek_text)),
            (b"\t", decimals(shared.confidence, 4, short=True)),
            (b"\t", decimals(shared.novelty, 4, short=True)),
            (b"\t", names(found.tiers, verdicts["tier"], zeek_text)),
            (b"\t", integers(verdicts["packets_used"])),
            (b"\t", names(REASONS, verdicts["reason"])),
            *(
                (b"\t", decimals((part + 500) // 1_000, 6, short=False))
                for part in shared.latency_ns.values()
            ),
        ],
        b"".join(b"\t" + zeek_text(text) for text in last) + b"\n",
    )
    return text


def _now() -> str:
    return time.strftime("%Y-%m-%d-%H-%M-%S")


def _head() -> bytes:
    lines = (
        "#separator \\x09",
        "#set_separator\t,",
        f"#empty_field\t{_EMPTY}",
        f"#unset_field\t{_UNSET}",
        "#path\tserveflow",
        f"#open\t{_now()}",
        "\t".join(["#fields", *(name for name, _ in ZEEK_FIELDS)]),
        "\t".join(["#types", *(kind for _, kind in ZEEK_FIELDS)]),
    )
    return ("\n".join(lines) + "\n").encode()


def _foot() -> bytes:
    return f"#close\t{_now()}\n".encode()


class ZeekSink:
    """Appends to a Zeek log.

    A file that has lines already gets the header lines again, as when logs are joined; ``zeek-cut``
    reads on.

    Args:
        path: The file.
        rotation: When to set it aside.

    Raises:
        SinkError: The file cannot be opened.
    """

    def __init__(self, path: Path, rotation: Rotation | None = None) -> None:
        self._file = LogFile(path, rotation, head=_head, foot=_foot)

    def write(self, found: Verdicts) -> None:
        """See :class:`collectors.sinks.Sink`."""
        self._file.write(zeek_lines(found).data)

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
