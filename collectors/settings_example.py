"""The settings file that says everything: each setting, what it means, what holds by default."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from collectors.agent_settings import bytes_in_words
from collectors.settings_sources import Setting, all_settings

__all__ = ["example_yaml"]

_WIDTH = 92
_HEAD = """\
# Settings of `serveflow collect --config FILE`. Every setting is here, with its default; those
# without one are commented out, with an example.
#
# What the environment says counts more than this file, and flags count more than the environment:
# spool.folder is SERVEFLOW_COLLECT_SPOOL_FOLDER there, and --spool-folder among the flags.
# `serveflow config check FILE` checks a file, `serveflow config show --origin` tells where each
# value comes from.
"""


def example_yaml() -> str:
    """Return the file; its settings are the defaults."""
    return _HEAD + "".join(_blocks())


def _blocks() -> Iterator[str]:
    inside = ""
    for path, setting in all_settings().items():
        section, dot, name = path.rpartition(".")
        if dot and section != inside:
            yield f"\n{section}:\n"
        elif not dot:
            yield "\n"
        inside = section
        indent = "  " if dot else ""
        for line in textwrap.wrap(setting.description, _WIDTH - len(indent)):
            yield f"{indent}# {line}\n"
        yield f"{indent}{_line(name, setting)}\n"


def _line(name: str, setting: Setting) -> str:
    default = setting.default
    if default in (None, "", ()):
        return f"# {name}: {_text(setting, (setting.field.examples or [None])[0])}"
    return f"{name}: {_text(setting, default)}"


def _text(setting: Setting, value: Any) -> str:
    if setting.is_size:
        return bytes_in_words(value)
    if isinstance(value, list):
        return json.dumps(value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
