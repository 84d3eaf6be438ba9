"""Sinks as the command line names them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from collectors.queued_sink import close_all
from collectors.sink_specs import open_sinks
from flows.errors import SettingsError, SinkError
from made_verdicts import made


def test_each_kind_is_opened_and_gets_the_verdicts(tmp_path: Path) -> None:
    specs = [
        f"eve:{tmp_path}/eve.json?rotate_bytes=1000000&keep=3&max_verdicts=100",
        f"zeek:{tmp_path}/serveflow.log?rotate_s=3600",
        f"parquet:{tmp_path}/lake?roll_rows=10&roll_s=1.5",
        "eve:-",
    ]
    sinks = open_sinks(specs)
    for sink in sinks:
        sink.write(made(20))
    close_all(sinks, 10.0)
    assert [sink.counters().name for sink in sinks] == [spec.partition("?")[0] for spec in specs]
    assert [sink.counters().written for sink in sinks] == [20] * 4
    assert len((tmp_path / "eve.json").read_text().splitlines()) == 20
    assert len((tmp_path / "serveflow.log").read_text().splitlines()) == 29
    assert len(list((tmp_path / "lake").rglob("*.parquet"))) == 1


def test_kafka_is_opened_whether_the_broker_is_there_or_not(tmp_path: Path) -> None:
    properties = tmp_path / "properties"
    properties.write_text("security.protocol=PLAINTEXT\n")
    sinks = open_sinks([f"kafka:127.0.0.1:9,127.0.0.2:9/topic?properties={properties}&timeout_s=1"])
    assert sinks[0].counters().name == "kafka:127.0.0.1:9,127.0.0.2:9/topic"
    close_all(sinks, 5.0)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("syslog:here", "there are eve:FILE or eve:-, zeek:FILE, parquet:FOLDER, kafka:HOST"),
        ("eve", "must be eve:FILE or eve:-"),
        ("zeek:", "must be zeek:FILE"),
        ("eve:/x?rotate=1", "no option 'rotate'; there are max_verdicts, .*rotate_bytes"),
        ("eve:/x?rotate_bytes=many", "rotate_bytes: must be a whole number"),
        ("eve:/x?rotate_s=often", "rotate_s: must be a number"),
        ("eve:/x?rotate_bytes", "must stand NAME=VALUE"),
        ("eve:/x?keep=1&keep=2", "keep is given twice"),
        ("eve:/x?keep=0", "keep: must be at least 1"),
        ("eve:-?keep=1", "no option 'keep'"),
        ("parquet:/x?keep=1", "no option 'keep'"),
        ("parquet:/x?max_verdicts=0", "max_verdicts: must be at least 1"),
        ("kafka:topic", "must be kafka:HOST:PORT"),
        ("kafka:host:1/t?properties=/none", "cannot be read"),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(spec: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        open_sinks([spec])


def test_when_one_cannot_be_opened_the_others_are_closed(tmp_path: Path) -> None:
    for _ in range(2):  # the first one is not locked the second time
        with pytest.raises(SinkError, match="make its folder first"):
            open_sinks([f"eve:{tmp_path}/eve.json", f"zeek:{tmp_path}/none/log"])


def test_without_its_client_kafka_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "collectors.kafka_sink", raising=False)
    with pytest.raises(SettingsError, match=r"pip install 'serveflow\[kafka\]'"):
        open_sinks(["kafka:127.0.0.1:9/topic"])
