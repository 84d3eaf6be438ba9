"""The lab's report, its clean-up, and what it asks of the machine."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from lab import system
from lab.capture import CaptureStats
from lab.errors import LabError
from lab.netns import Processes
from lab.plan import ServiceDraw, draw_run
from lab.report import PlayedRun, write_readme, write_runs
from lab.services import SERVICES
from lab.services.base import Site

DRAWS = [ServiceDraw(s.name, s.port, s.variants) for s in SERVICES]
VERSIONS = {"nginx-light": "1.22", "aioquic": "1.2"}


def played(split: str, seed: int) -> PlayedRun:
    plan = draw_run(f"{split}-01", split, seed, 75.0, "random", DRAWS)
    flows = Counter({s.name: 10 + n for n, s in enumerate(SERVICES)})
    return PlayedRun(plan, CaptureStats(flows, 2, 5000, 4000), 123_456)


@pytest.fixture
def runs() -> list[PlayedRun]:
    return [played("train", 1), played("test", 2)]


def test_the_page_has_every_class_run_and_version(tmp_path: Path, runs: list[PlayedRun]) -> None:
    write_readme(tmp_path / "README.md", runs, VERSIONS)
    text = (tmp_path / "README.md").read_text()
    for index, service in enumerate(SERVICES):
        assert f"| `{service.name}` | {service.port} |" in text
        assert f"| {10 + index} | {10 + index} |" in text
    total = runs[0].stats.flows.total()
    assert f"| all | | | {total} | {total} | 100 % |" in text
    assert "`train/run-01.pcap` | 1 | random | 75 |" in text
    assert "nginx-light 1.22, aioquic 1.2." in text
    assert "0.2 MB" in text


def test_the_page_has_each_runs_wire(tmp_path: Path, runs: list[PlayedRun]) -> None:
    write_readme(tmp_path / "README.md", runs, VERSIONS)
    text = (tmp_path / "README.md").read_text()
    for run in runs:
        delays = [h.path.delay_ms for h in run.plan.hosts if h.role == "client"]
        cell = f"| `{run.plan.split}/run-01.pcap` | clients | {min(delays):g} to {max(delays):g} |"
        assert cell in text


def test_every_draw_is_listed(tmp_path: Path, runs: list[PlayedRun]) -> None:
    write_runs(tmp_path / "runs.json", runs, VERSIONS)
    listed = json.loads((tmp_path / "runs.json").read_text())
    assert listed["versions"] == VERSIONS
    first = listed["runs"][0]
    assert first["pcap"] == "train/run-01.pcap"
    assert first["flows"] == runs[0].stats.flows
    assert [host["path"]["loss"] for host in first["hosts"]] == [
        host.path.loss for host in runs[0].plan.hosts
    ]


def test_processes_end_with_their_children(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        # The child would outlive its shell if only that one were ended.
        processes.start("tree", ["sh", "-c", "sleep 60 & echo $!; wait"])
        failed = processes.start("bad", ["sh", "-c", "exit 3"])
        failed.wait(5)
        until = time.monotonic() + 5
        while not (text := (tmp_path / "tree.log").read_text()) and time.monotonic() < until:
            time.sleep(0.01)
        assert processes.dead() == ["bad"]
    until = time.monotonic() + 5
    while alive(int(text)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not alive(int(text))


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_without_root_the_lab_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="must run as root"):
        system.check_machine()


def test_missing_projects_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(system, "PYTHON_PACKAGES", {"No-Such": "no_such_module"})
    with pytest.raises(LabError, match=r"Missing: No-Such.*\[lab\]"):
        system.check_machine()


def test_what_serves_is_also_installed() -> None:
    listed = set(system._listed())
    for service in SERVICES:
        for software in service.software.values():
            assert software in listed or software in system.PYTHON_PACKAGES, service.name


@pytest.mark.parametrize("variant", ["dnsmasq", "unbound"])
def test_a_name_server_listens_where_the_plan_says(tmp_path: Path, variant: str) -> None:
    service = next(s for s in SERVICES if s.name == "dns")
    plan = draw_run("train-02", "train", 2, 75.0, "random", [ServiceDraw("dns", 53, (variant,))])
    end = plan.endpoints[0]
    (command,) = service.commands(Site(end, tmp_path, tmp_path, (50000, 51500)))
    text = (tmp_path / f"{variant}.conf").read_text()
    assert str(tmp_path / f"{variant}.conf") in command.argv
    for wanted in (end.ipv4, end.ipv6, str(end.port), "h199.lab.test"):
        assert wanted in text
