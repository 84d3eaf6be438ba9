"""From where the service can be reached, and that nobody beyond loopback gets in without a key."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deployments.access import Access, KeysFile
from deployments.grpc_address import HOOK, keep_grpc_on_loopback
from flows.errors import SettingsError

__all__ = [
    "HAPROXY_SCRIPT",
    "HOOK_VALUE",
    "KEYS_FILE",
    "access_of",
    "is_loopback",
    "keys_file_of",
    "refusal",
    "serve_host",
]

KEYS_FILE = "SERVEFLOW_KEYS_FILE"
"""The environment variable that names the keys file where the setting ``keys_file`` does not."""

HOOK_VALUE = f"{keep_grpc_on_loopback.__module__}.{keep_grpc_on_loopback.__name__}"
"""What :data:`~deployments.grpc_address.HOOK` is set to, to keep gRPC on loopback."""


HAPROXY_SCRIPT = Path(__file__).resolve().parent / "haproxy.sh"
"""What Ray Serve has to start in HAProxy's place (``RAY_SERVE_HAPROXY_BINARY_PATH``)."""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches what listens at ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name, which may mean anything


def keys_file_of(setting: str | Path | None) -> Path | None:
    """Return the keys file: the setting, or what the environment says; None: no keys are wanted."""
    named = setting or os.environ.get(KEYS_FILE)
    return Path(named) if named else None


def serve_host() -> str | None:
    """Ask Ray Serve's controller where it serves HTTP; None: it does not say.

    Ray Serve 2.60 tells a deployment nothing of this, so its controller, an actor with a name, is
    asked as Ray Serve's own replicas do; ``tests/serve/test_access.py`` sees that it answers.
    """
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        controller: Any = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        (config,) = ray.get([controller.get_http_config.remote()], timeout=30)
        return str(config.host)
    except (AttributeError, ValueError, ray.exceptions.RayError):
        return None


def access_of(
    keys_file: Path | None,
    on_refused: Callable[[str], None],
    host_of: Callable[[], str | None] = serve_host,
) -> Access:
    """Return who may ask a Router.

    Args:
        keys_file: The keys file, followed from now on; None: there is none.
        on_refused: Called for each refusal.
        host_of: Tells where HTTP is served.

    Raises:
        SettingsError: The keys file is damaged; or there is none, and HTTP is served beyond
            loopback.
    """
    if keys_file is not None:
        keys = KeysFile(keys_file)
        keys.follow()
        return Access(keys, on_refused=on_refused)
    host = host_of()
    if host is None or not is_loopback(host):
        raise SettingsError(refusal(host or "an address that Ray Serve does not tell"))
    closed = ""
    if os.environ.get(HOOK) != HOOK_VALUE:
        closed = (
            "without API keys gRPC is for this machine alone, and Ray Serve was started so that "
            f"its gRPC servers listen on every address: set {KEYS_FILE}, or start it by serveflow "
            f"serve, or with {HOOK}={HOOK_VALUE}"
        )
    return Access(grpc_closed=closed, on_refused=on_refused)


def refusal(host: str) -> str:
    """Say why nothing is served at ``host`` without keys."""
    return (
        f"serving on {host} would let anybody in who can reach it: make keys (serveflow keys add) "
        f"and name their file in the argument keys_file or in {KEYS_FILE}, or serve on 127.0.0.1"
    )
