"""Programs of others, on what stands beside the manifests: images, the interface, alert rules."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from conftest import ROOT
from tools.manifests.objects import programs
from tools.manifests.scanners import lint_problems

BUF = programs() / "buf"
# SC2016 takes what is meant for another shell, and so stands in single quotes, for a mistake.
HADOLINT = (programs() / "hadolint", "--ignore=SC2016")


def promtool_says(folder: Path, rules: object) -> list[str]:
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    return lint_problems(("promtool", "check", "rules", path), folder)


def test_images_are_made_as_they_should_be() -> None:
    dockerfiles = sorted((ROOT / "docker").glob("*Dockerfile"))
    assert len(dockerfiles) == 2
    for dockerfile in dockerfiles:
        assert lint_problems((*HADOLINT, dockerfile), ROOT) == []


def test_an_image_of_no_version_is_found(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN apt-get install curl\n")
    found = "\n".join(lint_problems((*HADOLINT, "Dockerfile"), tmp_path))
    assert "DL3006" in found
    assert "DL3008" in found


def test_the_interface_is_as_protobuf_wants_it(tmp_path: Path) -> None:
    assert lint_problems((BUF, "lint"), ROOT / "proto") == []
    copied = Path(shutil.copytree(ROOT / "proto", tmp_path / "proto"))
    (path,) = copied.rglob("*.proto")
    path.write_text(path.read_text().replace("FlowClassifierService", "FlowClassifier"))
    assert any("FlowClassifier" in problem for problem in lint_problems((BUF, "lint"), copied))


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    rule = yaml.safe_load((ROOT / "k8s" / "base" / "prometheus-rule.yaml").read_text())
    assert promtool_says(tmp_path, rule["spec"]) == []
    rule["spec"]["groups"][0]["rules"][0]["expr"] = "rate(x"
    assert any("parse expression" in problem for problem in promtool_says(tmp_path, rule["spec"]))


def test_alerts_fire_when_they_should() -> None:
    rules = sorted((ROOT / "monitoring").glob("*_test.yaml"))
    assert rules
    for path in rules:
        assert lint_problems(("promtool", "test", "rules", path), path.parent) == []
