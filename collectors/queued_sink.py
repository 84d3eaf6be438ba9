"""A sink with a thread and a bounded queue of its own, so that nobody waits for it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from collectors.sinks import Sink, Verdicts
from collectors.status import SinkCounters
from flows.errors import SettingsError, SinkError
from flows.failpoints import failpoint

__all__ = ["QueueSettings", "QueuedSink", "close_all"]

_IDLE_S = 1.0  # so often a sink without verdicts does what is due by time
_GRACE_S = 0.2  # at the end, for the thread to count what it did not get done

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """How verdicts wait for a sink.

    Attributes:
        max_verdicts: So many may wait; about 120 bytes each.
        gather_s: Verdicts are gathered for so long, as writing many at once costs less.
        most_at_once: Verdicts written at once.
        retry_s: After the first failure it waits for so long, then for twice as long, and so on.
        longest_retry_s: But never longer than that.
    """

    max_verdicts: int = 1 << 20
    gather_s: float = 0.05
    most_at_once: int = 4_096
    retry_s: float = 0.1
    longest_retry_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("max_verdicts", "most_at_once"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}: must be at least 1, is {getattr(self, name)}")


class QueuedSink:
    """Writes to a sink in a thread.

    While the sink is slow, verdicts wait; those beyond the bound are lost, counted as
    ``sink_full``. While it fails, what it did not take is tried again and again; those beyond the
    bound then count as ``sink_error``. What is not written at the end counts as ``sink_error`` if
    the sink was failing, else as ``sink_closed``.

    Args:
        name: Its kind and where it writes.
        sink: Where to write; from now on used by the thread alone.
        settings: How verdicts wait.
    """

    def __init__(self, name: str, sink: Sink, settings: QueueSettings | None = None) -> None:
        self._name = name
        self._sink = sink
        self._settings = settings or QueueSettings()
        self._timeout = failpoint("sink_timeout")
        self._parts: deque[Verdicts] = deque()
        self._waiting = 0  # with those that are being written
        self._written = 0
        self._accepted = self._done = 0
        self._lost: Counter[str] = Counter()
        self._errors: dict[str, str] = {}  # by what failed, until it succeeds
        self._reopen = False
        self._until_s: float | None = None  # closing: when to give up
        self._given_up = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    def write(self, found: Verdicts) -> None:
        """Take verdicts; never waits and never fails."""
        with self._changed:
            if self._until_s is not None:
                self._lost["sink_closed"] += len(found)
                return
            room = self._settings.max_verdicts - self._waiting
            if room < len(found):
                reason = "sink_error" if "write" in self._errors else "sink_full"
                self._lost[reason] += len(found) - room
                found = found.rows(np.arange(room))
            if not len(found):
                return
            self._parts.append(found)
            self._waiting += len(found)
            self._accepted += len(found)
            if len(self._parts) == 1:
                self._changed.notify()

    def reopen(self) -> None:
        """Have the sink open its file anew before it writes on; returns at once."""
        with self._changed:
            self._reopen = True
            self._changed.notify()

    def counters(self) -> SinkCounters:
        """Tell what became of the verdicts; from any thread."""
        with self._changed:
            return SinkCounters(
                name=self._name,
                written=self._written,
                waiting=self._waiting,
                lost=dict(self._lost),
                last_error=next(iter(self._errors.values()), ""),
            )

    @property
    def accepted(self) -> int:
        """Verdicts taken so far; those beyond the bound are not among them."""
        return self._accepted

    @property
    def done(self) -> int:
        """How many of these, the first ones, have been written or given up."""
        return self._done

    def sync(self) -> None:
        """Have the disk keep what is written; from any thread."""
        try:
            self._sink.sync()
        except OSError as error:
            self._note("sync", error)

    def close(self, timeout_s: float) -> None:
        """Write what waits, for at most ``timeout_s`` seconds, and close the sink."""
        with self._changed:
            if self._until_s is None:
                self._until_s = time.monotonic() + timeout_s
            until_s = self._until_s
            self._changed.notify()
        self._thread.join(max(until_s - time.monotonic(), 0.0) + _GRACE_S)
        with self._changed:
            if self._thread.is_alive() and not self._given_up:
                _log.error("%s: does not answer; %d verdicts are lost", self._name, self._waiting)
            self._give_up()

    def _give_up(self) -> None:
        """Count what waits as lost; with the lock."""
        self._given_up = True
        if self._waiting:
            reason = "sink_error" if "write" in self._errors else "sink_closed"
            self._lost[reason] += self._waiting
        self._parts.clear()
        self._waiting = 0
        self._done = self._accepted

    def _run(self) -> None:
        ending = False
        while not ending:
            part, ending = self._next()
            if part is not None:
                self._deliver(part)
                with self._changed:
                    self._done = min(self._done + len(part), self._accepted)
            self._attempt("flush", self._sink.flush)
        self._attempt("close", self._sink.close)

    def _next(self) -> tuple[Verdicts | None, bool]:
        """Wait for something to do; return what to write, and whether that is the end."""
        with self._changed:
            if not (self._parts or self._reopen or self._until_s is not None):
                self._changed.wait(_IDLE_S)
            if self._parts and not self._reopen:
                enough = self._settings.most_at_once
                self._changed.wait_for(
                    lambda: self._until_s is not None or self._reopen or self._waiting >= enough,
                    self._settings.gather_s,
                )
            if self._past_end():
                self._give_up()
            parts: list[Verdicts] = []
            rows = 0
            while self._parts and (not parts or self._fits(rows, parts[0])):
                parts.append(self._parts.popleft())
                rows += len(parts[-1])
            ending = self._until_s is not None and not self._parts
        self._reopen_if_asked()
        return (Verdicts.joined(parts) if parts else None), ending

    def _fits(self, rows: int, first: Verdicts) -> bool:
        following = self._parts[0]
        return rows + len(following) <= self._settings.most_at_once and first.goes_with(following)

    def _past_end(self) -> bool:
        return self._until_s is not None and time.monotonic() >= self._until_s

    def _reopen_if_asked(self) -> None:
        with self._changed:
            asked, self._reopen = self._reopen, False
        if asked:
            self._attempt("reopen", self._sink.reopen)

    def _deliver(self, part: Verdicts) -> None:
        """Write verdicts, again and again until they are written or it is the end."""
        pause_s = self._settings.retry_s
        while True:
            try:
                if self._timeout is not None and self._timeout.reached():
                    raise SinkError(f"{self._name}: timed out, as SERVEFLOW_FAIL wants it")
                self._sink.write(part)
            except SinkError as error:
                self._note("write", error)
                if error.left is not None:
                    self._count_written(len(part) - len(error.left))
                    part = part.rows(np.asarray(error.left, np.intp))
            except Exception:  # whatever it is, the sinks must go on
                _log.exception("%s: %d verdicts cannot be written", self._name, len(part))
                with self._changed:
                    if not self._given_up:
                        self._lost["sink_error"] += len(part)
                        self._waiting -= len(part)
                return
            else:
                self._count_written(len(part))
                with self._changed:
                    self._errors.pop("write", None)
                return
            with self._changed:
                self._changed.wait_for(
                    lambda: self._reopen or self._past_end(),
                    pause_s * random.uniform(0.5, 1.0),  # noqa: S311 (no secret)
                )
                if self._past_end():
                    self._give_up()
                    return
            pause_s = min(2 * pause_s, self._settings.longest_retry_s)
            self._reopen_if_asked()

    def _count_written(self, count: int) -> None:
        with self._changed:
            if not self._given_up:
                self._written += count
                self._waiting -= count

    def _attempt(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except SinkError as error:
            self._note(what, error)
        except Exception as error:  # as above
            _log.exception("%s: %s failed", self._name, what)
            self._note(what, error)
        else:
            with self._changed:
                self._errors.pop(what, None)

    def _note(self, what: str, error: Exception) -> None:
        with self._changed:
            known = what in self._errors
            self._errors[what] = str(error)
        if not known:  # not again and again while it goes on
            _log.warning("%s", error)


def close_all(sinks: Sequence[QueuedSink], timeout_s: float) -> None:
    """Close sinks, all of them within ``timeout_s`` seconds."""
    closers = [threading.Thread(target=sink.close, args=(timeout_s,)) for sink in sinks]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join()
