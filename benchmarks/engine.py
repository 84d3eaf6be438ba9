"""The packet engine and the cascade in one process, stage by stage: ``make bench``.

Reads the embedded captures several times over (from the page cache), one core, no Ray. Each
figure is the median of the rounds; the spread between the rounds stands beside it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.environment import environment
from collectors.replay import Replay, ReplaySettings
from flows.capture import CaptureReader
from flows.decode import Decoded
from flows.packet import Records
from flows.table import FlowTable
from models.bundle import TierModel, read_bundle
from models.cascade import Cascade, judge
from serveflow_app.local_sender import LocalSender
from serveflow_app.settings import bundle_folder

_CAPTURES = Path(__file__).resolve().parent.parent / "lab" / "captures"
_BATCH = 256


def _read(paths: list[Path]) -> list[Decoded]:
    return [chunk for path in paths for chunk in CaptureReader(path).chunks()]


def _track(chunks: list[Decoded], depth: int) -> int:
    """Take decoded packets through one flow table; return the flows."""
    table = FlowTable(first_packets=depth)
    for chunk in chunks:
        table.update(chunk.packets.copy(), chunk.endpoints)
    table.finish()
    return table.counters.flows


def _first_packets(chunks: list[Decoded], depth: int) -> tuple[Records, np.ndarray]:
    """Return the first packets of every flow, by flow, and where each flow's begin."""
    table = FlowTable(first_packets=depth)
    kept = []
    for chunk in chunks:
        packets = chunk.packets.copy()
        update = table.update(packets, chunk.endpoints)
        kept.append(packets[update.kept])
    packets = np.concatenate(kept)
    packets = packets[np.lexsort((packets["packet_index"], packets["flow_id"]))]
    offsets = np.flatnonzero(np.r_[True, np.diff(packets["flow_id"]) != 0, True])
    return packets, offsets


def _judge(tier: TierModel, packets: Records, offsets: np.ndarray) -> int:
    rows = np.arange(len(offsets) - 1)
    for begin in range(0, len(rows), _BATCH):
        judge(tier, packets, offsets, rows[begin : begin + _BATCH])
    return len(rows)


def _classify(cascade: Cascade, paths: list[Path]) -> int:
    """Do everything that ``serveflow classify`` does, but for writing verdicts."""
    sender = LocalSender(cascade)
    settings = ReplaySettings(max_in_flight=1, batch_delay_s=0.0)
    replay = Replay(sender, settings, lambda *_: None)
    try:
        return sum(replay.run(path).flows for path in paths)
    finally:
        replay.close()
        sender.close()


def measure(work: Callable[[], int], rounds: int) -> dict[str, float]:
    """Return the median rate of ``work`` (its return value per second) and its spread."""
    work()  # compile and warm up
    rates = []
    for _ in range(rounds):
        begin_s = time.perf_counter()
        done = work()
        rates.append(done / (time.perf_counter() - begin_s))
    return {"median": median(rates), "lowest": min(rates), "highest": max(rates)}


def stages(rounds: int, repeat: int) -> dict[str, dict[str, float]]:
    """Measure each stage; return rates per second by name."""
    paths = sorted(_CAPTURES.rglob("*.pcap"))
    contents = read_bundle(bundle_folder())
    cascade = Cascade(contents)
    chunks = _read(paths)
    total = sum(len(chunk.packets) for chunk in chunks)
    first, offsets = _first_packets(chunks, cascade.depth)

    def repeated(work: Callable[[], int]) -> Callable[[], int]:
        return lambda: sum(work() for _ in range(repeat))

    def read() -> int:
        return sum(len(chunk.packets) for chunk in _read(paths))

    def track() -> int:
        _track(chunks, cascade.depth)
        return total

    found = {
        "read + decode, packets/s": measure(repeated(read), rounds),
        "flow table, packets/s": measure(repeated(track), rounds),
    }
    for tier in contents.tiers:
        name = f"tier {tier.name}, flows/s (batches of {_BATCH})"
        found[name] = measure(partial(_judge, tier, first, offsets), rounds)
    found["capture to verdicts, new flows/s"] = measure(lambda: _classify(cascade, paths), rounds)
    return found


def main(
    rounds: Annotated[int, typer.Option(help="Rounds to take the median of.", min=1)] = 5,
    repeat: Annotated[int, typer.Option(help="Passes over the captures in a round.", min=1)] = 5,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the packet engine and the cascade in one process."""
    found = stages(rounds, repeat)
    settings: dict[str, Any] = {"rounds": rounds, "repeat": repeat, **environment()}
    if json_output:
        sys.stdout.write(json.dumps({"settings": settings, "rates": found}) + "\n")
        return
    table = Table(title="one process, one core", title_justify="left")
    for column in ("stage", "median", "lowest", "highest", "µs each"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for name, rate in found.items():
        row = [f"{rate[k]:,.0f}" for k in ("median", "lowest", "highest")]
        table.add_row(name, *row, f"{1e6 / rate['median']:.2f}")
    console = Console()
    console.print(table)
    console.print(" · ".join(f"{key} {value}" for key, value in settings.items()), highlight=False)


if __name__ == "__main__":
    typer.run(main)
