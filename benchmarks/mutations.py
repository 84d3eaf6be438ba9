"""``serveflow bench mutations``: broken packets and broken captures, by the hundred thousand.

Each one is a copy of something real, with bits flipped, bytes exchanged, lengths that lie, pieces
cut out or doubled. Whatever comes in, the reader must end it with a clear error or skip what is
broken and count it; all else is a finding, and its bytes are kept.
"""

from __future__ import annotations

import io
import random
import resource
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from flows.capture import CaptureReader
from flows.errors import CaptureError
from flows.table import FlowTable

__all__ = ["Findings", "feed", "measure_mutations", "mutated"]

_PCAP_HEADER, _RECORD = 24, 16
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF)
_FRAMES = 500  # of one capture whose packets are broken
_SNAP = 4_096  # bytes of a capture whose structure is broken
_DEPTH = 10


@dataclass(slots=True)
class Findings:
    """What became of what was broken.

    Attributes:
        packets: Frames that were handed out or skipped.
        malformed: Frames that were skipped because they are broken.
        captures: Captures read.
        ended: Captures that ended with an error, by its kind.
        uncaught: What no reader may raise, with the bytes that did it.
        slowest_ms: The longest that one capture took.
    """

    packets: int = 0
    malformed: int = 0
    captures: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    uncaught: list[tuple[str, bytes]] = field(default_factory=list)
    slowest_ms: float = 0.0


def mutated(data: bytes, rng: random.Random, times: int) -> bytes:
    """Return ``data`` broken in so many places."""
    broken = bytearray(data)
    for _ in range(times):
        if not broken:
            break
        at = rng.randrange(len(broken))
        how = rng.randrange(6)
        if how == 0:
            broken[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            broken[at] = rng.randrange(256)
        elif how == 2:
            size = rng.choice((1, 2, 4))
            number = rng.choice(_NUMBERS) & ((1 << 8 * size) - 1)
            broken[at : at + size] = number.to_bytes(size, rng.choice(("big", "little")))
        elif how == 3:
            del broken[at : at + rng.randrange(1, 40)]
        elif how == 4:
            broken[at:at] = broken[max(at - rng.randrange(1, 40), 0) : at]
        else:
            del broken[at:]
    return bytes(broken)


def measure_mutations(
    captures: list[Path],
    packets: int,
    files: int,
    seed: int,
    keep: Path | None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Break packets and captures; return the object that ``--json`` prints.

    Args:
        captures: pcap files to break.
        packets: Broken packets, at least.
        files: Captures whose structure is broken, beside those.
        seed: Makes it repeatable.
        keep: Folder for what was found; None: it is only counted.
        on_progress: Told how many captures have been read.
    """
    taken = environment(
        captures=[path.name for path in captures], packets=packets, files=files, seed=seed
    )
    frames = [frame for path in captures for frame in _frames(path.read_bytes())]
    rng, found = random.Random(seed), Findings()  # noqa: S311 (to be repeatable)
    feed(_capture(frames[:_FRAMES]), Findings())  # compiles
    before_mib = _memory_mib()
    while found.packets < packets:
        own = [mutated(rng.choice(frames), rng, rng.randrange(1, 4)) for _ in range(_FRAMES)]
        feed(_capture(own), found)
        on_progress(found.captures)
    broken_packets = found.packets
    for _ in range(files):
        whole = rng.choice(captures).read_bytes()
        begin = whole[:_PCAP_HEADER] if rng.random() < 0.9 else b""
        at = rng.randrange(_PCAP_HEADER, max(len(whole) - _SNAP, _PCAP_HEADER + 1))
        at = _PCAP_HEADER if rng.random() < 0.7 else at
        feed(mutated(begin + whole[at : at + _SNAP], rng, rng.randrange(1, 8)), found)
        on_progress(found.captures)
    if keep is not None:
        for name, data in found.uncaught:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}-{len(list(keep.iterdir()))}.pcap").write_bytes(data)
    return {
        "packets": broken_packets,
        "malformed": found.malformed,
        "captures": found.captures,
        "ended": dict(found.ended),
        "uncaught": Counter(name for name, _ in found.uncaught),
        "slowest_ms": found.slowest_ms,
        "grown_mib": _memory_mib() - before_mib,
        "environment": taken,
    }


def feed(data: bytes, found: Findings) -> None:
    """Read a capture as a collector does, through the flow table; note what became of it."""
    begin_s = time.perf_counter()
    reader = CaptureReader(io.BytesIO(data))
    table = FlowTable(first_packets=_DEPTH, initial_capacity=1_024)
    try:
        for chunk in reader.chunks():
            if len(chunk.packets):
                table.update(chunk.packets, chunk.endpoints)
        table.finish()
    except CaptureError as error:
        found.ended[type(error).__name__] += 1
    except Exception as error:  # that is what is looked for
        found.uncaught.append((type(error).__name__, data))
    found.captures += 1
    found.packets += reader.frames
    found.malformed += reader.malformed
    found.slowest_ms = max(found.slowest_ms, 1e3 * (time.perf_counter() - begin_s))


def _frames(data: bytes) -> Iterator[bytes]:
    order = "<" if data[0] in (0x4D, 0xD4) else ">"
    at = _PCAP_HEADER
    while at + _RECORD <= len(data):
        (length,) = struct.unpack_from(f"{order}I", data, at + 8)
        yield data[at + _RECORD : at + _RECORD + length]
        at += _RECORD + length


def _capture(frames: list[bytes]) -> bytes:
    out = io.BytesIO()
    out.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65_535, 1))
    for i, frame in enumerate(frames):
        out.write(struct.pack("<IIII", 1 + i // 1_000, i % 1_000, len(frame), len(frame)))
        out.write(frame)
    return out.getvalue()


def _memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
