"""Failpoints: places that fail on purpose, so that tests reach limits which are hard to hit.

``SERVEFLOW_FAIL=table_full@64,sink_timeout@3`` arms two of them. What is not armed costs nothing:
whoever has such a place asks once, when it is made, and is given None.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from flows.errors import SettingsError

__all__ = ["FAILPOINTS", "VARIABLE", "Failpoint", "armed", "failpoint"]

VARIABLE = "SERVEFLOW_FAIL"
"""The environment variable that arms them."""

FAILPOINTS = {
    "table_full": "a collector's flow table has room for N flows, or the power of two above",
    "tracker_exit": "a FlowTracker's process ends at its Nth call",
    "sink_timeout": "each sink's Nth write fails as if nobody answered",
}
"""All there are, and what each does; behind the name stands ``@N``."""


class Failpoint:
    """Tells when it is time to fail: once, the ``at``-th time that it is asked.

    Args:
        at: From 1 on.
    """

    def __init__(self, at: int) -> None:
        self.at = at
        self._asked = 0

    def reached(self) -> bool:
        """Count a call; tell whether it is the one that fails."""
        self._asked += 1
        return self._asked == self.at


def armed(environment: Mapping[str, str] | None = None) -> dict[str, int]:
    """Return the armed failpoints and their numbers.

    Args:
        environment: Where :data:`VARIABLE` stands; None: this process's.

    Raises:
        SettingsError: It names something else, or without a number from 1 on.
    """
    said = (os.environ if environment is None else environment).get(VARIABLE, "")
    found: dict[str, int] = {}
    for one in filter(None, (part.strip() for part in said.split(","))):
        name, _, number = one.partition("@")
        if name not in FAILPOINTS or name in found:
            raise SettingsError(
                f"{VARIABLE}: {one!r}: give each of {', '.join(FAILPOINTS)} once at most, as NAME@N"
            )
        if not (number.isascii() and number.isdecimal() and 0 < len(number) < 10 and int(number)):
            raise SettingsError(f"{VARIABLE}: {one!r}: behind the @ must stand a number from 1 on")
        found[name] = int(number)
    return found


def failpoint(name: str) -> Failpoint | None:
    """Return a failpoint of its own for whoever asks; None: it is not armed.

    Raises:
        SettingsError: The environment arms something that is not known.
    """
    at = armed().get(name)
    return None if at is None else Failpoint(at)
