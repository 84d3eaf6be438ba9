"""The service's configuration in a cluster: ``serve_config.yaml`` with an overlay's changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.errors import SettingsError
from serveflow_app.serve_config import override

__all__ = ["EVERY", "in_cluster"]

EVERY = "every"
_PARTS = {"http_options", "grpc_options", "args", "deployments"}


def in_cluster(
    config: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]], overlay: str
) -> dict[str, Any]:
    """Return a configuration with the changes of every overlay, then those of this one.

    Args:
        config: ``serve_config.yaml``, with one application.
        changes: ``k8s/serve-config-changes.yaml``.
        overlay: The overlay's name.

    Raises:
        SettingsError: A change names what is not there, or an argument is unknown or out of range.
    """
    changed = dict(config)
    for change in (changes[EVERY], changes[overlay]):
        unknown = change.keys() - _PARTS
        if unknown:
            raise SettingsError(f"changes: unknown {min(unknown)}: there are {sorted(_PARTS)}")
        for part in ("http_options", "grpc_options"):
            changed[part] = _merged(changed[part], change.get(part, {}))
        changed = override(changed, args=change.get("args", {}))
        (app,) = changed["applications"]
        deployments = _changed(app["deployments"], change.get("deployments", {}))
        changed["applications"] = [{**app, "deployments": deployments}]
    return changed


def _changed(
    deployments: list[dict[str, Any]], changes: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    def kind(deployment: Mapping[str, Any]) -> str:
        return str(deployment["name"]).partition("-")[0]

    unknown = changes.keys() - {kind(deployment) for deployment in deployments}
    if unknown:
        raise SettingsError(f"changes: no deployment {min(unknown)} in serve_config.yaml")
    return [_merged(d, changes.get(kind(d), {})) for d in deployments]


def _merged(there: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(there)
    for key, value in change.items():
        both = isinstance(value, Mapping) and isinstance(there.get(key), Mapping)
        merged[key] = _merged(there[key], value) if both else value
    return merged
