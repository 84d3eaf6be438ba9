"""Why Ray Serve could not deploy an application: ``serve run`` prints nothing of it."""

from __future__ import annotations

import json
from http.client import HTTPException

from collectors.connections import Connections

__all__ = ["deploy_error"]

_TIMEOUT_S = 2.0
_PATH = "/api/serve/applications/"
_LINES = 12


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
        with connections.request("GET", _PATH) as response:
            told = json.loads(response.read())
        applications = told["applications"].items()
    except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return None
    finally:
        connections.close()
    for name, state in applications:
        if state.get("status") == "DEPLOY_FAILED":
            lines = str(state.get("message", "")).strip().splitlines()[-_LINES:]
            return "\n".join([f"application {name}:", *lines])
    return None
