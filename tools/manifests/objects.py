"""The objects that an overlay is built to, and the pods that will come of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.errors import SettingsError

__all__ = [
    "Object",
    "Objects",
    "Pod",
    "build",
    "containers_of",
    "named",
    "of_kind",
    "pods_of",
    "programs",
    "ray_groups",
    "ray_service",
    "title",
]

Object = dict[str, Any]
Objects = Sequence[Mapping[str, Any]]
_TEMPLATED = {"DaemonSet", "StatefulSet", "Deployment", "Job"}


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as its template wants it.

    Attributes:
        owner: What makes it, such as ``DaemonSet/serveflow-collector``.
        namespace: Where.
        labels: Its template's; KubeRay and controllers add their own.
        spec: Its template's.
        claims: Volumes that its controller claims for it.
    """

    owner: str
    namespace: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    claims: frozenset[str] = frozenset()

    def as_object(self) -> Object:
        """Return it as an object of its own, for programs that do not look into a RayService."""
        name = self.owner.lower().replace("/", "-")
        metadata = {"name": name, "namespace": self.namespace, "labels": dict(self.labels)}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": dict(self.spec)}


def programs() -> Path:
    """Return the folder of the programs that manifests are checked with.

    Raises:
        SettingsError: They are not installed.
    """
    folder = Path(__file__).resolve().parents[2] / ".venv-k8s" / "bin"
    if not (folder / "kubectl").is_file():
        raise SettingsError(f"{folder}/kubectl is not there: run `make install-k8s`")
    return folder


def build(overlay: Path) -> list[Object]:
    """Return the objects of an overlay, as ``kubectl kustomize`` builds it.

    Raises:
        SettingsError: It cannot be built; the message says why.
    """
    done = subprocess.run(  # noqa: S603 (our own program and folder)
        [str(programs() / "kubectl"), "kustomize", str(overlay)], capture_output=True, text=True
    )
    if done.returncode or done.stderr:  # a warning is about something that will stop to work
        raise SettingsError(f"{overlay}: {done.stderr.strip()}")
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def title(found: Mapping[str, Any]) -> str:
    """Return how an object is called in messages."""
    return f"{found['kind']}/{found['metadata']['name']}"


def of_kind(objects: Objects, *kinds: str) -> list[Mapping[str, Any]]:
    """Return the objects of some kinds."""
    return [found for found in objects if found["kind"] in kinds]


def named(objects: Objects, kind: str, name: str) -> Mapping[str, Any]:
    """Return one object.

    Raises:
        SettingsError: It is not there.
    """
    for found in of_kind(objects, kind):
        if found["metadata"]["name"] == name:
            return found
    raise SettingsError(f"there is no {kind}/{name}")


def ray_service(objects: Objects) -> Mapping[str, Any]:
    """Return the one RayService.

    Raises:
        SettingsError: There is none, or there are several.
    """
    found = of_kind(objects, "RayService")
    if len(found) != 1:
        raise SettingsError(f"there are {len(found)} RayServices, not one")
    return found[0]


def ray_groups(service: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield head and worker groups of a RayService, by name."""
    cluster = service["spec"]["rayClusterConfig"]
    yield "head", cluster["headGroupSpec"]
    for group in cluster.get("workerGroupSpecs", []):
        yield str(group["groupName"]), group


def pods_of(objects: Objects) -> list[Pod]:
    """Return the pods that come of all objects."""
    pods = []
    for found in objects:
        namespace = str(found["metadata"].get("namespace", ""))
        if found["kind"] == "RayService":
            pods += [
                Pod(f"{title(found)}/{name}", namespace, labels, spec)
                for name, group in ray_groups(found)
                for labels, spec in [_template(group["template"])]
            ]
        elif found["kind"] in _TEMPLATED:
            labels, spec = _template(found["spec"]["template"])
            claims = found["spec"].get("volumeClaimTemplates", [])
            names = frozenset(claim["metadata"]["name"] for claim in claims)
            pods.append(Pod(title(found), namespace, labels, spec, names))
    return pods


def _template(template: Mapping[str, Any]) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    return template.get("metadata", {}).get("labels", {}), template["spec"]


def containers_of(pod: Pod) -> list[Mapping[str, Any]]:
    """Return a pod's containers, those that run before others included."""
    return [*pod.spec.get("initContainers", []), *pod.spec["containers"]]
