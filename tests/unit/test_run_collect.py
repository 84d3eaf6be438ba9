"""What ``serveflow collect`` does before packets come, and what it sums up after."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

from collectors.fakes import FAKE_SCHEMA, FakeService
from collectors.open_source import SourceSettings
from collectors.sources import SourceCounters
from collectors.status import AgentStatus, SinkCounters, SpoolCounters, TableStatus
from serveflow_app.run_collect import (
    remember_schema,
    remembered_schema,
    schema_of,
    source_in_words,
    status_line,
    summary_of,
)


def test_what_the_service_wanted_is_enough_to_begin_with_while_it_is_away(tmp_path: Path) -> None:
    service, stop = FakeService(), threading.Event()
    assert remembered_schema(None) is None
    assert remembered_schema(tmp_path) is None
    remember_schema(tmp_path, FAKE_SCHEMA)
    known = remembered_schema(tmp_path)
    assert known == FAKE_SCHEMA
    service.trouble = "away"
    assert schema_of(service, stop, known) == FAKE_SCHEMA
    service.trouble = ""
    other = replace(FAKE_SCHEMA, depth=2)
    assert schema_of(FakeService(other), stop, known) == other, "what it says now counts more"


def test_what_is_remembered_badly_is_asked_for_anew(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"format": 99}'):
        (tmp_path / "schema.json").write_text(text)
        assert remembered_schema(tmp_path) is None
    remember_schema(tmp_path / "nowhere", FAKE_SCHEMA)


def test_a_service_that_never_answers_is_left_when_told_to() -> None:
    service, stop = FakeService(), threading.Event()
    service.trouble = "away"
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    assert schema_of(service, stop) is None
    timer.join()


def test_the_summary_holds_all_that_got_lost_and_fits_json() -> None:
    status = AgentStatus(
        "edge", "interface eth0", "http://x",
        seen=SourceCounters(frames=9, kernel_drops=3, ring_packets=8, damaged=(("a", "cut off"),)),
        table=TableStatus(packets=7, flows=4, refused_flows=2, evicted_flows=1, lost_flows=1),
        spool=SpoolCounters(spooled_bytes=5, recovered_flows=6, waiting_flows=2),
        sinks=(SinkCounters("eve:x", lost={"sink_full": 4}),),
        verdicts={"confident": 2, "evicted": 1},
        within_16ms=2,
    )  # fmt: skip
    found = summary_of(status)
    json.dumps(found)
    assert found["final"] == 3
    assert found["answered_within_16ms"] == 0.6667
    assert found["kernel_drops"] == 3
    assert found["refused_flows"] == 2
    assert found["spooled_bytes"] == 5
    assert found["damaged"] == [{"capture": "a", "reason": "cut off"}]
    line = status_line(status)
    for word in ("3 packets dropped by the kernel", "2 flows refused", "1 flows evicted",
                 "1 flows without a verdict", "2 flows left in the spool",
                 "4 verdicts that sinks lost"):  # fmt: skip
        assert word in line


def test_sources_are_told_in_words() -> None:
    assert source_in_words(SourceSettings(interface="eth0", bpf="tcp")) == "interface eth0 (tcp)"
    assert source_in_words(SourceSettings(paths=("-",))) == "standard input"
    assert source_in_words(SourceSettings(paths=("a", "b"))) == "a, b"
    assert source_in_words(SourceSettings(paths=("a",), watch=True)) == "folder a"
