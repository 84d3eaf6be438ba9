"""What is made of something else is as that has it now."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from conftest import ROOT
from flows.errors import SettingsError
from serveflow_app.serve_config import load_config
from tools.manifests.generate import generated
from tools.manifests.serve_config import in_cluster


def test_generating_again_changes_nothing() -> None:
    files = generated()
    assert len(files) == 4
    for path, text in files.items():
        assert (ROOT / path).read_text() == text, "run python -m tools.manifests.generate"


@pytest.fixture
def config() -> dict[str, Any]:
    return load_config(ROOT / "serve_config.yaml")


def test_only_what_is_named_is_changed(config: dict[str, Any]) -> None:
    assert in_cluster(config, {"every": {}, "x": {}}, "x") == config
    changes = {
        "every": {"http_options": {"host": "0.0.0.0"}},  # noqa: S104 (written, not bound)
        "x": {
            "args": {"trackers": 3},
            "deployments": {
                "Router": {"autoscaling_config": {"max_replicas": 9}},
                "FlowTracker": {"ray_actor_options": {"num_cpus": 1}},
            },
        },
        "y": {"http_options": {"port": 1}},
    }
    changed = in_cluster(config, changes, "x")
    (app,) = changed["applications"]
    (before,) = config["applications"]
    assert changed["http_options"] == config["http_options"] | {"host": "0.0.0.0"}  # noqa: S104
    assert app["args"] == before["args"] | {"trackers": 3}
    deployments = {deployment["name"]: deployment for deployment in app["deployments"]}
    router = before["deployments"][0]
    scaling = router["autoscaling_config"] | {"max_replicas": 9}
    assert deployments["Router"] == router | {"autoscaling_config": scaling}
    trackers = [deployments[f"FlowTracker-{tracker}"] for tracker in range(3)]
    assert all(t["ray_actor_options"] == {"num_cpus": 1} for t in trackers)
    assert len(deployments) == 6
    assert deployments["FastModel"] == before["deployments"][1]
    assert config["http_options"]["host"] == "127.0.0.1", "what is given stays as it is"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"deployment": {}}, "unknown deployment"),
        ({"deployments": {"Rooter": {}}}, "no deployment Rooter"),
        ({"args": {"tracker": 3}}, "tracker: unknown key"),
    ],
)
def test_a_change_of_nothing_is_refused(
    config: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        in_cluster(config, {"every": {}, "x": change}, "x")


def test_each_alert_is_explained() -> None:
    rule = yaml.safe_load((ROOT / "k8s" / "base" / "prometheus-rule.yaml").read_text())
    alerts = [r["alert"] for g in rule["spec"]["groups"] for r in g["rules"] if "alert" in r]
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    _, _, section = text.partition("\n## What each alert means\n")
    explained = re.findall(r"^### (\w+)$", section.partition("\n## ")[0], re.MULTILINE)
    assert sorted(explained) == sorted(set(alerts))
    assert alerts
