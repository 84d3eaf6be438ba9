"""The trade-off curve of ``serveflow tune``: a table for people, a CSV file for plots."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from rich.table import Table

from flows.errors import SettingsError

__all__ = ["curve_table", "write_curve"]

_FIGURES = (
    "early", "within_16ms", "escalated", "loss", "loss_bound", "mean_wait_ms", "typical_wait_ms",
    "chosen", "current",
)  # fmt: skip


def curve_table(report: dict[str, Any]) -> Table:
    """Return a table of :meth:`models.tuning.TuneReport.to_dict`."""
    table = Table(
        title=f"{report['tuned_from']} → {report['model_version']}: what waiting less costs",
        caption="loss: weighted F1 against the deepest tier alone, percentage points; bound: of it "
        "or of accuracy, the greater, one-sided 90 %; wait: for packets",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    for name in ("early", "≤ 16 ms", "escalated", "loss", "bound", "wait mean", "wait typical"):
        table.add_column(name, justify="right")
    for point in report["curve"]:
        marks = [name for key, name in (("chosen", "chosen"), ("current", "was")) if point[key]]
        table.add_row(
            ", ".join(marks),
            f"{point['early']:.1%}",
            f"{point['within_16ms']:.1%}",
            f"{point['escalated']:.1%}",
            f"{100 * point['loss']:+.2f}",
            f"{100 * point['loss_bound']:+.2f}",
            f"{point['mean_wait_ms']:,.1f} ms",
            f"{point['typical_wait_ms']:,.1f} ms",
            style="bold green" if point["chosen"] else None,
        )
    return table


def write_curve(report: dict[str, Any], path: Path) -> None:
    """Write the curve as CSV: one row per point, the threshold of each tier, then the figures.

    Raises:
        SettingsError: The file cannot be written.
    """
    tiers = report["tiers"][:-1]
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow([*tiers, *_FIGURES])
            for point in report["curve"]:
                figures = [float(point[name]) for name in _FIGURES]
                rows.writerow(f"{value:g}" for value in (*point["thresholds"], *figures))
    except OSError as error:
        raise SettingsError(f"--curve {path}: cannot be written: {error.strerror}") from None
