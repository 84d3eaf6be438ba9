"""Logs of a collector: lines for people, or JSON for machines; what repeats is said now and then.

Nothing is set up on import. What a record is given by ``extra`` stands behind the message, as
``key=value`` or as fields of the JSON object.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

__all__ = ["JsonFormatter", "RepeatFilter", "TextFormatter", "set_up_logging"]

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}
_CONTROL |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
_INTERVAL_S = 60.0
_MOST_KNOWN = 256


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    # Ray marks every record of a process that has imported it, under a name of its own.
    told = {key: value for key, value in vars(record).items() if key not in _OWN}
    return {key: value for key, value in told.items() if not key.startswith("_")}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """Time, level, message, ``key=value``; one line each, but for what an exception adds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        words = [_time(record), f"{record.levelname:<7}", record.getMessage()]
        for key, value in _fields(record).items():
            text = str(value)
            quoted = not text or any(c.isspace() or c in '"=' for c in text)
            words.append(f"{key}={json.dumps(text, ensure_ascii=False) if quoted else text}")
        # What a packet or a server has put into a message must not pass for another line.
        line = " ".join(words).translate(_CONTROL)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time``, ``level``, ``logger``, ``message``, and what is added."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        found = {
            **_fields(record),
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)


@dataclass(slots=True)
class _Said:
    at_s: float
    kept_back: int = 0


class RepeatFilter(logging.Filter):
    """Lets a warning that repeats pass once in a while, and says how often it was kept back.

    Warnings are the same if they come from the same line and differ in numbers alone. What is below
    a warning always passes.

    Args:
        interval_s: The while.
        clock: Tells the time, seconds.
    """

    def __init__(
        self, interval_s: float = _INTERVAL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._interval_s = interval_s
        self._clock = clock
        self._said: OrderedDict[tuple[str, int, str], _Said] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is to be said."""
        if record.levelno < logging.WARNING:
            return True
        key = record.pathname, record.lineno, _NUMBER.sub("#", record.getMessage())
        now_s = self._clock()
        said = self._said.get(key)
        if said is not None and now_s - said.at_s < self._interval_s:
            said.kept_back += 1
            return False
        if said is not None and said.kept_back:
            record.repeated = said.kept_back
        self._said[key] = _Said(now_s)
        self._said.move_to_end(key)
        if len(self._said) > _MOST_KNOWN:
            self._said.popitem(last=False)
        return True


def set_up_logging(
    form: Literal["text", "json"] = "text",
    level: Literal["debug", "info", "warning", "error"] = "info",
    stream: TextIO | None = None,
) -> None:
    """Send what is logged to a stream; to be called once, by a command.

    Args:
        form: Lines for people, or JSON.
        level: The least that is worth a line.
        stream: Where to; standard error by default.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(RepeatFilter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
