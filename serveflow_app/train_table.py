"""What ``serveflow train`` shows people, and what it adds to the report for machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from models.costs import BATCHES, COST_BATCH
from serveflow_app.output import plain_table

__all__ = ["complete", "train_tables"]


def complete(report: dict[str, Any], seconds: float, peak_mib: float) -> dict[str, Any]:
    """Return a report with what the whole command took and what became of each candidate.

    Args:
        report: :meth:`models.train_report.TrainReport.to_dict`.
        seconds: What the command took, reading the captures included (wall clock).
        peak_mib: Most memory that it held, MiB.

    Returns:
        The report with ``seconds``, ``peak_memory_mib`` and, of each candidate, ``pareto``
        (whether no other one that the cascade could have used needs at most as many packets and
        as much time and has at least its weighted F1) and ``tier`` (whether it became one).
    """
    sight = "+host" * report["with_host"] + "+port" * report["with_port"]
    chosen = {f"{tier['name']}{sight}" for tier in report["tiers"]}
    usable = [one for one in report["candidates"] if _sight(one) == sight]
    return {
        **report,
        "candidates": [
            {**one, "pareto": one in usable and _on_front(one, usable),
             "tier": one["name"] in chosen}
            for one in report["candidates"]
        ],
        "seconds": round(seconds, 1),
        "peak_memory_mib": round(peak_mib, 1),
    }  # fmt: skip


def train_tables(result: dict[str, Any]) -> Iterator[Table]:
    """Return tables of what :func:`complete` returns."""
    yield _candidates(result)
    yield _tiers(result)
    yield _gates(result)
    yield _whole(result)


def _sight(candidate: dict[str, Any]) -> str:
    """Return what a candidate sees beyond the flow's headers, as its name ends on it."""
    _, plus, seen = candidate["name"].partition("+")
    return str(plus + seen)


def _on_front(one: dict[str, Any], among: list[dict[str, Any]]) -> bool:
    mine = _figures(one)
    return not any(
        all(theirs <= own for theirs, own in zip(_figures(other), mine, strict=True))
        and _figures(other) != mine
        for other in among
    )


def _figures(candidate: dict[str, Any]) -> tuple[float, ...]:
    """Return what is better the less it is."""
    return candidate["depth"], -candidate["weighted_f1"], candidate["cost_us"][COST_BATCH]


def _candidates(result: dict[str, Any]) -> Table:
    table = plain_table(
        f"{len(result['candidates'])} models tried, on captures that they had not learned from",
        ("model", "packets", "weighted F1", "macro F1",
         *(f"µs at {batch}" for batch in BATCHES), "", ""),
        "µs: of a flow, in calls of so many flows; front: none that sees the same needs no more "
        "packets and time and is as good",
    )  # fmt: skip
    for one in sorted(result["candidates"], key=lambda one: (one["depth"], -one["weighted_f1"])):
        table.add_row(
            escape(one["name"]),
            str(one["depth"]),
            f"{one['weighted_f1']:.4f}",
            f"{one['macro_f1']:.4f}",
            *(f"{one['cost_us'][batch]:,.1f}" for batch in BATCHES),
            "front" if one["pareto"] else "",
            "tier" if one["tier"] else "",
            style="bold green" if one["tier"] else None,
        )
    for name in result["skipped"]:
        table.add_row(escape(name), *[""] * (2 + len(BATCHES)), "", "no time", "", style="dim")
    return table


def _tiers(result: dict[str, Any]) -> Table:
    table = plain_table(
        f"bundle {result['model_version']}: {len(result['tiers'])} tiers, gate "
        f"{result['gate']}, operating point {result['operating_point']}",
        ("tier", "packets", "weighted F1", "macro F1", "accuracy", "calibration error",
         "final from", "size"),
    )  # fmt: skip
    for tier in result["tiers"]:
        last = tier is result["tiers"][-1]
        never = "never" if tier["threshold"] > 1.0 else f"{tier['threshold']:.3f}"
        table.add_row(
            escape(tier["name"]),
            str(tier["depth"]),
            *(f"{tier[name]:.4f}" for name in ("weighted_f1", "macro_f1", "accuracy")),
            f"{tier['calibration_error']:.4f}",
            "always" if last else never,
            f"{tier['bytes'] / 1e6:.2f} MB",
        )
    return table


def _gates(result: dict[str, Any]) -> Table:
    table = plain_table("the same tiers by each gate", ("gate", "≤ 16 ms", "wait typical", ""))
    for kind, (within, wait_ms) in result["by_gate"].items():
        chosen = kind == result["gate"]
        table.add_row(
            kind,
            f"{within:.1%}",
            f"{wait_ms:,.1f} ms",
            "chosen" if chosen else "",
            style="bold green" if chosen else None,
        )
    return table


def _whole(result: dict[str, Any]) -> Table:
    table = plain_table("what is expected on other captures of this kind", ("", ""))
    table.show_header = False
    table.columns[1].justify = "left"
    seen = [
        name
        for name, on in (
            ("the responder's port", result["with_port"]),
            ("what the host did before", result["with_host"]),
        )
        if on
    ]
    dropped = ", ".join(f"{name} ({n})" for name, n in result["dropped_classes"].items())
    for name, value in (
        ("learned from", f"{result['flows']:,} flows of {result['groups']:,} captures, "
         f"{len(result['classes'])} classes; {result['unlabelled']:,} without a label left out"),
        ("left out, too rare", escape(dropped) or "none"),
        ("sees beyond headers", " and ".join(seen) or "nothing"),
        *((f"weighted F1 {name} the responder's port", ", ".join(
            f"{escape(model)} {f1:.4f}" for model, f1 in own.items()))
          for name, own in result["by_port"].items()),
        ("answered before the deepest tier", f"{result['early']:.1%}"),
        ("within 16 ms of the first packet", f"{result['within_16ms']:.1%}"),
        ("beyond packet 1 (escalated)", f"{result['escalated']:.1%}"),
        ("models take, on average", f"{result['mean_cost_us']:,.1f} µs of a flow"),
        ("F1 lost against the deepest tier", f"{100 * result['loss']:+.2f} points, bound "
         f"{100 * result['loss_bound']:+.2f} (of F1 or accuracy, one-sided 90 %)"),
        *([] if result["met"] else [("not reached", "no cascade keeps to both limits of loss and "
         "cost; then cost comes first: --operating-point accurate has no limit of cost")]),
        ("took", f"{result['seconds']:,.0f} s and {result['peak_memory_mib']:,.0f} MiB at most"),
    ):  # fmt: skip
        table.add_row(name, value)
    for name, reason in result["damaged"]:
        table.add_row("damaged, read up to the damage", escape(f"{name}: {reason}"))
    return table
