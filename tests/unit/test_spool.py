"""The spool gives back what was written, whatever happens to process, disk or file."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_agent import Watched, after, flood, some_flows

from collectors.disk_spool import DiskSpool
from collectors.fakes import FAKE_SCHEMA, FakeService
from collectors.journal import OBSERVED, SETTLED, Journal, SpoolSettings, decoded, new_meta
from collectors.ledger import LedgerLimits
from collectors.memory import EdgeLimits
from collectors.past_runs import past_runs
from collectors.spool_segments import FolderLock, SegmentWriter, read_records, segments
from flows.decode import Decoded
from flows.errors import SettingsError
from flows.packet import packet_dtype
from flows.table import END_DTYPE, FLOW_DTYPE

SMALL = SpoolSettings(max_bytes=40_960, segment_bytes=4_096)
NONE = np.empty(0, END_DTYPE)


def new_journal(folder: Path, settings: SpoolSettings = SMALL, number: int = 0) -> Journal:
    return Journal(folder, settings, new_meta("edge", 3, 10.0, with_header=False), number)


def write(journal: Journal, first: int, count: int = 1) -> bool:
    """Write a moment of flows of one packet each."""
    flows = np.zeros(count, FLOW_DTYPE)
    flows["flow_number"] = numbers = np.arange(first, first + count, dtype=np.uint64)
    packets = np.zeros(count, packet_dtype(False))
    packets["time_ns"] = numbers
    return journal.observed(flows, packets, numbers, NONE, first)


def numbers_in(folder: Path) -> list[int]:
    """Return the flows that earlier runs have left, in order."""
    found: list[int] = []
    for run in past_runs(folder).runs:
        for moment in run.records():
            assert (moment.packets["time_ns"] == moment.numbers).all()
            found += moment.flows["flow_number"].tolist()
    return found


def test_what_was_written_is_read_back_without_what_is_settled(tmp_path: Path) -> None:
    journal = new_journal(tmp_path)
    for first in range(0, 40, 4):
        assert write(journal, first, 4)
    journal.settled(np.array([3, 17], np.uint64))
    journal.close()
    assert len(segments(tmp_path)[0]) > 1
    assert numbers_in(tmp_path) == [n for n in range(40) if n not in (3, 17)]
    (run,) = past_runs(tmp_path).runs
    assert run.unsettled == 38
    run.discard()
    assert past_runs(tmp_path).runs == ()


def test_a_segment_cut_anywhere_gives_every_record_before_the_cut(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    journal = new_journal(tmp_path / "whole")
    ends = []
    while journal.size_bytes < 4_096:
        write(journal, len(ends))
        ends.append(journal.size_bytes)
    journal.close()
    (segment,) = segments(tmp_path / "whole")[0]
    data = segment.path.read_bytes()
    assert len(data) >= 4_096
    assert len(ends) > 15
    cut = tmp_path / segment.path.name
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        found, damaged = segments(tmp_path)
        if length < segment.begins_at:
            assert (found, damaged) == ([], [cut])
            continue
        records = list(read_records(cut, segment.begins_at))
        assert len(records) == sum(end <= length for end in ends)


def test_a_flipped_bit_spoils_its_record_and_no_earlier_one(tmp_path: Path) -> None:
    journal = new_journal(tmp_path)
    ends = []
    for first in range(16):
        write(journal, first)
        ends.append(journal.size_bytes)
    journal.close()
    (segment,) = segments(tmp_path)[0]
    data, rng = segment.path.read_bytes(), random.Random(1)
    for _ in range(1_000):
        at = rng.randrange(segment.begins_at, len(data))
        broken = bytearray(data)
        broken[at] ^= 1 << rng.randrange(8)
        segment.path.write_bytes(broken)
        intact = [payload for _, payload, _ in read_records(segment.path, segment.begins_at)]
        assert len(intact) == sum(end <= at for end in ends)
        moments = [decoded(payload, with_header=False) for payload in intact]
        assert [m.clock_ns for m in moments if m] == list(range(len(intact)))


def test_damage_in_one_segment_leaves_the_others_alone(tmp_path: Path) -> None:
    journal = new_journal(tmp_path)
    for first in range(60):
        write(journal, first)
    journal.close()
    found, _ = segments(tmp_path)
    assert len(found) >= 3
    found[1].path.write_bytes(found[1].path.read_bytes()[: found[1].begins_at + 30])
    left = past_runs(tmp_path)
    assert left.damaged_bytes == 30
    read = numbers_in(tmp_path)
    assert read[0] == 0
    assert read[-1] == 59
    found[2].path.write_bytes(b"SFSPOOL1" + bytes(100))
    assert past_runs(tmp_path).damaged_bytes > 30
    assert (tmp_path / found[2].path.with_suffix(".damaged").name).exists()


def test_segments_without_unsettled_flows_are_deleted(tmp_path: Path) -> None:
    journal = new_journal(tmp_path)
    for first in range(60):
        write(journal, first)
    before = len(segments(tmp_path)[0])
    journal.forget_before(40)
    after_it = len(segments(tmp_path)[0])
    assert 1 <= after_it < before
    assert set(numbers_in(tmp_path)) >= set(range(40, 60))
    journal.close(delete=True)
    assert segments(tmp_path)[0] == []


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest", "block"])
def test_the_cap_holds_and_what_gives_way_is_told(tmp_path: Path, policy: str) -> None:
    settings = SpoolSettings(max_bytes=20_480, segment_bytes=4_096, policy=policy)
    journal = new_journal(tmp_path, settings)
    written = [n for n in range(300) if write(journal, n)]
    left = numbers_in(tmp_path)
    if policy == "drop_newest":
        assert left == written == list(range(len(written)))
        assert journal.unwritten == 300 - len(written) > 0
    elif policy == "drop_oldest":
        assert len(written) == 300
        assert journal.dropped_flows == 300 - len(left) > 0
        assert left[-1] == 299
    else:
        assert left == list(range(300))  # whoever reads packets is to look at `full`
    if policy != "block":
        assert sum(path.stat().st_size for path in tmp_path.glob("*.spool")) <= 20_480 + 4_096
    assert journal.full or policy == "drop_oldest"
    journal.close()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_told_and_what_was_written_stays(
    tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = new_journal(tiny_disk, SpoolSettings(max_bytes=1 << 20, segment_bytes=16_384))
    written = [n for n in range(1_000) if write(journal, n)]
    assert 0 < len(written) < 1_000
    assert journal.unwritten == 1_000 - len(written)
    assert "No space" in journal.last_error
    assert sum("No space" in record.message for record in caplog.records) == 1
    assert numbers_in(tiny_disk) == written
    journal.forget_before(300)
    assert write(journal, 1_000), "there is room again"
    assert journal.last_error == ""
    journal.close()


def test_one_folder_is_one_collectors(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(SettingsError, match=f"process {os.getpid()} uses it"):
        FolderLock(tmp_path)
    lock.close()
    FolderLock(tmp_path).close()
    with pytest.raises(SettingsError, match="spool"):
        FolderLock(Path("/proc/nowhere"))


def test_settings_that_cannot_work_are_refused(tmp_path: Path) -> None:
    for wrong in ({"policy": "maybe"}, {"max_bytes": 1}, {"fsync_interval_s": 0.0}):
        with pytest.raises(SettingsError):
            SpoolSettings(**wrong)  # type: ignore[arg-type]


_WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, "tests"); sys.path.insert(0, "tests/unit")
from test_spool import new_journal, write
journal = new_journal(Path(sys.argv[1]))
for number in range(10**9):
    if write(journal, number):
        print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_had_written(tmp_path: Path, root: Path) -> None:
    rng = random.Random(3)
    for turn in range(8):
        folder = tmp_path / str(turn)
        folder.mkdir()
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(folder)], stdout=subprocess.PIPE, cwd=root
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child.pid, signal.SIGKILL)
        told = [0, *map(int, child.stdout.read().split())]
        child.wait()
        child.stdout.close()
        assert numbers_in(folder)[: len(told)] == told


def test_records_of_another_form_are_no_moments() -> None:
    assert decoded(b"", with_header=False) is None
    assert decoded(bytes(20) + b"x", with_header=False) is None
    assert (OBSERVED, SETTLED) == (1, 2)


def test_a_writer_that_fails_leaves_no_half_record(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, 0, {})
    writer.append(1, [b"one"])
    size = writer.bytes
    writer.close()
    with pytest.raises(OSError, match="Bad file"):
        writer.append(1, [b"two"])
    assert writer.bytes == size == writer.path.stat().st_size


# -- an agent with a spool ---------------------------------------------------------------------

AGENT = SpoolSettings(max_bytes=1 << 24, segment_bytes=65_536)


class Spooling(Watched):
    """An agent with a spool, which can be left as a killed one would leave it."""

    def __init__(self, folder: Path, chunks: list[Decoded | None], **more: object) -> None:
        self.spool = DiskSpool(folder, AGENT, "edge", FAKE_SCHEMA)
        super().__init__(chunks, spool=self.spool, **more)  # type: ignore[arg-type]

    def run(self) -> None:
        try:
            super().run()
        finally:
            self.spool.close()

    def abandon(self) -> None:
        """Let go of everything as the kernel does when a process is killed."""
        self.agent.close()
        self.spool._journal.close()
        self.spool._lock.close()

    def check(self) -> None:
        status = self.agent.status()
        assert status.spool is not None
        own = status.table.flows + status.spool.recovered_flows
        assert own == len(self.final) + status.table.lost_flows + status.spool.waiting_flows


def labels(watched: Watched) -> list[tuple[int, ...]]:
    return sorted(tuple(one.values()) for one in watched.final.values())


def test_flows_of_a_killed_collector_get_their_verdicts_from_the_next(tmp_path: Path) -> None:
    service = FakeService()
    service.trouble = "away"
    killed = Spooling(tmp_path, some_flows(200), live=True, service=service)
    for _ in range(6):
        assert killed.agent._step()
    killed.abandon()
    service.trouble = ""
    heir = Spooling(tmp_path, [None] * 10, service=service)
    heir.run()
    seen = killed.agent.status().table.flows
    assert seen > 100
    assert heir.agent.status().spool.recovered_flows == seen  # type: ignore[union-attr]
    assert len(heir.final) == seen
    assert list(tmp_path.glob("*.spool")) == []


def test_what_was_settled_before_the_kill_is_not_settled_again(tmp_path: Path) -> None:
    service = FakeService()
    killed = Spooling(tmp_path, some_flows(200), service=service)
    for _ in range(8):
        killed.agent._step()
        time.sleep(0.02)
    killed.agent.delivery.pump(0.1)
    before = len(killed.final)
    assert before > 0
    killed.abandon()
    heir = Spooling(tmp_path, [None], service=service)
    heir.run()
    assert len(heir.final) == killed.agent.status().table.flows - before


def test_when_memory_is_full_flows_are_set_aside_and_none_is_refused(tmp_path: Path) -> None:
    limits = EdgeLimits(1, 1 << 20, LedgerLimits(1_024, 1_024))
    service = FakeService()
    service.trouble = "away"
    chunks: list[Decoded | None] = []
    for one in flood(6_000, 2):
        chunks += [one, None, None]
    watched = Spooling(tmp_path, chunks, live=True, service=service, limits=limits, drain_s=60.0)
    read = watched.source.read

    def paced(wait_s: float) -> Decoded | None:
        time.sleep(0.06)
        return read(wait_s)

    watched.source.read = paced  # type: ignore[method-assign]
    timer = after(1.5, lambda: setattr(service, "trouble", ""))
    watched.run()
    timer.join()
    table = watched.agent.status().table
    assert table.refused_flows == table.lost_flows == table.evicted_flows == 0
    assert table.flows == 6_000
    assert len(watched.final) == 6_000
    spool = watched.agent.status().spool
    assert spool is not None
    assert spool.waiting_flows == 0
    assert list(tmp_path.glob("*.spool")) == []


def test_packets_of_flows_set_aside_still_count(tmp_path: Path) -> None:
    """Their later packets are in the journal too: the verdicts are those of a calm run."""
    calm = Watched(some_flows(900))
    calm.run()
    limits = EdgeLimits(1, 1 << 20, LedgerLimits(256, 256))
    service = FakeService()
    service.trouble = "away"
    watched = Spooling(tmp_path, some_flows(900), live=True, service=service, limits=limits,
                       drain_s=60.0)  # fmt: skip
    read = watched.source.read

    def paced(wait_s: float) -> Decoded | None:
        time.sleep(0.11)  # care is taken ten times a second
        return read(wait_s)

    watched.source.read = paced  # type: ignore[method-assign]
    timer = threading.Timer(3.0, lambda: setattr(service, "trouble", ""))
    timer.start()
    watched.run()
    timer.join()
    assert watched.agent.status().table.refused_flows == 0
    assert sorted(one["label"] for one in watched.final.values()) == sorted(
        one["label"] for one in calm.final.values()
    )
