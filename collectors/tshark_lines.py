"""Packets out of tshark's dissection, for link layers that the decoder does not know.

tshark writes a JSON object a packet (``-T ek -x``) with the bytes of each layer. Of these the IP
packet is taken and decoded as raw IP. That is some thousand packets a second, no more.
"""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

import numpy as np

from collectors.file_sources import Pipe, no_packets
from collectors.sources import SourceCounters
from flows.decode import FRAME_DTYPE, MALFORMED, Decoded, Skip, decode_frames
from flows.link import LinkType

__all__ = ["LINES", "LineSource"]

LINES = ("-l", "-T", "ek", "-x", "-J", "frame")
"""What makes tshark write such lines: all of the layer ``frame``, and the others' bytes."""

_CHUNK_BYTES = 1 << 20
_MOST_LINE_BYTES = 1 << 24
_TRANSPORTS = ("tcp_raw", "udp_raw", "icmp_raw", "icmpv6_raw")


class LineSource:
    """tshark's lines as a :class:`collectors.sources.Source`.

    Args:
        descriptor: What they are read from.
        live: They come as packets cross a wire.
        behind_s: How far they may be behind it.
        with_header: The packets hold their headers' bytes, see :mod:`flows.header`.
    """

    def __init__(self, descriptor: int, *, live: bool, behind_s: float, with_header: bool) -> None:
        self.live = live
        self._behind_ns = int(behind_s * 1e9)
        self._with_header = with_header
        self._pipe = Pipe(descriptor)
        self._buffer = np.empty(_CHUNK_BYTES, np.uint8)
        self._rest = b""
        self._skipped = np.zeros(len(Skip), np.int64)
        self._frames = self._broken = 0
        self._quiet_ns = 0

    @property
    def counters(self) -> SourceCounters:
        """What it has seen so far."""
        return SourceCounters(
            frames=self._frames,
            malformed=int(sum(self._skipped[s] for s in MALFORMED)),
            skipped={s.text: int(self._skipped[s]) for s in Skip if self._skipped[s]},
            broken_entries=self._broken,
        )

    def read(self, wait_s: float) -> Decoded | None:
        """Return packets that are there or come within ``wait_s``; None: there are no more."""
        now_ns = time.time_ns()
        if not self._pipe.wait(wait_s):
            if self.live:
                self._quiet_ns = max(self._quiet_ns, now_ns - self._behind_ns)
            return no_packets(self._with_header)
        got = self._pipe.readinto(self._buffer.data)
        if got == 0:
            return None
        *lines, self._rest = (self._rest + self._buffer[: got or 0].tobytes()).split(b"\n")
        if len(self._rest) > _MOST_LINE_BYTES:
            self._rest = b""
            self._broken += 1
        return self._decode(lines)

    def quiet_until_ns(self) -> int:
        """Return the wall clock less ``behind_s`` at the last silence if it is live, else 0."""
        return self._quiet_ns

    def close(self) -> None:
        """Read no further."""
        self._pipe.close()

    def _decode(self, lines: list[bytes]) -> Decoded:
        frames = np.zeros(len(lines), FRAME_DTYPE)
        data = bytearray()
        n = 0
        for line in lines:
            if b'"layers"' not in line:
                continue  # tshark puts a line for Elasticsearch between
            self._frames += 1
            try:
                layers = json.loads(line)["layers"]
                time_ns = _time_ns(_first(layers["frame"]["frame_frame_time_epoch"]))
                packet = _ip_packet(layers)
                cut = len(_bytes(layers["frame_raw"]))
                missing = int(_first(layers["frame"]["frame_frame_len"])) - cut
            except (ValueError, KeyError, TypeError, IndexError):
                self._broken += 1
                continue
            if not packet:
                self._skipped[Skip.NOT_IP] += 1
                continue
            frames[n] = (len(data), time_ns, len(packet), len(packet) + missing, LinkType.RAW)
            data += packet
            n += 1
        return decode_frames(
            np.frombuffer(bytes(data), np.uint8).copy(), frames[:n], self._skipped,
            with_header=self._with_header,
        )  # fmt: skip


def _first(value: Any) -> str:
    """Return the outermost of a field's values."""
    return str(value[0] if isinstance(value, list) else value)


def _bytes(value: Any) -> bytes:
    return bytes.fromhex(_first(value))


def _time_ns(text: str) -> int:
    """Return a time stamp: seconds since the epoch, or since tshark 4.2 as ISO 8601 has it."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    seconds = (
        int(datetime.fromisoformat(f"{whole}+00:00").timestamp()) if "T" in whole else int(whole)
    )
    return seconds * 1_000_000_000 + int((fraction + "0" * 9)[:9])


def _ip_packet(layers: dict[str, Any]) -> bytes:
    """Return the outermost IP packet of a frame, empty if there is none."""
    outermost = next(
        (name for name in _first(layers["frame"]["frame_frame_protocols"]).split(":")
         if name in ("ip", "ipv6")),
        "",
    )  # fmt: skip
    if not outermost:
        return b""
    header, frame = _bytes(layers[f"{outermost}_raw"]), _bytes(layers["frame_raw"])
    at = frame.find(header)
    if at >= 0:
        return frame[at:]
    # It was decrypted or put together: then its layers are all there is.
    return header + next((_bytes(layers[name]) for name in _TRANSPORTS if name in layers), b"")
