"""Parquet files appear whole or not at all, by hour, and survive crashes of their writer."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from collectors.json_lines import verdict_lines
from collectors.parquet_columns import PARQUET_SCHEMA
from collectors.parquet_sink import ParquetSink, Rolling
from flows.errors import SettingsError, SinkError
from made_verdicts import START_NS, made

HOUR_NS = 3_600_000_000_000


class Clock:
    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


def rows(folder: Path) -> list[dict[str, Any]]:
    table = ds.dataset(folder, partitioning="hive", format="parquet").to_table()
    found: list[dict[str, Any]] = table.sort_by("flow_id").to_pylist()
    return found


def ids(folder: Path) -> list[int]:
    return [row["flow_id"] for row in rows(folder)]


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_rows_say_what_a_line_of_out_says(tmp_path: Path) -> None:
    found = made(200)
    sink = ParquetSink(tmp_path)
    sink.write(found)
    sink.close()
    sink.close()
    lines = verdict_lines(found.settled, found.classes, found.tiers, found.model_version)
    for row, line in zip(rows(tmp_path), lines, strict=True):
        for name in row.keys() & line.keys() - {"start_time", "confidence", "novelty"}:
            assert row[name] == line[name]
        assert round(row["confidence"], 4) == line["confidence"]
        assert round(row["novelty"], 4) == line["novelty"]
        start = np.datetime64(row["start_time"].replace(tzinfo=None), "us")
        assert start == np.datetime64(line["start_time"][:-1], "us")
        for part in ("wait", "queue", "infer"):
            assert row[f"{part}_ns"] / 1e6 == line["latency_ms"][part]
        assert (row["collector"], row["interface"]) == ("edge#1f2e3d4c", "eth0")


def test_files_lie_in_folders_of_the_hour_in_which_flows_start(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path)
    sink.write(made(90, start_ns=START_NS, hours=3))
    sink.close()
    assert [path.parent.relative_to(tmp_path).as_posix() for path in files(tmp_path)] == [
        "date=2023-11-14/hour=22", "date=2023-11-14/hour=23", "date=2023-11-15/hour=00"
    ]  # fmt: skip
    assert ids(tmp_path) == list(range(90))
    assert all(pq.read_schema(path).equals(PARQUET_SCHEMA) for path in files(tmp_path))
    assert list((tmp_path / ".pending").iterdir()) == []


def test_flows_from_before_the_epoch_have_their_folder_too(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path)
    sink.write(made(2, start_ns=-HOUR_NS))
    sink.close()
    assert [path.parent.parent.name for path in files(tmp_path)] == ["date=1969-12-31"]


def test_a_file_is_made_when_there_are_rows_enough_or_it_is_time(tmp_path: Path) -> None:
    clock = Clock()
    sink = ParquetSink(tmp_path, Rolling(roll_rows=100, roll_s=60.0), clock=clock)
    sink.write(made(60))
    sink.flush()
    assert files(tmp_path) == []
    sink.write(made(60, first_id=60))
    assert ids(tmp_path) == list(range(120))
    sink.write(made(10, first_id=120))
    clock.now_s += 59
    sink.flush()
    assert len(files(tmp_path)) == 1
    clock.now_s += 1
    sink.flush()
    assert ids(tmp_path) == list(range(130))
    sink.write(made(1, first_id=130))
    sink.reopen()
    assert len(files(tmp_path)) == 3
    sink.close()
    assert len(files(tmp_path)) == 3


def test_capture_times_all_over_the_place_keep_few_files_open(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path, Rolling(most_open=4))
    sink.write(made(40, hours=40))
    assert len(list((tmp_path / ".pending").iterdir())) == 4
    sink.close()
    assert ids(tmp_path) == list(range(40))


def left_by_a_killed_writer(folder: Path, verdicts: int) -> Path:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from collectors.parquet_sink import ParquetSink\n"
        "from made_verdicts import made\n"
        "sink = ParquetSink(Path(sys.argv[1]))\n"
        f"for k in range(0, {verdicts}, 10): sink.write(made(10, first_id=k))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=Path(__file__).parents[1],
                          env={"PYTHONPATH": ".:.."}, check=False)  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert files(folder) == []
    (stream,) = (folder / ".pending").iterdir()
    return stream


def test_what_a_killed_writer_left_becomes_a_file(tmp_path: Path) -> None:
    left_by_a_killed_writer(tmp_path, 50)
    sink = ParquetSink(tmp_path)
    assert ids(tmp_path) == list(range(50))
    assert list((tmp_path / ".pending").iterdir()) == []
    sink.close()


def test_of_a_damaged_stream_all_whole_portions_become_a_file(tmp_path: Path) -> None:
    stream = left_by_a_killed_writer(tmp_path, 30)
    data = stream.read_bytes()
    schema_bytes = len(PARQUET_SCHEMA.serialize())
    portion = (len(data) - schema_bytes) // 3
    seen = set()
    for cut in [0, 1, schema_bytes - 1, *range(schema_bytes, len(data), 97)]:
        stream.write_bytes(data[:cut])
        ParquetSink(tmp_path).close()
        found = ids(tmp_path) if files(tmp_path) else []
        assert found == list(range(len(found)))
        assert len(found) // 10 >= (cut - schema_bytes) // (portion + 64)
        seen.add(len(found))
        for path in files(tmp_path):
            path.unlink()
        assert list((tmp_path / ".pending").iterdir()) == []
    assert seen == {0, 10, 20}


def test_a_living_writers_stream_is_left_alone(tmp_path: Path) -> None:
    one = ParquetSink(tmp_path)
    one.write(made(5))
    other = ParquetSink(tmp_path)
    assert files(tmp_path) == []
    other.write(made(5, first_id=5))
    one.close()
    other.close()
    assert ids(tmp_path) == list(range(10))


def test_a_crash_after_a_file_was_made_makes_no_verdict_double(tmp_path: Path) -> None:
    stream = left_by_a_killed_writer(tmp_path, 20)
    data = stream.read_bytes()
    ParquetSink(tmp_path).close()
    stream.write_bytes(data)  # as if it had crashed before the stream was removed
    ParquetSink(tmp_path).close()
    assert ids(tmp_path) == list(range(20))


def test_on_a_full_disk_rows_are_written_once_there_is_room(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(150_000))
    sink = ParquetSink(small_disk)
    written = 0

    def fill() -> None:
        nonlocal written
        while True:
            sink.write(made(40, first_id=written, hours=2))
            written += 40

    with pytest.raises(SinkError, match="No space left on device") as told:
        fill()
    assert told.value.left
    left = sorted(told.value.left)
    filler.unlink()
    sink.write(made(40, first_id=written, hours=2).rows(left))
    sink.close()
    assert ids(small_disk) == list(range(written + 40))


def test_a_file_that_cannot_be_made_now_is_made_later(small_disk: Path) -> None:
    clock = Clock()
    sink = ParquetSink(small_disk, clock=clock)
    sink.write(made(120))
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(1 << 20))
    clock.now_s += 1_000
    with pytest.raises(SinkError, match="No space left"):
        sink.flush()
    assert files(small_disk) == []
    filler.unlink()
    sink.flush()
    assert ids(small_disk) == list(range(120))
    sink.close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=r"cannot write: (Not a directory|File exists)"):
        ParquetSink(tmp_path / "file")
    with pytest.raises(SettingsError, match="roll_rows"):
        Rolling(roll_rows=0)
