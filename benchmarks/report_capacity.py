"""The blocks of ``docs/capacity.md``: the fitted model, its check, and what rates need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.capacity import TERMS, left_out
from benchmarks.capacity_run import compared, fitted, wanted_of
from benchmarks.plan import plan
from benchmarks.report_text import markdown
from benchmarks.results import Kept
from flows.errors import SettingsError

__all__ = ["CAPACITY_BLOCKS"]

_RATES = (10_000.0, 48_500.0, 100_000.0, 200_000.0, 500_000.0, 1_000_000.0)
_LARGE = 10_000_000.0
_UTILISATION, _BATCH_FLOWS, _NODE_CORES, _OPEN_S = 0.7, 1_000.0, 64, 10.0
_UNITS = {"idle": "a replica, CPU-ms/s", "flows": "1,000 flows", "batches": "a batch",
          "rounds": "a round of calls", "calls": "a call to a tracker"}  # fmt: skip
_NAMES = {"ingress": "Router", "fast": "FastModel", "slow": "SlowModel",
          "trackers": "FlowTrackers", "proxy": "HAProxy", "ray": "Ray's own",
          "generator": "load generator"}  # fmt: skip
_COMPARED = {"all": "cores, all", "ingress": "Router", "fast": "FastModel", "slow": "SlowModel",
             "trackers": "FlowTrackers", "first_p50_ms": "first answer p50, ms",
             "first_p99_ms": "p99, ms"}  # fmt: skip


def model_block(results: Kept) -> str:
    """Return the fitted factors."""
    try:
        model, points, _, files = fitted(results)
    except SettingsError as error:
        return f"{error}."
    rows = []
    for part, factors in model.factors.items():
        rows.append((
            _NAMES[part],
            *(f"{factors[term]:.2f}" if term in TERMS[part] else "" for term in _UNITS),
        ))  # fmt: skip
    taken = next(result["environment"] for name, result in results if name == files[-1])
    return (
        f"{markdown(('CPU-ms of', *_UNITS.values()), rows)}\n\n"
        f"Time to a batch's first answers without waiting {model.batch_ms:.1f} ms and "
        f"{1000 * model.flow_ms:.1f} µs for each flow in it; variability "
        f"{model.variability:.2f}; from one batch of a collector to its next "
        f"{model.period_ms:.0f} ms. Fitted on {len(points)} points: "
        f"{'; '.join(point.name for point in points)}. Each load for "
        f"{taken['settings']['seconds']:g} s after {taken['settings']['warm_up_s']:g} s, "
        f"{taken['settings']['rounds']} time(s). Files: "
        f"{', '.join(f'`{name}.json`' for name in files)}; commit {taken['commit']}, "
        f"{taken['cores']} cores of {taken['cpu']}."
    )


def check_block(results: Kept) -> str:
    """Return measured beside predicted, for points that the model was not fitted on."""
    try:
        model, points, checked, _ = fitted(results)
    except SettingsError as error:
        return f"{error}."
    rows = []
    for point in checked:
        one = compared(point, model.predicted(point))
        for key, name in _COMPARED.items():
            digits = 1 if key.endswith("_ms") else 3
            rows.append((
                point.name if key == "all" else "", name, f"{one['measured'][key]:.{digits}f}",
                f"{one['predicted'][key]:.{digits}f}", f"{one['error'][key]:+.1%}",
            ))  # fmt: skip
    errors = [compared(point, told)["error"] for point, told in left_out(points)]
    mean = {
        key: sum(abs(one[key]) for one in errors) / len(errors)
        for key in ("all", "first_p50_ms", "first_p99_ms")
    }
    worst = {key: max(abs(one[key]) for one in errors) for key in mean}
    table = markdown(("point", "what", "measured", "predicted", "error"), rows)
    return (
        f"{table}\n\nEach of the other {len(points)} points left out in turn, mean (worst) error: "
        f"cores {mean['all']:.1%} ({worst['all']:.1%}), first answer p50 "
        f"{mean['first_p50_ms']:.1%} ({worst['first_p50_ms']:.1%}), p99 "
        f"{mean['first_p99_ms']:.1%} ({worst['first_p99_ms']:.1%})."
    )


def rates_block(results: Kept) -> str:
    """Return what rates need."""
    try:
        plans = _plans(results, _RATES)
    except SettingsError as error:
        return f"{error}."
    rows = []
    for one in plans:
        parts = one["parts"]
        rows.append((
            f"{one['rate']:,.0f}", f"{one['cores_used']:,.1f}", f"{one['cores']:,}",
            f"{one['cells']:,}",
            *(f"{parts[part]['replicas']:,}" for part in ("ingress", "fast", "slow", "trackers")),
            f"{one['cpu_ms_per_1000_flows']:.1f}",
            *(f"{parts[part]['wait_p99_ms']:.0f}"
              for part in ("ingress", "fast", "trackers", "slow")),
            f"{one['first_answer_ms']['p50']:.0f} / {one['first_answer_ms']['p99']:.0f}",
        ))  # fmt: skip
    columns = ("new flows/s", "cores used", f"cores at {_UTILISATION:.0%}", "cells", "Routers",
               "FastModels", "SlowModels", "trackers", "CPU-ms per 1,000 flows",
               "p99 of waiting, ms: Router", "FastModel", "tracker", "SlowModel",
               "first answer p50 / p99, ms")  # fmt: skip
    return (
        f"{markdown(columns, rows)}\n\nBatches of {_BATCH_FLOWS:,.0f} new flows, gathering as "
        f"measured, at most {_UTILISATION:.0%} of a replica's core. `serveflow bench capacity "
        "--rate R`; without collectors and their load."
    )


def large_block(results: Kept) -> str:
    """Return the plan for 10M flows/s."""
    try:
        (one,) = _plans(results, (_LARGE,))
    except SettingsError as error:
        return f"{error}."
    parts = one["parts"]
    rows = [
        ("new flows/s", f"{one['rate']:,.0f}"),
        ("cores used / provided", f"{one['cores_used']:,.0f} / {one['cores']:,}"),
        (f"nodes of {one['node_cores']} cores (cells on one)",
         f"{one['nodes']:,} ({one['cells_a_node']})"),
        ("cells (applications), new flows/s of each",
         f"{one['cells']:,}, {one['rate_of_a_cell']:,.0f}"),
        *((f"{_NAMES[part]}: replicas (in a cell), utilisation",
           f"{told['replicas']:,} ({told['replicas_of_a_cell']}), {told['utilisation']:.0%}")
          for part, told in parts.items()),
        ("HAProxy, Ray's own: cores used",
         ", ".join(f"{value:,.0f}" for value in one["other_cores_used"].values())),
        ("calls to trackers a second, all cells", f"{one['tracker_calls_per_s']:,.0f}"),
        (f"collectors' requests in flight, batches of {one['batch_flows']:,.0f}",
         f"{one['collectors_at_once']:,.0f}"),
    ]  # fmt: skip
    if "gbit_per_s" in one:
        told = one["gbit_per_s"]
        rows.append(
            ("payload in / out, Gbit/s, all nodes", f"{told['in']:.0f} / {told['out']:.1f}")
        )
        rows.append(("the same a node", f"{told['in'] / one['nodes']:.1f} / "
                                        f"{told['out'] / one['nodes']:.1f}"))  # fmt: skip
        rows.append(("a Router's round of calls to trackers, MB, at most",
                     f"{one['round_mb']:.1f}"))  # fmt: skip
    if "open_at_trackers" in one:
        rows.append((f"flows open at trackers, if each is for {_OPEN_S:g} s",
                     f"{one['open_at_trackers']:,.0f}"))  # fmt: skip
        each = one["open_at_trackers"] / parts["trackers"]["replicas"]
        rows.append(("the same at one of them", f"{each:,.0f}"))
    if "tracker_gb" in one:
        rows.append(("memory for them, GB", f"{one['tracker_gb']:.1f}"))
    if "collector_cores_used" in one:
        rows.append(("collectors' packet side, cores used",
                     f"{one['collector_cores_used']:,.0f}"))  # fmt: skip
    return markdown(("", "extrapolated"), rows)


def one_application_block(results: Kept) -> str:
    """Return what one application would need if it were not cut into cells."""
    try:
        model, points, _, _ = fitted(results)
    except SettingsError as error:
        return f"{error}."
    wanted = wanted_of(
        _LARGE, _UTILISATION, _BATCH_FLOWS, _NODE_CORES, _OPEN_S, points, results
    )  # fmt: skip
    call_ms = model.factors["ingress"]["calls"] + model.factors["trackers"]["calls"]
    rows = []
    for rate in (100_000.0, 1_000_000.0, _LARGE):
        routers = max(1, round(model.factors["ingress"]["flows"] * rate / 1e6 / _UTILISATION))
        trackers = max(1, round(model.factors["trackers"]["flows"] * rate / 1e6 / _UTILISATION))
        batches = rate / wanted.batch_flows
        calls = min(batches, routers / wanted.gather_s) * trackers
        rows.append((f"{rate:,.0f}", f"{routers:,}", f"{trackers:,}", f"{calls:,.0f}",
                     f"{calls * call_ms / 1000.0:,.1f}"))  # fmt: skip
    return markdown(
        ("new flows/s", "Routers", "trackers", "calls to trackers a second",
         "cores for these calls alone"), rows,
    )  # fmt: skip


def _plans(results: Kept, rates: tuple[float, ...]) -> list[dict[str, Any]]:
    model, points, _, _ = fitted(results)
    return [
        plan(model, wanted_of(rate, _UTILISATION, _BATCH_FLOWS, _NODE_CORES, _OPEN_S, points,
                              results))
        for rate in rates
    ]  # fmt: skip


CAPACITY_BLOCKS: dict[str, Callable[[Kept], str]] = {
    "capacity-model": model_block,
    "capacity-check": check_block,
    "capacity-rates": rates_block,
    "capacity-large": large_block,
    "capacity-one-application": one_application_block,
}
"""What makes each block, by name."""
