"""Sinks from what the command line says: ``KIND:WHERE?OPTION=VALUE&…``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from collectors.eve_sink import EveSink
from collectors.log_file import Rotation
from collectors.parquet_sink import ParquetSink, Rolling
from collectors.queued_sink import QueuedSink, QueueSettings, close_all
from collectors.sinks import Sink
from collectors.zeek_sink import ZeekSink
from flows.errors import ServeFlowError, SettingsError

__all__ = ["SINK_KINDS", "open_sinks"]

_Options = TypeVar("_Options")


@dataclass(frozen=True, slots=True)
class _KafkaOptions:
    """What a ``kafka:`` sink may be told.

    Attributes:
        properties: A file with the client's settings; empty: none.
        timeout_s: When a message counts as not arrived.
    """

    properties: str = ""
    timeout_s: float = 10.0


def open_sinks(specs: Sequence[str]) -> list[QueuedSink]:
    """Open sinks, each with a queue and a thread of its own.

    Args:
        specs: See :data:`SINK_KINDS`; behind a ``?`` may stand the options of the kind and those of
            every queue, joined by ``&``.

    Raises:
        SettingsError: A kind, an option or a value is none that is known.
        SinkError: A file or folder cannot be opened.
    """
    sinks: list[QueuedSink] = []
    try:
        for spec in specs:
            sinks.append(_open(spec))  # noqa: PERF401 (those that are open are closed on failure)
    except ServeFlowError:
        close_all(sinks, 0.0)
        raise
    return sinks


def _open(spec: str) -> QueuedSink:
    kind, colon, rest = spec.partition(":")
    where, _, query = rest.partition("?")
    if kind not in _KINDS:
        raise SettingsError(f"sink {spec!r}: there are {_listed(SINK_KINDS.values())}")
    if not colon or not where:
        raise SettingsError(f"sink {spec!r}: must be {SINK_KINDS[kind]}")
    options, opened = _KINDS[kind]
    if (kind, where) == ("eve", "-"):
        options = None
    given = _given(spec, query, (QueueSettings, options))
    queue = _made(QueueSettings, given)
    sink = opened(where, _made(options, given) if options is not None else None)
    return QueuedSink(f"{kind}:{where}", sink, queue)


def _given(spec: str, query: str, kinds: Sequence[type[Any] | None]) -> dict[str, Any]:
    """Return the options that a spec gives, by name, in their types."""
    types: dict[str, Callable[[str], Any]] = {
        field.name: type(field.default)
        for kind in kinds
        if kind is not None
        for field in fields(kind)
    }
    found: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise SettingsError(f"sink {spec!r}: behind the ? must stand NAME=VALUE&…") from None
    for name, value in pairs:
        if name not in types:
            raise SettingsError(f"sink {spec!r}: no option {name!r}; there are {_listed(types)}")
        if name in found:
            raise SettingsError(f"sink {spec!r}: {name} is given twice")
        try:
            found[name] = types[name](value)
        except ValueError:
            wanted = "whole number" if types[name] is int else "number"
            raise SettingsError(f"sink {spec!r}: {name}: must be a {wanted}") from None
    return found


def _made(kind: type[_Options], given: Mapping[str, Any]) -> _Options:
    own = {field.name for field in fields(kind)}  # type: ignore[arg-type] # a dataclass
    return kind(**{name: value for name, value in given.items() if name in own})


def _eve(where: str, rotation: Rotation | None) -> Sink:
    return EveSink(None if where == "-" else Path(where), rotation)


def _zeek(where: str, rotation: Rotation) -> Sink:
    return ZeekSink(Path(where), rotation)


def _parquet(where: str, rolling: Rolling) -> Sink:
    return ParquetSink(Path(where), rolling)


def _kafka(where: str, options: _KafkaOptions) -> Sink:
    brokers, slash, topic = where.rpartition("/")
    if not slash or not brokers or not topic:
        raise SettingsError(f"sink 'kafka:{where}': must be {SINK_KINDS['kafka']}")
    try:
        from collectors.kafka_sink import KafkaSink, read_properties
    except ModuleNotFoundError:
        raise SettingsError(
            "sink kafka: its client is not installed: pip install 'serveflow[kafka]'"
        ) from None
    properties = read_properties(Path(options.properties)) if options.properties else {}
    return KafkaSink(brokers, topic, properties, options.timeout_s)


def _listed(names: Any) -> str:
    return ", ".join(names)


_KINDS: dict[str, tuple[type[Any] | None, Callable[[str, Any], Sink]]] = {
    "eve": (Rotation, _eve),
    "zeek": (Rotation, _zeek),
    "parquet": (Rolling, _parquet),
    "kafka": (_KafkaOptions, _kafka),
}

SINK_KINDS: dict[str, str] = {
    "eve": "eve:FILE or eve:-",
    "zeek": "zeek:FILE",
    "parquet": "parquet:FOLDER",
    "kafka": "kafka:HOST:PORT[,HOST:PORT…]/TOPIC",
}
"""The kinds of sinks, and how each is named."""
