"""The data behind a report's figures, as tables that are written as CSV."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.evaluation_answers import Study
from models.evaluation_timeouts import percentiles
from models.goals import NEVER
from models.metrics import f1_scores
from models.yardstick import Judgements, route

__all__ = [
    "Table",
    "confusion_table",
    "inference_table",
    "latency_table",
    "pareto_table",
    "reliability_table",
]

_QUANTILES = 200
_THRESHOLDS = 40


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns.

    Attributes:
        columns: Their names.
        rows: One tuple per row, as long as ``columns``.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def write(self, path: Path) -> None:
        """Write the table as CSV."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows(self.rows)


def latency_table(study: Study) -> Table:
    """Return the distribution of the waits of each way: ``way``, ``share``, ``wait_ms``."""
    shares = np.linspace(0.0, 1.0, _QUANTILES + 1)
    rows = [
        (name, round(share, 4), round(ms, 4))
        for name, way in study.ways.items()
        for share, ms in zip(
            shares.tolist(),
            np.quantile(way.wait_ms, shares, method="inverted_cdf").tolist(),
            strict=True,
        )
    ]
    return Table(("way", "share", "wait_ms"), tuple(rows))


def reliability_table(calibration: list[dict[str, Any]]) -> Table:
    """Return the bins of :func:`models.evaluation_calibration.calibration`, tier by tier."""
    columns = ("low", "high", "flows", "confidence", "accuracy")
    rows = [
        (tier["tier"], *(cell[name] for name in columns))
        for tier in calibration
        for cell in tier["bins"]
    ]
    return Table(("tier", *columns), tuple(rows))


def confusion_table(confusion: dict[str, Any]) -> Table:
    """Return the matrix of :func:`models.evaluation_classes.confusion`, true labels first."""
    rows = zip(confusion["labels"], confusion["counts"], strict=True)
    return Table(("true", *confusion["labels"]), tuple((label, *counts) for label, counts in rows))


def pareto_table(study: Study) -> Table:
    """Return what waiting brings: ``name``, ``threshold``, ``mean_wait_ms``, ``weighted_f1``.

    The ways that are compared have no threshold; the rows named ``sweep`` are what the cascade
    would do if all its tiers had the same one. They show the bundle's place, and are none to
    choose from: that would be choosing on the flows that it is judged by.
    """
    rows: list[tuple[str, float | None, float, float]] = [
        (name, None, float(way.wait_ms.mean()), f1_scores(study.true, way.said)["weighted_f1"])
        for name, way in study.ways.items()
    ]
    tiers = [
        Judgements(way.said, way.confidence, tier.depth, way.wait_ns)
        for way, tier in zip(study.alone, study.tiers, strict=True)
    ]
    said = np.stack([way.said for way in study.alone])
    wait_ms = np.stack([way.wait_ms for way in study.alone])
    at = np.arange(len(study.true))
    for threshold in (*np.linspace(0.0, 1.0, _THRESHOLDS + 1).tolist(), NEVER):
        by = route(tiers, study.sizes, (threshold,) * (len(tiers) - 1))
        found = f1_scores(study.true, said[by, at])["weighted_f1"]
        rows.append(("sweep", round(threshold, 4), float(wait_ms[by, at].mean()), found))
    return Table(
        ("name", "threshold", "mean_wait_ms", "weighted_f1"),
        tuple((name, value, round(ms, 4), round(f1, 4)) for name, value, ms, f1 in rows),
    )


def inference_table(study: Study) -> Table:
    """Return the measured time of the models, µs: ``way``, ``mean``, ``p50``, ``p90``, ``p99``."""
    rows = []
    for name, way in study.ways.items():
        # As microseconds in, so microseconds out.
        us = percentiles(way.infer_ns / 1e3)
        rows.append((name, *(round(us[key], 2) for key in ("mean", "p50", "p90", "p99"))))
    return Table(("way", "mean_us", "p50_us", "p90_us", "p99_us"), tuple(rows))
