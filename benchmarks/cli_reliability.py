"""The commands of ``serveflow bench`` that break things, or go on for long."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli_shared import Captures, Save, app, busy, files_of, finish
from serveflow_app.options import Config, Json

__all__ = ["kills", "mutations", "pauses", "silence", "soak"]


@app.command()
def kills(
    captures: Captures = None,
    passes: Annotated[
        int, typer.Option(help="How often the captures are played, one after the other.", min=1)
    ] = 80,
    rate: Annotated[float, typer.Option(help="New flows per second.", min=1.0)] = 2_000.0,
    parts: Annotated[
        str,
        typer.Option(
            help="What is killed, by commas: FlowTracker, Router, FastModel, SlowModel, proxy; "
            "service: all of it is stopped for 20 s; collector; none."
        ),
    ] = "FlowTracker,Router,FastModel,SlowModel,proxy",
    times: Annotated[int, typer.Option(help="How often each.", min=1)] = 5,
    every: Annotated[float, typer.Option(help="Seconds between two of them.", min=0.1)] = 3.0,
    spool: Annotated[bool, typer.Option("--spool", help="The collector has a spool.")] = False,
    fake: Annotated[
        bool,
        typer.Option(
            "--fake",
            help="Against a made-up service that judges by arithmetic, without Ray: for many "
            "deaths of the collector, with --parts collector --spool.",
        ),
    ] = False,
    config: Config = None,
    save: Save = False,
    json_output: Json = False,
) -> None:
    """Parts of the service die under load: each flow still gets one final verdict, and the same.

    A collector reads a long capture from a pipe; what it says of each flow is compared with what
    is said when nobody is disturbed. Fails if a flow is missing or was judged twice; of a
    collector that dies, if one is missing that it had spooled; and if the load was over before all
    was killed: then give more [bold]--passes[/] or a lower [bold]--rate[/]. Where trackers alone
    die, it tells for how long each of them was silent.
    """
    from benchmarks.kills import KillSettings, measure_kills
    from benchmarks.tables import kills_table
    from benchmarks.victims import PARTS

    wanted = tuple(part for part in parts.split(",") if part != "none")
    if unknown := set(wanted) - set(PARTS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: known are {', '.join(PARTS)}")
    if "collector" in wanted and not spool:
        raise typer.BadParameter("--parts collector goes with --spool")
    if fake and set(wanted) - {"collector"}:
        raise typer.BadParameter("--fake has no parts; it goes with --parts collector")
    settings = KillSettings(
        files_of(captures), passes, rate, wanted, times, every, spool, config, fake
    )  # fmt: skip
    with busy("preparing …") as status:
        result = measure_kills(settings, status.update)
    finish("kills", result, [kills_table(result)], save, json_output)
    lost, doubled = result["missing"], result["twice"]
    if "collector" in wanted:
        lost, doubled = result["missing_by"]["spooled"], 0
    broken = result["conservation_holds"] is False or result["load_was_over"]
    if lost or doubled or result["exit_status"] or broken:
        raise typer.Exit(1)


@app.command()
def soak(
    captures: Captures = None,
    seconds: Annotated[float, typer.Option(help="For how long.", min=30.0)] = 600.0,
    rate: Annotated[
        float, typer.Option(help="New flows per second, beside the collector's.", min=1.0)
    ] = 25_000.0,
    config: Config = None,
    save: Save = False,
    json_output: Json = False,
) -> None:
    """Does anything grow? Memory and open files of every process, under load for minutes.

    A load generator keeps the service busy while a collector with a spool reads from a pipe. Slopes
    are by least squares over what follows the first 40 % of the time, in which caches fill.
    """
    from benchmarks.soak import SoakSettings, measure_soak
    from benchmarks.tables import soak_table

    with busy("preparing …") as status:
        result = measure_soak(
            SoakSettings(files_of(captures), seconds, rate, config), status.update
        )
    finish("soak", result, [soak_table(result)], save, json_output)


@app.command()
def mutations(
    captures: Captures = None,
    packets: Annotated[int, typer.Option(help="Broken packets, at least.", min=1)] = 200_000,
    files: Annotated[
        int, typer.Option(help="Captures whose structure is broken, beside those.", min=0)
    ] = 10_000,
    seed: Annotated[int, typer.Option(help="Makes it repeatable.")] = 1,
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder for what is found; tests/corpus is read by a test."),
    ] = None,
    save: Save = False,
    json_output: Json = False,
) -> None:
    """Broken packets and captures by the hundred thousand: nothing may crash, hang or grow.

    Copies of real ones, with bits flipped, bytes exchanged, lengths that lie, pieces cut out or
    doubled. Fails if the reader raises anything but its own errors, takes over 100 ms for a capture
    of at most 500 packets, or holds over 16 MiB more at the end.
    """
    from benchmarks.mutations import measure_mutations
    from benchmarks.tables import mutations_table

    with busy("breaking packets …") as status:
        result = measure_mutations(
            files_of(captures), packets, files, seed, keep,
            lambda read: status.update(f"{read:,} captures read …"),
        )  # fmt: skip
    finish("mutations", result, [mutations_table(result)], save, json_output)
    hung, grown = result["slowest_ms"] > 100.0, result["grown_mib"] > 16.0
    if result["uncaught"] or hung or grown:
        raise typer.Exit(1)


@app.command()
def pauses(
    paused: Annotated[
        str, typer.Option(help="What stands still, by commas: service, sink.")
    ] = "service,sink",
    seconds: Annotated[float, typer.Option(help="For how long.", min=0.1)] = 20.0,
    rate: Annotated[float, typer.Option(help="New flows per second.", min=1.0)] = 2_000.0,
    memory: Annotated[int, typer.Option(metavar="MIB", help="What flows may take.", min=8)] = 256,
    spool: Annotated[bool, typer.Option("--spool", help="The collector has a spool.")] = False,
    save: Save = False,
    json_output: Json = False,
) -> None:
    """Service or sink stand still: what waits is bounded, nothing is lost, and it drains.

    A collector's own parts in this process, on a made-up wire and with a made-up service; verdicts
    go to a file. Fails if anything is lost or refused.
    """
    from benchmarks.pauses import PAUSED, PauseSettings, measure_pauses
    from benchmarks.tables import pauses_table

    wanted = tuple(paused.split(","))
    if unknown := set(wanted) - set(PAUSED):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: known are {', '.join(PAUSED)}")
    with busy("preparing …") as status:
        settings = PauseSettings(wanted, seconds, rate, memory << 20, spool)
        result = measure_pauses(settings, status.update)
    finish("pauses", result, [pauses_table(result)], save, json_output)
    if any(one["written"] != one["flows"] for one in result["paused"].values()):
        raise typer.Exit(1)


@app.command()
def silence(
    flows: Annotated[int, typer.Option(help="Flows of one packet each.", min=1)] = 60,
    url: Annotated[
        str | None,
        typer.Option(help="Ask the service that runs here (HTTP).", show_default=False),
    ] = None,
    config: Config = None,
    save: Save = False,
    json_output: Json = False,
) -> None:
    """How late the last verdicts come on a wire that has fallen silent, after flows' deadlines.

    On a virtual cable in a network namespace made for it. Needs root.
    """
    from benchmarks.silence import SilenceSettings, measure_silence
    from benchmarks.tables import silence_table

    with busy("preparing …") as status:
        result = measure_silence(SilenceSettings(flows, config, url), status.update)
    finish("silence", result, [silence_table(result)], save, json_output)
