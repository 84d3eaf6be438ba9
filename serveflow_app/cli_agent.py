"""Commands around a collector: its settings, its health, what it does."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from collectors.settings_example import example_yaml
from collectors.settings_sources import LoadedSettings, all_settings, load_settings
from flows.errors import ServiceUnavailableError, SettingsError
from serveflow_app.options import Json
from serveflow_app.output import emit_json, plain_table

__all__ = ["config", "doctor", "top"]

_DEFAULT_URL = "http://127.0.0.1:9105"

config = typer.Typer(
    name="config",
    help="Show and check the settings of a collector (serveflow collect).",
    no_args_is_help=True,
)

_File = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Settings file, YAML or TOML; by default what SERVEFLOW_COLLECT_CONFIG names.",
        show_default=False,
    ),
]
_Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="As if collect had this flag: spool.folder=/srv/spool. May be given several times.",
        show_default=False,
    ),
]


@config.command("show")
def show(
    config_file: _File = None,
    given: _Set = None,
    origin: Annotated[
        bool, typer.Option("--origin", help="Say where each value comes from.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Print the settings that hold, from defaults, file, environment and flags.

    Example: [bold]serveflow config show --config collect.yaml --origin[/]
    """
    loaded = _load(config_file, given)
    if json_output:
        emit_json(loaded.to_dict())
        return
    table = plain_table("", ("setting", "value", *(["origin"] if origin else [])))
    for column in table.columns[1:]:
        column.justify = "left"
    for path, value, where in loaded.rows():
        table.add_row(path, Text(value), *([Text(where)] if origin else []))
    _print(table)


@config.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="Settings file, YAML or TOML.", show_default=False)],
    json_output: Json = False,
) -> None:
    """Check a settings file; the environment is left out of it.

    Whether this machine can do what it says is for [bold]serveflow doctor[/].
    """
    loaded = load_settings(file)
    given = sum(where != "default" for where in loaded.origins.values())
    if json_output:
        emit_json({"file": str(file), "settings": given})
    else:
        _print(f"{file}: {given} settings, all of them known and in range")


@config.command("example")
def example() -> None:
    """Print a settings file with every setting, what it means, and its default.

    Example: [bold]serveflow config example > collect.yaml[/]
    """
    sys.stdout.write(example_yaml())


def doctor(
    config_file: _File = None,
    interface: Annotated[
        str | None, typer.Option(help="As of collect.", show_default=False)
    ] = None,
    to: Annotated[str | None, typer.Option(help="As of collect.", show_default=False)] = None,
    spool: Annotated[
        str | None, typer.Option("--spool", "--spool-folder", help="As of collect.")
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option("--sink", "--sinks", help="As of collect.", show_default=False),
    ] = None,
    given: _Set = None,
    json_output: Json = False,
) -> None:
    """Check whether a collector can do here what its settings say, and say what to do if not.

    Looks at rights, interface, filter, credentials, service, clock, spool, sinks, memory, open
    files and the metrics port. Run it as the collector's user. The exit status is 1 if a check
    fails.

    Example: [bold]serveflow doctor --config collect.yaml[/]
    """
    from serveflow_app.doctor import Level, examine
    from serveflow_app.doctor_system import LinuxSystem

    flags = {"interface": interface, "to": to, "spool.folder": spool, "sinks": sink}
    loaded = _load(config_file, given, flags)
    found = examine(loaded.settings, LinuxSystem())
    failed = any(one.level is Level.FAIL for one in found)
    if json_output:
        checks = [
            {"check": one.check, "level": str(one.level), "said": one.said, "do": one.do}
            for one in found
        ]
        emit_json({"ok": not failed, "checks": checks})
    else:
        table = Table(show_header=False, box=None, padding=(0, 1, 0, 0))
        styles = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
        for one in found:
            said = Text(one.said)
            if one.do and one.level is not Level.OK:
                said.append(f"\n→ {one.do}", "italic")
            table.add_row(Text(str(one.level), styles[one.level]), one.check, said)
        _print(table)
    if failed:
        raise typer.Exit(1)


def top(
    url: Annotated[
        str, typer.Argument(help="Where the collector serves its metrics.", show_default=True)
    ] = _DEFAULT_URL,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look twice, an interval apart, and end.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Watch a running collector: rates, tiers, latency, sinks, and every loss by hop and reason.

    With [bold]--json[/] one object per look, on a line of its own. Ctrl-C ends it.

    Example: [bold]serveflow top --interval 5[/]
    """
    from serveflow_app.top import sample_to_dict, samples, screen

    url = url if "://" in url else f"http://{url}"
    looks = samples(url, interval)
    first = next(looks)
    if once:
        sample = next(looks)
        emit_json(sample_to_dict(sample)) if json_output else _print(screen(sample))
    elif json_output:
        for sample in looks:
            emit_json(sample_to_dict(sample))
    else:
        with Live(screen(first), console=Console(), screen=sys.stdout.isatty()) as live:
            while True:
                try:
                    for sample in looks:
                        live.update(screen(sample))
                except ServiceUnavailableError as error:  # it may be starting again
                    live.update(Text(str(error), "bold red"))
                time.sleep(interval)
                looks = samples(url, interval)


def _load(
    file: Path | None, given: list[str] | None, flags: dict[str, Any] | None = None
) -> LoadedSettings:
    known = all_settings()
    values: dict[str, Any] = dict(flags or {})
    for one in given or ():
        name, equals, value = one.partition("=")
        if not equals:
            raise SettingsError(f"--set {one}: must be NAME=VALUE")
        several = name in known and known[name].is_list
        values[name] = [*(values.get(name) or ()), value] if several else value
    return load_settings(file, os.environ, values)


def _print(what: Any) -> None:
    Console(soft_wrap=isinstance(what, str)).print(what, highlight=False, markup=False)
