"""Check overlays, ours or your own: ``python -m tools.manifests.check k8s/overlays/production``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from flows.errors import SettingsError
from tools.manifests.collectors import collector_problems
from tools.manifests.kuberay import kuberay_problems
from tools.manifests.network import network_problems
from tools.manifests.objects import Objects, build, ray_service
from tools.manifests.pod_security import pod_security_problems
from tools.manifests.references import given_by_hand, reference_problems
from tools.manifests.scanners import core_problems, read_accepted, security_findings
from tools.manifests.schemas import schema_folder, schema_problems
from tools.manifests.serving import Versions, image_problems, serving_problems

__all__ = ["ACCEPTED", "DOCUMENTATION", "ROOT", "all_problems", "rule_problems"]

ROOT = Path(__file__).resolve().parents[2]
ACCEPTED = ROOT / "k8s" / "accepted-findings.yaml"
DOCUMENTATION = ROOT / "docs" / "kubernetes.md"


def rule_problems(objects: Objects) -> list[str]:
    """Return what our own rules say; they need no program and no schema."""
    by_hand = given_by_hand(DOCUMENTATION.read_text())
    rules: tuple[Callable[[], list[str]], ...] = (
        lambda: kuberay_problems(ray_service(objects)),
        lambda: serving_problems(ray_service(objects)),
        lambda: image_problems(objects, Versions(ROOT)),
        lambda: reference_problems(objects, by_hand),
        lambda: network_problems(objects),
        lambda: pod_security_problems(objects),
        lambda: collector_problems(objects),
    )
    return [problem for rule in rules for problem in rule()]


def all_problems(overlay: Path) -> list[str]:
    """Build an overlay and return all that is wrong with it.

    Raises:
        SettingsError: It cannot be built, or a program is not installed.
    """
    objects = build(overlay)
    found = rule_problems(objects) + core_problems(objects)
    accepted = read_accepted(ACCEPTED)
    found += [
        f"trivy: {f.named}: {f.check}" for f in security_findings(objects) if f not in accepted
    ]
    folder = schema_folder()
    if folder is None:
        print("custom objects are not checked by schema: SERVEFLOW_K8S_SCHEMAS names no folder")
    else:
        found += schema_problems(objects, folder)
    return found


def main(overlays: list[str]) -> int:
    """Print what is wrong with overlays; return 1 if anything is."""
    wrong = 0
    for overlay in overlays:
        try:
            problems = all_problems(Path(overlay))
        except SettingsError as error:
            problems = [str(error)]
        print(f"{overlay}: {len(problems)} problems")
        for problem in problems:
            print(f"  {problem}")
        wrong += len(problems)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
