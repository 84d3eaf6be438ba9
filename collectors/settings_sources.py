"""Settings of a collector from a file, the environment and flags, and where each one came from.

What comes later in this order counts: default, file, environment, flag. A setting is named by its
path, ``spool.folder``; its variable is ``SERVEFLOW_COLLECT_SPOOL_FOLDER``, its flag
``--spool-folder``.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from collectors.agent_settings import AgentSettings, bytes_in_words
from collectors.settings_file import read_settings_file
from flows.errors import SettingsError

__all__ = [
    "CONFIG_VARIABLE",
    "PREFIX",
    "LoadedSettings",
    "Setting",
    "all_settings",
    "flag_of",
    "load_settings",
    "variable_of",
]

PREFIX = "SERVEFLOW_COLLECT_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
"""Names the settings file where no flag does; not a setting itself."""

_DEFAULT = "default"
_SECRETS = ("key", "token", "password", "secret")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, as the model declares it.

    Attributes:
        path: Its name, the section's in front.
        field: Its declaration.
    """

    path: str
    field: FieldInfo

    @property
    def default(self) -> Any:
        """What holds where nothing is given."""
        return self.field.get_default(call_default_factory=True)

    @property
    def description(self) -> str:
        """What it means."""
        return self.field.description or ""

    @property
    def is_list(self) -> bool:
        """Whether it has several values."""
        return isinstance(self.default, tuple)

    @property
    def is_size(self) -> bool:
        """Whether it is a number of bytes."""
        return self.path == "memory" or self.path.endswith("_bytes")


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings, and where each came from.

    Attributes:
        settings: What holds.
        origins: By path: ``default``, ``FILE:LINE``, ``environment NAME`` or ``flag --NAME``.
    """

    settings: AgentSettings
    origins: Mapping[str, str]

    def value(self, path: str) -> Any:
        """Return a setting's value by its path."""
        found: Any = self.settings
        for name in path.split("."):
            found = getattr(found, name)
        return found

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Yield path, value in words, and origin of each setting."""
        for path, setting in all_settings().items():
            yield path, _in_words(setting, self.value(path)), self.origins[path]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return value and origin of each setting by path, as JSON has it."""
        plain = self.settings.model_dump(mode="json")
        found = {}
        for path in all_settings():
            value: Any = plain
            for name in path.split("."):
                value = value[name]
            found[path] = {"value": value, "origin": self.origins[path]}
        return found


def all_settings() -> dict[str, Setting]:
    """Return every setting by its path, in the order in which the model declares them."""
    return {one.path: one for one in _declared(AgentSettings, "")}


def variable_of(path: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + path.replace(".", "_").upper()


def flag_of(path: str) -> str:
    """Return the flag of a setting."""
    return "--" + path.replace(".", "-").replace("_", "-")


def load_settings(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> LoadedSettings:
    """Gather settings.

    Args:
        file: The settings file; None: the one that :data:`CONFIG_VARIABLE` names, if any.
        environ: The environment; variables without the prefix are of no interest.
        flags: What flags say, by the setting's path; None: that flag was not given.

    Raises:
        SettingsError: A setting is unknown, given twice or out of range; names it and where it is
            given.
    """
    environ = environ or {}
    known = all_settings()
    values: dict[str, Any] = {}
    origins = dict.fromkeys(known, _DEFAULT)
    if file is None and environ.get(CONFIG_VARIABLE):
        file = Path(environ[CONFIG_VARIABLE])
    if file is not None:
        read = read_settings_file(file)
        for path, value in read.values.items():
            if value is None and path in (known.keys() | _sections(known)):
                continue  # a name with nothing behind it
            if path not in known:
                raise SettingsError(f"{read.origin(path)}: {_unknown(path, list(known))}")
            values[path], origins[path] = value, read.origin(path)
    by_variable = {variable_of(path): path for path in known}
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE or not text:
            continue
        if name not in by_variable:
            raise SettingsError(f"environment: {_unknown(name, list(by_variable))}")
        path = by_variable[name]
        values[path] = _split(name, text) if known[path].is_list else text
        origins[path] = f"environment {name}"
    for path, value in (flags or {}).items():
        if path not in known:
            raise SettingsError(f"flag: {_unknown(path, list(known))}")
        if value is not None and value != []:
            values[path], origins[path] = value, f"flag {flag_of(path)}"
    settings = _checked(values, origins)
    if settings.interface is not None and settings.captures:
        raise SettingsError(
            f"interface ({origins['interface']}) and captures ({origins['captures']}): give one "
            "of them"
        )
    if (settings.tls_cert_file is None) != (settings.tls_key_file is None):
        raise SettingsError("tls_cert_file and tls_key_file go together: give both")
    return LoadedSettings(settings, origins)


def _declared(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _declared(field.annotation, f"{prefix}{name}.")
        else:
            yield Setting(f"{prefix}{name}", field)


def _checked(values: Mapping[str, Any], origins: Mapping[str, str]) -> AgentSettings:
    nested: dict[str, Any] = {}
    for path, value in values.items():
        section, dot, name = path.partition(".")
        if dot:
            nested.setdefault(section, {})[name] = value
        else:
            nested[path] = value
    try:
        return AgentSettings.model_validate(nested)
    except ValidationError as error:
        raise SettingsError("; ".join(_told(one, origins) for one in error.errors())) from None


def _told(error: Any, origins: Mapping[str, str]) -> str:
    path = ".".join(part for part in error["loc"] if isinstance(part, str))
    while path not in origins and "." in path:  # what pydantic adds for kinds of values
        path = path.rpartition(".")[0]
    said = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{origins.get(path, path)}: {path}: {said}, is {error['input']!r}"


def _sections(known: Iterable[str]) -> set[str]:
    return {path.partition(".")[0] for path in known if "." in path}


def _unknown(name: str, known: list[str]) -> str:
    if name in _sections(known):
        inside = ", ".join(one for one in known if one.startswith(f"{name}."))
        return f"{name}: must hold settings, not a value: {inside}"
    last = name.lower().rpartition(".")[2].removeprefix(PREFIX.lower())
    if last.rpartition("_")[2] in _SECRETS:
        return f"{name}: there is no such setting; secrets are given by file: api_key_file"
    near = difflib.get_close_matches(name, known, 1, 0.6)
    if not near:  # the right name in the wrong section, say
        near = [one for one in known if one.lower().rpartition(".")[2] == last][:1]
    hint = f"; did you mean {near[0]}?" if near else "; serveflow config show lists all"
    return f"{name}: there is no such setting{hint}"


def _split(name: str, text: str) -> list[str]:
    """Read several values: a JSON array, or words as in a shell."""
    try:
        if text.lstrip().startswith("["):
            return list(json.loads(text))
        return shlex.split(text)
    except ValueError as error:
        raise SettingsError(
            f"environment {name}: must be values with spaces between them, or a JSON array: {error}"
        ) from None


def _in_words(setting: Setting, value: Any) -> str:
    if value is None or value == "" or value == ():
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if setting.is_size:
        return bytes_in_words(value)
    if isinstance(value, tuple):
        return " ".join(map(shlex.quote, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
