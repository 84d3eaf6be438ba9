"""A flow is kept in the spool until sinks have its verdict: a kill in between loses none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from test_agent import Watched, some_flows
from test_spool import AGENT, new_journal, numbers_in, write

from collectors.disk_spool import DiskSpool
from collectors.exchange import Settled
from collectors.fakes import FAKE_SCHEMA, FakeService
from collectors.journal import SpoolSettings
from collectors.log_file import LogFile, sync_if_open
from collectors.queued_sink import QueuedSink, QueueSettings
from collectors.settled_notes import SettledNotes
from collectors.sink_fakes import MemorySink
from collectors.sinks import Verdicts
from flows.decode import Decoded


class Sunk(Watched):
    """An agent with a spool and a sink."""

    def __init__(self, folder: Path, chunks: list[Decoded | None], sink: MemorySink, **more: Any):
        self.sink = QueuedSink("memory", sink, QueueSettings(gather_s=0.0))
        self.spool = DiskSpool(folder, AGENT, "edge", FAKE_SCHEMA, [self.sink])
        super().__init__(chunks, spool=self.spool, **more)

    def note(self, settled: Settled, classes: tuple[str, ...], model_version: str) -> None:
        super().note(settled, classes, model_version)
        tiers = FAKE_SCHEMA.tiers
        self.sink.write(Verdicts(settled, classes, tiers, model_version, "edge"))

    def run(self) -> None:
        self.agent.run()
        self.agent.close()
        self.sink.close(10.0)
        self.spool.close()

    def abandon(self) -> None:
        """Let go of everything as the kernel does when a process is killed."""
        self.agent.close()
        self.spool._journal.close()
        self.spool._lock.close()


def test_verdicts_that_no_sink_had_when_it_was_killed_come_from_the_next(tmp_path: Path) -> None:
    service, stuck = FakeService(), MemorySink()
    stuck.pause()
    killed = Sunk(tmp_path, some_flows(200), stuck, service=service)
    killed.agent.run()
    assert len(killed.final) == 200
    killed.abandon()
    after = MemorySink()
    heir = Sunk(tmp_path, [None] * 10, after, service=service)
    heir.run()
    assert heir.agent.status().spool.recovered_flows == 200  # type: ignore[union-attr]
    assert len(after.flow_ids) == len(set(after.flow_ids)) == 200
    assert list(tmp_path.glob("*.spool")) == []
    stuck.resume()
    killed.sink.close(10.0)
    assert set(stuck.flow_ids) == set(after.flow_ids), "who reads both can tell that they are one"


def test_verdicts_that_sinks_had_are_not_given_again(tmp_path: Path) -> None:
    service, first = FakeService(), MemorySink()
    killed = Sunk(tmp_path, some_flows(200), first, service=service)
    killed.agent.run()
    killed.sink.close(10.0)
    killed.spool.pump(healthy=True)
    assert not killed.spool.noting
    killed.abandon()
    heir = Sunk(tmp_path, [None] * 10, MemorySink(), service=service)
    heir.run()
    assert heir.final == {}


def test_what_an_earlier_run_left_is_kept_until_sinks_have_it(tmp_path: Path) -> None:
    service = FakeService()
    service.trouble = "away"
    killed = Sunk(tmp_path, some_flows(200), MemorySink(), live=True, service=service)
    for _ in range(6):
        killed.agent._step()
    killed.abandon()
    service.trouble, stuck = "", MemorySink()
    stuck.pause()
    again = Sunk(tmp_path, [None] * 10, stuck, service=service)
    again.agent.run()
    seen = killed.agent.status().table.flows
    assert len(again.final) == seen
    again.abandon()
    sink = MemorySink()
    heir = Sunk(tmp_path, [None] * 10, sink, service=service)
    heir.run()
    assert len(set(sink.flow_ids)) == seen
    stuck.resume()
    again.sink.close(10.0)


class Marks:
    """A sink that is wherever a test says."""

    accepted = done = 0

    def sync(self) -> None:
        """Do nothing."""


def test_notes_wait_for_the_slowest_sink_and_keep_their_order(tmp_path: Path) -> None:
    journal, one, other = new_journal(tmp_path), Marks(), Marks()
    write(journal, 0, 4)
    notes, told = SettledNotes(journal, [one, other]), []
    notes.settled(np.array([2, 1], np.uint64), journal.meta.run)
    assert notes.lowest_of(journal.meta.run) == 1
    one.accepted = other.accepted = 2
    notes.handed_over()
    notes.afterwards(lambda: told.append("then"))
    notes.settled(np.array([3], np.uint64), journal.meta.run)
    one.accepted = other.accepted = 3
    notes.handed_over()
    one.done = 3
    notes.write()
    assert told == []
    assert sorted(notes.held_of(journal.meta.run)) == [1, 2, 3]
    other.done = 2
    notes.write()
    assert told == ["then"]
    assert notes.held_of(journal.meta.run).tolist() == [3]
    journal.close()
    assert numbers_in(tmp_path) == [0, 3]


def test_where_the_journal_is_full_a_stuck_sink_is_not_waited_for(tmp_path: Path) -> None:
    settings = SpoolSettings(max_bytes=8_192, segment_bytes=4_096)
    journal, stuck = new_journal(tmp_path, settings), Marks()
    notes = SettledNotes(journal, [stuck])
    assert write(journal, 0)
    notes.settled(np.array([0], np.uint64), journal.meta.run)
    stuck.accepted = 1
    notes.handed_over()
    notes.write()
    assert notes.waiting
    number = 1
    while not journal.full:
        write(journal, number)
        number += 1
    notes.write()
    assert not notes.waiting
    journal.close()


def test_sinks_are_synced_before_the_journal_is(tmp_path: Path) -> None:
    """Else the disk might know that a verdict was written, and not the verdict."""
    journal, synced = new_journal(tmp_path), []
    journal.before_sync.append(lambda: synced.append(journal._writer.synced))  # type: ignore[union-attr]
    write(journal, 0)
    journal.sync()
    before = len(synced)
    assert before >= 1
    assert not any(synced)
    journal.sync()
    assert len(synced) == before, "there is nothing new"
    journal.close()


def test_a_log_file_can_be_synced_at_any_time(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log")
    file.write(b"line\n")
    file.sync()
    file.close()
    file.sync()
    reading, writing = os.pipe()
    sync_if_open(writing)  # a number that has another meaning by now
    os.close(reading)
    os.close(writing)
    sync_if_open(writing)
