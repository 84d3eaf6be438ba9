"""What commands print: one JSON object for machines, or tables for people."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

__all__ = [
    "emit_json",
    "messages",
    "peak_memory_mib",
    "plain_table",
    "progress_bar",
    "summary_table",
]

messages = Console(stderr=True)
"""For people: progress, tables and errors; standard output is left to results."""


def emit_json(result: dict[str, Any]) -> None:
    """Print the one JSON object of a command on standard output."""
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def peak_memory_mib() -> float:
    """Return the most memory that this process has held so far, MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)  # bytes there, else KiB


def progress_bar() -> Progress:
    """Return a progress bar for long work, drawn on standard error."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=messages,
        transient=True,
    )


def plain_table(title: str, columns: Sequence[str], caption: str | None = None) -> Table:
    """Return an empty table without lines between its columns.

    Args:
        title: Above it.
        columns: Their heads; the first column is of names, the others are of numbers.
        caption: Below it.
    """
    # Little room between columns, so that a terminal of 80 shows whole names and numbers.
    table = Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for i, name in enumerate(columns):
        if i:
            table.add_column(name, justify="right", overflow="fold")
        else:
            table.add_column(name, style="bold", no_wrap=True)
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def summary_table(summary: dict[str, Any], title: str) -> Table:
    """Return a table of :meth:`serveflow_app.tally.Tally.summary`."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    flows = summary["flows"]
    table.add_row("flows", f"{flows:,}")
    table.add_row("final / open", f"{summary['final']:,} / {summary['open']:,}")
    table.add_row("packets / malformed", f"{summary['packets']:,} / {summary['malformed']:,}")
    for kind, name in (("by_tier", "tier"), ("by_reason", "reason")):
        for key, count in summary[kind].items():
            share = f"{count / flows:6.1%}" if flows else ""
            table.add_row(f"{name} {key}", f"{count:,} {share}")
    within = summary["answered_within_16ms"]
    table.add_row("answered within 16 ms", "-" if within is None else f"{within:.1%}")
    for part, values in summary["latency_ms"].items():
        table.add_row(
            f"{part} ms p50 / p90 / p99",
            " / ".join(_ms(values[p]) for p in ("p50", "p90", "p99")),
        )
    for name in ("weighted_f1", "macro_f1"):
        if name in summary:
            table.add_row(name.replace("_", " "), f"{summary[name]:.3f}")
    return table
