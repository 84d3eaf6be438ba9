"""The other programs of ``bench peers``: how each is found, what it does, and what it takes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows.errors import ServeFlowError

__all__ = ["PROGRAMS", "Cost", "Program", "make_training", "read_ndpi", "read_tshark"]

_SCRIPTS = Path(__file__).resolve().parent / "peer_scripts"
_TRAINING = Path(__file__).resolve().parent.parent / "lab" / "captures" / "train"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took.

    Attributes:
        flows: Flows it found.
        cpu_s: CPU time of all its processes, seconds; start-up is not in it.
        wall_s: Wall time, seconds; start-up is not in it.
        start_up_cpu_s: CPU time of the start-up, 0 where nothing has to start.
        client_cpu_s: CPU time of what asks a service, which is not in ``cpu_s``.
    """

    flows: int
    cpu_s: float
    wall_s: float
    start_up_cpu_s: float = 0.0
    client_cpu_s: float = 0.0


def read_json(told: str) -> int:
    """Return the flows of a script that prints one JSON object."""
    return int(json.loads(told.splitlines()[-1])["flows"])


def read_ndpi(told: str) -> int:
    """Return the flows that ndpiReader tells."""
    found = re.search(r"Unique flows:\s+(\d+)", told)
    return int(found[1]) if found else 0


def read_tshark(told: str) -> int:
    """Return the conversations that ``tshark -z conv,…`` lists."""
    return sum("<->" in line and "Bytes |" not in line for line in told.splitlines())


@dataclass(frozen=True, slots=True)
class Program:
    """A program that reads a capture file.

    Attributes:
        name: Its name.
        does: What it does with the capture.
        command: Command line, with ``{python}``, ``{capture}`` and ``{training}`` in it.
        ask_version: Command line that prints its version, and fails where it is not installed.
        install: How to get it.
        read: Gets the flows from what it prints.
        needs_training: It has to be given the flows of :func:`make_training`.
    """

    name: str
    does: str
    command: tuple[str, ...]
    ask_version: tuple[str, ...]
    install: str
    read: Callable[[str], int] = read_json
    needs_training: bool = False

    def version(self, python: str) -> str | None:
        """Return which version is installed, None if none is."""
        command = [part.format(python=python) for part in self.ask_version]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        found = re.search(r"\d+\.\d+[\w.]*(?:, [\w-]+ \d+\.\d+[\w.]*)*", done.stdout)
        return found[0] if found and not done.returncode else None

    def run(self, python: str, capture: Path, training: Path) -> Cost:
        """Run it on a capture, start-up included.

        Raises:
            ServeFlowError: It ended with an error.
        """
        names = {"python": python, "capture": str(capture), "training": str(training)}
        command = [part.format(**names) for part in self.command]
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            begin_s = time.perf_counter()
            child = subprocess.Popen(command, stdout=out, stderr=err)
            # Its own CPU time and that of all it waited for, which getrusage would mix with others.
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            wall_s = time.perf_counter() - begin_s
            out.seek(0)
            err.seek(0)
            if child.returncode:
                last = (err.read().strip().splitlines() or ["nothing"])[-1]
                raise ServeFlowError(f"{self.name} ended with {child.returncode}, saying: {last}")
            return Cost(self.read(out.read()), usage.ru_utime + usage.ru_stime, wall_s)


def make_training(python: str, training: Path) -> None:
    """Make what the script's forest is fitted on, of the embedded training runs.

    Raises:
        ServeFlowError: They could not be read.
    """
    command = [python, str(_SCRIPTS / "dpkt_sklearn.py"), "prepare", str(training), str(_TRAINING)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServeFlowError(f"no forest for dpkt + scikit-learn: {done.stderr.strip()[-200:]}")


def _versions_of(*packages: str) -> tuple[str, ...]:
    told = f"""
from importlib.metadata import version
import {", ".join(p.replace("scikit-learn", "sklearn") for p in packages)}
print(", ".join([version({packages[0]!r}), *(p + " " + version(p) for p in {packages[1:]!r})]))
"""
    return ("{python}", "-c", told)


PROGRAMS = (
    Program(
        "nfstream",
        "dissects (nDPI), statistics of whole flows; no model",
        ("{python}", str(_SCRIPTS / "nfstream_flows.py"), "{capture}"),
        _versions_of("nfstream"),
        "pip install 'serveflow[peers]', or --python of another environment",
    ),
    Program(
        "ndpiReader",
        "detects protocols by deep packet inspection; no model",
        ("ndpiReader", "-i", "{capture}"),
        ("ndpiReader", "--help"),
        "apt-get install libndpi-bin",
        read_ndpi,
    ),
    Program(
        "tshark",
        "dissects every packet in full, lists conversations (TCP, UDP); no model",
        ("tshark", "-n", "-q", "-r", "{capture}", "-z", "conv,tcp", "-z", "conv,udp"),
        ("tshark", "--version"),
        "apt-get install tshark",
        read_tshark,
    ),
    Program(
        "dpkt + scikit-learn",
        "the obvious script: forest of 100 trees on 10 packets, one flow at a time",
        ("{python}", str(_SCRIPTS / "dpkt_sklearn.py"), "classify", "{training}", "{capture}"),
        _versions_of("dpkt", "scikit-learn"),
        "pip install 'serveflow[peers]', or --python of another environment",
        needs_training=True,
    ),
)
"""The programs, in the order of the table."""
