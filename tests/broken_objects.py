"""Objects with one thing changed, so that a check can be seen to find it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

__all__ = ["GONE", "changed"]

GONE = object()
"""In place of a value: take it away."""


def changed(objects: Sequence[dict[str, Any]], named: str, path: str, value: Any) -> list[Any]:
    """Return a copy of ``objects`` with one value changed.

    Args:
        objects: The objects of an overlay.
        named: Which one, such as ``RayService/serveflow``; without the hash of a ConfigMap's name,
            the first one where namespaces have the same.
        path: Where in it, ``spec.ports.0.port``; a name's own dots are written as ``~``.
        value: What to put there; :data:`GONE`: nothing.
    """
    copied = copy.deepcopy(list(objects))
    kind, name = named.split("/")
    of_kind = [o for o in copied if o["kind"] == kind]
    same = [o for o in of_kind if o["metadata"]["name"] == name]
    hashed = [o for o in of_kind if o["metadata"]["name"].startswith(f"{name}-")]
    found = (same or hashed)[0]
    *way, last = [part.replace("~", ".") for part in path.split(".")]
    place: Any = found
    for part in way:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    key: Any = int(last) if isinstance(place, list) else last
    if value is GONE:
        del place[key]
    elif isinstance(place, list) and key == len(place):
        place.append(value)
    else:
        place[key] = value
    return copied
