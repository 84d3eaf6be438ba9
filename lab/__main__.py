"""The lab's command line: ``python -m lab``."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lab.capture import write_labels
from lab.errors import LabError
from lab.plan import RunPlan, ServiceDraw, draw_run
from lab.play import play
from lab.report import PlayedRun, write_readme, write_runs
from lab.services import SERVICES
from lab.services.base import material
from lab.system import check_machine, install_missing, versions
from lab.verify import verify

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_console = Console(stderr=True)


def _parse_runs(text: str) -> dict[str, int]:
    try:
        pairs = [part.split("=") for part in text.split(",")]
        runs = {name: int(count) for name, count in pairs}
    except ValueError as error:
        raise LabError(f"--runs is not like train=8,test=3: {text!r}") from error
    if not runs or set(runs) - {"train", "test"} or min(runs.values()) < 1:
        raise LabError(f"--runs takes train=N and test=N with N of at least 1: {text!r}")
    return runs


def _plans(runs: dict[str, int], seed: int, seconds: float) -> list[RunPlan]:
    draws = [ServiceDraw(service.name, service.port, service.variants) for service in SERVICES]
    plans = []
    for split, count in runs.items():
        for number in range(1, count + 1):
            mode = "random" if number % 2 == 0 else "default"
            own = seed * 1000 + (0 if split == "train" else 500) + number
            plans.append(draw_run(f"{split}-{number:02d}", split, own, seconds, mode, draws))
    return plans


def _make(plans: list[RunPlan], sessions: int, place: Path) -> list[PlayedRun]:
    shared = place / "shared"
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=_console,
    ) as progress:
        getting_ready = progress.add_task("prepare", total=len(SERVICES) + 1)
        material(shared)
        progress.advance(getting_ready)
        for service in SERVICES:
            if service.prepare is not None:
                service.prepare(shared)
            progress.advance(getting_ready)
        every = progress.add_task("runs", total=len(plans))
        played: list[PlayedRun] = []
        for split in dict.fromkeys(plan.split for plan in plans):
            rows = []
            folder = place / "captures" / split
            folder.mkdir(parents=True)
            for plan in (plan for plan in plans if plan.split == split):
                task = progress.add_task(plan.name, total=1.0)

                def tick(what: str, done: float, name: str = plan.name, row: TaskID = task) -> None:
                    progress.update(row, completed=done, description=f"{name} {what}")

                target = folder / plan.pcap
                found, stats = play(plan, shared, place / plan.name, target, sessions, tick)
                rows += found
                played.append(PlayedRun(plan, stats, target.stat().st_size))
                progress.update(task, description=f"{plan.name} {stats.flows.total()} flows")
                progress.advance(every)
            write_labels(folder / "labels.csv", rows)
    return played


def _replace(made: Path, out: Path) -> None:
    """Put new captures where the old ones were, only now that all of them are there."""
    out.mkdir(parents=True, exist_ok=True)
    for item in made.iterdir():
        old = out / item.name
        if old.is_dir():
            shutil.rmtree(old)
        shutil.move(item, old)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="The folder for captures, labels and README.")],
    runs: Annotated[str, typer.Option(help="How many runs of each split.")] = "train=8,test=3",
    seconds_per_run: Annotated[
        float, typer.Option(min=15, max=600, help="Seconds of traffic in each run.")
    ] = 75.0,
    seed: Annotated[int, typer.Option(help="Draws everything but the clock.")] = 1,
    sessions: Annotated[int, typer.Option(min=3, help="Client sessions per service and run.")] = 25,
    keep: Annotated[
        bool, typer.Option(help="Keep the working folder (server logs, raw captures).")
    ] = False,
) -> None:
    """Make labelled captures from real servers and clients in network namespaces.

    Needs root and /dev/net/tun. Installs the Debian packages that lab/packages.txt lists and are
    missing; none of their servers starts by itself. No traffic leaves the namespaces, and
    namespaces, processes and temporary files are removed at the end, also on Ctrl-C.

    A smaller try: python -m lab --out /tmp/captures --runs train=1,test=1 --seconds-per-run 30
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    place: Path | None = None
    start = time.monotonic()
    try:
        check_machine()
        plans = _plans(_parse_runs(runs), seed, seconds_per_run)
        installed = install_missing()
        if installed:
            _console.print(f"installed: {', '.join(installed)}")
        place = Path(tempfile.mkdtemp(prefix="serveflow-lab-"))
        place.chmod(0o755)
        played = _make(plans, sessions, place)
        made = place / "captures"
        found = versions()
        write_runs(made / "runs.json", played, found)
        write_readme(made / "README.md", played, found)
        _replace(made, out)
        problems = verify(out, [service.name for service in SERVICES])
    except LabError as error:
        _console.print(f"[bold red]error:[/] {error}", highlight=False)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        _console.print("stopped; everything was cleaned up")
        raise typer.Exit(130) from error
    finally:
        if place is not None and not keep:
            shutil.rmtree(place, ignore_errors=True)
        elif place is not None:
            _console.print(f"kept: {place}")
    flows = sum(run.stats.flows.total() for run in played)
    _console.print(
        f"{flows} labelled flows in {len(played)} runs, {time.monotonic() - start:.0f} s"
    )
    if problems:
        for line in problems:
            _console.print(f"[bold red]problem:[/] {line}", highlight=False)
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
