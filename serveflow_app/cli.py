"""The command line: ``serveflow``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from flows.errors import ServeFlowError, SettingsError
from serveflow_app import commands
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

Captures = Annotated[
    list[Path], typer.Argument(help="pcap or pcapng files, or folders of them.", show_default=False)
]
Labels = Annotated[
    Path | None,
    typer.Option(help="labels.csv with the true labels: adds F1 scores to the summary."),
]
LabelColumn = Annotated[str, typer.Option(help="Column of the labels file that holds the label.")]
Out = Annotated[Path | None, typer.Option(help="Write one JSON object per final verdict here.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Bundle = Annotated[
    Path | None, typer.Option(help="Folder of the model bundle; by default the embedded one.")
]
Config = Annotated[
    Path | None, typer.Option(help="Ray Serve configuration; by default serve_config.yaml.")
]
Port = Annotated[
    int | None,
    typer.Option(help="Port to serve on.", min=1, max=65535, envvar="SERVEFLOW_PORT"),
]
Trackers = Annotated[int | None, typer.Option(help="Number of FlowTrackers.", min=1, max=256)]


@app.command()
def serve(
    config: Config = None,
    host: Annotated[str | None, typer.Option(help="Address to serve on.")] = None,
    port: Port = None,
    trackers: Trackers = None,
    placement: Annotated[
        str | None,
        typer.Option(help="separate (models in replicas of their own) or colocated."),
    ] = None,
    bundle: Bundle = None,
    json_output: Json = False,
) -> None:
    """Run the service until Ctrl-C.

    Serves HTTP on 127.0.0.1:8000 and Ray's dashboard on 127.0.0.1:8265.
    """
    options = {"trackers": trackers, "placement": placement, "bundle": bundle}
    commands.serve(config, host, port, options, json_output)


@app.command()
def replay(
    captures: Captures,
    to: Annotated[
        str, typer.Option(help="Address of the service.", envvar="SERVEFLOW_URL")
    ] = DEFAULT_URL,
    rate: Annotated[
        str,
        typer.Option(help="real: at capture speed; max: as fast as it goes; or a multiple: 10."),
    ] = "max",
    out: Out = None,
    labels: Labels = None,
    label_column: LabelColumn = "label",
    json_output: Json = False,
) -> None:
    """Send captures to a running service and sum its verdicts up.

    A damaged capture is named, what lies before the damage is sent, and the others go on; the
    exit status is 0 when at least one capture was read to its end.
    """
    commands.replay(captures, to, rate, out, (labels, label_column), json_output)


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
    json_output: Json = False,
) -> None:
    """Train a cascade on labelled captures and write its bundle.

    The bundle keeps what its tiers said of captures that they had not learned from, so that
    [bold]serveflow tune[/] can choose anew how sure is sure enough, without training.
    """
    commands.train(captures, labels, out, label_column, group_by, json_output)


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    captures: Annotated[Path, typer.Option(help="Folder of captures.")],
    labels: Annotated[Path, typer.Option(help="labels.csv: pcap, five-tuple, label.")],
    label_column: LabelColumn = "label",
    family_column: Annotated[
        str | None,
        typer.Option(help="Column of the labels file that gives each label's family: adds F1."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write figures, their data and report.md here; new or empty."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Compare the cascade with its fast and its slow tiers alone, on labelled captures."""
    commands.evaluate(bundle, captures, (labels, label_column), family_column, report, json_output)


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
    guarantee: Annotated[
        bool,
        typer.Option(
            "--guarantee",
            help="With --max-f1-loss: bound the loss of accuracy for any distribution (conformal "
            "risk control, by capture). It takes hundreds of captures for small losses.",
        ),
    ] = False,
    curve: Annotated[
        Path | None, typer.Option(help="Write the trade-off curve here, as CSV.")
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
    }
    commands.tune(bundle, out, goals, guarantee, curve, json_output)


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
