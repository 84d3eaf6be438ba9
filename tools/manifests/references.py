"""Whether what objects name is there: Secrets, ConfigMaps, accounts, volumes, and files in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tools.manifests.objects import Objects, Pod, containers_of, of_kind, pods_of, title

__all__ = ["Given", "given_by_hand", "reference_problems"]

# In every namespace, by Kubernetes.
_EVERYWHERE = {("ConfigMap", "kube-root-ca.crt"): {"ca.crt"}}
_CREATE = re.compile(
    r"kubectl create secret generic (?P<name>\S+) -n (?P<namespace>\S+)"
    r"(?P<rest>(?:[^\n]*\\\n)*[^\n]*)"
)
_KEY = re.compile(r"--from-(?:file|literal)=([\w.-]+)=")
_FOLDER = re.compile(r"--from-file=[^\s=]+/(\s|$)")  # each file of it is a key


@dataclass(frozen=True, slots=True)
class Given:
    """A Secret or ConfigMap that is there.

    Attributes:
        kind: ``Secret`` or ``ConfigMap``.
        namespace: Where.
        name: Its name.
        keys: What is in it; None: nobody can say.
    """

    kind: str
    namespace: str
    name: str
    keys: frozenset[str] | None


def given_by_hand(documentation: str) -> list[Given]:
    """Return the Secrets that the documentation has the operator make."""
    given = []
    for found in _CREATE.finditer(documentation):
        keys = frozenset(_KEY.findall(found["rest"]))
        known = None if _FOLDER.search(found["rest"]) else keys
        given.append(Given("Secret", found["namespace"], found["name"], known))
    return given


def reference_problems(objects: Objects, by_hand: list[Given]) -> list[str]:
    """Return what is named and not there.

    Args:
        objects: All objects of an overlay.
        by_hand: Secrets that are made by hand, see :func:`given_by_hand`.
    """
    there = {(g.kind, g.namespace, g.name): g.keys for g in [*_made(objects), *by_hand]}
    accounts = {
        (account["metadata"]["namespace"], account["metadata"]["name"])
        for account in of_kind(objects, "ServiceAccount")
    }
    found = []
    for pod in pods_of(objects):
        for kind, name, key in _named(pod):
            if key in _EVERYWHERE.get((kind, name), ()):
                continue
            if (kind, pod.namespace, name) not in there:
                found.append(f"{pod.owner}: there is no {kind} {name} in {pod.namespace}")
                continue
            keys = there[kind, pod.namespace, name]
            if key is not None and keys is not None and key not in keys:
                found.append(f"{pod.owner}: {kind} {name} holds no {key}")
        account = pod.spec.get("serviceAccountName", "default")
        if (pod.namespace, account) not in accounts:
            found.append(f"{pod.owner}: there is no ServiceAccount {account} in {pod.namespace}")
        found += [f"{pod.owner}: {problem}" for problem in _of_volumes(pod)]
    for service in of_kind(objects, "RayService"):
        found += [f"{title(service)}: {problem}" for problem in _of_autoscaler(service)]
        for name, key in _of_ray_service(service):
            keys = there.get(("Secret", service["metadata"]["namespace"], name), frozenset())
            if keys is not None and key not in keys:
                found.append(f"{title(service)}: there is no Secret {name} that holds {key}")
    return found


def _made(objects: Objects) -> Iterator[Given]:
    for found in of_kind(objects, "Secret", "ConfigMap"):
        keys = frozenset({**found.get("data", {}), **found.get("stringData", {})})
        yield Given(found["kind"], found["metadata"]["namespace"], found["metadata"]["name"], keys)
    for found in of_kind(objects, "Certificate"):  # cert-manager writes it
        keys = frozenset({"tls.crt", "tls.key", "ca.crt"})
        yield Given("Secret", found["metadata"]["namespace"], found["spec"]["secretName"], keys)


def _named(pod: Pod) -> Iterator[tuple[str, str, str | None]]:
    """Yield kind, name and key (None: all) of what a pod takes from Secrets and ConfigMaps."""
    for container in containers_of(pod):
        for source in container.get("envFrom", []):
            for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if field in source:
                    yield kind, source[field]["name"], None
        for variable in container.get("env", []):
            value = variable.get("valueFrom", {})
            for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if field in value:
                    yield kind, value[field]["name"], value[field]["key"]
        for path, volume in _files(container, pod):
            if "secret" in volume:
                yield "Secret", volume["secret"]["secretName"], path
            elif "configMap" in volume:
                yield "ConfigMap", volume["configMap"]["name"], path
    for volume in pod.spec.get("volumes", []):
        for source in volume.get("projected", {}).get("sources", []):
            for field, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
                for item in source.get(field, {}).get("items", []):
                    yield kind, source[field]["name"], item["key"]


def _files(
    container: Mapping[str, Any], pod: Pod
) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    """Yield, for each mount, the volume with the file that is named in it, or None."""
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    texts = "\n".join(
        [v.get("value", "") for v in container.get("env", [])]
        + container.get("command", [])
        + container.get("args", [])
    )
    for mount in container.get("volumeMounts", []):
        volume = volumes.get(mount["name"], {})
        yield mount.get("subPath"), volume
        for name in re.findall(rf"{re.escape(mount['mountPath'])}/((?:[\w./-]|\$\(\w+\))+)", texts):
            yield name, volume


def _of_volumes(pod: Pod) -> Iterator[str]:
    there = {volume["name"] for volume in pod.spec.get("volumes", [])} | pod.claims
    for container in containers_of(pod):
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in there:
                yield f"container {container['name']} mounts {mount['name']}, which is no volume"


def _of_autoscaler(service: Mapping[str, Any]) -> Iterator[str]:
    cluster = service["spec"]["rayClusterConfig"]
    volumes = cluster["headGroupSpec"]["template"]["spec"].get("volumes", [])
    there = {volume["name"] for volume in volumes}
    for mount in cluster.get("autoscalerOptions", {}).get("volumeMounts", []):
        if mount["name"] not in there:
            yield f"the autoscaler mounts {mount['name']}, which is no volume of the head"


def _of_ray_service(service: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    cluster = service["spec"]["rayClusterConfig"]
    yield cluster["authOptions"]["secretName"], "auth_token"
    tolerance = cluster.get("gcsFaultToleranceOptions", {})
    reference = tolerance.get("redisPassword", {}).get("valueFrom", {}).get("secretKeyRef")
    if reference:
        yield reference["name"], reference["key"]
