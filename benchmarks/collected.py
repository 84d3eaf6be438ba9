"""A collector at work on a pipe, for benches that disturb it or what it talks to."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, TypeAlias

from benchmarks.feeding import Feeder

__all__ = ["Collected", "Flow", "command", "labels"]

_END_S = 180.0
_KEEPS_UP_S = 0.1
_WITH_PORTS = ("TCP", "UDP")  # the others have kinds of messages in their place
_TO_THE_MICROSECOND = len("2026-01-01T00:00:00.000000")

Flow: TypeAlias = tuple[Any, ...]
"""A flow's start, ends and protocol: the same in every run."""


def command(*args: object) -> list[str]:
    """Return how ``serveflow`` is run by this interpreter."""
    main = "from serveflow_app.cli import main; main()"
    return [sys.executable, "-c", main, *map(str, args)]


def labels(path: Path) -> dict[Flow, list[str]]:
    """Return the labels of flows from verdict lines of either kind."""
    said: dict[Flow, list[str]] = {}
    for line in path.read_text().splitlines():
        told = json.loads(line)
        label = told.get("serveflow", told)["label"]
        start = (told.get("start_time") or told["flow"]["start"])[:_TO_THE_MICROSECOND]
        ports = (told["src_port"], told["dest_port"]) if told["proto"] in _WITH_PORTS else (0, 0)
        flow = (start, told["src_ip"], ports[0], told["dest_ip"], ports[1], told["proto"])
        said.setdefault(flow, []).append(label)
    return said


class Collected:
    """A collector that reads a capture from a pipe.

    Args:
        url: The service's address.
        folder: For its verdicts (``eve.json``), its log and its spool.
        capture: What it reads.
        seconds: How long that takes.
        spool: Whether it has a spool.

    Attributes:
        feeder: What writes to the pipe.
        left: Copies of the spool as each killed collector has left it.
    """

    def __init__(
        self, url: str, folder: Path, capture: Path, seconds: float, *, spool: bool
    ) -> None:
        self._spool = folder / "spool" if spool else None
        more = ("--spool", self._spool) if spool else ()
        self._command = command(
            "collect", "-", "--to", url, "--sink", f"eve:{folder / 'eve.json'}",
            "--metrics", "off", "--drain-s", "60", "--json", *more,
        )  # fmt: skip
        self._folder = folder
        self.left: list[Path] = []
        self._written_before = 0
        self._process = self._start()
        self.feeder = Feeder(capture, self._stdin(), seconds)
        self.feeder.start()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """The process's exit status; None: it has not ended."""
        return self._process.returncode

    def restart(self) -> None:
        """End it by SIGKILL and start it again at once."""
        self._process.kill()
        self._process.wait()
        if self._spool is not None:
            self.left.append(self._folder / f"left-{len(self.left)}")
            shutil.copytree(self._spool, self.left[-1])
        self._written_before = self._written()
        self._process = self._start()
        self.feeder.redirect(self._stdin())

    @property
    def keeps_up(self) -> bool:
        """Whether it has begun to give verdicts, and reads what comes when it comes."""
        return self._written() > self._written_before and self.feeder.behind_s < _KEEPS_UP_S

    def _written(self) -> int:
        path = self._folder / "eve.json"
        return path.stat().st_size if path.exists() else 0

    def end(self) -> dict[str, Any]:
        """Wait until all is read and judged; return what the collector says of it."""
        self.feeder.join()
        self._process.stdin = None  # closed already
        out, _ = self._process.communicate(timeout=_END_S)
        told: dict[str, Any] = json.loads(out)
        return told

    def _start(self) -> subprocess.Popen[bytes]:
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )

    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101 (it is a pipe)
        return self._process.stdin
