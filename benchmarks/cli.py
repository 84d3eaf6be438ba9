"""``serveflow bench``: the instruments. How each one measures stands in its own module."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from serveflow_app.options import Bundle, Config, Json, Trackers

__all__ = ["app"]

app = typer.Typer(
    name="bench",
    help="Measure: each figure with the machine, the commit and the settings it was taken with.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_EMBEDDED = Path(__file__).resolve().parent.parent / "lab" / "captures" / "test"

Captures = Annotated[
    list[Path] | None,
    typer.Argument(
        help="pcap or pcapng files, or folders of them; by default the embedded test runs, "
        "which no model was trained on.",
        show_default=False,
    ),
]
Rounds = Annotated[int, typer.Option(help="Rounds to take medians of.", min=1)]
Placement = Annotated[
    str | None,
    typer.Option(
        metavar="separate|colocated",
        help="Models in replicas of their own, or inside the Router. By default as the "
        "configuration says.",
        show_default=False,
    ),
]
Save = Annotated[bool, typer.Option("--save", help="Keep the result in docs/results/ as JSON.")]


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

    paths = _files(captures)
    with _busy("measuring the engine …"):
        result = measure_engine(paths, bundle, rounds=rounds, least_flows=flows)
    _finish("engine", result, [engine_table(result)], save, json_output)


@app.command("service-rate")
def service_rate(
    captures: Captures = None,
    transport: Annotated[
        str, typer.Option(metavar="http|grpc", help="How batches travel.")
    ] = "http",
    placement: Placement = None,
    seconds: Annotated[float, typer.Option(help="How long a rate must hold.", min=0.5)] = 20.0,
    warm_up: Annotated[
        float,
        typer.Option(
            help="Seconds of load before those; 10 and more, so that flows that wait for their "
            "packets in vain time out as fast as they come.",
            min=0.0,
        ),
    ] = 11.0,
    rate: Annotated[
        float | None,
        typer.Option(
            help="New flows per second to hold; by default the highest is searched.",
            min=1.0,
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        float, typer.Option(metavar="MS", help="What p99 of queueing must stay below.", min=1.0)
    ] = 1_000.0,
    rounds: Rounds = 3,
    config: Config = None,
    bundle: Bundle = None,
    trackers: Trackers = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="Measure the service that runs here; its CPU is not seen then.",
            show_default=False,
        ),
    ] = None,
    spread: Annotated[
        bool,
        typer.Option(
            "--spread/--whole",
            help="A flow's packets come with their captured delays and only while the service is "
            "not sure, as from a live network; or all its first packets come at once, in batches "
            "encoded beforehand.",
        ),
    ] = True,
    collectors: Annotated[
        int, typer.Option(help="Connections, each a collector with one request in flight.", min=1)
    ] = 2,
    batch_ms: Annotated[
        float, typer.Option(help="Least time between two batches of a collector.", min=0.0)
    ] = 20.0,
    batch_flows: Annotated[
        int, typer.Option(help="With --whole: flows in a batch.", min=1)
    ] = 1_000,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going",
            help="With --rate: go on when the service refuses batches or falls behind, to see what "
            "it does under overload.",
        ),
    ] = False,
    save: Save = False,
    json_output: Json = False,
) -> None:
    """The most new flows per second that the running service holds, and the CPU it takes.

    An open-loop load: flows begin on time whatever the service does, and what it takes counts from
    when a packet was due, not from when it could be sent. A rate holds when each flow gets its
    final verdict, none is lost or refused, and p99 of queueing (from the last packet that a verdict
    waits for to that verdict, and from a flow's first packet to its first answer) stays
    below [bold]--limit[/]. Generator and service share the machine; the generator's CPU is shown.
    """
    from benchmarks.rate import RateSettings, measure_rate
    from benchmarks.tables import rate_tables
    from benchmarks.transports import check_transport
    from flows.errors import SettingsError
    from serveflow_app.output import messages

    check_transport(transport)
    if keep_going and rate is None:
        raise SettingsError("--keep-going goes with --rate: a search ends what does not hold")
    load = {
        "collectors": collectors,
        "batch_delay_s": batch_ms / 1000.0,
        "spread": spread,
        "batch_flows": batch_flows,
        "keep_going": keep_going,
    }
    settings = RateSettings(
        _files(captures), transport, config, placement, bundle, trackers, url, rate, seconds,
        warm_up, limit, rounds, load,
    )  # fmt: skip
    with _busy("preparing …") as status:

        def on_outcome(line: str) -> None:
            messages.print(line, highlight=False, markup=False)

        result = measure_rate(settings, status.update, on_outcome)
    _finish("service-rate", result, rate_tables(result), save, json_output)


@app.command("capacity-points")
def capacity_points(
    captures: Captures = None,
    load: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RATE@COLLECTORS",
            help="New flows per second, and how many collectors send them, each with one request "
            "in flight; several times for several loads.",
            show_default=False,
        ),
    ] = None,
    placement: Placement = None,
    seconds: Annotated[float, typer.Option(help="How long a load is measured.", min=0.5)] = 6.0,
    warm_up: Annotated[float, typer.Option(help="Seconds of load before those.", min=0.0)] = 11.0,
    rounds: Rounds = 3,
    batch_ms: Annotated[
        float, typer.Option(help="Least time between two batches of a collector.", min=0.0)
    ] = 20.0,
    config: Config = None,
    bundle: Bundle = None,
    trackers: Trackers = None,
    save: Save = False,
    json_output: Json = False,
) -> None:
    """What the running service takes at several loads: what [bold]bench capacity[/] is fitted on.

    The service is started once; each load is measured as [bold]bench service-rate[/] does, in
    another order in each round.
    """
    from benchmarks.points import LOADS, measure_points, parse_load
    from benchmarks.rate import RateSettings
    from benchmarks.tables import points_table

    loads = [parse_load(text) for text in load or LOADS]
    settings = RateSettings(
        _files(captures), "http", config, placement, bundle, trackers, None, None, seconds, warm_up,
        1_000.0, rounds, {"batch_delay_s": batch_ms / 1000.0},
    )  # fmt: skip
    with _busy("preparing …") as status:
        result = measure_points(settings, loads, status.update)
    _finish("capacity-points", result, [points_table(result)], save, json_output)


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
    _finish("capacity", result, capacity_tables(result), False, json_output)


@app.command()
def latency(
    captures: Captures = None,
    rate: Annotated[float, typer.Option(help="New flows per second.", min=1.0)] = 1_000.0,
    seconds: Annotated[
        float, typer.Option(help="How long flows begin, per round.", min=1.0)
    ] = 10.0,
    placement: Placement = None,
    rounds: Rounds = 3,
    config: Config = None,
    bundle: Bundle = None,
    save: Save = False,
    json_output: Json = False,
) -> None:
    """From a flow's first packet to its verdict at the collector, in real time.

    The cascade, its deepest tier alone (slow only) and its last tier on packet 1 alone (fast
    only) run side by side in one service; rounds take turns, by the collector that
    [bold]serveflow replay[/] has. Copies of the captures with other hosts overlap, so that flows
    begin at the rate asked for and their packets keep their captured delays.
    """
    from benchmarks.latency import LatencySettings, measure_latency
    from benchmarks.tables import latency_tables

    settings = LatencySettings(_files(captures), rate, seconds, placement, rounds, config, bundle)
    with _busy("preparing …") as status:
        result = measure_latency(settings, status.update)
    _finish("latency", result, latency_tables(result), save, json_output)


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
        _files(captures), bundle, str(python or sys.executable), rounds, flows, tuple(only or ())
    )
    with _busy("preparing …") as status:
        result = measure_peers(settings, status.update)
    _finish("peers", result, [peers_table(result)], save, json_output)


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

    with _busy("preparing …") as status:
        result = measure_scale(
            _files(captures), bundle, rounds=rounds, most_flows=most_flows,
            on_progress=status.update,
        )  # fmt: skip
    _finish("scale", result, scale_tables(result), save, json_output)


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


def _files(captures: list[Path] | None) -> list[Path]:
    from serveflow_app.run_replay import capture_files

    return capture_files(captures or [_EMBEDDED])


def _busy(what: str) -> Any:
    from serveflow_app.output import messages

    return messages.status(what)


def _finish(
    name: str, result: dict[str, Any], tables: list[Any], save: bool, as_json: bool
) -> None:
    from benchmarks.results import plain
    from benchmarks.results import save as keep
    from serveflow_app.output import emit_json, messages

    told = plain(result)
    if save:
        path = keep(name, told)
        messages.print(f"kept in docs/results/{path.name}", highlight=False, markup=False)
    if as_json:
        emit_json(told)
        return
    for table in tables:
        messages.print(table, "")
