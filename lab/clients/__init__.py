"""The clients of the lab: for each service, sessions that behave in many ways."""

from __future__ import annotations
