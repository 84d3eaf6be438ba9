"""The report of an evaluation: figures, their data, and a model card that names its sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flows.errors import SettingsError
from models import figures
from models.evaluation_answers import Study
from models.evaluation_timeouts import LONG_FLOW_PACKETS
from models.report_tables import (
    confusion_table,
    inference_table,
    latency_table,
    pareto_table,
    reliability_table,
)

__all__ = ["check_report_folder", "report_text", "write_report"]

_NAMES = {"cascade": "cascade", "fast_only": "fast only", "slow_only": "slow only"}
_CHOICES = {**_NAMES, "random": "chance", "least_confidence": "least confident", "oracle": "oracle"}


def check_report_folder(folder: Path) -> None:
    """Make sure that a report can be written, before long work is done for it.

    Raises:
        SettingsError: The folder holds something, or what draws figures is not installed.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SettingsError(f"{folder}: holds something; a report needs a new or an empty folder")
    figures.check_drawing()


def write_report(folder: Path, result: dict[str, Any], lasting: Study, measured: Study) -> None:
    """Write ``report.md``, and PNG figures with their data as CSV beside each.

    All but ``inference.csv`` is the same, byte by byte, whenever the same bundle is evaluated on
    the same captures with the same libraries: latency is the wait on the capture's clock.

    Args:
        folder: New or empty.
        result: :meth:`models.evaluation.Evaluation.to_dict` of ``lasting``.
        lasting: The study without inference.
        measured: The study as measured.

    Raises:
        SettingsError: The folder holds something, or cannot be written.
    """
    check_report_folder(folder)
    drawn = {
        "latency": (latency_table(lasting), figures.draw_latency),
        "reliability": (reliability_table(result["calibration"]), figures.draw_reliability),
        "confusion": (confusion_table(result["confusion"]), figures.draw_confusion),
        "pareto": (pareto_table(lasting), figures.draw_pareto),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (table, draw) in drawn.items():
            table.write(folder / f"{name}.csv")
            draw(table, folder / f"{name}.png")
        inference_table(measured).write(folder / "inference.csv")
        (folder / "report.md").write_text(report_text(result, lasting), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{folder}: cannot be written: {error.strerror}") from None


def report_text(result: dict[str, Any], lasting: Study) -> str:
    """Return the text of report.md, the same for the same findings: no date, no machine.

    Args:
        result: :meth:`models.evaluation.Evaluation.to_dict` of ``lasting``.
        lasting: The study without inference.
    """
    return "\n".join(
        [*_head(result, lasting), *_scores(result), *_choice(result), *_detail(result)]
    )


def _head(result: dict[str, Any], lasting: Study) -> Iterator[str]:
    tiers = ", ".join(f"{tier.name} (packets: {tier.depth})" for tier in lasting.tiers)
    yield f"# Evaluation of bundle {result['model_version']}\n"
    yield f"- Tiers, shallowest first: {tiers}"
    yield f"- Captures: {', '.join(lasting.captures)}"
    yield (
        f"- {result['flows']:,} labelled flows of {result['classes']} classes; "
        f"{result['unlabelled']:,} flows without a label left out"
    )
    for name, reason in result["damaged"]:
        yield f"- Damaged, read up to the damage: {name}: {reason}"
    yield (
        "\nLatency is the wait for packets on the capture's clock. What the models take is in "
        "`inference.csv`, as measured on one machine; it alone differs from run to run.\n"
    )


def _scores(result: dict[str, Any]) -> Iterator[str]:
    yield "## The cascade and its tiers alone\n"
    yield from _table(
        ("", "weighted F1", "macro F1", "≤ 16 ms", "median ms", "mean ms", "p90 ms", "escalated"),
        (
            (
                text,
                *(_f1(result[key][name]) for name in ("weighted_f1", "macro_f1")),
                _percent(result[key]["answered_within_16ms"]),
                *(_ms(result[key][f"{name}_wait_ms"]) for name in ("median", "mean", "p90")),
                _percent(result[key]["escalated"]),
            )
            for key, text in _NAMES.items()
            if result[key] is not None
        ),
    )
    yield "\n![Distribution of the waits](latency.png)\n\n![F1 against mean wait](pareto.png)\n"
    found = result["intervals"]
    if found is None:
        yield "One capture gives no intervals.\n"
    else:
        yield (
            f"Intervals ({found['level']:.0%}) of {found['captures']} whole captures drawn anew, "
            f"{found['draws']} times; the difference is paired. Few captures make them too "
            "narrow.\n"
        )
        yield from _table(
            ("", "weighted F1", "macro F1", "≤ 16 ms"),
            (
                (text, *(_interval(value) for value in found[key].values()))
                for key, text in (
                    ("cascade", "cascade"),
                    ("slow_only", "slow only"),
                    ("difference", "cascade - slow only"),
                )
            ),
        )
        yield ""
    if result["families"] is not None:
        yield f"Families: {', '.join(result['families']['families'])}.\n"
        yield from _table(
            ("by family", "weighted F1", "macro F1"),
            (
                (text, *map(_f1, result["families"][key].values()))
                for key, text in _NAMES.items()
                if key in result["families"]
            ),
        )
        yield ""
    yield from _less_seen(result)


def _less_seen(result: dict[str, Any]) -> Iterator[str]:
    """Tell of ports, and of flows without their hosts' histories."""
    found = {}
    if result["ports"] is not None:
        yield f"Ports: {result['ports']['how']}.\n"
        for name in ("with", "without"):
            found[f"{name} the responder's port"] = result["ports"][name] or {}
    if result["without_host"] is not None:
        found["without the hosts' histories"] = result["without_host"]
    rows = [
        (f"{_NAMES[key]}, {what}", _f1(own["weighted_f1"]), _f1(own["macro_f1"]),
         _percent(own["waited_at_most_16ms"]))
        for what, ways in found.items()
        for key, own in ways.items()
    ]  # fmt: skip
    if rows:
        yield from _table(("", "weighted F1", "macro F1", "≤ 16 ms"), rows)
        yield ""


def _choice(result: dict[str, Any]) -> Iterator[str]:
    found = result["escalation"]
    if found is not None:
        yield "## Which flows are escalated\n"
        yield (
            f"{_percent(found['benefit_share'])} of the flows benefit (the last tier on packet 1 "
            "is wrong, the deepest right). The cascade escalates "
            f"{_percent(found['escalated'])} of all flows, "
            f"{_percent(found['benefit_escalated'])} of those that benefit and "
            f"{_percent(found['fast_errors_caught'])} of the fast tier's errors.\n"
        )
        for catch in found["to_catch"]:
            yield (
                f"- To catch {catch['errors']:.0%} of the fast tier's errors by least confidence, "
                f"escalate {_percent(catch['escalated'])} "
                f"({_percent(catch['escalated_ties_by_chance'])} if chance orders flows of equal "
                "confidence)"
            )
        yield ""
        yield from _table(
            ("choice", "weighted F1"),
            ((_CHOICES[key], _f1(value)) for key, value in found["weighted_f1"].items()),
        )
        yield ""
    yield "## Idle timeouts\n"
    yield from _table(
        ("τ s", "flows", "cascade mean / median ms", "slow only", "ratio", "F1", "F1 slow only"),
        _timeout_rows(result),
    )
    yield ""


def _timeout_rows(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for at in result["by_idle_timeout"]:
        for found, kind in ((at, ""), (at["long_flows"], f" (≥ {LONG_FLOW_PACKETS} packets)")):
            if found is None:
                continue
            ratio = found["slow_over_cascade"]
            yield (
                f"{at['idle_timeout_s']:g}{kind}",
                f"{found['flows']:,}",
                *(
                    f"{_ms(found[key]['wait_ms']['mean'])} / {_ms(found[key]['wait_ms']['p50'])}"
                    for key in ("cascade", "slow_only")
                ),
                " / ".join(
                    "-" if value is None else f"{value:,.1f}"
                    for value in (ratio["mean"], ratio["median"])
                ),
                *(_f1(found[key]["weighted_f1"]) for key in ("cascade", "slow_only")),
            )


def _detail(result: dict[str, Any]) -> Iterator[str]:
    yield "## Confidence\n"
    yield from _table(
        ("tier", "flows", "ECE", "asked", "answered", "ECE asked", "if perfect", "debiased",
         "confidence", "accuracy"),
        (
            (
                tier["tier"],
                f"{tier['flows']:,}",
                _f1(tier["ece"]),
                f"{tier['asked']:,}",
                f"{tier['answered']:,}",
                _f1(tier["ece_asked"]),
                _f1((tier["by_chance"] or {}).get("mean")),
                _f1(tier["rms_asked_debiased"]),
                _f1(tier["mean_confidence"]),
                _f1(tier["accuracy"]),
            )
            for tier in result["calibration"]
        ),
    )  # fmt: skip
    yield (
        "\nECE: expected calibration error, of the tier alone on all flows that have its packets, "
        "and on those that it is asked about in the cascade; if perfect: what the latter would be "
        "by chance, were every confidence true; debiased: its root mean square less that chance."
    )
    yield "\n![Reliability of each tier](reliability.png)\n\n## Classes\n"
    yield from _table(
        ("class", "flows", "precision", "recall", "F1", "escalated", "median ms"),
        (
            (
                row["label"],
                f"{row['flows']:,}",
                *(_f1(row[name]) for name in ("precision", "recall", "f1")),
                _percent(row["escalated"]),
                _ms(row["median_wait_ms"]),
            )
            for row in result["per_class"]
        ),
    )
    yield "\n![Confusion matrix of the cascade](confusion.png)\n"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield _row(head)
    yield "|---|" + "--:|" * (len(head) - 1)
    for row in rows:
        yield _row(row)


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _f1(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def _interval(value: dict[str, float]) -> str:
    return f"{value['estimate']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
