"""``serve_config.yaml``: read strictly, changed by flags, and written for ``serve run``."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deployments.api_keys import read_keys
from deployments.reach import is_loopback, keys_file_of, refusal
from flows.errors import SettingsError
from serveflow_app.settings import DEFAULT_GRPC_PORT, DEFAULT_HOST, DEFAULT_PORT, AppArgs

__all__ = [
    "check_access",
    "check_bundles",
    "default_config",
    "grpc_port_of",
    "host_of",
    "http_port_of",
    "load_config",
    "override",
    "serveflow_apps",
]

_APP = "serveflow_app.app:build_app"
_SERVICER = "flows.rpc.flow_classifier_pb2_grpc.add_FlowClassifierServiceServicer_to_server"
_DEPLOYMENTS = re.compile(r"Router|FastModel|SlowModel|FlowTracker-\d+")


def default_config() -> Path:
    """Return the ``serve_config.yaml`` that comes with ServeFlow.

    Raises:
        SettingsError: It is not there: the package was installed without its repository.
    """
    path = Path(__file__).resolve().parent.parent / "serve_config.yaml"
    if not path.is_file():
        raise SettingsError("serve_config.yaml is not beside the package: name one with --config")
    return path


def load_config(path: Path) -> dict[str, Any]:
    """Read and check a Serve configuration.

    Ray Serve itself ignores keys that it does not know; here each one is an error.

    Raises:
        SettingsError: The file cannot be read, or a key is unknown or out of range.
    """
    from ray.serve.schema import ServeDeploySchema  # takes seconds; most commands need it not

    try:
        data = yaml.safe_load(path.read_text())
        if not isinstance(data, dict):
            raise SettingsError(f"{path}: it holds no mapping of settings")
        known = ServeDeploySchema.model_validate(data).model_dump(exclude_unset=True)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        raise SettingsError(f"{path}: {_said(error)}") from None
    unknown = _unknown_keys(data, known, "")
    if unknown:
        raise SettingsError(f"{path}: unknown key {unknown[0]} (a spelling mistake?)")
    for app in serveflow_apps(data):
        _check_app(path, app)
    _check_servicers(path, data)
    return data


def serveflow_apps(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the applications of a configuration that are ours."""
    return [app for app in config.get("applications", []) if app.get("import_path") == _APP]


def host_of(config: dict[str, Any]) -> str:
    """Return the address that a configuration serves on, HTTP and gRPC."""
    return str(config.get("http_options", {}).get("host", DEFAULT_HOST))


def http_port_of(config: dict[str, Any]) -> int:
    """Return the port that a configuration serves HTTP on."""
    return int(config.get("http_options", {}).get("port", DEFAULT_PORT))


def grpc_port_of(config: dict[str, Any]) -> int:
    """Return the port that a configuration serves gRPC on; 0: it serves none."""
    options = config.get("grpc_options") or {}
    if not options.get("grpc_servicer_functions"):
        return 0
    return int(options.get("port", DEFAULT_GRPC_PORT))


def check_bundles(config: dict[str, Any]) -> None:
    """Load the bundle of each ServeFlow application, to see that it is whole.

    Raises:
        BundleError: It is not.
    """
    from models.cascade import load_cascade  # ONNX Runtime: most commands need it not

    for app in serveflow_apps(config):
        load_cascade(AppArgs.model_validate(app.get("args") or {}).bundle_path)


def check_access(config: dict[str, Any]) -> None:
    """See that nobody gets in without a key but from this machine.

    Raises:
        SettingsError: A keys file is damaged, or an application has none and is to be served
            beyond loopback.
    """
    for app in serveflow_apps(config):
        keys_file = keys_file_of(AppArgs.model_validate(app.get("args") or {}).keys_file)
        if keys_file is not None:
            read_keys(keys_file)
        elif not is_loopback(host_of(config)):
            raise SettingsError(refusal(host_of(config)))


def _check_app(path: Path, app: dict[str, Any]) -> None:
    try:
        AppArgs.model_validate(app.get("args") or {})
    except ValidationError as error:
        raise SettingsError(f"{path}: application {app['name']}: args: {_said(error)}") from None
    for deployment in app.get("deployments", []):
        if not _DEPLOYMENTS.fullmatch(deployment["name"]):
            raise SettingsError(
                f"{path}: unknown deployment {deployment['name']}: there are Router, FastModel, "
                "SlowModel and FlowTracker-0, FlowTracker-1, …"
            )


def _check_servicers(path: Path, data: dict[str, Any]) -> None:
    """See that each servicer function is there: Ray would fail or serve without it, deep inside."""
    for name in (data.get("grpc_options") or {}).get("grpc_servicer_functions", []):
        module, _, function = name.replace(":", ".").rpartition(".")
        try:
            found = callable(getattr(import_module(module), function, None))
        except (ImportError, ValueError, RuntimeError):
            found = False
        if not found:
            raise SettingsError(
                f"{path}: grpc_options.grpc_servicer_functions: {name} cannot be imported; "
                f"ServeFlow's is {_SERVICER}"
            )


def _said(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    what = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
    return f"{place}: {what}"


def _unknown_keys(data: Any, known: Any, place: str) -> list[str]:
    """List the keys of ``data`` that validation dropped."""
    if isinstance(data, dict) and isinstance(known, dict):
        found = [f"{place}{key}" for key in data if key not in known]
        for key in data.keys() & known.keys():
            found += _unknown_keys(data[key], known[key], f"{place}{key}.")
        return found
    if isinstance(data, list) and isinstance(known, list):
        found = []
        for i, (ours, theirs) in enumerate(zip(data, known, strict=False)):
            found += _unknown_keys(ours, theirs, f"{place}{i}.")
        return found
    return []


def override(
    config: dict[str, Any],
    *,
    host: str | None = None,
    port: int | None = None,
    grpc_port: int | None = None,
    args: dict[str, Any],
) -> dict[str, Any]:
    """Return ``config`` with the flags' values put in.

    ``grpc_port`` 0 leaves gRPC out. ``args`` go to the application; the FlowTrackers' deployments
    follow its number of trackers.

    Raises:
        SettingsError: A value is out of range.
    """
    http = {**config.get("http_options", {})}
    if host is not None:
        http["host"] = host
    if port is not None:
        http["port"] = port
    grpc = {**(config.get("grpc_options") or {})}
    if grpc_port is not None:
        grpc["port"] = grpc_port
        grpc["grpc_servicer_functions"] = grpc.get("grpc_servicer_functions") or [_SERVICER]
    applications = []
    for app in config["applications"]:
        app = {**app, "args": {**(app.get("args") or {}), **args}}
        try:
            settings = AppArgs.model_validate(app["args"])
        except ValidationError as error:
            raise SettingsError(_said(error)) from None
        app["deployments"] = _deployments(app.get("deployments", []), settings)
        applications.append(app)
    changed = {**config, "http_options": http, "applications": applications}
    if grpc:
        changed["grpc_options"] = grpc
    if http_port_of(changed) == grpc_port_of(changed):
        raise SettingsError(f"HTTP and gRPC cannot share port {http_port_of(changed)}")
    return changed


def _deployments(deployments: list[dict[str, Any]], settings: AppArgs) -> list[dict[str, Any]]:
    """Keep what this placement has, with one entry per tracker made after the first one's."""
    trackers = [d for d in deployments if d["name"].startswith("FlowTracker-")]
    others = [d for d in deployments if d not in trackers]
    if settings.placement == "colocated":
        others = [d for d in others if d["name"] == "Router"]
    if trackers:
        model = trackers[0]
        others += [{**model, "name": f"FlowTracker-{t}"} for t in range(settings.trackers)]
    return others
