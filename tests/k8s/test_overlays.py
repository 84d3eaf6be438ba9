"""The manifests as they stand: built, and looked at by all that looks at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from broken_objects import GONE, changed
from conftest import ROOT
from flows.errors import SettingsError
from tools.manifests.check import ACCEPTED, main, rule_problems
from tools.manifests.objects import build
from tools.manifests.scanners import core_problems, read_accepted, security_findings
from tools.manifests.schemas import CUSTOM_KINDS, schema_folder, schema_problems

pytest_plugins = ["built_overlays"]

Built = dict[str, list[dict[str, Any]]]
OVERLAYS = ["dev", "production"]
HEAD = "spec.rayClusterConfig.headGroupSpec.template.spec"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_our_rules_find_nothing(built: Built, overlay: str) -> None:
    assert rule_problems(built[overlay]) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_knows_every_field(built: Built, overlay: str) -> None:
    assert core_problems(built[overlay]) == []


@pytest.mark.parametrize(
    ("named", "path", "value", "said"),
    [
        ("RayService/serveflow", f"{HEAD}.containers.0.imagePolicy", "Always", "imagePolicy"),
        ("RayService/serveflow", f"{HEAD}.volumes.0.emptyDir.sizeLimits", "1Gi", "sizeLimits"),
        ("DaemonSet/serveflow-collector", "spec.template.spec.hostNet", True, "hostNet"),
        ("NetworkPolicy/names", "spec.egres", [], "egres"),
        ("PodDisruptionBudget/serveflow-workers", "spec.minAvailable", [2], "minAvailable"),
    ],
)
def test_a_field_that_is_none_is_found(
    production: list[dict[str, Any]], named: str, path: str, value: Any, said: str
) -> None:
    """In pods inside the RayService too, which the program itself does not look into."""
    (problem, *_) = core_problems(changed(production, named, path, value))
    assert said in problem


def test_the_scanner_finds_what_is_accepted_and_nothing_else(built: Built) -> None:
    """Each finding has its reason in the file; one that is gone has to go from there."""
    found = {finding for objects in built.values() for finding in security_findings(objects)}
    assert found == set(read_accepted(ACCEPTED))


def test_the_scanner_finds_what_is_new(production: list[dict[str, Any]]) -> None:
    context = f"{HEAD}.containers.0.securityContext"
    for path, value in ((f"{context}.privileged", True), (f"{context}.capabilities", GONE)):
        found = security_findings(changed(production, "RayService/serveflow", path, value))
        assert set(found) - set(read_accepted(ACCEPTED))


def test_what_is_accepted_needs_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "accepted.yaml"
    path.write_text("- {check: KSV-0009, objects: [Pod/x], reason: ' '}")
    with pytest.raises(SettingsError, match="KSV-0009 has no reason"):
        read_accepted(path)


@pytest.fixture
def schemas() -> Path:
    """Where they are not at hand, tests that want them are left out (built_overlays.py)."""
    folder = schema_folder()
    assert folder is not None
    return folder


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_custom_objects_are_as_their_definitions_say(
    built: Built, overlay: str, schemas: Path
) -> None:
    kinds = {found["kind"] for found in built[overlay]}
    assert kinds >= {"RayService", "PodMonitor", "PrometheusRule"}
    assert (overlay == "dev") or kinds >= set(CUSTOM_KINDS)
    assert schema_problems(built[overlay], schemas) == []


@pytest.mark.parametrize(
    ("named", "path", "value"),
    [
        ("RayService/serveflow", "spec.upgradeStrategi", {"type": "NewCluster"}),
        ("RayService/serveflow", "spec.rayClusterConfig.headGroupSpec", GONE),
        ("RayService/serveflow", "spec.rayClusterConfig.workerGroupSpecs.0.minReplicas", GONE),
        ("RayService/serveflow", f"{HEAD}.containers.0.ports.0.containerPort", "gcs"),
        ("HTTPRoute/serveflow", "spec.rules.0.matches.0.path.type", "Prefix"),
        ("GRPCRoute/serveflow", "spec.rules.0.backendRefs.0.port", 0),
        ("Certificate/serveflow-tls", "spec.issuerRef", GONE),
        ("PodMonitor/serveflow-ray", "spec.selector", GONE),
        ("PrometheusRule/serveflow", "spec.groups.0.rules.0.expr", GONE),
    ],
)
def test_departures_from_the_definitions_are_found(
    production: list[dict[str, Any]], schemas: Path, named: str, path: str, value: Any
) -> None:
    assert schema_problems(changed(production, named, path, value), schemas)


def overlay_of(folder: Path, text: str) -> Path:
    """Write an overlay of the repository's base, as an operator would."""
    # kustomize takes relative paths alone.
    base = "../" * (len(folder.parts) - 1) + str(ROOT / "k8s").lstrip("/")
    (folder / "kustomization.yaml").write_text(text.replace("K8S", base))
    return folder


def test_an_overlay_of_ones_own_is_checked_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "resources: [K8S/overlays/production]\n"
        "images: [{name: serveflow/serveflow, newTag: 0.1.0-ray2.9.0}]\n"
    )
    assert main([str(overlay_of(tmp_path, text))]) == 1
    assert "serveflow/serveflow:0.1.0-ray2.9.0 is not of" in capsys.readouterr().out
    text = text.replace(
        "newTag: 0.1.0-ray2.9.0", f"newName: r.example/s, digest: 'sha256:{'0' * 64}'"
    )
    assert main([str(overlay_of(tmp_path, text))]) == 0


def test_prometheus_can_be_had_to_scrape_collectors(tmp_path: Path) -> None:
    text = "resources: [K8S/overlays/production]\ncomponents: [K8S/components/collector-metrics]\n"
    objects = build(overlay_of(tmp_path, text))
    assert rule_problems(objects) == []
    assert core_problems(objects) == []
    assert any(found["metadata"]["name"] == "serveflow-collector" for found in objects
               if found["kind"] == "PodMonitor")  # fmt: skip


def test_what_cannot_be_built_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": ["nothing.yaml"]}))
    assert main([str(tmp_path)]) == 1
    assert "nothing.yaml" in capsys.readouterr().out
