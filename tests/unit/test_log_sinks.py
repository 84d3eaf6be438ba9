"""EVE and Zeek logs: their form, rotation, reopening, and disks that are full."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from collectors.eve_sink import EveSink
from collectors.log_file import LogFile, Rotation, StreamFile
from collectors.queued_sink import QueuedSink, QueueSettings
from collectors.zeek_sink import ZEEK_FIELDS, ZeekSink
from flows.errors import SettingsError, SinkError
from made_verdicts import made


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def until(condition: Callable[[], bool]) -> None:
    while not condition():  # the test's own time limit ends it
        time.sleep(0.002)


def ids(path: Path) -> list[int]:
    return [int(json.loads(line)["serveflow"]["flow_id"]) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def validator(root: Path) -> Any:
    schema = json.loads((root / "docs" / "schemas" / "eve-serveflow.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=FormatChecker())


def test_eve_records_are_what_the_published_schema_says(tmp_path: Path, validator: Any) -> None:
    sink = EveSink(tmp_path / "eve.json")
    sink.write(made(500))
    sink.close()
    lines = (tmp_path / "eve.json").read_text().splitlines()
    assert len(lines) == 500
    for line in lines:
        validator.validate(json.loads(line))
    assert {json.loads(line)["proto"] for line in lines} == {"TCP", "UDP", "ICMP", "IPv6-ICMP"}


def closed(schema: Any) -> Iterator[bool]:
    """Yield, of each object that a schema describes, whether it may hold nothing else."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema.get("additionalProperties") is False
        for inner in schema.values():
            yield from closed(inner)


def test_the_schema_lets_nothing_else_in(root: Path, tmp_path: Path, validator: Any) -> None:
    assert all(closed(validator.schema))
    sink = EveSink(tmp_path / "eve.json")
    sink.write(made(1))
    sink.close()
    record = json.loads((tmp_path / "eve.json").read_text())
    validator.validate(record)
    for change in ({"more": 1}, {"flow_id": 2**51}, {"src_ip": "::g"}, {"proto": "tcp"}):
        assert not validator.is_valid({**record, **change}), change
    assert not validator.is_valid({k: v for k, v in record.items() if k != "community_id"})


def test_a_second_run_appends_and_half_a_line_of_the_first_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "eve.json"
    for first_id in (0, 10):
        sink = EveSink(path)
        sink.write(made(10, first_id=first_id))
        sink.close()
    assert ids(path) == list(range(20))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 30)
    sink = EveSink(path)
    assert not path.read_bytes().endswith(b"\n"), "opening alone writes nothing"
    sink.write(made(2, first_id=20))
    sink.close()
    lines = path.read_bytes().split(b"\n")
    assert len(lines) == 23
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(lines[19])
    assert [int(json.loads(line)["serveflow"]["flow_id"]) for line in lines[20:22]] == [20, 21]


def test_after_logrotate_has_renamed_it_reopening_makes_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "eve.json"
    queued = QueuedSink("eve", EveSink(path), QueueSettings(gather_s=0.0))
    queued.write(made(5))
    until(lambda: queued.counters().written == 5)
    path.rename(tmp_path / "eve.json-20261124")
    queued.write(made(5, first_id=5))
    until(lambda: queued.counters().written == 10)
    queued.reopen()
    queued.write(made(5, first_id=10))
    queued.close(10.0)
    assert ids(tmp_path / "eve.json-20261124") == list(range(10))
    assert ids(path) == list(range(10, 15))


def test_it_is_rotated_by_size_and_the_oldest_one_goes(tmp_path: Path) -> None:
    path = tmp_path / "eve.json"
    sink = EveSink(path, Rotation(rotate_bytes=10_000, keep=2))
    for k in range(8):
        sink.write(made(10, first_id=10 * k))
    sink.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["eve.json", "eve.json.1", "eve.json.2"]
    kept = [ids(tmp_path / name) for name in ("eve.json.2", "eve.json.1", "eve.json")]
    together = [k for part in kept for k in part]
    assert together == list(range(together[0], 80))
    assert all(path.stat().st_size <= 10_000 for path in tmp_path.iterdir())


def test_it_is_rotated_at_multiples_of_its_interval_also_on_a_quiet_wire(tmp_path: Path) -> None:
    path, clock = tmp_path / "log", Clock()
    clock.now_s -= clock.now_s % 3_600
    log = LogFile(path, Rotation(rotate_s=3_600), clock=clock)
    log.flush()
    log.write(b"first\n")
    clock.now_s += 3_599
    log.flush()
    assert not (tmp_path / "log.1").exists()
    clock.now_s += 1
    log.flush()
    assert (tmp_path / "log.1").read_bytes() == b"first\n"
    clock.now_s += 7_200
    log.flush()
    assert not (tmp_path / "log.2").exists(), "nothing was written meanwhile"
    log.write(b"second\n")
    log.close()
    os.utime(path, (clock.now_s, clock.now_s))
    clock.now_s += 3_600
    log = LogFile(path, Rotation(rotate_s=3_600), clock=clock)
    log.write(b"third\n")
    log.close()
    names = ("log.2", "log.1", "log")
    assert [(tmp_path / n).read_text() for n in names] == ["first\n", "second\n", "third\n"]


def test_a_rotation_that_fails_loses_no_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    (tmp_path / "log.1").mkdir()
    (tmp_path / "log.1" / "in the way").touch()
    log = LogFile(path, Rotation(rotate_bytes=10, keep=1))
    log.write(b"123456789\n")
    with pytest.raises(SinkError, match="cannot rotate it"):
        log.write(b"abcdefghi\n")
    log.write(b"abcdefghi\n")
    log.close()
    assert path.read_bytes() == b"123456789\nabcdefghi\n"


def test_a_full_disk_is_told_loudly_and_nothing_is_written_by_halves(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(100_000))
    path = small_disk / "eve.json"
    sink = EveSink(path)
    written = 0

    def fill() -> None:
        nonlocal written
        while True:
            sink.write(made(40, first_id=written))
            written += 40

    with pytest.raises(SinkError, match=r"eve\.json: cannot write to it: No space left.*make room"):
        fill()
    assert written >= 40
    assert ids(path) == list(range(written))
    filler.unlink()
    sink.write(made(40, first_id=written))
    sink.close()
    assert ids(path) == list(range(written + 40))


def test_when_there_is_room_again_a_queue_has_lost_nothing(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(230_000))
    quick = QueueSettings(gather_s=0.0, retry_s=0.01, longest_retry_s=0.02)
    queued = QueuedSink("eve", EveSink(small_disk / "eve.json"), quick)
    for k in range(6):
        queued.write(made(40, first_id=40 * k))
    until(lambda: "No space left" in queued.counters().last_error)
    filler.unlink()
    queued.close(10.0)
    assert ids(small_disk / "eve.json") == list(range(240))
    assert queued.counters().lost == {}


def test_one_file_has_one_writer(tmp_path: Path) -> None:
    sink = EveSink(tmp_path / "eve.json")
    with pytest.raises(SinkError, match="another process or sink writes it"):
        EveSink(tmp_path / "eve.json")
    sink.reopen()
    sink.close()
    sink.close()
    EveSink(tmp_path / "eve.json").close()


def test_what_cannot_be_opened_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="make its folder first"):
        EveSink(tmp_path / "none" / "eve.json")
    with pytest.raises(SinkError, match="Is a directory"):
        EveSink(tmp_path)
    with pytest.raises(SinkError, match="is no regular file"):
        EveSink(Path("/dev/null"))


def test_standard_output_takes_lines_and_a_closed_pipe_is_told() -> None:
    ours, theirs = os.pipe()
    out = StreamFile(theirs, "standard output")
    out.write(b"one\n")
    out.flush()
    out.reopen()
    out.close()
    assert os.read(ours, 100) == b"one\n"
    os.close(ours)
    with pytest.raises(SinkError, match="standard output: cannot write to it: Broken pipe"):
        out.write(b"two\n")
    os.close(theirs)


def test_eve_goes_to_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    sink = EveSink(None)
    sink.write(made(3))
    sink.close()
    assert len(capfdbinary.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("wrong", [{"rotate_bytes": -1}, {"rotate_s": -1.0}, {"keep": 0}])
def test_rotation_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Rotation(**wrong)


def test_a_zeek_log_has_zeeks_header_and_foot_in_each_of_its_files(tmp_path: Path) -> None:
    path = tmp_path / "serveflow.log"
    sink = ZeekSink(path, Rotation(rotate_bytes=6_000))
    for k in range(3):
        sink.write(made(15, first_id=15 * k))
    sink.close()
    files = [tmp_path / name for name in ("serveflow.log.2", "serveflow.log.1", "serveflow.log")]
    for file in files:
        lines = file.read_text().splitlines()
        assert lines[0] == "#separator \\x09"
        assert [line.split("\t")[0] for line in lines[1:6]] == [
            "#set_separator", "#empty_field", "#unset_field", "#path", "#open"
        ]  # fmt: skip
        assert lines[6].split("\t")[1:] == [name for name, _ in ZEEK_FIELDS]
        assert lines[7].split("\t")[1:] == [kind for _, kind in ZEEK_FIELDS]
        assert lines[-1].startswith("#close\t")
        assert len(lines) == 8 + 15 + 1
        assert all(line.count("\t") == len(ZEEK_FIELDS) - 1 for line in lines[8:-1])


def test_a_zeek_log_that_is_appended_to_has_its_header_again(tmp_path: Path) -> None:
    path = tmp_path / "serveflow.log"
    for _ in range(2):
        sink = ZeekSink(path)
        sink.write(made(2))
        sink.reopen()
        sink.close()
    lines = path.read_text().splitlines()
    assert sum(line.startswith("#fields") for line in lines) == 2
    assert sum(line.startswith("#close") for line in lines) == 2
    assert len(lines) == 2 * (8 + 2 + 1)
