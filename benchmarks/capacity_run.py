"""``serveflow bench capacity``: the model of the kept results, its check, and a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.capacity import Model, Point, fit, left_out, points_of
from benchmarks.plan import Wanted, plan
from benchmarks.results import Kept, kept
from flows.errors import SettingsError

__all__ = ["CHECKED", "compared", "fitted", "measure_capacity", "wanted_of"]

CHECKED = ("30000@4", "45000@8")
"""Points that the model is not fitted on but checked against: one amid the others, one outside."""


def fitted(results: Kept | None = None) -> tuple[Model, list[Point], list[Point], list[str]]:
    """Fit the model on the newest measured points.

    Args:
        results: Names and contents of the results; None: those in ``docs/results``.

    Returns:
        The model, the points it was fitted on, those it was not, and the files' names. Points are
        of one commit, that of the newest file.

    Raises:
        SettingsError: There are too few points.
    """
    found = [one for one in (kept() if results is None else results)
             if one[0].startswith("capacity-points-")
             and one[1]["environment"]["settings"]["placement"] == "separate"]  # fmt: skip
    if not found:
        raise SettingsError("no measured points: run bench capacity-points --save first")
    commit = found[-1][1]["environment"]["commit"]
    found = [one for one in found if one[1]["environment"]["commit"] == commit]
    points = [point for _, result in found for point in points_of(result)]
    checked = [point for point in points if point.name.partition(",")[0] in CHECKED]
    used = [point for point in points if point not in checked]
    return fit(used), used, checked, [name for name, _ in found]


def wanted_of(
    rate: float, utilisation: float, batch_flows: float, node_cores: int, open_s: float,
    points: Sequence[Point], results: Kept | None = None,
) -> Wanted:  # fmt: skip
    """Return what to plan for, with what other kept results tell of a flow."""
    by_kind: dict[str, dict[str, Any]] = {}
    for name, result in kept() if results is None else results:
        by_kind[name.rpartition("-")[0]] = result  # the newest comes last
    unsure = tracker_bytes = collector_us = None
    if "engine" in by_kind:
        unsure = 1.0 - next(iter(by_kind["engine"]["answered_share"].values()))
        collector_us = by_kind["engine"]["stages_us_per_flow"]["packet_side"]
    if "scale" in by_kind:
        tracker_bytes = by_kind["scale"]["by_open_flows"][-1]["tracker_bytes_per_flow"]
    largest = max(points, key=lambda point: point.load.rate)
    return Wanted(
        rate, utilisation, batch_flows, largest.load.gather_s, node_cores, unsure, open_s,
        tracker_bytes, largest.bytes_per_flow, collector_us,
    )  # fmt: skip


def measure_capacity(
    rate: float, utilisation: float, batch_flows: float, node_cores: int, open_s: float
) -> dict[str, Any]:
    """Fit, check and plan; return the object that ``--json`` prints.

    Raises:
        SettingsError: There are too few measured points, or a value makes no sense.
    """
    model, points, checked, files = fitted()
    wanted = wanted_of(rate, utilisation, batch_flows, node_cores, open_s, points)
    return {
        "plan": plan(model, wanted),
        "model": asdict(model),
        "check": [compared(point, model.predicted(point)) for point in checked],
        "left_out": [compared(point, told) for point, told in left_out(points)],
        "fitted_on": [point.name for point in points],
        "files": files,
    }


def compared(point: Point, predicted: dict[str, float]) -> dict[str, Any]:
    """Return what was measured and predicted of a point, and by what share that is off."""
    measured = {
        **point.cores_used,
        "all": sum(point.cores_used.values()),
        "first_p50_ms": point.first_ms[0],
        "first_p99_ms": point.first_ms[1],
    }
    return {
        "point": point.name,
        "measured": measured,
        "predicted": {name: predicted[name] for name in measured},
        "error": {name: predicted[name] / value - 1.0
                  for name, value in measured.items() if value},
    }  # fmt: skip
