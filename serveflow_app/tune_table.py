"""The trade-off curve of ``serveflow tune``: a table for people, a CSV file for plots."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from flows.errors import SettingsError
from serveflow_app.output import plain_table

__all__ = ["curve_table", "write_curve"]

_FIGURES = (
    "early", "within_16ms", "escalated", "loss", "loss_bound", "mean_wait_ms", "typical_wait_ms",
    "cost_us", "chosen", "current",
)  # fmt: skip


def curve_table(report: dict[str, Any]) -> Table:
    """Return a table of :meth:`models.tune_report.TuneReport.to_dict`."""
    table = plain_table(
        f"{report['tuned_from']} → {report['model_version']}: what waiting less costs",
        ("", "early", "≤ 16 ms", "beyond 1", "loss", "bound", "wait", "typical", "models"),
        "early (before the deepest tier), ≤ 16 ms, beyond packet 1: % of the flows; loss: weighted "
        "F1 against the deepest tier alone, percentage points; bound: of it or of accuracy, the "
        "greater, one-sided 90 %; wait: ms for packets, mean and geometric mean; models: µs that "
        "they take of a flow on average, where they were trained",
    )
    for point in report["curve"]:
        marks = [name for key, name in (("chosen", "chosen"), ("current", "was")) if point[key]]
        table.add_row(
            ", ".join(marks),
            *(f"{100 * point[name]:.1f}" for name in ("early", "within_16ms", "escalated")),
            f"{100 * point['loss']:+.2f}",
            f"{100 * point['loss_bound']:+.2f}",
            f"{point['mean_wait_ms']:,.0f}",
            f"{point['typical_wait_ms']:,.1f}",
            f"{point['cost_us']:,.1f}" if point["cost_us"] else "-",
            style="bold green" if point["chosen"] else None,
        )
    return table


def write_curve(report: dict[str, Any], path: Path) -> None:
    """Write the curve as CSV: one row per point, the threshold of each tier, then the figures.

    Where classes have thresholds of their own, they stand in one field, parted by spaces.

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
                thresholds = map(_threshold, point["thresholds"])
                rows.writerow([*thresholds, *(f"{value:g}" for value in figures)])
    except OSError as error:
        raise SettingsError(f"--curve {path}: cannot be written: {error.strerror}") from None


def _threshold(value: float | Sequence[float]) -> str:
    return f"{value:g}" if isinstance(value, float) else " ".join(f"{each:g}" for each in value)
