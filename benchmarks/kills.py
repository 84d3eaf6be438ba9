"""``serveflow bench kills``: parts of the service are killed under load, and nothing is lost.

A collector reads a long capture from a pipe at some rate. Once nobody is disturbed; then one part
after the other is ended by SIGKILL. Each flow must have its final verdict, one, and the same label.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.collected import Collected, Flow, command, labels
from benchmarks.environment import environment
from benchmarks.fake_service import FakeHttpService
from benchmarks.long_capture import write_long_capture
from benchmarks.stalls import TrackerWatch
from benchmarks.started import config_under_test
from benchmarks.unspooled import split_missing
from benchmarks.victims import victim
from collectors.sender import HttpSender
from flows.errors import ServeFlowError
from serveflow_app.service import Service

__all__ = ["KillSettings", "compare", "measure_kills", "missing_of"]

_AWAY_S = 20.0
_MOST_WAIT_S = 30.0  # until a part that is to be killed is there (again)
_TOLD = ("flows", "final", "open", "duplicates", "replayed_flows", "refused_flows", "evicted_flows",
         "spooled_bytes", "recovered_flows", "by_reason")  # fmt: skip


@dataclass(frozen=True, slots=True)
class KillSettings:
    """What to do.

    Attributes:
        captures: Played one after the other, over and over, with other hosts each time.
        passes: How often.
        rate: New flows per second.
        parts: Of :data:`benchmarks.victims.PARTS`, in this order, over and over.
        times: How often each.
        every_s: From one killing to the next.
        spool: Whether the collector has one.
        config: Serve configuration; None: the one that comes along.
        fake: Against a service that is made up, in this process, and judges by arithmetic.
    """

    captures: list[Path]
    passes: int
    rate: float
    parts: tuple[str, ...]
    times: int
    every_s: float
    spool: bool
    config: Path | None
    fake: bool = False


class _Restartable:
    """A service that can be away for a while."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._service = self._start()

    @property
    def url(self) -> str:
        return self._service.url

    @property
    def grpc_url(self) -> str:
        return f"{self._service.grpc_url}/{self._config['applications'][0]['name']}"

    @property
    def pid(self) -> int:
        return self._service.pid or 0

    def restart(self) -> None:
        self._service.stop()
        time.sleep(_AWAY_S)
        self._service = self._start()

    def close(self) -> None:
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
        ServeFlowError: A capture, the configuration or the service is not as it should be, or a
            part that was to be killed did not come back.
    """
    taken = environment(
        captures=[path.name for path in settings.captures],
        passes=settings.passes, rate=settings.rate, parts=list(settings.parts),
        times=settings.times, every_s=settings.every_s, spool=settings.spool, fake=settings.fake,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="serveflow-kills-") as name, _service(settings) as own:
        folder = Path(name)
        capture = folder / "long.pcap"
        write_long_capture(settings.captures, settings.passes, capture)
        on_progress("what is said undisturbed …")
        calm = _undisturbed(settings, own, capture, folder)
        flows = sum(map(len, calm.values()))
        with _watch(settings, own) as watch:
            collector = Collected(
                own.url, folder, capture, flows / settings.rate, spool=settings.spool
            )
            killed = _kill_all(settings, own, collector, watch, on_progress)
            on_progress("waiting for the last verdicts …")
            told = collector.end()
        holds = None if settings.fake else _conserved(own.url)
        stormy = labels(folder / "eve.json")
        result = {
            "flows_per_second": flows / collector.feeder.took_s,
            "killed": dict(Counter(killed)),
            "load_was_over": len(killed) < settings.times * len(settings.parts),
            **compare(calm, stormy),
            "conservation_holds": holds,
            "trackers": watch.told() if watch is not None else None,
            "collector": {key: told[key] for key in _TOLD},
            "exit_status": collector.exit_status,
        }
        if settings.spool:
            result["missing_by"] = split_missing(missing_of(calm, stormy), collector.left)
            result["packets_while_nobody_read"] = collector.feeder.unseen
    return {**result, "environment": taken}


def compare(calm: dict[Flow, list[str]], stormy: dict[Flow, list[str]]) -> dict[str, Any]:
    """Compare what was said of flows in two runs.

    Args:
        calm: Labels by flow, undisturbed.
        stormy: The same while parts were killed.

    Returns:
        ``flows``, ``missing`` (that got no final verdict), ``twice`` (got more than one), of these
        ``again`` (the same verdict on the same flow) and ``continued`` (a flow that the undisturbed
        run does not know: it went on after a restart), ``other_label``, and ``same_share``.
    """
    missing = sum(max(len(said) - len(stormy.get(flow, [])), 0) for flow, said in calm.items())
    continued = sum(len(said) for flow, said in stormy.items() if flow not in calm)
    again = sum(
        max(len(said) - len(calm[flow]), 0) for flow, said in stormy.items() if flow in calm
    )
    other = sum(not set(stormy.get(flow, said)) <= set(said) for flow, said in calm.items())
    flows = sum(map(len, calm.values()))
    return {
        "flows": flows,
        "missing": missing,
        "twice": again + continued,
        "again": again,
        "continued": continued,
        "other_label": other,
        "same_share": 1.0 - (other + missing) / flows if flows else None,
    }


def missing_of(calm: dict[Flow, list[str]], stormy: dict[Flow, list[str]]) -> Iterator[Flow]:
    """Yield the flows that got fewer verdicts than in the undisturbed run."""
    return (flow for flow, said in calm.items() if len(stormy.get(flow, [])) < len(said))


def _conserved(url: str) -> bool:
    with HttpSender(url) as sender:
        return bool(sender.status()["holds"])


@contextmanager
def _service(settings: KillSettings) -> Iterator[Any]:
    if settings.fake:
        with FakeHttpService() as made_up:
            yield made_up
        return
    real = _Restartable(config_under_test(settings.config, grpc=True))
    try:
        yield real
    finally:
        real.close()


@contextmanager
def _watch(settings: KillSettings, own: Any) -> Iterator[TrackerWatch | None]:
    """Watch what trackers answer, where nothing else is killed that would be seen in it."""
    if set(settings.parts) != {"FlowTracker"}:
        yield None
        return
    with TrackerWatch(own.url, own.grpc_url) as watch:
        yield watch


def _kill_all(
    settings: KillSettings,
    service: Any,
    collector: Collected,
    watch: TrackerWatch | None,
    on_progress: Callable[[str], None],
) -> list[str]:
    """Kill while there is load; return what."""
    killed: list[str] = []
    for _ in range(settings.times):
        for part in settings.parts:
            if part == "collector":
                _until_it_keeps_up(collector)
            time.sleep(settings.every_s)
            if not collector.feeder.at_work:
                return killed
            on_progress(f"killing {part} ({len(killed) + 1}) …")
            if part in ("service", "collector"):
                (service if part == "service" else collector).restart()
            else:
                pid, title = _victim(part, service.pid, len(killed))
                if watch is not None:
                    watch.note_death(title)
                os.kill(pid, signal.SIGKILL)
            killed.append(part)
    return killed


def _until_it_keeps_up(collector: Collected) -> None:
    """Wait until a collector has begun, and has read what came meanwhile."""
    until_s = time.monotonic() + _MOST_WAIT_S
    while not collector.keeps_up and collector.feeder.at_work:
        if time.monotonic() > until_s:
            raise ServeFlowError("the collector does not keep up: give a lower --rate")
        time.sleep(0.05)


def _victim(part: str, service_pid: int, number: int) -> tuple[int, str]:
    """Return a process of a part, one that has been killed before once it is there again."""
    until_s = time.monotonic() + _MOST_WAIT_S
    while time.monotonic() < until_s:
        found = victim(part, service_pid, number)
        if found is not None:
            return found
        time.sleep(0.1)
    raise ServeFlowError(f"no process of {part} runs, {_MOST_WAIT_S:.0f} s after it was killed")


def _undisturbed(
    settings: KillSettings, service: Any, capture: Path, folder: Path
) -> dict[Flow, list[str]]:
    out = folder / "calm.jsonl"
    words: tuple[object, ...] = ("classify", capture, "--out", out)
    if settings.fake:
        to = ("--to", service.url, "--metrics", "off")
        words = ("collect", capture, "--sink", f"eve:{out}", *to)
    log = folder / "calm.log"
    with log.open("wb") as errors:
        done = subprocess.run(
            command(*words, "--json"), stdout=subprocess.DEVNULL, stderr=errors, check=False
        )
    if done.returncode:
        raise ServeFlowError(f"serveflow {words[0]}: {log.read_text().strip()[-500:]}")
    return labels(out)
