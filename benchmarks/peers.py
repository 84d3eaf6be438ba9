"""``serveflow bench peers``: other programs and ours on the same capture file, side by side.

Each is told to do what it is made for, and what that is stands beside its figures: they are not
the same. CPU time counts, of all processes that a program starts and less what it takes to start
up (the same command on an empty capture), so that a core of it is compared with a core of ours.
Rounds take turns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.engine import one_core
from benchmarks.environment import environment
from benchmarks.long_capture import write_empty_capture, write_long_capture
from benchmarks.peer_programs import PROGRAMS, Cost, Program, make_training
from benchmarks.peer_rivals import OurEngine, OurTable, OwnService
from benchmarks.recorded import read_captures
from benchmarks.results import spread
from flows.errors import SettingsError
from serveflow_app.settings import bundle_folder

__all__ = ["PeerSettings", "measure_peers"]


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """What to compare.

    Attributes:
        captures: pcap files of Ethernet.
        bundle: The bundle; None: the one that comes along.
        python: Interpreter that has the peers' Python packages.
        rounds: Rounds to take medians of.
        least_flows: New flows in the capture, at least: captures are repeated.
        only: Names of those to measure; empty: all.
    """

    captures: list[Path]
    bundle: Path | None
    python: str
    rounds: int
    least_flows: int
    only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Contender:
    name: str
    does: str
    run: Callable[[], Cost]
    version: str | None = None


def measure_peers(
    settings: PeerSettings, on_progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure; return the object that ``--json`` prints.

    Args:
        settings: What to compare.
        on_progress: Called with what goes on.

    Raises:
        CaptureError: A capture cannot be read to its end.
        BundleError: The bundle cannot be loaded.
        SettingsError: A capture is of no use here, or a name is none of a peer.
        ServeFlowError: A peer ended with an error.
    """
    bundle = bundle_folder(settings.bundle)
    flows_once = read_captures(settings.captures).flows
    passes = -(-settings.least_flows // flows_once)
    taken = environment(
        captures=[path.name for path in settings.captures], bundle=bundle.name,
        rounds=settings.rounds, passes=passes,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        capture, empty = Path(folder) / "long.pcap", Path(folder) / "empty.pcap"
        packets = write_long_capture(settings.captures, passes, capture)
        write_empty_capture(empty)
        on_progress("preparing peers …")
        programs = {program: program.version(settings.python) for program in PROGRAMS}
        training = Path(folder) / "training.npz"
        service = OwnService(capture, bundle)
        contenders = [
            _Contender("ours: flow table", OurTable.does, OurTable(capture)),
            _Contender("ours: engine and cascade", OurEngine.does, OurEngine(capture, bundle)),
            *(
                _Contender(
                    program.name, program.does,
                    _less_start_up(program, settings.python, capture, empty, training), version,
                )
                for program, version in programs.items() if version
            ),
            _Contender(service.name, service.does, service, service.version),
        ]  # fmt: skip
        known = [one.name for one in contenders]
        wrong = set(settings.only) - set(known)
        if wrong:
            raise SettingsError(f"--only {', '.join(sorted(wrong))}: there is {', '.join(known)}")
        chosen = [one for one in contenders if not settings.only or one.name in settings.only]
        names = {one.name for one in chosen}
        if any(program.needs_training and program.name in names for program in programs):
            make_training(settings.python, training)
        with service:
            found = _rounds(chosen, settings.rounds, on_progress)
    return {
        "peers": [_figures(one, found[one.name], packets) for one in chosen],
        "not_installed": [
            {"name": program.name, "install": program.install}
            for program, version in programs.items() if not version
        ],
        "flows": flows_once * passes,
        "packets": packets,
        "environment": taken,
    }  # fmt: skip


def _rounds(
    chosen: list[_Contender], rounds: int, on_progress: Callable[[str], None]
) -> dict[str, list[Cost]]:
    """Run all in turns; the first round compiles and fills the page cache, and does not count."""
    found: dict[str, list[Cost]] = {one.name: [] for one in chosen}
    for number in range(rounds + 1):
        for one in chosen:
            on_progress(f"round {number} of {rounds}: {one.name}")
            with one_core():
                cost = one.run()
            if number:
                found[one.name].append(cost)
    return found


def _less_start_up(
    program: Program, python: str, capture: Path, empty: Path, training: Path
) -> Callable[[], Cost]:
    def run() -> Cost:
        start_up = program.run(python, empty, training)
        whole = program.run(python, capture, training)
        return Cost(whole.flows, max(whole.cpu_s - start_up.cpu_s, 1e-3),
                    max(whole.wall_s - start_up.wall_s, 1e-3), start_up.cpu_s)  # fmt: skip

    return run


def _figures(contender: _Contender, costs: list[Cost], packets: int) -> dict[str, Any]:
    flows = costs[0].flows
    cpu_s = median(one.cpu_s for one in costs)
    wall_s = median(one.wall_s for one in costs)
    return {
        "name": contender.name,
        "version": contender.version,
        "does": contender.does,
        "flows": flows,
        "flows_per_second_per_core": flows / cpu_s,
        "flows_per_second_wall": flows / wall_s,
        "packets_per_second_per_core": packets / cpu_s,
        "cpu_s": cpu_s,
        "wall_s": wall_s,
        "start_up_cpu_s": median(one.start_up_cpu_s for one in costs),
        "client_cpu_s": median(one.client_cpu_s for one in costs),
        "spread_cpu_s": spread([one.cpu_s for one in costs]),
    }
