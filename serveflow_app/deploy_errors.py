"""What Ray's dashboard says of the applications, of which ``serve run`` prints nothing."""

from __future__ import annotations

import json
from http.client import HTTPException
from typing import Any

from collectors.connections import Connections

__all__ = ["applications", "deploy_error"]

_TIMEOUT_S = 2.0
_PATH = "/api/serve/applications/"
_LINES = 12


def applications(dashboard: Connections) -> dict[str, Any]:
    """Return the state of each application, by name.

    Raises:
        OSError, HTTPException: The dashboard does not answer.
        ValueError, KeyError, TypeError: It answers something else.
    """
    with dashboard.request("GET", _PATH) as response:
        told: dict[str, Any] = json.loads(response.read())["applications"]
    return told


def deploy_error(dashboard: str) -> str | None:
    """Ask Ray's dashboard which application could not be deployed, and why.

    Args:
        dashboard: Its address, ``http://…``.

    Returns:
        The application and the end of what Ray says of it; None: none has failed, or the dashboard
        does not tell (it is not up yet, or wants a token).
    """
    connections = Connections(dashboard, timeout_s=_TIMEOUT_S, idle=0)
    try:
        states = applications(connections).items()
    except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return None
    finally:
        connections.close()
    for name, state in states:
        if state.get("status") == "DEPLOY_FAILED":
            lines = str(state.get("message", "")).strip().splitlines()[-_LINES:]
            return "\n".join([f"application {name}:", *lines])
    return None
