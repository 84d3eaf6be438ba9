"""Programs of others that look at manifests; each in ``.venv-k8s`` or of a Debian package."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.errors import SettingsError
from tools.manifests.objects import Object, Objects, pods_of, programs
from tools.manifests.schemas import CUSTOM_KINDS

__all__ = ["Finding", "core_problems", "lint_problems", "read_accepted", "security_findings"]

_KUBERNETES = "1.37"
_OTHERS = {*CUSTOM_KINDS, "Gateway"}


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """What the scanner says of an object.

    Attributes:
        check: The check's id, such as ``KSV-0009``.
        named: The object, such as ``DaemonSet/serveflow-collector``.
    """

    check: str
    named: str


def _run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 (programs and files of ours)
        [str(part) for part in command], capture_output=True, text=True, cwd=cwd
    )


def _with_pods(objects: Objects) -> list[Object]:
    """Return objects of Kubernetes itself, with the pods of a RayService as pods."""
    pods = [pod.as_object() for pod in pods_of([o for o in objects if o["kind"] == "RayService"])]
    return [*(dict(found) for found in objects if found["kind"] not in _OTHERS), *pods]


def core_problems(objects: Objects) -> list[str]:
    """Return what ``kubernetes-validate`` says of Kubernetes' own objects, unknown fields too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "objects.yaml"
        path.write_text(yaml.safe_dump_all(_with_pods(objects)))
        command = (programs() / "kubernetes-validate", "--strict", "--quiet", "-k", _KUBERNETES)
        done = _run(*command, path)
    said = (done.stdout + done.stderr).replace(str(path), "").strip().splitlines()
    return said or (["kubernetes-validate failed without a word"] if done.returncode else [])


def security_findings(objects: Objects) -> list[Finding]:
    """Return what Trivy finds in objects, with the checks that are built into it."""
    named: dict[str, Object] = {}
    for found in _with_pods(objects):
        # Two objects of one name in two namespaces stay apart.
        named[f"{len(named)}.yaml"] = found
    with tempfile.TemporaryDirectory() as folder:
        for name, found in named.items():
            (Path(folder) / name).write_text(yaml.safe_dump(found))
        command = ("config", "--skip-check-update", "--skip-version-check", "--disable-telemetry")
        done = _run(programs() / "trivy", *command, "--quiet", "--format=json", folder)
    if done.returncode:
        raise SettingsError(f"trivy: {done.stderr.strip()}")
    results = json.loads(done.stdout).get("Results", [])
    if {result["Target"] for result in results} < named.keys():
        raise SettingsError("trivy looked at some of the objects only")
    return sorted(
        {
            Finding(finding["ID"], _titled(named[result["Target"]]))
            for result in results
            for finding in result.get("Misconfigurations", [])
        }
    )


def _titled(found: Mapping[str, Any]) -> str:
    name = str(found["metadata"]["name"])
    if found["kind"] == "ConfigMap":  # without the hash of its content
        name = name.rpartition("-")[0]
    return f"{found['kind']}/{name}"


def read_accepted(path: Path) -> dict[Finding, str]:
    """Return the findings that are accepted, each with its reason.

    Raises:
        SettingsError: One has no reason.
    """
    accepted = {}
    for entry in yaml.safe_load(path.read_text()):
        if not str(entry.get("reason", "")).strip():
            raise SettingsError(f"{path}: {entry['check']} has no reason")
        for named in entry["objects"]:
            accepted[Finding(entry["check"], named)] = str(entry["reason"])
    return accepted


def lint_problems(command: Iterable[str | Path], cwd: Path) -> list[str]:
    """Run a linter; return what it says, nothing if it is content."""
    done = _run(*command, cwd=cwd)
    if done.returncode == 0:
        return []
    return (done.stdout + done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
