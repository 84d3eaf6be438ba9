"""``serveflow bench kills``: parts of the service are killed under load, and nothing is lost.

A collector reads a long capture from a pipe at some rate. Once nobody is disturbed; then one part
after the other is ended by SIGKILL. Each flow must have its final verdict, one, and the same label.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.environment import environment
from benchmarks.feeding import Feeder
from benchmarks.long_capture import write_long_capture
from benchmarks.started import config_under_test
from flows.errors import SettingsError
from serveflow_app.service import Service

__all__ = ["PARTS", "Collected", "KillSettings", "compare", "measure_kills", "victims"]

PARTS = ("FlowTracker", "Router", "FastModel", "SlowModel", "proxy", "service", "collector")
"""What can be killed.

``service``: all of it is stopped, and started again 20 s later. ``collector``: it is started again
at once, on its spool; what it had not read by then is lost, and flows that go on begin anew.
"""

_AWAY_S = 20.0
_PROXIES = ("haproxy", "ray::ServeProxy", "ray::ProxyActor", "ray::HAProxyManager")
_END_S = 180.0
_TO_THE_MICROSECOND = len("2026-01-01T00:00:00.000000")
_Flow = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class KillSettings:
    """What to do.

    Attributes:
        captures: Played one after the other, over and over, with other hosts each time.
        passes: How often.
        rate: New flows per second.
        parts: Of :data:`PARTS`, in this order, over and over.
        times: How often each.
        every_s: From one killing to the next.
        spool: Whether the collector has one.
        config: Serve configuration; None: the one that comes along.
    """

    captures: list[Path]
    passes: int
    rate: float
    parts: tuple[str, ...]
    times: int
    every_s: float
    spool: bool
    config: Path | None


class _Restartable:
    """A service that can be away for a while."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._service = self._start()

    @property
    def url(self) -> str:
        return self._service.url

    @property
    def pid(self) -> int:
        return self._service.pid or 0

    def restart(self) -> None:
        self._service.stop()
        time.sleep(_AWAY_S)
        self._service = self._start()

    def __enter__(self) -> _Restartable:
        return self

    def __exit__(self, *_: object) -> None:
        self._service.stop()

    def _start(self) -> Service:
        service = Service(self._config)
        service.start()
        try:
            service.wait_ready()
        except BaseException:
            service.stop()
            raise
        return service


def measure_kills(
    settings: KillSettings, on_progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run; return the object that ``--json`` prints.

    Raises:
        ServeFlowError: A capture, the configuration or the service is not as it should be.
    """
    taken = environment(
        captures=[path.name for path in settings.captures],
        passes=settings.passes, rate=settings.rate, parts=list(settings.parts),
        times=settings.times, every_s=settings.every_s, spool=settings.spool,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="serveflow-kills-") as name:
        folder = Path(name)
        capture = folder / "long.pcap"
        write_long_capture(settings.captures, settings.passes, capture)
        on_progress("what is said undisturbed …")
        calm = folder / "calm.jsonl"
        summary = _classified(capture, calm)
        seconds = summary["flows"] / settings.rate
        with _Restartable(config_under_test(settings.config)) as service:
            collector = Collected(service.url, folder, capture, seconds, spool=settings.spool)
            killed = _kill_all(settings, service, collector, on_progress)
            on_progress("waiting for the last verdicts …")
            told = collector.end()
        found = compare(_labels(calm), _labels(folder / "eve.json"))
    lasted_s = collector.lasted_s
    return {
        "flows_per_second": summary["flows"] / lasted_s,
        "killed": dict(Counter(killed)),
        **found,
        "collector": {
            key: told[key]
            for key in (
                "flows", "final", "open", "duplicates", "replayed_flows", "refused_flows",
                "evicted_flows", "spooled_bytes", "by_reason",
            )
        },
        "exit_status": collector.exit_status,
        "environment": taken,
    }  # fmt: skip


def compare(calm: dict[_Flow, list[str]], stormy: dict[_Flow, list[str]]) -> dict[str, Any]:
    """Compare what was said of flows in two runs.

    Args:
        calm: Labels by flow, undisturbed.
        stormy: The same while parts were killed.

    Returns:
        ``flows``, ``missing`` (that got no final verdict), ``twice`` (got more than one),
        ``other_label``, and ``same_share``.
    """
    missing = sum(max(len(said) - len(stormy.get(flow, [])), 0) for flow, said in calm.items())
    twice = sum(max(len(said) - len(calm.get(flow, [])), 0) for flow, said in stormy.items())
    other = sum(sorted(said) != sorted(stormy.get(flow, said)) for flow, said in calm.items())
    flows = sum(map(len, calm.values()))
    return {
        "flows": flows,
        "missing": missing,
        "twice": twice,
        "other_label": other,
        "same_share": 1.0 - (other + missing) / flows if flows else None,
    }


def victims(part: str, service_pid: int) -> list[int]:
    """Return the processes of a part, among the service's own descendants.

    Raises:
        SettingsError: There is none.
    """
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
                title = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended meanwhile
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
            titles[int(folder.name)] = title.replace(b"\0", b" ").decode(errors="replace").strip()
    found = [
        pid
        for pid, title in titles.items()
        if _is_part(part, title) and _descends(pid, service_pid, parents)
    ]
    if not found:
        raise SettingsError(f"no process of {part} runs")
    return found


def _is_part(part: str, title: str) -> bool:
    if part == "proxy":
        return any(title.split("/")[-1].startswith(name) for name in _PROXIES[:1]) or any(
            title.startswith(name) for name in _PROXIES[1:]
        )
    return title.startswith("ray::ServeReplica:") and f":{part}" in title


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid not in (0, ancestor):
        pid = parents.get(pid, 0)
    return pid == ancestor


def _kill_all(
    settings: KillSettings,
    service: _Restartable,
    collector: Collected,
    on_progress: Callable[[str], None],
) -> list[str]:
    killed: list[str] = []
    for _ in range(settings.times):
        for part in settings.parts:
            time.sleep(settings.every_s)
            on_progress(f"killing {part} ({len(killed) + 1}) …")
            if part in ("service", "collector"):
                (service if part == "service" else collector).restart()
                killed.append(part)
                continue
            try:
                pids = victims(part, service.pid)
            except SettingsError:
                continue  # it is still away since the last time
            os.kill(pids[len(killed) % len(pids)], signal.SIGKILL)
            killed.append(part)
    return killed


def _command(*args: object) -> list[str]:
    main = "from serveflow_app.cli import main; main()"
    return [sys.executable, "-c", main, *map(str, args)]


def _classified(capture: Path, out: Path) -> dict[str, Any]:
    done = subprocess.run(
        _command("classify", capture, "--out", out, "--json"),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


class Collected:
    """A collector that reads a capture from a pipe.

    Args:
        url: The service's address.
        folder: For its verdicts (``eve.json``), its log and its spool.
        capture: What it reads.
        seconds: How long that takes.
        spool: Whether it has a spool.
    """

    def __init__(
        self, url: str, folder: Path, capture: Path, seconds: float, *, spool: bool
    ) -> None:
        more = ("--spool", folder / "spool") if spool else ()
        self._command = _command(
            "collect", "-", "--to", url, "--sink", f"eve:{folder / 'eve.json'}",
            "--metrics", "off", "--drain-s", "60", "--json", *more,
        )  # fmt: skip
        self._log = folder / "log"
        self._process = self._start()
        self._feeder = Feeder(capture, self._stdin(), seconds)
        self._feeder.start()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def lasted_s(self) -> float:
        """How long it took to feed it."""
        return self._feeder.seconds + self._feeder.late_s

    @property
    def exit_status(self) -> int | None:
        """The process's exit status; None: it has not ended."""
        return self._process.returncode

    def restart(self) -> None:
        """End it by SIGKILL and start it again at once."""
        self._process.kill()
        self._process.wait()
        self._process = self._start()
        self._feeder.redirect(self._stdin())

    def end(self) -> dict[str, Any]:
        """Wait until all is read and judged; return what the collector says of it."""
        self._feeder.join()
        self._process.stdin = None  # closed already
        out, _ = self._process.communicate(timeout=_END_S)
        told: dict[str, Any] = json.loads(out)
        return told

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )

    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101 (it is a pipe)
        return self._process.stdin


def _labels(path: Path) -> dict[_Flow, list[str]]:
    """Return the labels of flows from verdict lines of either kind."""
    said: dict[_Flow, list[str]] = {}
    for line in path.read_text().splitlines():
        told = json.loads(line)
        label = told.get("serveflow", told)["label"]
        start = (told.get("start_time") or told["flow"]["start"])[:_TO_THE_MICROSECOND]
        ends = (told["src_ip"], told["src_port"], told["dest_ip"], told["dest_port"])
        said.setdefault((start, *ends, told["proto"]), []).append(label)
    return said
