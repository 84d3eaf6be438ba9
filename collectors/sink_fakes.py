"""A sink for tests: keeps verdicts in memory, and can be paused or made to fail."""

from __future__ import annotations

import threading

from collectors.sinks import Verdicts
from flows.errors import SinkError

__all__ = ["MemorySink"]


class MemorySink:
    """Keeps what is written.

    Attributes:
        written: What was written, in order.
        trouble: What the next calls fail with; empty: they succeed.
        takes: While there is trouble, how many of a portion's first rows are written all the same.
        broken: The next writes fail with an error that no sink should raise.
        attempts: Calls of ``write``.
        flushes: Calls of ``flush``.
        reopened: Calls of ``reopen``.
        closed: Whether it was closed.
    """

    def __init__(self) -> None:
        self._may_go_on = threading.Event()
        self._may_go_on.set()
        self.written: list[Verdicts] = []
        self.trouble = ""
        self.takes = 0
        self.broken = False
        self.attempts = 0
        self.flushes = 0
        self.reopened = 0
        self.closed = False

    @property
    def flow_ids(self) -> list[int]:
        """Ids of the flows whose verdicts were written, in order."""
        return [int(k) for found in self.written for k in found.settled.flows["flow_id"]]

    def pause(self) -> None:
        """Have writing wait until :meth:`resume` is called."""
        self._may_go_on.clear()

    def resume(self) -> None:
        """Let writing go on."""
        self._may_go_on.set()

    def write(self, found: Verdicts) -> None:
        """See :class:`collectors.sinks.Sink`."""
        self.attempts += 1
        self._may_go_on.wait()
        if self.broken:
            raise LookupError("fake: a mistake in the code")
        if self.trouble:
            if not self.takes:
                raise SinkError(self.trouble)
            rows = range(len(found))
            self.written.append(found.rows(rows[: self.takes]))
            raise SinkError(self.trouble, rows[self.takes :])
        self.written.append(found)

    def flush(self) -> None:
        """See :class:`collectors.sinks.Sink`."""
        self.flushes += 1

    def reopen(self) -> None:
        """See :class:`collectors.sinks.Sink`."""
        if self.trouble:
            raise SinkError(self.trouble)
        self.reopened += 1

    def sync(self) -> None:
        """See :class:`collectors.sinks.Sink`."""

    def close(self) -> None:
        """See :class:`collectors.sinks.Sink`."""
        self.closed = True
