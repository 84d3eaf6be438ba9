"""Processes that a child process leaves behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["end_session"]


def end_session(session: int, grace_s: float = 5.0) -> None:
    """End what is left of a session whose leader has ended (Linux).

    Args:
        session: The leader's process id; it must have been started with a session of its own.
        grace_s: How long to wait for them to end by themselves, and then again after SIGTERM,
            before SIGKILL.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        end_s = time.monotonic() + grace_s
        while any(_members(session)):
            if time.monotonic() > end_s:
                break
            time.sleep(0.05)
        for pid in _members(session):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue  # it has ended meanwhile


def _members(session: int) -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue  # it has ended meanwhile
        # The name, in parentheses, may hold anything; state, parent, group, session follow it.
        state, _, _, its_session = stat.rpartition(")")[2].split()[:4]
        if int(its_session) == session and state != "Z":
            yield int(folder.name)
