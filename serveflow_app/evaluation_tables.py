"""What ``serveflow evaluate`` shows people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from serveflow_app.output import plain_table

__all__ = ["evaluation_tables", "unknown_tables"]

_BRIEF = ("weighted F1", "macro F1", "wait ≤ 16 ms")
_WAYS = {"cascade": "cascade", "fast_only": "fast only", "slow_only": "slow only"}


def evaluation_tables(result: dict[str, Any]) -> Iterator[Table]:
    """Return tables of :meth:`models.evaluation.Evaluation.to_dict`."""
    yield _ways(result)
    if result["intervals"] is not None:
        yield _intervals(result["intervals"])
    if result["families"] is not None:
        yield _families(result["families"])
    if result["escalation"] is not None:
        yield _escalation(result["escalation"])
    if result["without_host"] is not None:
        yield _without_host(result["without_host"])
    if result["ports"] is not None:
        yield _ports(result["ports"])
    if result["unknown"] is not None:
        yield _unknown(result["unknown"])
    yield _timeouts(result["by_idle_timeout"])
    yield _calibration(result["calibration"])
    yield _classes(result["per_class"])


def unknown_tables(result: dict[str, Any]) -> Iterator[Table]:
    """Return tables of :meth:`models.crossvalidation_unknown.UnknownEvaluation.to_dict`."""
    yield _unknown(result["unknown"])
    table = plain_table(
        f"left out in turn: {result['flows']:,} flows of {result['classes']} classes in "
        f"{result['captures']} captures",
        ("classes", "flows trained on", "known judged", "unknown judged"),
    )
    for fold in result["folds"]:
        counts = (f"{fold[name]:,}" for name in ("trained_on", "known", "unknown"))
        table.add_row(escape(", ".join(fold["classes"])), *counts)
    yield table


def _ways(result: dict[str, Any]) -> Table:
    table = plain_table(
        f"bundle {result['model_version']}: {result['flows']:,} flows of {result['classes']} "
        f"classes in {result['captures']} captures, {result['unlabelled']:,} without a label",
        ("", "weighted F1", "macro F1", "≤ 16 ms", "p50 ms", "p90 ms", "mean wait ms",
         "infer µs", "escalated"),
    )  # fmt: skip
    for key, name in _WAYS.items():
        way = result[key]
        if way is not None:
            table.add_row(
                name,
                _f1(way["weighted_f1"]),
                _f1(way["macro_f1"]),
                _percent(way["answered_within_16ms"]),
                _number(way["median_latency_ms"]),
                _number(way["p90_latency_ms"]),
                _number(way["mean_wait_ms"]),
                _number(way["mean_infer_us"]),
                _percent(way["escalated"]),
            )
    return table


def _intervals(found: dict[str, Any]) -> Table:
    table = plain_table(
        f"{found['level']:.0%} intervals, {found['captures']} captures drawn anew "
        f"{found['draws']} times",
        ("", "weighted F1", "macro F1", "≤ 16 ms"),
    )
    for key, name in (
        ("cascade", "cascade"),
        ("slow_only", "slow only"),
        ("difference", "cascade - slow only"),
    ):
        table.add_row(name, *(f"{v['low']:.3f} to {v['high']:.3f}" for v in found[key].values()))
    return table


def _families(found: dict[str, Any]) -> Table:
    table = plain_table(f"{len(found['families'])} families", ("", "weighted F1", "macro F1"))
    for key, name in _WAYS.items():
        if key in found:
            table.add_row(name, *map(_f1, found[key].values()))
    return table


def _escalation(found: dict[str, Any]) -> Table:
    table = plain_table("escalation", ("", ""))
    table.show_header = False
    table.add_row("flows that benefit", _percent(found["benefit_share"]))
    table.add_row("of those, escalated", _percent(found["benefit_escalated"]))
    table.add_row("of the fast tier's errors, escalated", _percent(found["fast_errors_caught"]))
    for catch in found["to_catch"]:
        table.add_row(
            f"to catch {catch['errors']:.0%} of them by least confidence, escalate",
            _percent(catch["escalated"]),
        )
    for name, value in found["weighted_f1"].items():
        table.add_row(f"weighted F1, {name.replace('_', ' ')}", _f1(value))
    return table


def _without_host(found: dict[str, Any]) -> Table:
    table = plain_table(
        "the same flows without their hosts' histories, as third parties would submit them",
        ("", *_BRIEF),
    )
    for key, own in found.items():
        table.add_row(_WAYS[key], *_in_brief(own))
    return table


def _ports(found: dict[str, Any]) -> Table:
    table = plain_table(f"ports: {found['how']}", ("", *_BRIEF))
    for name in ("with", "without"):
        for key, own in (found[name] or {}).items():
            table.add_row(f"{_WAYS[key]}, {name} the responder's port", *_in_brief(own))
    if found["with"] is found["without"] is None:
        table.add_row(f"{found['seen']:.0%} of the cascades see the responder's port", "", "", "")
    return table


def _in_brief(own: dict[str, Any]) -> tuple[str, ...]:
    scores = _f1(own["weighted_f1"]), _f1(own["macro_f1"])
    return (*scores, _percent(own["waited_at_most_16ms"]))


def _unknown(found: dict[str, Any]) -> Table:
    table = plain_table(
        f"{found['flows']:,} flows of {len(found['classes'])} classes never trained on, in "
        f"{found['captures']} captures",
        ("novelty", "cascade", "slow only"),
    )
    ways = (found, found["slow_only"])
    table.add_row("AUROC by flow", *(_f1(way["auroc_by_flow"]) for way in ways))
    table.add_row("AUROC by capture", *(_f1(way["auroc_by_capture"]) for way in ways))
    for share in found["flagged"] or {}:
        table.add_row(
            f"stranger than all but {float(share):.0%} of the known flows",
            *(_percent(way["flagged"][share]) for way in ways),
        )
    return table


def _timeouts(found: list[dict[str, Any]]) -> Table:
    table = plain_table(
        "waits by idle timeout τ (ratios: of latencies, slow only / cascade)",
        ("τ s", "flows", "cascade mean ms", "p50 ms", "infer µs", "slow mean ms", "p50 ms",
         "infer µs", "ratio of means", "of medians"),
    )  # fmt: skip
    for at in found:
        for own, kind in ((at, ""), (at["long_flows"], " long")):
            if own is None:
                continue
            table.add_row(
                f"{at['idle_timeout_s']:g}{kind}",
                f"{own['flows']:,}",
                *(
                    _number(value)
                    for key in ("cascade", "slow_only")
                    for value in (
                        own[key]["wait_ms"]["mean"],
                        own[key]["wait_ms"]["p50"],
                        own[key]["mean_infer_us"],
                    )
                ),
                *(_number(own["slow_over_cascade"][name]) for name in ("mean", "median")),
            )
    return table


def _calibration(found: list[dict[str, Any]]) -> Table:
    table = plain_table(
        "confidence of the tiers in the cascade",
        ("tier", "flows", "ECE", "asked", "final", "ECE asked", "chance", "debiased"),
        "ECE: expected calibration error, of the tier alone on all flows that have its packets, "
        "and of those that it is asked about; final: answers; chance: what a perfect tier would "
        "show on these; debiased: the root mean square less chance",
    )
    for tier in found:
        table.add_row(
            escape(tier["tier"]),
            f"{tier['flows']:,}",
            _f1(tier["ece"]),
            f"{tier['asked']:,}",
            f"{tier['answered']:,}",
            _f1(tier["ece_asked"]),
            _f1((tier["by_chance"] or {}).get("mean")),
            _f1(tier["rms_asked_debiased"]),
        )
    return table


def _classes(found: list[dict[str, Any]]) -> Table:
    table = plain_table(
        "classes",
        ("class", "flows", "precision", "recall", "F1", "escalated", "p50 ms", "p50 wait ms",
         "infer µs"),
    )  # fmt: skip
    for row in found:
        table.add_row(
            escape(row["label"]),
            f"{row['flows']:,}",
            *(_f1(row[name]) for name in ("precision", "recall", "f1")),
            _percent(row["escalated"]),
            _number(row["median_latency_ms"]),
            _number(row["median_wait_ms"]),
            _number(row["mean_infer_us"]),
        )
    return table


def _f1(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
