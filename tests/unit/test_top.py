"""What an operator asks of a collector: top, its settings, its unit file."""

from __future__ import annotations

import configparser
import io
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from collectors.agent_http import AgentHttp, status_to_dict
from collectors.settings_sources import all_settings, flag_of
from collectors.sources import SourceCounters
from collectors.status import (
    AgentStatus,
    DeliveryCounters,
    SinkCounters,
    SpoolCounters,
    TableStatus,
)
from flows.errors import ServiceRefusedError, ServiceUnavailableError, SettingsError
from serveflow_app.cli import app
from serveflow_app.top import Sample, rates, sample_to_dict, samples, screen

ROOT = Path(__file__).resolve().parents[2]
STATUS = AgentStatus(
    name="edge\x1b[2J", source="interface [eth1]", to="http://s:8000", uptime_s=90_061.0,
    seen=SourceCounters(frames=1000, kernel_drops=7),
    table=TableStatus(packets=800, flows=200, memory_bytes=1 << 20, limit_bytes=64 << 20),
    spool=SpoolCounters(bytes=1 << 20, limit_bytes=1 << 30, waiting_flows=5),
    sinks=(SinkCounters("eve:/e", written=9, lost={"sink_full": 3}, last_error="disk is full"),),
    verdicts={"confident": 8, "degraded": 2}, tiers={"t1": 10}, within_16ms=5,
    latency_ms={"total": {"p50": 1.25, "p90": None, "p99": 9.0}},
)  # fmt: skip


def shown(status: AgentStatus, before: AgentStatus | None = None) -> str:
    told = json.loads(json.dumps(status_to_dict(status)))
    was = None if before is None else status_to_dict(before)
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(screen(Sample(told, rates(was, told))))
    return console.export_text()


def test_rates_are_differences_by_time() -> None:
    later = replace(
        STATUS, uptime_s=STATUS.uptime_s + 2, seen=SourceCounters(frames=1400, kernel_drops=8)
    )
    found = rates(status_to_dict(STATUS), status_to_dict(later))
    assert found["frames"] == 200
    assert found["kernel_ring/dropped_packets"] == 0.5
    assert found["sink/sink_full_verdicts/eve:/e"] == 0
    first = rates(None, status_to_dict(replace(STATUS, uptime_s=10.0)))
    assert first["frames"] == 100


def test_a_collector_that_was_started_again_counts_from_its_start() -> None:
    anew = replace(STATUS, uptime_s=4.0, seen=SourceCounters(frames=8))
    assert rates(status_to_dict(STATUS), status_to_dict(anew))["frames"] == 2


def test_the_screen_tells_losses_tiers_latency_and_sinks() -> None:
    text = shown(STATUS)
    for words in (
        "interface [eth1]", "1 d 1 h", "tier t1", "100.0%", "reason degraded", "1.25", "9.00",
        "disk is full", "kernel_ring", "dropped packets", "sink eve:/e", "sink full verdicts",
        "1.0 MiB of 64.0 MiB", "5 flows wait", "within 16 ms",
    ):  # fmt: skip
        assert words in text, words
    assert "\x1b[2J" not in text


def test_the_screen_of_a_collector_without_a_service() -> None:
    away = DeliveryCounters(away_s=75.0, last_error="refused")
    assert "service away for 1 min 15 s: refused" in shown(replace(STATUS, delivery=away))
    fresh = AgentStatus("a", "b", "c", connected=False)
    assert "waiting for the service" in shown(fresh)
    assert "nothing was lost at any hop" in shown(fresh)


def test_a_running_collector_is_asked() -> None:
    with AgentHttp(("127.0.0.1", 0), lambda: STATUS, lambda: 0.0) as served:
        looks = samples(served.url, 1.0, sleep=lambda _: None)
        assert next(looks).status["table"]["flows"] == 200
        found = sample_to_dict(next(looks))
        assert found["rates_per_s"]["frames"] == 0
        assert json.loads(json.dumps(found)) == found
    with pytest.raises(ServiceUnavailableError, match="no collector answers"):
        next(samples(served.url, 1.0))


def test_somebody_else_who_answers_is_named() -> None:
    class Other(AgentHttp):
        def _answer(self, path: str, accept: str) -> Any:
            found = super()._answer("/healthz", accept)
            return found if path.startswith("/a/") else None

    with Other(("127.0.0.1", 0), lambda: STATUS, lambda: 0.0) as served:
        for url in (served.url, f"{served.url}/a"):
            with pytest.raises(ServiceRefusedError, match="collector"):
                next(samples(url, 1.0))


def test_the_command_looks_twice_and_ends() -> None:
    runner = CliRunner()
    with AgentHttp(("127.0.0.1", 0), lambda: STATUS, lambda: 0.0) as served:
        address = served.url.removeprefix("http://")
        told = runner.invoke(app, ["top", address, "--once", "--interval", "0.1", "--json"])
        assert json.loads(told.stdout)["seen"]["frames"] == 1000
        table = runner.invoke(app, ["top", address, "--once", "--interval", "0.1"])
        assert "kernel_ring" in table.stdout
    gone = runner.invoke(app, ["top", address, "--once"])
    assert isinstance(gone.exception, ServiceUnavailableError)


def test_settings_are_shown_with_their_origin(tmp_path: Path, monkeypatch: Any) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: a\n")
    monkeypatch.setenv("SERVEFLOW_COLLECT_MEMORY", "64MiB")
    runner = CliRunner(env={"COLUMNS": "200"})
    arguments = ["config", "show", "--config", str(file), "--set", "sinks=eve:-"]
    found = runner.invoke(app, [*arguments, "--set", "sinks=zeek:/z", "--origin"])
    lines = {line.split()[0]: line for line in found.stdout.splitlines() if line.strip()}
    assert f"{file}:1" in lines["name"]
    assert "environment SERVEFLOW_COLLECT_MEMORY" in lines["memory"]
    assert "eve:- zeek:/z" in lines["sinks"]
    assert "flag --sinks" in lines["sinks"]
    told = json.loads(runner.invoke(app, [*arguments, "--json"]).stdout)
    assert told["name"] == {"value": "a", "origin": f"{file}:1"}
    assert "default" not in runner.invoke(app, arguments).stdout
    bad = runner.invoke(app, [*arguments, "--set", "name"])
    assert isinstance(bad.exception, SettingsError)


def test_a_settings_file_is_checked_and_an_example_printed(tmp_path: Path) -> None:
    runner = CliRunner()
    file = tmp_path / "c.yaml"
    file.write_text(runner.invoke(app, ["config", "example"]).stdout)
    good = runner.invoke(app, ["config", "check", str(file), "--json"])
    assert json.loads(good.stdout)["settings"] > 10
    file.write_text("spool: {polcy: block}\n")
    bad = runner.invoke(app, ["config", "check", str(file)])
    assert "did you mean spool.policy?" in str(bad.exception)


@pytest.mark.parametrize("command", [["top"], ["doctor"], ["config", "show"], ["config", "check"]])
def test_help_teaches(command: list[str]) -> None:
    told = CliRunner().invoke(app, [*command, "--help"])
    assert told.exit_code == 0
    assert "serveflow" in told.stdout
    assert "--json" in told.stdout


def test_the_unit_file_starts_what_there_is_with_one_right() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "collectors" / "serveflow-collect.service")
    service = unit["Service"]
    words = shlex.split(service["ExecStart"])
    assert words[1] == "collect"
    flags = {flag_of(path) for path in all_settings()} | {"--config"}
    assert {word for word in words if word.startswith("--")} <= flags
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == "CAP_NET_RAW"
    assert service["DynamicUser"] == "yes"
    assert "AF_PACKET" in service["RestrictAddressFamilies"]
    default = all_settings()["drain_s"].default
    assert float(service["TimeoutStopSec"]) > default + 30
