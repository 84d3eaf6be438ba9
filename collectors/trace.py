"""W3C Trace Context of a batch, so that logs on its way can be told to be of one batch."""

from __future__ import annotations

import secrets

__all__ = ["TRACEPARENT", "traceparent"]

TRACEPARENT = "traceparent"
"""The header's name (https://www.w3.org/TR/trace-context/), over HTTP and gRPC."""


def traceparent() -> str:
    """Return a trace context of its own: version 00, not sampled, as no span is recorded here."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
