"""Parts of the service are killed while captures are replayed, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from collectors.sender import HttpSender
from conftest import Running
from verdict_lines import read_verdicts

pytestmark = [pytest.mark.serve, pytest.mark.e2e]


def replica_pid(service_pid: int, deployment: str) -> int:
    """Return the process of a deployment's replica, among the service's own descendants."""
    parents, titles = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
                title = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended meanwhile
            pid = int(folder.name)
            parents[pid] = int(stat.rpartition(")")[2].split()[1])
            titles[pid] = title.rstrip(b"\0 ").decode(errors="replace")
    for pid, title in titles.items():
        ancestor = pid
        while ancestor not in (0, service_pid):
            ancestor = parents.get(ancestor, 0)
        if ancestor and title == f"ray::ServeReplica:serveflow:{deployment}":
            return pid
    raise AssertionError(f"no replica of {deployment}")


def test_every_flow_gets_its_verdict_though_every_part_dies(
    running: Running, cli: Any, test_runs: Path, tmp_path: Path
) -> None:
    """Kill -9 of one replica after the other: the verdicts are those of a calm run."""
    assert running.service.pid is not None
    cli("classify", test_runs, "--out", tmp_path / "calm")
    replay = subprocess.Popen(
        [sys.executable, "-c", "from serveflow_app.cli import main; main()",
         "replay", str(test_runs), "--to", running.separate, "--rate", "8",
         "--out", str(tmp_path / "stormy"), "--json"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for deployment in ("FlowTracker-0", "FlowTracker-2", "SlowModel", "FastModel", "Router"):
        time.sleep(4)  # of a replay of some 30 s
        assert replay.poll() is None, "it ended before the killing did"
        os.kill(replica_pid(running.service.pid, deployment), signal.SIGKILL)
    out, _ = replay.communicate(timeout=150)
    summary = json.loads(out)
    assert replay.returncode == 0
    assert summary["open"] == 0
    assert summary["duplicates"] > 0, "flows were sent again"
    assert read_verdicts(tmp_path / "stormy") == read_verdicts(tmp_path / "calm")
    with HttpSender(running.separate) as sender:
        assert sender.status()["holds"], "the conservation laws"
