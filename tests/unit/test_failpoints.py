"""Failpoints reach exactly what they name, and nothing else; unknown ones end a command at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_agent import Watched, chunk, packet

from collectors.queued_sink import QueuedSink, QueueSettings
from collectors.sink_fakes import MemorySink
from flows.errors import SettingsError
from flows.failpoints import FAILPOINTS, VARIABLE, armed, failpoint
from made_verdicts import made

_TRACKER = """
import asyncio
from types import SimpleNamespace
from ray import serve
from deployments import flow_tracker
from deployments.fakes import FAKE_SPEC

# Ray, which is not started here, knows which tracker it is and takes its metrics.
serve.get_replica_context = lambda: SimpleNamespace(deployment="FlowTracker-0")
flow_tracker.TrackerMetrics = lambda *_: None
tracker = flow_tracker.FlowTracker.func_or_class(FAKE_SPEC)
for number in range(1, 6):
    asyncio.run(tracker.absorb([]))
    print(number, flush=True)
"""


def test_what_is_armed_is_told_with_its_number() -> None:
    assert armed({}) == armed({VARIABLE: ""}) == {}
    said = {VARIABLE: "table_full@64, tracker_exit@2,sink_timeout@1"}
    assert armed(said) == {"table_full": 64, "tracker_exit": 2, "sink_timeout": 1}
    assert armed(said).keys() == FAILPOINTS.keys()


@pytest.mark.parametrize(
    "wrong", ["disk_full@1", "table_full", "table_full@", "table_full@0", "table_full@-1",
              "table_full@x", "table_full@²", "@3", "table_full@1,table_full@2"],
)  # fmt: skip
def test_what_is_not_known_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match=VARIABLE):
        armed({VARIABLE: wrong})


def test_what_is_not_armed_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert [failpoint(name) for name in FAILPOINTS] == [None] * 3


def test_it_fails_once_at_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "sink_timeout@3")
    one, other = failpoint("sink_timeout"), failpoint("sink_timeout")
    assert one is not None
    assert other is not None
    assert [one.reached() for _ in range(5)] == [False, False, True, False, False]
    assert not other.reached(), "each place counts for itself"


def test_a_command_ends_at_once_where_it_names_something_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from serveflow_app.cli import main

    monkeypatch.setenv(VARIABLE, "tabel_full@1")
    with pytest.raises(SystemExit) as ended:
        main(["config", "show"])
    assert ended.value.code == 1
    assert "tabel_full" in capsys.readouterr().err


def test_a_full_table_refuses_new_flows_and_counts_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "table_full@64")
    watched = Watched([chunk([packet(1 + i, 2) for i in range(100)])], live=True)
    watched.run()
    table = watched.agent.status().table
    assert (table.flows, table.refused_flows, table.refused_packets) == (64, 36, 36)
    assert len(watched.final) == 64


def test_a_sink_that_times_out_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "sink_timeout@2")
    memory = MemorySink()
    sink = QueuedSink("memory", memory, QueueSettings(gather_s=0.0, most_at_once=1, retry_s=0.01))
    for first in range(4):
        sink.write(made(1, first_id=first))
    sink.close(10.0)
    assert memory.flow_ids == [0, 1, 2, 3]
    assert memory.attempts == 4, "the second one did not reach it"
    assert sink.counters().lost == {}


def test_a_tracker_ends_at_its_call(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv(VARIABLE, "tracker_exit@3")
    done = subprocess.run(
        [sys.executable, "-c", _TRACKER], capture_output=True, text=True, check=False, cwd=root
    )
    assert (done.returncode, done.stdout.split()) == (1, ["1", "2"]), done.stderr
