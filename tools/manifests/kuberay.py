"""What KubeRay refuses or gets wrong, and the schema of its CRD does not say.

After its ``validation.go``, ``pod.go`` and ``service.go`` (1.7), and complaints of its users.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tools.manifests.objects import ray_groups, title

__all__ = ["kuberay_problems"]

_LONGEST_NAME = 47
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_NO_EFFECT = ("serviceUnhealthySecondThreshold", "deploymentUnhealthySecondThreshold")
_RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
_AUTH_SINCE = (2, 52)
# In the selectors of KubeRay's Services and policies: set by us, they would match no pod.
_KUBERAYS_LABELS = re.compile(r"ray\.io/.*|app\.kubernetes\.io/(name|created-by)")
_HEAD_PORTS = ("gcs-server", "dashboard", "serve", "metrics", "as-metrics", "dash-metrics")


def kuberay_problems(service: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a RayService, in words."""
    found = [*_of_service(service), *_of_cluster(service)]
    for name, group in ray_groups(service):
        found += [f"group {name}: {problem}" for problem in _of_group(group)]
    return [f"{title(service)}: {problem}" for problem in found]


def _of_service(service: Mapping[str, Any]) -> Iterator[str]:
    name, spec = service["metadata"]["name"], service["spec"]
    if len(name) > _LONGEST_NAME:
        yield f"its name is longer than {_LONGEST_NAME} characters"
    if not _DNS_1035.fullmatch(name):
        yield "its name is none by DNS-1035 (a letter, then letters, digits and -)"
    for field in _NO_EFFECT:
        if field in spec:
            yield f"{field} has no effect any more"
    strategy = spec.get("upgradeStrategy", {}).get("type")
    if strategy != "NewCluster":
        yield f"upgradeStrategy is {strategy}: only NewCluster moves HTTP and gRPC together"
    if not spec.get("excludeHeadPodFromServeSvc"):
        yield "excludeHeadPodFromServeSvc is not set: the head would serve"
    annotations = service["metadata"].get("annotations", {})
    for annotation in ("ray.io/ft-enabled", "ray.io/external-storage-namespace"):
        if annotation in annotations:
            yield f"annotation {annotation}: gcsFaultToleranceOptions is the place"


def _of_cluster(service: Mapping[str, Any]) -> Iterator[str]:
    cluster = service["spec"]["rayClusterConfig"]
    head = cluster["headGroupSpec"]
    if "name" in head.get("headService", {}).get("metadata", {}):
        yield "headService.metadata.name must not be set"
    if head.get("enableIngress") or head.get("serviceType", "ClusterIP") != "ClusterIP":
        yield "the head would be reached from outside: whoever reaches it runs code there"
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield 'the head\'s num-cpus is not "0": replicas would run there'
    yield from _of_auth(cluster)
    yield from _of_fault_tolerance(cluster)
    if not cluster.get("enableInTreeAutoscaling"):
        yield "enableInTreeAutoscaling is not set: Serve could not get more workers"
    options = cluster.get("autoscalerOptions", {})
    if options.get("version") != "v2":
        yield "autoscalerOptions.version is not v2"
    if not options.get("securityContext"):
        yield "autoscalerOptions.securityContext is not set: the sidecar would be refused"
    declared = {port.get("name") for port in head["template"]["spec"]["containers"][0]["ports"]}
    for port in _HEAD_PORTS:
        if port not in declared:
            yield f"the head declares no port {port}: KubeRay's Services lack it"


def _of_auth(cluster: Mapping[str, Any]) -> Iterator[str]:
    auth = cluster.get("authOptions", {})
    if auth.get("mode") != "token":
        yield "authOptions.mode is not token: whoever reaches Ray's ports could run code"
    if auth.get("enableK8sTokenAuth"):
        yield "authOptions.enableK8sTokenAuth is refused for a RayService"
    version = re.match(r"(\d+)\.(\d+)\.", str(cluster.get("rayVersion", "")))
    if version is None:
        yield "rayVersion is missing, or none; authOptions needs it"
    elif tuple(map(int, version.groups())) < _AUTH_SINCE:
        yield "authOptions needs Ray 2.52 or later"


def _of_fault_tolerance(cluster: Mapping[str, Any]) -> Iterator[str]:
    head = cluster["headGroupSpec"]
    tolerant = "gcsFaultToleranceOptions" in cluster
    params, names = head.get("rayStartParams", {}), _variables(head)
    if not tolerant and "RAY_REDIS_ADDRESS" in names:
        yield "RAY_REDIS_ADDRESS is set without gcsFaultToleranceOptions"
    if tolerant:
        for name in sorted(names & {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"}):
            yield f"{name} is set beside gcsFaultToleranceOptions"
        if params.get("redis-password"):
            yield "rayStartParams.redis-password is set beside gcsFaultToleranceOptions"
    if params.get("redis-username") or "REDIS_USERNAME" in names:
        yield "a Redis user belongs into gcsFaultToleranceOptions.redisUsername"
    if "RAY_enable_autoscaler_v2" in names:
        yield "RAY_enable_autoscaler_v2 is set beside autoscalerOptions.version"


def _of_group(group: Mapping[str, Any]) -> Iterator[str]:
    params, template = group.get("rayStartParams", {}), group["template"]
    if "labels" in params:
        yield "rayStartParams.labels is refused: labels have a field of their own"
    twice = [name for name in _RESOURCES if params.get(name)]
    if twice and group.get("resources"):
        yield f"resources are in two places: rayStartParams.{twice[0]} and resources"
    for name, value in params.items():
        if not isinstance(value, str):
            yield f"rayStartParams.{name} is no string"
    if template["spec"].get("restartPolicy", "Never") != "Never":
        yield "restartPolicy must be Never, or left out, with autoscaler v2"
    if not template["spec"]["containers"][0]["name"].startswith("ray-"):
        yield "the first container is not Ray's (ray-…)"
    for label in template.get("metadata", {}).get("labels", {}):
        if _KUBERAYS_LABELS.fullmatch(label):
            yield f"label {label} is KubeRay's, and in its selectors"
    if "groupName" in group:
        least, most = group["minReplicas"], group["maxReplicas"]
        if not least <= group.get("replicas", least) <= most:
            yield f"replicas {group.get('replicas')} are not within {least} … {most}"
        if group.get("suspend"):
            yield "suspend is refused with the autoscaler"


def _variables(group: Mapping[str, Any]) -> set[str]:
    container = group["template"]["spec"]["containers"][0]
    return {variable["name"] for variable in container.get("env", [])}
