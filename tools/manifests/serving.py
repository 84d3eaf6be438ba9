"""Whether Ray's cluster, what Serve is told to run, and the image fit each other."""

from __future__ import annotations

import re
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.errors import SettingsError
from serveflow_app.serve_config import grpc_port_of, http_port_of, load_config
from tools.manifests.objects import Objects, containers_of, pods_of, ray_groups, ray_service, title

__all__ = ["Versions", "image_problems", "serve_config_of", "serving_problems"]

_RAY_IMAGE, _COLLECTOR_IMAGE = "serveflow", "serveflow-collector"
_HEAD_AND_NODES = "EveryNode"


class Versions:
    """The versions that ``pyproject.toml`` states.

    Args:
        root: The repository.

    Attributes:
        project: ServeFlow's.
        ray: Ray's, to which it is pinned.
    """

    def __init__(self, root: Path) -> None:
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        self.project: str = project["version"]
        (pin,) = (p for p in project["optional-dependencies"]["serve"] if p.startswith("ray["))
        self.ray: str = pin.partition("==")[2]


def serve_config_of(service: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a RayService has Serve run, checked as strictly as ``serveflow serve`` does.

    Raises:
        SettingsError: A key is unknown, or a value out of range.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serveConfigV2"
        path.write_text(service["spec"].get("serveConfigV2", ""))
        try:
            return load_config(path)
        except SettingsError as error:
            raise SettingsError(str(error).replace(str(path), "serveConfigV2")) from None


def image_problems(objects: Objects, versions: Versions) -> list[str]:
    """Return images whose tag is not that of these versions; a digest says nothing of them."""
    tags = {
        _RAY_IMAGE: f"{versions.project}-ray{versions.ray}",
        _COLLECTOR_IMAGE: versions.project,
    }
    found = []
    for pod in pods_of(objects):
        for container in containers_of(pod):
            name, tag, digest = _parts(container["image"])
            if not tag and not digest:
                found.append(f"{pod.owner}: {container['image']} has neither tag nor digest")
            elif tag == "latest":
                found.append(f"{pod.owner}: {container['image']}: latest is another every day")
            elif tag and name in tags and tag != tags[name]:
                found.append(f"{pod.owner}: {container['image']} is not of {tags[name]}")
    service = ray_service(objects)
    told = service["spec"]["rayClusterConfig"].get("rayVersion")
    if told != versions.ray:
        found.append(f"{title(service)}: rayVersion {told} is not pyproject.toml's {versions.ray}")
    images = {g["template"]["spec"]["containers"][0]["image"] for _, g in ray_groups(service)}
    if len(images) != 1:
        found.append(
            f"{title(service)}: head and workers have images of their own: {sorted(images)}"
        )
    return found


def _parts(image: str) -> tuple[str, str, str]:
    """Return the last part of an image's name, its tag and its digest."""
    rest, _, digest = image.partition("@")
    name, _, tag = rest.rpartition("/")[2].partition(":")
    return name, tag, digest


def serving_problems(service: Mapping[str, Any]) -> list[str]:
    """Return what of a Serve configuration does not fit its cluster."""
    try:
        config = serve_config_of(service)
    except SettingsError as error:
        return [f"{title(service)}: {error}"]
    found = [*_of_proxies(config), *_of_ports(service, config), *_of_sizes(service, config)]
    return [f"{title(service)}: {problem}" for problem in found]


def _of_proxies(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("proxy_location") != _HEAD_AND_NODES:
        yield f"proxy_location is not {_HEAD_AND_NODES}: workers would never be ready"
    http = config.get("http_options", {})
    if any(name.startswith("ssl_") for name in http):
        yield "http_options.ssl_…: KubeRay's probes speak plain HTTP; TLS is the Gateway's"
    if http.get("host") != "0.0.0.0":  # noqa: S104 (compared, not bound)
        yield "http_options.host is not 0.0.0.0: nobody outside the pod would get in"
    if config.get("grpc_options", {}).get("enable_reflection"):
        yield "grpc_options.enable_reflection is on: it tells strangers what there is"


def _of_ports(service: Mapping[str, Any], config: dict[str, Any]) -> Iterator[str]:
    wanted = {"serve": http_port_of(config), "serve-grpc": grpc_port_of(config)}
    for name, group in ray_groups(service):
        ports = group["template"]["spec"]["containers"][0].get("ports", [])
        declared = {port.get("name"): port["containerPort"] for port in ports}
        for port, number in wanted.items():
            if number and declared.get(port) != number:
                yield f"group {name}: port {port} is {declared.get(port)}, Serve's is {number}"


def _of_sizes(service: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (app,) = config["applications"]
    deployments = {deployment["name"]: deployment for deployment in app["deployments"]}
    router = deployments["Router"]
    if router.get("max_replicas_per_node") != 1:
        yield "Router: max_replicas_per_node is not 1: workers without one would have no proxy"
    least, most = _replicas(router)
    if least != sum(group["minReplicas"] for group in groups):
        yield f"Router: at least {least} replicas, but not as many workers"
    if most > sum(group["maxReplicas"] for group in groups):
        yield f"Router: up to {most} replicas, but not as many workers"
    for what, replicas, count in (("least", 0, "minReplicas"), ("most", 1, "maxReplicas")):
        wanted = sum(_cpus(d) * _replicas(d)[replicas] for d in deployments.values())
        there = sum(_worker_cpus(group) * group[count] for group in groups)
        if wanted > there:
            yield f"at {what} Serve wants {wanted:g} CPUs of workers that have {there:g}"
    for group in groups:
        largest = max(_cpus(deployment) for deployment in deployments.values())
        if largest > _worker_cpus(group):
            yield f"a replica of {largest:g} CPUs fits on no worker of {group['groupName']}"


def _replicas(deployment: Mapping[str, Any]) -> tuple[int, int]:
    scaling = deployment.get("autoscaling_config")
    if scaling is None:
        return (int(deployment.get("num_replicas", 1)),) * 2
    return int(scaling["min_replicas"]), int(scaling["max_replicas"])


def _cpus(deployment: Mapping[str, Any]) -> float:
    return float(deployment.get("ray_actor_options", {}).get("num_cpus", 1))


def _worker_cpus(group: Mapping[str, Any]) -> int:
    """Return how many CPUs KubeRay tells Ray of: the limit, in whole ones."""
    given = str(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    milli = re.fullmatch(r"(\d+)m", given)
    return -(-int(milli[1]) // 1000) if milli else int(given)
