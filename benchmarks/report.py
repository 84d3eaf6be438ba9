"""``serveflow bench report``: the tables and pictures of the documents, made of the kept results.

A document holds marked blocks, ``<!-- bench:NAME -->`` to ``<!-- /bench -->``; what stands between
the marks is made here, and all around it by people.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.report_capacity import CAPACITY_BLOCKS
from benchmarks.report_reliability import RELIABILITY_BLOCKS
from benchmarks.report_text import BLOCKS
from benchmarks.results import Kept, kept
from flows.errors import SettingsError

__all__ = ["DOCUMENTS", "filled", "report"]

_DOCS = Path(__file__).resolve().parent.parent / "docs"
DOCUMENTS = (_DOCS / "performance.md", _DOCS / "capacity.md")
"""The documents with blocks."""

_BLOCK = re.compile(r"<!-- bench:([a-z0-9-]+) -->\n.*?<!-- /bench -->", re.DOTALL)


def filled(text: str, results: Kept) -> str:
    """Return a document with its blocks made anew.

    Args:
        text: The document.
        results: As :func:`benchmarks.results.kept` returns them.

    Raises:
        SettingsError: A block has a name that is not known.
    """
    known: dict[str, Callable[[Kept], str]] = {**BLOCKS, **CAPACITY_BLOCKS, **RELIABILITY_BLOCKS}

    def made(found: re.Match[str]) -> str:
        name = found[1]
        if name not in known:
            raise SettingsError(f"block {name}: there is {', '.join(known)}")
        return f"<!-- bench:{name} -->\n{known[name](results).strip()}\n<!-- /bench -->"

    return _BLOCK.sub(made, text)


def report(*, pictures: bool = True) -> list[Path]:
    """Fill the blocks of all documents and draw the pictures; return what has changed.

    Args:
        pictures: Draw them too.

    Raises:
        SettingsError: A block is not known, or matplotlib is not installed and is to draw.
    """
    results = kept()
    changed = []
    for path in DOCUMENTS:
        before = path.read_text()
        after = filled(before, results)
        if after != before:
            path.write_text(after)
            changed.append(path)
    if pictures:
        from benchmarks.report_pictures import draw_all

        changed += draw_all(results, _DOCS / "images")
    return changed
