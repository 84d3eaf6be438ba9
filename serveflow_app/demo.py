"""``serveflow demo``: the whole system on the embedded runs, with a live table."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from rich.live import Live
from rich.table import Table

from collectors.collector import Collector
from collectors.replay import ReplaySettings
from collectors.sender import HttpSender
from collectors.warm_up import warm_up
from flows.errors import SettingsError
from models.labels import LabelBook
from serveflow_app.output import messages
from serveflow_app.run_replay import Run, capture_files, run_replay
from serveflow_app.serve_config import default_config, load_config, override
from serveflow_app.service import Service
from serveflow_app.tally import Tally

__all__ = ["embedded_runs", "run_demo"]

_REFRESH_S = 0.25


def embedded_runs(split: str) -> Path:
    """Return the folder of the lab's captures, ``train`` or ``test``, with their labels.csv.

    Raises:
        SettingsError: They are not there: the package was installed without its repository.
    """
    folder = Path(__file__).resolve().parent.parent / "lab" / "captures" / split
    if not (folder / "labels.csv").is_file():
        raise SettingsError(f"the embedded captures are missing: there is no {folder}/labels.csv")
    return folder


class _LiveTable:
    """What is shown while the replay runs."""

    def __init__(self, live: Live, speed: float) -> None:
        self._live = live
        self._speed = speed
        self._shown_s = 0.0
        self._last_final = 0

    def update(self, tally: Tally, collector: Collector) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_s < _REFRESH_S:
            return
        rate = (tally.final - self._last_final) / max(now_s - self._shown_s, 1e-9)
        self._shown_s, self._last_final = now_s, tally.final
        table = Table(title=f"{collector.name.partition('#')[0]} at {self._speed:g}x")
        for column in ("flows/s", "final", "open", *tally.by_tier, "latency p50 ms", "≤ 16 ms"):
            table.add_column(column, justify="right")
        total = tally.milliseconds("total")
        table.add_row(
            f"{rate:,.0f}",
            f"{tally.final:,}",
            f"{collector.open_flows:,}",
            *(f"{n:,}" for n in tally.by_tier.values()),
            f"{np.median(total):.1f}" if len(total) else "-",
            f"{(total <= 16).mean():.0%}" if len(total) else "-",
        )
        self._live.update(table)


def run_demo(speed: float, port: int | None) -> Run:
    """Start the service, replay the embedded test runs at ``speed``, shut everything down."""
    folder = embedded_runs("test")
    captures = capture_files([folder])
    labels = LabelBook.read(folder / "labels.csv", "label")
    config = override(load_config(default_config()), port=port, grpc_port=0, args={})
    with Service(config) as service:
        with messages.status("starting Ray Serve …") as status:
            # While Ray starts: it takes a while where nothing has been compiled yet.
            warm_up(with_header=False)
            took_s = service.wait_ready(
                on_wait=lambda s: status.update(f"starting Ray Serve … {s:.0f} s")
            )
        messages.print(
            f"the service answers at {service.url} after {took_s:.1f} s; "
            f"replaying {len(captures)} captures at {speed:g}x",
            highlight=False,
            soft_wrap=True,
        )
        sender = HttpSender(service.url)
        try:
            with Live(console=messages, refresh_per_second=4, transient=True) as live:
                table = _LiveTable(live, speed)
                run = run_replay(
                    captures,
                    sender,
                    ReplaySettings(speed=speed),
                    labels=labels,
                    on_progress=table.update,
                )
        finally:
            sender.close()
        with messages.status("shutting down …"):
            service.stop()
    return run
