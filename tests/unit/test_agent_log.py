"""Logs are lines for people or JSON for machines; what repeats is said now and then."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Literal

import pytest

from collectors.agent_log import RepeatFilter, set_up_logging

_log = logging.getLogger("collectors.made_up")


@pytest.fixture(autouse=True)
def _root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def logged(
    form: Literal["text", "json"], level: Literal["info", "warning"] = "info"
) -> io.StringIO:
    stream = io.StringIO()
    set_up_logging(form, level, stream)
    return stream


def test_a_line_for_people() -> None:
    stream = logged("text")
    extra = {"sink": "eve:/a b", "count": 2, "empty": "", "_others": "private"}
    _log.info("%d flows", 3, extra=extra)
    time, rest = stream.getvalue().split(" ", 1)
    assert time.endswith("Z")
    assert rest == 'INFO    3 flows sink="eve:/a b" count=2 empty=""\n'


def test_what_a_stranger_said_stays_on_its_line() -> None:
    stream = logged("text")
    _log.warning("service said: %s", "a\nINFO all well\x1b[2J")
    assert stream.getvalue().count("\n") == 1
    assert "\\nINFO all well\\x1b[2J" in stream.getvalue()


def test_an_object_for_machines() -> None:
    stream = logged("json")
    _log.warning("no %s", "room", extra={"sink": "eve", "time": "not this one"})
    try:
        raise ValueError("x")
    except ValueError:
        _log.exception("failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["message"] == "no room"
    assert (first["level"], first["logger"], first["sink"]) == ("warning", _log.name, "eve")
    assert first["time"] != "not this one"
    assert "ValueError: x" in second["exception"]


def test_the_level_holds_and_setting_up_again_replaces() -> None:
    first = logged("text", "warning")
    second = logged("text", "warning")
    _log.info("quiet")
    _log.warning("loud")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1


def test_a_warning_that_repeats_is_said_once_in_a_while() -> None:
    now_s = 0.0
    kept = RepeatFilter(60.0, lambda: now_s)

    def said(message: str, level: int = logging.WARNING, line: int = 7) -> logging.LogRecord | None:
        record = logging.LogRecord("x", level, "file.py", line, message, (), None)
        return record if kept.filter(record) else None

    assert said("away for 1.5 s")
    assert not said("away for 2.5 s")
    assert not said("away for 31 s")
    assert said("sink full")
    assert said("away for 31 s", line=8)
    assert said("away for 3 s", logging.INFO)
    assert said("away for 3 s", logging.INFO)
    now_s = 60.0
    again = said("away for 60 s")
    assert again is not None
    assert again.repeated == 2  # type: ignore[attr-defined]
    assert not said("away for 61 s")
    now_s = 200.0
    once_more = said("away for 200 s")
    assert once_more is not None
    assert once_more.repeated == 1  # type: ignore[attr-defined]


def test_the_memory_of_what_was_said_is_bounded() -> None:
    kept = RepeatFilter(60.0, lambda: 0.0)
    for i in range(5_000):
        word = "".join(chr(97 + int(digit)) for digit in str(i))
        kept.filter(logging.LogRecord("x", logging.WARNING, "f", 1, word, (), None))
    assert len(kept._said) <= 256


def test_nothing_is_set_up_on_import() -> None:
    code = (
        "import logging, collectors.agent_log, collectors.agent_http, serveflow_app.cli\n"
        "assert not logging.getLogger().handlers"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
