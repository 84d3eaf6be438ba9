"""The running service: latency at capture speed and throughput as fast as it goes.

Starts ``serveflow serve``'s service on this machine and replays the embedded test runs against
it over loopback, collector and service on the same cores: one run a round at capture speed, all
of them a round at full speed. Each figure is the median of the rounds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.environment import environment
from collectors.collector import Settled
from collectors.replay import Replay, ReplaySettings
from collectors.sender import HttpSender, Part
from flows.verdict import Reason
from serveflow_app.serve_config import default_config, load_config, override
from serveflow_app.service import Service

_TEST_RUNS = Path(__file__).resolve().parent.parent / "lab" / "captures" / "test"


class _Latencies:
    """Collects what verdicts took, apart from waiting for the flow's own packets."""

    def __init__(self) -> None:
        self.fast_ms: list[np.ndarray] = []
        self.deep_ms: list[np.ndarray] = []

    def add(self, _: Path, settled: Settled, __: Part) -> None:
        took_ms = (settled.queue_ns + settled.infer_ns) / 1e6
        fast = settled.verdicts["packets_used"] == 1
        fast &= settled.verdicts["reason"] == Reason.CONFIDENT
        self.fast_ms.append(took_ms[fast])
        self.deep_ms.append(took_ms[~fast])

    def percentiles(self) -> dict[str, float]:
        found = {}
        for name, parts in (("on packet 1", self.fast_ms), ("on more packets", self.deep_ms)):
            for p, value in zip(
                (50, 90, 99), np.percentile(np.concatenate(parts), [50, 90, 99]), strict=True
            ):
                found[f"queue + infer, verdict {name}, p{p} ms"] = float(value)
        return found


def _round(url: str, paths: list[Path], speed: float | None) -> dict[str, float]:
    latencies = _Latencies()
    with HttpSender(url) as sender:
        replay = Replay(sender, ReplaySettings(speed=speed), latencies.add)
        begin_s = time.perf_counter()
        try:
            flows = sum(replay.run(path).flows for path in paths)
        finally:
            replay.close()
    return {**latencies.percentiles(), "flows/s": flows / (time.perf_counter() - begin_s)}


def main(
    rounds: Annotated[int, typer.Option(help="Rounds to take the median of.", min=1)] = 3,
    speed: Annotated[float, typer.Option(help="Multiple of capture speed.", min=0.01)] = 1.0,
    placement: Annotated[str, typer.Option(help="separate or colocated.")] = "separate",
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 8000,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the running service over loopback."""
    paths = sorted(_TEST_RUNS.glob("*.pcap"))
    config = override(load_config(default_config()), port=port, args={"placement": placement})
    with Service(config) as service:
        start_s = service.wait_ready()
        _round(service.url, paths[:1], None)  # warm up
        found = {
            f"at {speed:g}x": [
                _round(service.url, [paths[i % len(paths)]], speed) for i in range(rounds)
            ],
            "at full speed": [_round(service.url, paths, None) for _ in range(rounds)],
        }
    figures = {
        f"{name}: {key}": median(one[key] for one in several)
        for name, several in found.items()
        for key in several[0]
    } | {"start to first answer, s": start_s}
    settings: dict[str, Any] = {"rounds": rounds, "placement": placement, **environment()}
    if json_output:
        sys.stdout.write(json.dumps({"settings": settings, "figures": figures}) + "\n")
        return
    table = Table("figure", "median", title="service over loopback", title_justify="left")
    for key, value in figures.items():
        table.add_row(key, f"{value:,.1f}")
    console = Console()
    console.print(table)
    console.print(" · ".join(f"{key} {value}" for key, value in settings.items()), highlight=False)


if __name__ == "__main__":
    typer.run(main)
