"""The command ``serveflow collect``: a flag for each setting, made from the settings themselves."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from collectors.settings_sources import Setting, all_settings, flag_of, load_settings
from serveflow_app.options import Json

__all__ = ["collect_command"]

_SHORTER = {
    "spool.folder": "--spool",
    "sinks": "--sink",
    "bpf": "--bpf",
    "duration_s": "--duration",
    "batch.min_delay_s": "--batch-delay",
}
"""Second names of flags that are typed often."""

_HELP = """Watch a wire, or read captures, and write a verdict for each flow.

Settings come from a file, the environment (SERVEFLOW_COLLECT_…) and flags, in this order;
serveflow config show tells what holds and why. SIGTERM and Ctrl-C end all flows, wait for
their verdicts and leave; SIGHUP opens log files anew.

Examples:

  serveflow collect --interface eth1 --to http://10.0.0.9:8000 --sink eve:/var/log/eve.json

  tcpdump -U -w - | serveflow collect - --sink eve:-
"""


def collect_command() -> Callable[..., None]:
    """Return the command, as typer takes it."""
    known = all_settings()
    by_name = {path.replace(".", "_"): path for path in known}

    def collect(**given: Any) -> None:
        from serveflow_app.run_collect import collect as run

        as_json, file = given.pop("json_output"), given.pop("config")
        flags = {by_name[name]: value for name, value in given.items()}
        run(load_settings(file, os.environ, flags).settings, as_json, threading.Event())

    parameters = [_parameter(path, setting) for path, setting in known.items()]
    parameters.append(
        inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Path | None,
                typer.Option(
                    "--config",
                    help="File of settings, YAML or TOML; SERVEFLOW_COLLECT_CONFIG names one too.",
                ),
            ],
        )
    )
    parameters.append(
        inspect.Parameter(
            "json_output", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json
        )
    )
    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    collect.__annotations__ = {one.name: one.annotation for one in parameters}
    collect.__doc__ = _HELP
    return collect


def _parameter(path: str, setting: Setting) -> inspect.Parameter:
    default = setting.default
    kind: Any = list[str] | None if setting.is_list else str | None
    if isinstance(default, bool):
        kind = bool | None
    text = setting.description
    if default not in (None, "", (), False):
        text += f" [default: {default}]"
    told: Any
    if path == "captures":
        told = typer.Argument(help=text, show_default=False)
    else:
        names = [name for name in (_SHORTER.get(path), flag_of(path)) if name]
        names = list(dict.fromkeys(names))
        if isinstance(default, bool):
            names[-1] += f"/--no-{names[-1][2:]}"
        told = typer.Option(*names, help=text, show_default=False)
    return inspect.Parameter(
        path.replace(".", "_"),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind, told],
    )
