"""Final verdicts as Parquet, in folders by the date and hour (UTC) of their flows' starts.

A Parquet file can be read only once it is whole, so verdicts are first appended to an Arrow stream
per folder, in ``.pending``. When that one is large or old enough it is turned into a Parquet file
that appears under its name at once. A stream that a crash leaves behind is turned into one by the
next sink on the same folder, up to the last whole portion.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from collectors.log_file import sync_if_open, write_all
from collectors.parquet_columns import PARQUET_SCHEMA, to_arrow
from collectors.sinks import Verdicts
from flows.errors import SettingsError, SinkError

__all__ = ["ParquetSink", "Rolling"]

_HOUR_NS = 3_600_000_000_000
_GROUP_ROWS = 65_536  # of a Parquet file, held in memory together
_PENDING = ".pending"  # readers leave out folders whose names begin so

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rolling:
    """When verdicts become a Parquet file.

    Attributes:
        roll_rows: When so many are there.
        roll_s: When the first of them has waited for so long.
        most_open: Hours that are written at the same time; beyond that the oldest one's verdicts
            become a file.
    """

    roll_rows: int = 1_000_000
    roll_s: float = 300.0
    most_open: int = 16

    def __post_init__(self) -> None:
        if self.roll_rows < 1 or self.roll_s <= 0 or self.most_open < 1:
            raise SettingsError("roll_rows and most_open: at least 1; roll_s: over 0")


@dataclass(slots=True)
class _Stream:
    """An Arrow stream that is being written."""

    path: Path
    fd: int
    opened_s: float
    rows: int = 0


class ParquetSink:
    """Writes Parquet files under ``FOLDER/date=YYYY-MM-DD/hour=HH/``.

    Args:
        folder: Where; made if there is none.
        rolling: When to make files.
        clock: Tells the wall clock, seconds since the epoch.

    Raises:
        SinkError: The folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        rolling: Rolling | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._rolling = rolling or Rolling()
        self._clock = clock
        self._streams: dict[int, _Stream] = {}  # by hours since the epoch, the oldest first
        try:
            (folder / _PENDING).mkdir(parents=True, exist_ok=True)
            self._recover()
        except OSError as error:
            raise self._failed(error) from None

    def write(self, found: Verdicts) -> None:
        """See :class:`collectors.sinks.Sink`."""
        if not len(found):
            return
        batch = to_arrow(found)
        hours = found.settled.flows["start_time_ns"] // _HOUR_NS
        done = np.zeros(len(found), bool)
        for hour in np.unique(hours).tolist():
            rows = np.flatnonzero(hours == hour)
            part = batch if len(rows) == len(batch) else batch.take(pa.array(rows))
            try:
                self._append(hour, part)
            except OSError as error:
                left = np.flatnonzero(~done).tolist()
                raise SinkError(str(self._failed(error)), left) from None
            done[rows] = True
        full = [h for h, s in self._streams.items() if s.rows >= self._rolling.roll_rows]
        full += list(self._streams)[: max(len(self._streams) - self._rolling.most_open, 0)]
        # What fails here is tried again at the next flush: the verdicts are written already.
        self._roll_all(dict.fromkeys(full), forgive=True)

    def flush(self) -> None:
        """See :class:`collectors.sinks.Sink`."""
        now_s, rule = self._clock(), self._rolling
        self._roll_all(
            [
                hour
                for hour, stream in self._streams.items()
                if stream.rows >= rule.roll_rows or now_s - stream.opened_s >= rule.roll_s
            ]
        )

    def reopen(self) -> None:
        """Make files of all that is there."""
        self._roll_all(list(self._streams))

    def sync(self) -> None:
        """See :class:`collectors.sinks.Sink`."""
        for stream in list(self._streams.values()):
            sync_if_open(stream.fd)

    def close(self) -> None:
        """See :class:`collectors.sinks.Sink`."""
        self._roll_all(list(self._streams))

    def _append(self, hour: int, batch: Any) -> None:
        stream = self._streams.get(hour) or self._begin(hour)
        size = os.fstat(stream.fd).st_size
        try:
            write_all(stream.fd, memoryview(batch.serialize()))
        except OSError:
            os.ftruncate(stream.fd, size)
            raise
        stream.rows += len(batch)

    def _begin(self, hour: int) -> _Stream:
        now_s = self._clock()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
        name = f"verdicts-{stamp}-{secrets.token_hex(4)}_{hour}.arrows"
        path = self._folder / _PENDING / name
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(path, flags, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            write_all(fd, memoryview(PARQUET_SCHEMA.serialize()))
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        stream = self._streams[hour] = _Stream(path, fd, now_s)
        return stream

    def _roll_all(self, hours: Iterable[int], *, forgive: bool = False) -> None:
        failure: OSError | None = None
        for hour in hours:
            stream = self._streams[hour]
            try:
                self._make_file(stream.path)
            except OSError as error:
                failure = error
                continue
            os.close(stream.fd)
            del self._streams[hour]
        if failure is not None and not forgive:
            raise self._failed(failure)

    def _make_file(self, stream: Path) -> int:
        """Turn an Arrow stream into a Parquet file; return its rows."""
        name, _, hour = stream.stem.rpartition("_")
        start = str(np.datetime64(int(hour), "h"))
        folder = self._folder / f"date={start[:10]}" / f"hour={start[11:13]}"
        unfinished = stream.with_suffix(".unfinished")
        rows = 0
        with (
            pa.OSFile(str(unfinished), "wb") as file,  # closed even if the writer fails to end it
            pq.ParquetWriter(file, PARQUET_SCHEMA, compression="zstd") as writer,
        ):
            for table in _groups(stream):
                writer.write_table(table)
                rows += len(table)
        if rows:
            folder.mkdir(parents=True, exist_ok=True)
            with unfinished.open("rb") as whole:
                os.fsync(whole.fileno())
            # The same stream makes the same name: a crash from here on makes no verdict double.
            unfinished.replace(folder / f"{name}.parquet")
        unfinished.unlink(missing_ok=True)
        stream.unlink()
        return rows

    def _recover(self) -> None:
        """Make files of the streams that nobody writes any more."""
        for path in sorted((self._folder / _PENDING).glob("*.arrows")):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists():
                    rows = self._make_file(path)
                    _log.info("%s: %d verdicts of an earlier run", self._folder, rows)
            except BlockingIOError:
                continue  # another sink's, which is alive
            finally:
                os.close(fd)

    def _failed(self, error: OSError) -> SinkError:
        what = error.strerror or str(error)
        return SinkError(f"{self._folder}: cannot write: {what}; it needs room and write access")


def _groups(stream: Path) -> Iterator[Any]:
    """Yield a stream's rows up to its end or its first damage, some at a time."""
    held: list[Any] = []
    rows = 0
    with pa.OSFile(str(stream)) as file:
        try:
            reader = pa.ipc.open_stream(file)
            while True:
                batch = reader.read_next_batch()
                batch.validate(full=True)
                held.append(batch)
                rows += len(batch)
                if rows >= _GROUP_ROWS:
                    yield pa.Table.from_batches(held)
                    held, rows = [], 0
        except StopIteration:
            pass
        except (pa.ArrowInvalid, OSError) as error:
            _log.warning(
                "%s: what lies behind its last whole portion is left out: %s", stream, error
            )
    if held:
        yield pa.Table.from_batches(held)
