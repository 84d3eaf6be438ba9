"""The commands of ``serveflow bench`` that start the service."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmarks.cli_shared import Captures, Placement, Rounds, Save, app, busy, files_of, finish
from serveflow_app.options import Bundle, Config, Json, Trackers

__all__ = ["autoscaling", "capacity_points", "latency", "service_rate", "start_up"]


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
        files_of(captures), transport, config, placement, bundle, trackers, url, rate, seconds,
        warm_up, limit, rounds, load,
    )  # fmt: skip
    with busy("preparing …") as status:

        def on_outcome(line: str) -> None:
            messages.print(line, highlight=False, markup=False)

        result = measure_rate(settings, status.update, on_outcome)
    finish("service-rate", result, rate_tables(result), save, json_output)


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
        files_of(captures), "http", config, placement, bundle, trackers, None, None, seconds,
        warm_up, 1_000.0, rounds, {"batch_delay_s": batch_ms / 1000.0},
    )  # fmt: skip
    with busy("preparing …") as status:
        result = measure_points(settings, loads, status.update)
    finish("capacity-points", result, [points_table(result)], save, json_output)


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
    only) take turns in each round, each with a service of its own, by the collector that
    [bold]serveflow replay[/] has. Copies of the captures with other hosts overlap, so that flows
    begin at the rate asked for and their packets keep their captured delays.
    """
    from benchmarks.latency import LatencySettings, measure_latency
    from benchmarks.tables import latency_tables

    settings = LatencySettings(files_of(captures), rate, seconds, placement, rounds, config, bundle)
    with busy("preparing …") as status:
        result = measure_latency(settings, status.update)
    finish("latency", result, latency_tables(result), save, json_output)


@app.command()
def autoscaling(
    captures: Captures = None,
    rate: Annotated[float, typer.Option(help="New flows per second.", min=1.0)] = 30_000.0,
    seconds: Annotated[float, typer.Option(help="How long the load lasts.", min=1.0)] = 40.0,
    after: Annotated[
        float, typer.Option(help="Seconds for which replicas are watched after it.", min=0.0)
    ] = 45.0,
    downscale_delay: Annotated[
        float,
        typer.Option(
            help="Seconds of less load until a replica is taken away, in place of the "
            "configuration's.",
            min=0.0,
        ),
    ] = 15.0,
    fast_times: Annotated[
        int, typer.Option(help="Ask each model on packet 1 so often: FastModel's load.", min=1)
    ] = 1,
    slow_times: Annotated[
        int, typer.Option(help="Ask each deeper model so often: SlowModel's load.", min=1)
    ] = 1,
    collectors: Annotated[
        int, typer.Option(help="Connections, each with one request in flight.", min=1)
    ] = 16,
    placement: Placement = None,
    config: Config = None,
    bundle: Bundle = None,
    save: Save = False,
    json_output: Json = False,
) -> None:
    """How replicas of Router, FastModel and SlowModel come and go with the load.

    The service gets one load, and is watched during and after it. On few cores the Router is
    what runs short; [bold]--fast-times[/] and [bold]--slow-times[/] make models dearer, with the
    same answers, so that they have to grow as well; with [bold]--placement colocated[/] both are
    the Router's load.
    """
    from benchmarks.autoscaling import AutoscalingSettings, measure_autoscaling
    from benchmarks.tables import autoscaling_table

    settings = AutoscalingSettings(
        files_of(captures), rate, seconds, after, downscale_delay, fast_times, slow_times,
        collectors, config, bundle, placement,
    )  # fmt: skip
    with busy("preparing …") as status:
        result = measure_autoscaling(settings, status.update)
    finish("autoscaling", result, [autoscaling_table(result)], save, json_output)


@app.command("start-up")
def start_up(
    placement: Placement = None,
    trackers: Trackers = None,
    bundle: Bundle = None,
    config: Config = None,
    rounds: Rounds = 3,
    save: Save = False,
    json_output: Json = False,
) -> None:
    """From the start of the service to its first verdict, and the memory of all its processes."""
    from benchmarks.start_up import measure_start_up
    from benchmarks.tables import start_up_table

    result = measure_start_up(
        config, placement=placement, trackers=trackers, bundle=bundle, rounds=rounds
    )
    finish("start-up", result, [start_up_table(result)], save, json_output)
