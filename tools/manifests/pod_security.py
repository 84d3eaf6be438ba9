"""Kubernetes' pod security standard "restricted", which a namespace may ask for.

After https://kubernetes.io/docs/concepts/security/pod-security-standards/; a pod that does not meet
it is refused when it is made, long after ``kubectl apply`` said yes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tools.manifests.objects import Objects, Pod, containers_of, of_kind, pods_of, title

__all__ = ["pod_security_problems"]

_LEVEL = "pod-security.kubernetes.io/enforce"
_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip


def pod_security_problems(objects: Objects) -> list[str]:
    """Return what is refused in namespaces, and namespaces that refuse nothing without a reason.

    The autoscaler, which KubeRay puts beside Ray's head, is checked as it will be.
    """
    found = []
    levels = {}
    for namespace in of_kind(objects, "Namespace"):
        level = namespace["metadata"].get("labels", {}).get(_LEVEL)
        if level not in ("restricted", "privileged"):
            found.append(f"{title(namespace)}: {_LEVEL} is {level}")
        levels[namespace["metadata"]["name"]] = level
    for pod in pods_of(objects):
        if pod.namespace not in levels:
            found.append(f"{pod.owner}: its namespace {pod.namespace} is not made here")
        if levels.get(pod.namespace) == "restricted":
            found += [f"{pod.owner}: {problem}" for problem in _of_pod(pod)]
    for service in of_kind(objects, "RayService"):
        options = service["spec"]["rayClusterConfig"].get("autoscalerOptions", {})
        head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
        sidecar = {"name": "autoscaler", "securityContext": options.get("securityContext", {})}
        found += [f"{title(service)}: {p}" for p in _of_container(sidecar, head)]
    return found


def _of_pod(pod: Pod) -> Iterator[str]:
    for setting in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(setting):
            yield f"{setting} is set"
    for volume in pod.spec.get("volumes", []):
        kinds = volume.keys() - {"name"} - _VOLUMES
        if kinds:
            yield f"volume {volume['name']} is of a kind that is refused: {min(kinds)}"
    for container in containers_of(pod):
        yield from _of_container(container, pod.spec)


def _of_container(container: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    name, own = container["name"], container.get("securityContext", {})
    both = {**spec.get("securityContext", {}), **own}
    if own.get("privileged"):
        yield f"container {name} is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"container {name}: allowPrivilegeEscalation is not false"
    if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
        yield f"container {name} may run as root"
    if "ALL" not in own.get("capabilities", {}).get("drop", []):
        yield f"container {name} does not drop ALL capabilities"
    if set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"container {name} adds capabilities"
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"container {name} has no seccomp profile"
    for port in container.get("ports", []):
        if port.get("hostPort"):
            yield f"container {name} has a host port"
