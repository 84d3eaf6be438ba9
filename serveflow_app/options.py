"""Options that several commands share, or that would fill a command's head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ApiKeyFile",
    "Bundle",
    "Captures",
    "Config",
    "EffortOption",
    "GrpcPort",
    "Json",
    "KeysFile",
    "LabelColumn",
    "Labels",
    "OperatingPoint",
    "Out",
    "Port",
    "Preset",
    "Quick",
    "SeesHost",
    "SeesPort",
    "Trackers",
    "UnknownFrom",
]

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
    Path | None,
    typer.Option(
        help="Folder of the model bundle, or balanced (the default) or accurate, which come along."
    ),
]
Config = Annotated[
    Path | None, typer.Option(help="Ray Serve configuration; by default serve_config.yaml.")
]
Port = Annotated[
    int | None,
    typer.Option(help="Port to serve on.", min=1, max=65535, envvar="SERVEFLOW_PORT"),
]
GrpcPort = Annotated[
    int | None,
    typer.Option(
        help="Port to serve gRPC on; 0: none. By default 9000.",
        min=0,
        max=65535,
        envvar="SERVEFLOW_GRPC_PORT",
        show_default=False,
    ),
]
KeysFile = Annotated[
    Path | None,
    typer.Option(
        help="Keys of the collectors that may ask (serveflow keys); needed beyond loopback.",
        envvar="SERVEFLOW_KEYS_FILE",
        show_default=False,
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the API key to show, one for any collector (serveflow keys add '*').",
        show_default=False,
    ),
]
Trackers = Annotated[int | None, typer.Option(help="Number of FlowTrackers.", min=1, max=256)]


EffortOption = Annotated[
    str | None,
    typer.Option(
        metavar="quick|standard|full",
        help="How many models are tried. On 11,000 flows and 2 cores quick takes 1 to 2 "
        "minutes (one tree and extremely randomised trees), standard 5 to 8 (larger ones, "
        "LightGBM, their means), full about 20 (also random forests, XGBoost, neural "
        "networks). By default standard.",
        show_default=False,
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="Short for --effort quick.")]
OperatingPoint = Annotated[
    str | None,
    typer.Option(
        metavar="balanced|accurate",
        help="balanced: models that take 8 µs of a flow on average at most; accurate: "
        "whatever it takes. By default balanced. serveflow tune can choose anew how sure is "
        "sure enough, but has only the models that training chose.",
        show_default=False,
    ),
]
SeesPort = Annotated[
    bool | None,
    typer.Option(
        "--port/--no-port",
        help="Let models see the responder's port, or do not. By default: if it helps, "
        "which is tried. Say --no-port if services may sit on other ports than here.",
        show_default=False,
    ),
]
SeesHost = Annotated[
    bool | None,
    typer.Option(
        "--host/--no-host",
        help="Let models see what the flow's host did before, or do not. By default: if it "
        "helps, which is tried. Say --no-host if flows will come without their neighbours.",
        show_default=False,
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        metavar="search|paper",
        help="search: the best cascade that is found; paper: the tiers of the ServeFlow "
        "paper (arXiv 2402.03694) on the headers' bits, to compare with.",
    ),
]
UnknownFrom = Annotated[
    float | None,
    typer.Option(
        "--unknown-from",
        metavar="RANK",
        help="Label a flow unknown that is stranger than this share of known flows: 0.99; above "
        "1: never. Each verdict tells its novelty in any case.",
        min=0.0,
        max=2.0,
        show_default=False,
    ),
]
