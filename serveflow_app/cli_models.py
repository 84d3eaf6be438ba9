"""``serveflow train``, ``evaluate`` and ``tune``: making, judging and moving bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.errors import SettingsError
from serveflow_app import commands
from serveflow_app.options import (
    EffortOption,
    Json,
    LabelColumn,
    OperatingPoint,
    Preset,
    Quick,
    SeesHost,
    SeesPort,
    UnknownFrom,
)

__all__ = ["evaluate", "train", "tune"]


def train(
    captures: Annotated[Path, typer.Option(help="Folder of captures.")],
    labels: Annotated[Path, typer.Option(help="labels.csv: pcap, five-tuple, label.")],
    out: Annotated[Path, typer.Option(help="Folder for the bundle, made anew.")],
    label_column: LabelColumn = "label",
    group_by: Annotated[
        str, typer.Option(help="Column whose values never stand on both sides of a split.")
    ] = "pcap",
    effort: EffortOption = None,
    quick: Quick = False,
    operating_point: OperatingPoint = None,
    max_f1_loss: Annotated[
        float,
        typer.Option(
            metavar="PT",
            help="Percentage points of F1 and of accuracy that answering early may cost against "
            "the deepest tier, by an upper bound.",
        ),
    ] = 0.5,
    port: SeesPort = None,
    host: SeesHost = None,
    gate: Annotated[
        str | None,
        typer.Option(
            metavar="benefit|confidence|margin|entropy",
            help="What tells whether an answer is final: what asking the deepest tier would "
            "bring, as learned, or one of three ways to be sure. By default the best one.",
            show_default=False,
        ),
    ] = None,
    time_limit: Annotated[
        float,
        typer.Option(
            metavar="MIN",
            help="Minutes after which no further model is tried; what was tried makes the cascade.",
        ),
    ] = 20.0,
    preset: Preset = "search",
    unknown_from: UnknownFrom = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.", min=0)] = 0,
    json_output: Json = False,
) -> None:
    """Train a cascade on labelled captures and write its bundle.

    Models are trained and judged by cross-validation in which no capture is on both sides; of
    them a cascade is composed that answers as early as the allowed loss permits.

    The bundle keeps what its tiers said of captures that they had not learned from, so that
    [bold]serveflow tune[/] can choose anew how sure is sure enough, without training.
    """
    options = {
        "effort": effort,
        "quick": quick,
        "operating_point": operating_point,
        "max_f1_loss": max_f1_loss,
        "port": port,
        "host": host,
        "gate": gate,
        "time_limit": time_limit,
        "seed": seed,
        "preset": preset,
        "unknown_from": unknown_from,
    }
    commands.train(captures, labels, out, label_column, group_by, options, json_output)


def evaluate(
    captures: Annotated[Path, typer.Option(help="Folder of captures.")],
    labels: Annotated[Path, typer.Option(help="labels.csv: pcap, five-tuple, label.")],
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the bundle, trained on other captures; or balanced, accurate.",
            show_default=False,
        ),
    ] = None,
    label_column: LabelColumn = "label",
    family_column: Annotated[
        str | None,
        typer.Option(help="Column of the labels file that gives each label's family: adds F1."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write figures, their data and report.md here; new or empty."),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Instead of a bundle: deal the captures into N folds, train anew on all but one, "
            "judge that one, and so on. The options below say how to train.",
            min=2,
            show_default=False,
        ),
    ] = None,
    unknown_classes: Annotated[
        bool,
        typer.Option(
            "--unknown-classes",
            help="With --folds: leave some classes out of each training, in turn, with all "
            "captures that hold them, and tell how well novelty tells their flows from known "
            "ones of new captures. Nothing else is evaluated.",
        ),
    ] = False,
    effort: EffortOption = None,
    quick: Quick = False,
    operating_point: OperatingPoint = None,
    port: SeesPort = None,
    host: SeesHost = None,
    preset: Preset = "search",
    both_ports: Annotated[
        bool,
        typer.Option(
            "--both-ports",
            help="With --folds: train for each fold without the responder's port, which all "
            "figures are of, and once more with it, to show both. Takes twice as long.",
        ),
    ] = False,
    json_output: Json = False,
) -> None:
    """Compare the cascade with its fast and its slow tiers alone, on labelled captures.

    Either of a bundle, or, with [bold]--folds[/], of a way of training.
    """
    options = {
        "effort": effort,
        "quick": quick,
        "operating_point": operating_point,
        "port": port,
        "host": host,
        "preset": preset,
    }
    if unknown_classes:
        told = (bundle, family_column, report, both_ports or None)
        if folds is None or any(value is not None for value in told):
            raise SettingsError(
                "--unknown-classes goes with --folds, and with none of --bundle, --family-column, "
                "--report and --both-ports"
            )
        commands.evaluate_unknown(folds, (captures, labels, label_column), options, json_output)
        return
    where = (captures, labels, label_column, family_column, report)
    commands.evaluate(bundle, folds, where, options, both_ports, json_output)


def tune(
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    out: Annotated[Path, typer.Option(help="Folder for the tuned bundle, made anew.")],
    max_f1_loss: Annotated[
        float | None,
        typer.Option(
            metavar="PT",
            help="Wait as little as possible while F1 and accuracy lose at most PT percentage "
            "points against the deepest tier, by an upper bound: 0.5.",
            show_default=False,
        ),
    ] = None,
    within_16ms: Annotated[
        float | None,
        typer.Option(
            "--within-16ms",
            metavar="SHARE",
            help="Lose as little as possible while at least SHARE of the flows wait for packets "
            "for 16 ms at most: 0.8.",
            show_default=False,
        ),
    ] = None,
    max_escalation: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Lose as little as possible while at most SHARE of the flows need more than "
            "packet 1, so that trackers and slow models have less to do: 0.3.",
            show_default=False,
        ),
    ] = None,
    max_cost_us: Annotated[
        float | None,
        typer.Option(
            "--max-cost-us",
            metavar="US",
            help="With --max-f1-loss: let the models take at most US microseconds of a flow on "
            "average, as measured where they were trained: 5.",
            show_default=False,
        ),
    ] = None,
    unknown_from: UnknownFrom = None,
    per_class: Annotated[
        bool,
        typer.Option(
            "--per-class",
            help="Let classes have thresholds of their own where the goal gains by it. Each is "
            "chosen on fewer flows, so that the bound promises less: evaluate on other captures "
            "before you trust it.",
        ),
    ] = False,
    guarantee: Annotated[
        bool,
        typer.Option(
            "--guarantee",
            help="With --max-f1-loss: bound the loss of accuracy for any distribution (conformal "
            "risk control, by capture). It takes hundreds of captures for small losses.",
        ),
    ] = False,
    curve: Annotated[
        Path | None,
        typer.Option(
            help="Write the trade-off curve here, as CSV; if the name ends in .png, as a picture "
            "with the CSV beside it."
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Move a bundle to another operating point, without training: how sure is sure enough?

    Give one goal. The new thresholds are found on the judgements that training kept in the
    bundle, on captures that no tier had learned from; the models stay byte for byte. card.md
    in OUT says what is expected, what is guaranteed, and what is not.
    """
    goals = {
        "max_f1_loss": max_f1_loss,
        "within_16ms": within_16ms,
        "max_escalation": max_escalation,
        "max_cost_us": max_cost_us,
    }
    how = {"guarantee": guarantee, "per_class": per_class, "unknown_from": unknown_from}
    commands.tune(bundle, out, goals, how, curve, json_output)
