"""The command line: ``serveflow``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from benchmarks.cli import app as bench
from flows.errors import ServeFlowError, SettingsError
from flows.failpoints import VARIABLE, armed
from serveflow_app import commands
from serveflow_app.cli_agent import config, doctor, top
from serveflow_app.cli_collect import collect_command
from serveflow_app.cli_keys import keys
from serveflow_app.options import (
    ApiKeyFile,
    Bundle,
    Captures,
    Config,
    EffortOption,
    GrpcPort,
    Json,
    KeysFile,
    LabelColumn,
    Labels,
    OperatingPoint,
    Out,
    Port,
    Preset,
    Quick,
    SeesHost,
    SeesPort,
    Trackers,
    UnknownFrom,
)
from serveflow_app.output import emit_json, messages
from serveflow_app.settings import DEFAULT_URL

__all__ = ["app", "main"]

app = typer.Typer(
    name="serveflow",
    help="Answer each network flow with the cheapest model on the fewest packets that is sure "
    "enough.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(bench)
app.command("collect")(collect_command())
app.add_typer(config)
app.add_typer(keys)
app.command()(doctor)
app.command()(top)


@app.command()
def serve(
    config: Config = None,
    host: Annotated[str | None, typer.Option(help="Address to serve on.")] = None,
    port: Port = None,
    grpc_port: GrpcPort = None,
    trackers: Trackers = None,
    placement: Annotated[
        str | None,
        typer.Option(help="separate (models in replicas of their own) or colocated."),
    ] = None,
    bundle: Bundle = None,
    keys_file: KeysFile = None,
    json_output: Json = False,
) -> None:
    """Run the service until Ctrl-C.

    Serves HTTP on 127.0.0.1:8000, gRPC on 127.0.0.1:9000 and Ray's dashboard on 127.0.0.1:8265.
    """
    options = {
        "trackers": trackers,
        "placement": placement,
        "bundle": bundle,
        "keys_file": keys_file,
    }
    commands.serve(config, host, (port, grpc_port), options, json_output)


@app.command()
def replay(
    captures: Captures,
    to: Annotated[
        str,
        typer.Option(
            help="Address of the service: http://HOST:PORT or grpc://HOST:PORT, with /APPLICATION "
            "behind it where gRPC has several.",
            envvar="SERVEFLOW_URL",
        ),
    ] = DEFAULT_URL,
    rate: Annotated[
        str,
        typer.Option(help="real: at capture speed; max: as fast as it goes; or a multiple: 10."),
    ] = "max",
    api_key_file: ApiKeyFile = None,
    out: Out = None,
    labels: Labels = None,
    label_column: LabelColumn = "label",
    json_output: Json = False,
) -> None:
    """Send captures to a running service and sum its verdicts up.

    A damaged capture is named, what lies before the damage is sent, and the others go on; the
    exit status is 0 when at least one capture was read to its end.
    """
    commands.replay(captures, (to, api_key_file), rate, out, (labels, label_column), json_output)


@app.command()
def classify(
    captures: Captures,
    bundle: Bundle = None,
    trackers: Annotated[int, typer.Option(help="Trackers in this process.", min=1, max=256)] = 1,
    out: Out = None,
    labels: Labels = None,
    label_column: LabelColumn = "label",
    json_output: Json = False,
) -> None:
    """Classify captures in this process: the same cascade, without Ray or a network."""
    commands.classify(captures, bundle, trackers, out, (labels, label_column), json_output)


@app.command()
def demo(
    speed: Annotated[
        float, typer.Option(help="Multiple of capture speed; 1 is real time.", min=0.01)
    ] = 10.0,
    port: Port = None,
    json_output: Json = False,
) -> None:
    """Start the service, replay the embedded test runs against it, and sum up.

    The runs were never trained on; their true labels are known.
    """
    commands.demo(speed, port, json_output)


@app.command()
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


@app.command()
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


@app.command()
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


def _fail(message: str, wants_json: bool) -> int:
    messages.print(f"[bold red]error[/] {escape(message)}", highlight=False, soft_wrap=True)
    if wants_json:
        emit_json({"error": message})
    return 1


def main(argv: list[str] | None = None) -> None:
    """Run the command line; a known error becomes one clear message and exit status 1."""
    args = sys.argv[1:] if argv is None else argv
    wants_json = "--json" in args
    # Docker and systemd end services by SIGTERM; it must end them as Ctrl-C does. A shell starts
    # background jobs with SIGINT ignored, and Ray Serve, our child, would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if failing := armed():
            messages.print(f"{VARIABLE}: fails on purpose: {failing}", highlight=False)
        result: Any = app(args, standalone_mode=True)
    except ServeFlowError as error:
        sys.exit(_fail(str(error), wants_json))
    except ModuleNotFoundError as error:
        hint = SettingsError(
            f"{error.name} is not installed: pip install 'serveflow[serve,train]', or make install"
        )
        sys.exit(_fail(str(hint), wants_json))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(result)
