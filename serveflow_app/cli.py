"""The command line: ``serveflow``."""

from __future__ import annotations

import signal
import sys
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
from serveflow_app.cli_models import evaluate, train, tune
from serveflow_app.options import (
    ApiKeyFile,
    Bundle,
    Captures,
    Config,
    GrpcPort,
    Json,
    KeysFile,
    LabelColumn,
    Labels,
    Out,
    Port,
    Trackers,
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


app.command()(train)
app.command()(evaluate)
app.command()(tune)


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
