"""``serveflow bench``: the instruments. How each one measures stands in its own module."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks import cli_reliability, cli_service
from benchmarks.cli_shared import Captures, Rounds, Save, app, busy, files_of, finish
from serveflow_app.options import Bundle, Json

__all__ = ["app", "cli_reliability", "cli_service"]


@app.command()
def engine(
    captures: Captures = None,
    bundle: Bundle = None,
    rounds: Rounds = 5,
    flows: Annotated[
        int, typer.Option(help="New flows in a round, at least: captures are repeated.", min=1)
    ] = 20_000,
    save: Save = False,
    json_output: Json = False,
) -> None:
    """One process on one core, capture file to verdicts, stage by stage. No Ray, no network.

    Small captures are repeated as one long capture, each time later and with other hosts, so that
    it is the steady state that is measured. Everything is compiled and run once before.
    """
    from benchmarks.engine import measure_engine
    from benchmarks.tables import engine_table

    paths = files_of(captures)
    with busy("measuring the engine …"):
        result = measure_engine(paths, bundle, rounds=rounds, least_flows=flows)
    finish("engine", result, [engine_table(result)], save, json_output)


@app.command()
def capacity(
    rate: Annotated[float, typer.Option(help="New flows per second.", min=1.0)] = 48_500.0,
    utilisation: Annotated[
        float, typer.Option(help="Share of a core that may be used.", min=0.05, max=0.95)
    ] = 0.7,
    batch_flows: Annotated[
        float, typer.Option(help="New flows in a batch of a collector.", min=1.0)
    ] = 1_000.0,
    node_cores: Annotated[int, typer.Option(help="Cores of a node.", min=1)] = 64,
    open_s: Annotated[
        float,
        typer.Option(help="How long an unsure flow is open at its tracker, mean seconds.", min=0.0),
    ] = 10.0,
    json_output: Json = False,
) -> None:
    """How many cores and replicas a rate needs, by a model fitted on what was measured.

    Fitted on the points of [bold]bench capacity-points --save[/] in docs/results/, and checked
    against some that it was not fitted on. See docs/capacity.md.
    """
    from benchmarks.capacity_run import measure_capacity
    from benchmarks.tables import capacity_tables

    result = measure_capacity(rate, utilisation, batch_flows, node_cores, open_s)
    finish("capacity", result, capacity_tables(result), False, json_output)


@app.command()
def peers(
    captures: Captures = None,
    bundle: Bundle = None,
    python: Annotated[
        Path | None,
        typer.Option(
            help="Interpreter that has nfstream, dpkt and scikit-learn; by default this one.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Measure only this one; several times for several."),
    ] = None,
    rounds: Rounds = 3,
    flows: Annotated[
        int, typer.Option(help="New flows in a round, at least: captures are repeated.", min=1)
    ] = 3_000,
    save: Save = False,
    json_output: Json = False,
) -> None:
    """Other programs and ours on the same capture: nfstream, ndpiReader, tshark, scripts.

    Those that are not installed are listed with how to get them. Each does what it is made for,
    and the table says what that is: flows per second of CPU are to be read beside it.
    """
    import sys

    from benchmarks.peers import PeerSettings, measure_peers
    from benchmarks.tables import peers_table

    settings = PeerSettings(
        files_of(captures), bundle, str(python or sys.executable), rounds, flows, tuple(only or ())
    )
    with busy("preparing …") as status:
        result = measure_peers(settings, status.update)
    finish("peers", result, [peers_table(result)], save, json_output)


@app.command()
def live(
    captures: Captures = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(
            help="Packets per second to offer; several times for several. 0: as fast as can be.",
            min=0.0,
            show_default="300000 and 0",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long to play.", min=1.0)] = 5.0,
    ring_mib: Annotated[int, typer.Option(help="The ring's size, MiB.", min=1, max=4_095)] = 64,
    rounds: Rounds = 3,
    save: Save = False,
    json_output: Json = False,
) -> None:
    """A live interface under load: what is offered, what the kernel drops, CPU for each packet.

    tcpreplay plays the captures into a virtual cable, in a network namespace made for it; one
    thread reads the other end and keeps the flow table. Needs root and tcpreplay.
    """
    from benchmarks.live import RATES, LiveSettings, measure_live
    from benchmarks.tables import live_table

    settings = LiveSettings(
        files_of(captures), rates=tuple(rate or RATES),
        seconds=seconds, rounds=rounds, ring_bytes=ring_mib << 20,
    )  # fmt: skip
    with busy("preparing …") as status:
        result = measure_live(settings, status.update)
    finish("live", result, [live_table(result)], save, json_output)


@app.command()
def scale(
    captures: Captures = None,
    bundle: Bundle = None,
    most_flows: Annotated[
        int, typer.Option(help="Open flows to go up to, by tens from 1,000 on.", min=1_000)
    ] = 1_000_000,
    rounds: Rounds = 3,
    save: Save = False,
    json_output: Json = False,
) -> None:
    """How costs and memory grow: with open flows, depth, batch size, and the number of trackers.

    In this process, on one core, without Ray. A million open flows take some 3 GB.
    """
    from benchmarks.scale import measure_scale
    from benchmarks.tables import scale_tables

    with busy("preparing …") as status:
        result = measure_scale(
            files_of(captures), bundle, rounds=rounds, most_flows=most_flows,
            on_progress=status.update,
        )  # fmt: skip
    finish("scale", result, scale_tables(result), save, json_output)


@app.command("report")
def report_(
    pictures: Annotated[
        bool, typer.Option(help="Draw the pictures in docs/images/ too (matplotlib).")
    ] = True,
) -> None:
    """Make the tables in docs/performance.md and docs/capacity.md anew from docs/results/."""
    from benchmarks.report import report
    from serveflow_app.output import messages

    for path in report(pictures=pictures):
        messages.print(f"made docs/{path.name}", highlight=False, markup=False)
