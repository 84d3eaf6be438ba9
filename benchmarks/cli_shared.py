"""What the commands of ``serveflow bench`` share: the app, their options, how each one ends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["Captures", "Placement", "Rounds", "Save", "app", "busy", "files_of", "finish"]

app = typer.Typer(
    name="bench",
    help="Measure: each figure with the machine, the commit and the settings it was taken with.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_EMBEDDED = Path(__file__).resolve().parent.parent / "lab" / "captures" / "test"

Captures = Annotated[
    list[Path] | None,
    typer.Argument(
        help="pcap or pcapng files, or folders of them; by default the embedded test runs, "
        "which no model was trained on.",
        show_default=False,
    ),
]
Rounds = Annotated[int, typer.Option(help="Rounds to take medians of.", min=1)]
Placement = Annotated[
    str | None,
    typer.Option(
        metavar="separate|colocated",
        help="Models in replicas of their own, or inside the Router. By default as the "
        "configuration says.",
        show_default=False,
    ),
]
Save = Annotated[bool, typer.Option("--save", help="Keep the result in docs/results/ as JSON.")]


def files_of(captures: list[Path] | None) -> list[Path]:
    """Return the capture files meant, the embedded test runs when none are given."""
    from serveflow_app.run_replay import capture_files

    return capture_files(captures or [_EMBEDDED])


def busy(what: str) -> Any:
    """Show that something goes on, as a context."""
    from serveflow_app.output import messages

    return messages.status(what)


def finish(name: str, result: dict[str, Any], tables: list[Any], save: bool, as_json: bool) -> None:
    """Keep a result if asked to, and print it: as tables, or as JSON for machines."""
    from benchmarks.results import plain
    from benchmarks.results import save as keep
    from serveflow_app.output import emit_json, messages

    told = plain(result)
    if save:
        path = keep(name, told)
        messages.print(f"kept in docs/results/{path.name}", highlight=False, markup=False)
    if as_json:
        emit_json(told)
        return
    for table in tables:
        messages.print(table, "")
