"""Counts flows and packets of captures as we do and as tshark does: ``FOLDER …``.

Not a speed figure: it shows how far the flow table agrees with the field's reference on real
captures. Damaged files are named and left out of the sums.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from flows.capture import CaptureReader
from flows.errors import CaptureError
from flows.table import FlowTable, FlowTimeouts

_NEVER = FlowTimeouts(tcp_idle_s=1e8, udp_idle_s=1e8, icmp_idle_s=1e8, active_s=1e8)
_SUFFIXES = {".pcap", ".pcapng", ".cap"}


def ours(path: Path, timeouts: FlowTimeouts) -> Counter[str]:
    """Return flows and packets of TCP and UDP in a capture.

    Raises:
        CaptureError: It is damaged.
    """
    table = FlowTable(first_packets=1, timeouts=timeouts)
    for chunk in CaptureReader(path).chunks():
        table.update(chunk.packets, chunk.endpoints)
    found: Counter[str] = Counter()
    for protocol, counts in table.counters.protocols.items():
        found.update({f"{protocol} {what}": n for what, n in counts.items()})
    return found


def theirs(path: Path) -> Counter[str] | None:
    """Return what tshark counts: packets with a stream, and streams; None if it cannot read on."""
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "occurrence=f"]
    done = subprocess.run(
        [*command, "-e", "tcp.stream", "-e", "udp.stream"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return None
    found: Counter[str] = Counter()
    streams: dict[str, set[str]] = {"TCP": set(), "UDP": set()}
    for line in done.stdout.splitlines():
        for protocol, stream in zip(streams, line.split("\t"), strict=True):
            if stream:
                found[f"{protocol} packets"] += 1
                streams[protocol].add(stream)
    found.update({f"{protocol} flows": len(several) for protocol, several in streams.items()})
    return found


def main(
    folders: Annotated[list[Path], typer.Argument(help="Folders of captures.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare counts of flows and packets with tshark's."""
    console = Console(stderr=True)
    paths = sorted(p for folder in folders for p in folder.rglob("*") if p.suffix in _SUFFIXES)
    sums: dict[str, Counter[str]] = {"tshark": Counter(), "default": Counter(), "never": Counter()}
    damaged = {}
    with ThreadPoolExecutor() as pool:
        answers = pool.map(theirs, paths)
        for path, reference in track(
            zip(paths, answers, strict=True), total=len(paths), console=console
        ):
            try:
                counted = {"default": ours(path, FlowTimeouts()), "never": ours(path, _NEVER)}
            except CaptureError as error:
                damaged[str(path)] = error.reason
                continue
            if reference is None:
                damaged[str(path)] = "tshark cannot read it to its end"
                continue
            for name, counts in {**counted, "tshark": reference}.items():
                sums[name].update(counts)
    kinds = ["TCP packets", "TCP flows", "UDP packets", "UDP flows"]
    result = {kind: {name: counts[kind] for name, counts in sums.items()} for kind in kinds}
    if json_output:
        sys.stdout.write(json.dumps({"captures": len(paths), "damaged": damaged, **result}) + "\n")
        return
    table = Table("", "tshark", "ours, default timeouts", "ours, no timeouts")
    for kind, row in result.items():
        reference_count = row["tshark"]
        cells = [f"{n:,} ({n / reference_count - 1:+.2%})" for n in list(row.values())[1:]]
        table.add_row(kind, f"{reference_count:,}", *cells)
    out = Console()
    out.print(table)
    out.print(f"{len(paths):,} captures")
    for name, reason in damaged.items():
        out.print(f"left out: {name}: {reason}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
