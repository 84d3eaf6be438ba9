"""A settings file, YAML or TOML, with the line on which each setting stands."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.errors import SettingsError

__all__ = ["SettingsFile", "read_settings_file"]

_TOML_TABLE = re.compile(r"\s*\[\s*([\w.\s-]+?)\s*\]\s*(?:#.*)?")
_TOML_KEY = re.compile(r"\s*([\w-]+(?:\s*\.\s*[\w-]+)*)\s*=")


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """What a settings file says.

    Attributes:
        path: The file.
        values: By setting, ``spool.folder`` say: every value that is no mapping.
        lines: Where each setting stands, as far as that is known.
    """

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    def origin(self, setting: str) -> str:
        """Return where a setting stands: ``FILE:LINE``."""
        line = self.lines.get(setting)
        return str(self.path) if line is None else f"{self.path}:{line}"


def read_settings_file(path: Path) -> SettingsFile:
    """Read a file: TOML if its name ends in ``.toml``, else YAML.

    Raises:
        SettingsError: It cannot be read, is neither, or gives a setting twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise SettingsError(f"{path}: {reason}") from None
    values: dict[str, Any] = {}
    if path.suffix.lower() == ".toml":
        try:
            _flatten(tomllib.loads(text), "", values)
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{path}: {error}") from None
        return SettingsFile(path, values, _toml_lines(text))
    lines: dict[str, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return SettingsFile(path, {}, {})
        if not isinstance(node, yaml.MappingNode):
            raise SettingsError(f"{path}: settings were expected, such as to: http://HOST:8000")
        _yaml_lines(path, node, "", lines)
        _flatten(yaml.safe_load(text), "", values)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise SettingsError(f"{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SettingsError(f"{path}: it cannot be read: {error}") from None
    return SettingsFile(path, values, lines)


def _flatten(found: Mapping[Any, Any], prefix: str, values: dict[str, Any]) -> None:
    for key, value in found.items():
        if isinstance(value, Mapping):
            _flatten(value, f"{prefix}{key}.", values)
        else:
            values[f"{prefix}{key}"] = value


def _yaml_lines(path: Path, node: yaml.MappingNode, prefix: str, lines: dict[str, int]) -> None:
    for key, value in node.value:
        line = key.start_mark.line + 1
        name = f"{prefix}{key.value}"
        if name in lines:
            raise SettingsError(f"{path}:{line}: {name} is given twice, first on {lines[name]}")
        lines[name] = line
        if isinstance(value, yaml.MappingNode):
            _yaml_lines(path, value, f"{name}.", lines)


def _toml_lines(text: str) -> dict[str, int]:
    lines: dict[str, int] = {}
    prefix = ""
    for number, line in enumerate(text.splitlines(), 1):
        if table := _TOML_TABLE.fullmatch(line):
            prefix = re.sub(r"\s", "", table[1]) + "."
        elif key := _TOML_KEY.match(line):
            lines.setdefault(prefix + re.sub(r"\s", "", key[1]), number)
    return lines
