"""What goes wrong in the lab, in words a reader can act on."""

from __future__ import annotations

__all__ = ["LabError"]


class LabError(Exception):
    """The lab cannot go on; the message says why and what to do."""
