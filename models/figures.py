"""Figures of an evaluation; the only module that draws (matplotlib, Agg)."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.errors import SettingsError
from models.report_tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "check_drawing",
    "draw_confusion",
    "draw_curve",
    "draw_latency",
    "draw_pareto",
    "draw_reliability",
]

_COLOURS = {"cascade": "#0072b2", "fast_only": "#e69f00", "slow_only": "#d55e00"}
"""Okabe and Ito 2008: told apart by everyone."""

_GREY = "#888888"
_PRICES = {
    "max_f1_loss": ("typical_wait_ms", "typical wait for packets, ms", 1.0),
    "within_16ms": ("within_16ms", "flows that wait for 16 ms at most, %", 100.0),
    "max_escalation": ("escalated", "flows that go beyond packet 1, %", 100.0),
}
"""Of a goal of tuning: what is traded for the loss, and by what it is multiplied."""

_NAMES = {"cascade": "cascade", "fast_only": "fast only", "slow_only": "slow only"}


def check_drawing() -> None:
    """Make sure that figures can be drawn, before long work is done for them.

    Raises:
        SettingsError: matplotlib is not installed.
    """
    try:
        import matplotlib.backends.backend_agg  # noqa: F401
    except ModuleNotFoundError as error:
        lacking = (error.name or "matplotlib").partition(".")[0]
        raise SettingsError(
            f"{lacking} is not installed and draws the figures: pip install 'serveflow[train]'"
        ) from None


def draw_latency(table: Table, path: Path) -> None:
    """Draw the distributions of :func:`models.report_tables.latency_table`."""
    figure = _figure(7.0, 4.2)
    axes = figure.add_subplot()
    longest_ms = max(ms for _, _, ms in table.rows)
    for name, rows in groupby(table.rows, key=lambda row: row[0]):
        points = list(rows)
        axes.step(
            [*(ms for _, _, ms in points), max(longest_ms, 100.0) * 1.5],
            [*(share for _, share, _ in points), 1.0],
            where="post",
            color=_COLOURS[name],
            label=_NAMES[name],
        )
    _scale_waits(axes)
    axes.axvline(16.0, color=_GREY, linestyle=":", linewidth=1.0)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("wait for packets, ms (dotted: 16 ms)")
    axes.set_ylabel("share of flows answered")
    axes.legend(loc="lower right")
    _save(figure, path)


def draw_reliability(table: Table, path: Path) -> None:
    """Draw the bins of :func:`models.report_tables.reliability_table`, one picture per tier."""
    by_tier = [(name, list(rows)) for name, rows in groupby(table.rows, key=lambda row: row[0])]
    figure = _figure(max(2.4 * len(by_tier), 4.0), 2.9)
    for i, (name, rows) in enumerate(by_tier):
        axes = figure.add_subplot(1, len(by_tier), i + 1)
        axes.plot([0.0, 1.0], [0.0, 1.0], color=_GREY, linestyle=":", linewidth=1.0)
        most = max(row[3] for row in rows)
        axes.scatter(
            [row[4] for row in rows],
            [row[5] for row in rows],
            s=[10.0 + 90.0 * row[3] / most for row in rows],
            color=_COLOURS["cascade"],
            alpha=0.7,
        )
        axes.set_xlim(-0.05, 1.05)
        axes.set_ylim(-0.05, 1.05)
        axes.set_aspect("equal")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("confidence")
        if i == 0:
            axes.set_ylabel("accuracy (area: flows)")
    _save(figure, path)


def draw_confusion(table: Table, path: Path) -> None:
    """Draw the matrix of :func:`models.report_tables.confusion_table`, each row as shares."""
    labels = table.columns[1:]
    counts = np.array([row[1:] for row in table.rows], np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    side = min(3.0 + 0.3 * len(labels), 40.0)
    figure = _figure(side, side)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    for i, j in np.argwhere(counts > 0).tolist():
        ink = "white" if shares[i, j] > 0.5 else "black"
        axes.text(j, i, f"{counts[i, j]:.0f}", ha="center", va="center", fontsize=6, color=ink)
    axes.set_xlabel("said")
    axes.set_ylabel("true")
    _save(figure, path)


def draw_pareto(table: Table, path: Path) -> None:
    """Draw the points of :func:`models.report_tables.pareto_table`."""
    figure = _figure(7.0, 4.2)
    axes = figure.add_subplot()
    sweep = [row for row in table.rows if row[0] == "sweep"]
    axes.plot(
        [row[2] for row in sweep],
        [row[3] for row in sweep],
        color=_GREY,
        marker=".",
        linewidth=1.0,
        label="one threshold of confidence for all tiers, no gates",
    )
    for name, _, wait_ms, f1 in table.rows:
        if name != "sweep":
            axes.scatter([wait_ms], [f1], s=70, color=_COLOURS[name], label=_NAMES[name], zorder=3)
    _scale_waits(axes)
    axes.set_xlabel("mean wait for packets, ms")
    axes.set_ylabel("weighted F1")
    axes.set_ylim(top=min(axes.get_ylim()[1], 1.005))
    axes.legend(loc="lower right")
    _save(figure, path)


def draw_curve(report: dict[str, Any], path: Path) -> None:
    """Draw the trade-off curve of :meth:`models.tune_report.TuneReport.to_dict`.

    Loss and its bound against what the goal trades for them.
    """
    name, text, scale = _PRICES[report["goal"]]
    figure = _figure(7.0, 4.2)
    axes = figure.add_subplot()
    points = sorted(report["curve"], key=lambda one: float(one[name]))
    prices = [scale * point[name] for point in points]
    for key, label, colour in (
        ("loss_bound", "upper bound of the loss (one-sided 90 %)", _COLOURS["slow_only"]),
        ("loss", "loss of weighted F1", _COLOURS["cascade"]),
    ):
        losses = [100.0 * point[key] for point in points]
        axes.plot(prices, losses, color=colour, marker=".", linewidth=1.0, label=label)
        for point, price, loss in zip(points, prices, losses, strict=True):
            if point["chosen"] or point["current"]:
                mark = "o" if point["chosen"] else "s"
                axes.scatter([price], [loss], s=60, color=colour, marker=mark, zorder=3)
    axes.axhline(0.0, color=_GREY, linestyle=":", linewidth=1.0)
    if name == "typical_wait_ms":
        _scale_waits(axes)
    axes.set_xlabel(f"{text} (round: chosen; square: the bundle as it was)")
    axes.set_ylabel("points lost against the deepest tier")
    axes.legend()
    _save(figure, path)


def _figure(width_in: float, height_in: float) -> Figure:
    from matplotlib.figure import Figure

    # Without pyplot: no window system is looked for and no global state is left behind.
    return Figure(figsize=(width_in, height_in), layout="constrained")


def _scale_waits(axes: Axes) -> None:
    """Scale the axis of waits: by factors, but with a place for no wait at all."""
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlim(left=-0.2)
    axes.xaxis.set_major_formatter("{x:g}")


def _save(figure: Figure, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # A label may hold a dollar sign; it is no formula.
    for text in figure.findobj(lambda artist: hasattr(artist, "set_parse_math")):
        text.set_parse_math(False)  # type: ignore[attr-defined]
    FigureCanvasAgg(figure)
    # Without the version in it, so that the same data gives the same file.
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})
