"""Whether the collector's settings fit the DaemonSet that runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from collectors.agent_settings import AgentSettings, as_bytes
from collectors.settings_sources import load_settings
from flows.errors import SettingsError
from tools.manifests.objects import Objects, named, of_kind, title

__all__ = ["collector_problems", "collector_settings"]

_NAME = "serveflow-collector"
_NODE = {"spec.nodeName": "node-7", "status.hostIP": "192.0.2.7"}
_PROCESS_BYTES = 300 << 20  # docs/collector.md
_NET_RAW = {"drop": ["ALL"], "add": ["NET_RAW"]}


def collector_settings(objects: Objects) -> AgentSettings:
    """Return the settings that a collector will have on some node, checked as it checks them.

    Raises:
        SettingsError: A setting is unknown or out of range.
    """
    daemon_set = named(objects, "DaemonSet", _NAME)
    spec = daemon_set["spec"]["template"]["spec"]
    environment: dict[str, str] = {}
    for variable in spec["containers"][0]["env"]:
        field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        value = _NODE[field] if field else variable["value"]
        for name, known in environment.items():
            value = value.replace(f"$({name})", known)
        environment[variable["name"]] = value
    (volume,) = (v for v in spec["volumes"] if v["name"] == "settings")
    data = named(objects, "ConfigMap", volume["configMap"]["name"])["data"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "collect.yaml"
        path.write_text(data["collect.yaml"])
        return load_settings(path, environment, {}).settings


def collector_problems(objects: Objects) -> list[str]:
    """Return what of the collector's settings and of its DaemonSet does not fit."""
    daemon_set = named(objects, "DaemonSet", _NAME)
    try:
        settings = collector_settings(objects)
    except SettingsError as error:
        return [f"{title(daemon_set)}: {error}"]
    spec = daemon_set["spec"]["template"]["spec"]
    found = [*_of_rights(spec), *_of_probes(spec, settings), *_of_room(spec, settings)]
    found += _of_way(objects, settings)
    return [f"{title(daemon_set)}: {problem}" for problem in found]


def _of_rights(spec: Mapping[str, Any]) -> Iterator[str]:
    (container,) = spec["containers"]
    context = container["securityContext"]
    if not spec.get("hostNetwork") or spec.get("dnsPolicy") != "ClusterFirstWithHostNet":
        yield "hostNetwork with dnsPolicy ClusterFirstWithHostNet is what a tap needs"
    if context.get("runAsUser") != 0 or context.get("allowPrivilegeEscalation") is not False:
        yield "root without privilege escalation is what can use NET_RAW"
    if context.get("privileged") or context.get("capabilities") != _NET_RAW:
        yield f"its capabilities are not {_NET_RAW}"
    if not context.get("readOnlyRootFilesystem"):
        yield "its root file system can be written to"
    if any("hostPath" in volume for volume in spec["volumes"]):
        yield "it mounts folders of the node"
    if not spec.get("nodeSelector"):
        yield "it would run on every node: there is no nodeSelector"


def _of_probes(spec: Mapping[str, Any], settings: AgentSettings) -> Iterator[str]:
    (container,) = spec["containers"]
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container.get(name, {}).get("httpGet")
        if asked is None:
            yield f"it has no {name}"
        elif (asked.get("host", _NODE["status.hostIP"]), asked["port"]) != settings.metrics_address:
            yield f"{name} asks another address than metrics listens at, {settings.metrics}"


def _of_room(spec: Mapping[str, Any], settings: AgentSettings) -> Iterator[str]:
    (container,) = spec["containers"]
    limit = as_bytes(container["resources"]["limits"]["memory"])
    wanted = settings.memory + settings.ring_bytes + _PROCESS_BYTES
    if limit < wanted:
        yield f"its memory limit is below memory, ring and process: {wanted} bytes"
    for mount in container["volumeMounts"]:
        (volume,) = (v for v in spec["volumes"] if v["name"] == mount["name"])
        size = volume.get("emptyDir", {}).get("sizeLimit")
        folder = settings.spool.folder
        if folder is None:
            yield "it has no spool"
        elif folder.is_relative_to(mount["mountPath"]):
            if size is None or as_bytes(size) <= settings.spool.max_bytes:
                yield "the spool's volume is not larger than spool.max_bytes"
            return
    yield f"the spool's folder {settings.spool.folder} is on no volume"


def _of_way(objects: Objects, settings: AgentSettings) -> Iterator[str]:
    """See that what collectors send goes to the service, and by TLS where there is a Gateway."""
    to = urlsplit(settings.to)
    hosts = {
        (scheme, hostname)
        for kind, scheme in (("HTTPRoute", "https"), ("GRPCRoute", "grpcs"))
        for route in of_kind(objects, kind)
        for hostname in route["spec"]["hostnames"]
    }
    if hosts:
        if (to.scheme, to.hostname) not in hosts:
            yield f"it sends to {settings.to}, which is no route of the Gateway"
        return
    (service,) = of_kind(objects, "RayService")
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    if to.hostname != f"{name}-serve-svc.{namespace}":
        yield f"it sends to {settings.to}, which is not KubeRay's Service"
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    port = {"http": "http_options", "grpc": "grpc_options"}.get(to.scheme, "")
    if to.port != config.get(port, {}).get("port"):
        yield f"it sends to {settings.to}, where Serve does not listen"
