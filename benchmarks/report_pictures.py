"""Pictures of the kept results (matplotlib, Agg)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.capacity_run import fitted
from benchmarks.report_text import newest, rate_columns
from benchmarks.results import Kept
from flows.errors import SettingsError
from models.figures import check_drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_all"]

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442", "#d55e00")
"""Okabe and Ito 2008: told apart by everyone."""

_PARTS = {"ingress": "Router", "fast": "FastModel", "slow": "SlowModel",
          "trackers": "FlowTrackers", "proxy": "HAProxy", "ray": "Ray's own",
          "generator": "load generator"}  # fmt: skip
_PERCENTILES = ("p50", "p90", "p99")


def draw_all(results: Kept, folder: Path) -> list[Path]:
    """Draw each picture for which there are results; return the files.

    Args:
        results: As :func:`benchmarks.results.kept` returns them.
        folder: Where to write them; made if need be.

    Raises:
        SettingsError: matplotlib is not installed.
    """
    check_drawing()
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, draw in (("service-rate", _rates), ("latency", _latencies), ("capacity", _capacity)):
        path = folder / f"{name}.png"
        if draw(results, path):
            drawn.append(path)
    return drawn


def _rates(results: Kept, path: Path) -> bool:
    """Draw rates by placement beside the CPU that 1,000 flows take."""
    columns = rate_columns(results)
    if not columns:
        return False
    left, right, save = _two_axes(path, 10.0, 0.7 + 0.55 * len(columns))
    names = [heading.replace(", ", "\n", 1) for heading, _, _ in columns]
    rates = [result["new_flows_per_second"] / 1000.0 for _, _, result in columns]
    left.barh(names, rates, color=_COLOURS[0])
    for i, rate in enumerate(rates):
        left.text(rate, i, f" {rate:.1f}", va="center", fontsize=8)
    left.set_xlim(0, max(rates) * 1.15)
    left.set_xlabel("new flows/s, thousands")
    left.invert_yaxis()
    begin = [0.0] * len(columns)
    for (part, name), colour in zip(_PARTS.items(), _COLOURS, strict=True):
        spent = [result["cpu_ms_per_1000_flows"].get(part, 0.0) for _, _, result in columns]
        right.barh(names, spent, left=begin, color=colour, label=name)
        begin = [a + b for a, b in zip(begin, spent, strict=True)]
    right.set_yticks([])
    right.invert_yaxis()
    right.set_xlabel("CPU-ms per 1,000 flows")
    right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save()
    return True


def _latencies(results: Kept, path: Path) -> bool:
    """Draw p50, p90 and p99 of the newest latency measurement at each rate."""
    found = newest(results, "latency", lambda result: result["rate"])
    if not found:
        return False
    rates = sorted(found)[:2]
    left, right, save = _two_axes(path, 9.0, 3.2)
    for axes, rate in zip((left, right), rates, strict=False):
        kinds = {"cascade": "cascade", "slow_only": "slow only", "fast_only": "fast only"}
        for i, (kind, name) in enumerate(kinds.items()):
            one = found[rate][1][kind]
            axes.plot(
                _PERCENTILES, [one[f"{p}_ms"] for p in _PERCENTILES], marker="o",
                color=_COLOURS[(0, 6, 1)[i]], label=f"{name}: {one['within_16ms']:.0%} ≤ 16 ms",
            )  # fmt: skip
        axes.axhline(16.0, color="#888888", linestyle=":", linewidth=1.0)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(f"{rate:,.0f} new flows/s", fontsize=9)
        axes.set_ylabel("first packet to verdict, ms")
        axes.legend(fontsize=7)
    if len(rates) == 1:
        right.set_axis_off()
    save()
    return True


def _capacity(results: Kept, path: Path) -> bool:
    """Draw predicted against measured, for the points fitted on and those checked against."""
    try:
        model, points, checked, _ = fitted(results)
    except SettingsError:
        return False
    left, right, save = _two_axes(path, 9.0, 4.0)
    for several, colour, name in ((points, _COLOURS[0], "fitted on"),
                                  (checked, _COLOURS[6], "not fitted on")):  # fmt: skip
        told = [model.predicted(point) for point in several]
        used = [sum(point.cores_used.values()) for point in several]
        left.scatter(used, [one["all"] for one in told], color=colour, label=name)
        for i, (q, marker) in enumerate((("first_p50_ms", "o"), ("first_p99_ms", "^"))):
            measured = [point.first_ms[i] for point in several]
            label = f"p{(50, 99)[i]}, {name}"
            right.scatter(measured, [one[q] for one in told], color=colour, marker=marker,
                          label=label)  # fmt: skip
    for axes, what in ((left, "cores used"), (right, "first answer, ms")):
        low, high = axes.get_xlim()
        axes.plot([low, high], [low, high], color="#888888", linestyle=":", linewidth=1.0)
        axes.set_xlabel(f"{what}: measured")
        axes.set_ylabel("predicted")
        axes.legend(fontsize=7)
    save()
    return True


def _two_axes(
    path: Path, width_in: float, height_in: float
) -> tuple[Axes, Axes, Callable[[], None]]:
    """Return two axes side by side, and what saves them."""
    # Without pyplot: no window system is looked for and no global state is left behind.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    left, right = figure.subplots(1, 2)

    def save() -> None:
        FigureCanvasAgg(figure)
        # Without the version in it, so that the same data gives the same file.
        figure.savefig(path, format="png", dpi=110, metadata={"Software": None})

    return left, right, save
