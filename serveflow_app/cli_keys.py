"""``serveflow keys``: make, list and revoke the API keys of collectors."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from collectors.credentials import Credentials
from deployments.access import Access
from deployments.access import KeysFile as KeysInUse
from deployments.api_keys import ApiKey, editing, new_key, read_keys
from flows.errors import SettingsError
from serveflow_app.options import Json
from serveflow_app.output import emit_json, messages, plain_table

__all__ = ["keys"]

keys = typer.Typer(
    name="keys",
    help="Make, list and revoke the API keys that collectors show to the service.",
    no_args_is_help=True,
)

_File = Annotated[
    Path,
    typer.Option(
        "--file",
        help="Keys file of the service; SERVEFLOW_KEYS_FILE.",
        envvar="SERVEFLOW_KEYS_FILE",
        show_default=False,
    ),
]


@keys.command()
def add(
    collector: Annotated[
        str,
        typer.Argument(
            help="Name of the collector, as its setting name says; * for any, such as for replays.",
            show_default=False,
        ),
    ],
    file: _File,
    days: Annotated[
        float | None,
        typer.Option(help="Days after which it no longer counts.", min=0.001, show_default=False),
    ] = None,
    json_output: Json = False,
) -> None:
    """Make a key, add its digest to the file (made if need be), and print the key, this once.

    A running service takes it over within a second or two. To renew a key: add one, give it to
    the collector, then revoke the old one.

    Example: [bold]serveflow keys add edge-1 --file keys.yaml --days 365 > api-key[/]
    """
    try:
        ends = None if days is None else datetime.now(UTC) + timedelta(days=days)
    except OverflowError:
        raise SettingsError(f"--days {days}: that many days there are not") from None
    made = new_key(collector, ends.replace(microsecond=0) if ends else None)
    with editing(file) as entries:
        entries.append(made.entry)
    if json_output:
        emit_json({"key": made.key, **_said(made.entry)})
        return
    sys.stdout.write(f"{made.key}\n")
    messages.print(
        f"key {made.entry.id} for {collector} is in {file}; it is shown this once: keep it in a "
        "file that the collector alone can read (setting api_key_file)",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@keys.command("list")
def list_keys(file: _File, json_output: Json = False) -> None:
    """Show which keys there are, for whom and until when; the keys themselves nobody has."""
    entries = read_keys(file)
    if json_output:
        emit_json({"file": str(file), "keys": [_said(entry) for entry in entries]})
        return
    table = plain_table("", ("id", "collector", "made", "until", "counts"))
    for column in table.columns[1:]:
        column.justify = "left"
    for entry in entries:
        said = _said(entry)
        until = said["not_after"] or "-"
        counts = "yes" if said["valid"] else "no"
        table.add_row(entry.id, Text(entry.collector), said["created"], until, counts)
    messages.print(table)


@keys.command()
def revoke(
    key_ids: Annotated[
        list[str], typer.Argument(help="Ids of keys, as list shows them.", show_default=False)
    ],
    file: _File,
    json_output: Json = False,
) -> None:
    """Take keys out of the file; a running service refuses them within a second or two."""
    with editing(file) as entries:
        unknown = set(key_ids) - {entry.id for entry in entries}
        if unknown:
            raise SettingsError(
                f"{file}: there is no key {sorted(unknown)[0]} (serveflow keys list)"
            )
        entries[:] = [entry for entry in entries if entry.id not in key_ids]
    if json_output:
        emit_json({"file": str(file), "revoked": sorted(set(key_ids))})
    else:
        messages.print(f"revoked: {', '.join(sorted(set(key_ids)))}", highlight=False)


@keys.command()
def check(
    file: _File,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="Tell whose the key in this file is, too.", show_default=False),
    ] = None,
    json_output: Json = False,
) -> None:
    """See whether the service would take the file, and a collector's key with it.

    Example: [bold]serveflow keys check --file keys.yaml --api-key-file api-key[/]
    """
    in_use = KeysInUse(file)
    found: dict[str, Any] = {"file": str(file), "keys": len(in_use)}
    told = f"{file}: {len(in_use)} keys, all in order"
    if api_key_file is not None:
        shown = Credentials(api_key_file).authorization() or ""
        caller = Access(in_use).caller([shown])
        found |= {"id": caller.key_id, "collector": caller.collector}
        told += f"; {api_key_file}: key {caller.key_id}, for {caller.collector}"
    if json_output:
        emit_json(found)
    else:
        messages.print(told, highlight=False, markup=False, soft_wrap=True)


def _said(entry: ApiKey) -> dict[str, Any]:
    """Return what may be told of a key."""
    told = entry.model_dump(mode="json", include={"id", "collector", "created", "not_after"})
    return {**told, "valid": entry.valid_at(datetime.now(UTC))}
