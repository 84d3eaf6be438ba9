"""The collector's pod has the rights and the room that its settings want."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from namespaces import Namespace, namespace
from pods import COLLECTORS_RIGHTS, RAYS_RIGHTS, remove_aside, start_pod

__all__ = ["namespace"]

pytestmark = pytest.mark.e2e


def findings(
    namespace: Namespace, rights: tuple[str, ...], root: Path, folder: Path
) -> dict[str, set[str]]:
    """Return what ``serveflow doctor`` says in the pod, levels by check."""
    settings = yaml.safe_load((root / "k8s/base/collect.yaml").read_text())
    documents = yaml.safe_load_all((root / "k8s/base/collector.yaml").read_text())
    (daemon_set,) = (document for document in documents if document["kind"] == "DaemonSet")
    (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
    environment = {v["name"]: v["value"] for v in container["env"] if "value" in v}
    key = folder / "node-7"
    key.write_text("made-up-key")
    key.chmod(0o400)
    environment |= {
        # What Kubernetes puts in.
        "SERVEFLOW_COLLECT_NAME": "node-7",
        "SERVEFLOW_COLLECT_API_KEY_FILE": str(key),
        # No folder of this machine, and nobody who answers.
        "SERVEFLOW_COLLECT_SPOOL_FOLDER": "/tmp/spool",  # noqa: S108 (the pod's)
        "SERVEFLOW_COLLECT_TO": "http://127.0.0.1:9",
    }
    assert settings["spool"]["folder"] == "/var/lib/serveflow/spool"
    log = folder / "log"
    command = f"serveflow doctor --config {root}/k8s/base/collect.yaml --json 2>&1"
    pod = start_pod(namespace, rights, command, environment, log, [root, folder])
    pod.wait(100)
    remove_aside(namespace)
    try:
        checks = json.loads(log.read_text().splitlines()[-1])["checks"]
    except (ValueError, IndexError, KeyError):
        raise AssertionError(log.read_text()) from None
    found: dict[str, set[str]] = {}
    for check in checks:
        found.setdefault(check["check"], set()).add(check["level"])
    return found


def test_root_with_net_raw_alone_can_do_all_that_it_should(
    namespace: Namespace, root: Path, tmp_path: Path
) -> None:
    """Nothing fails but to reach the service, which is not there."""
    namespace.add_veth("tap0", "tap1")
    found = findings(namespace, COLLECTORS_RIGHTS, root, tmp_path)
    assert {check for check, levels in found.items() if "fail" in levels} == {"service"}, found
    assert len(found) > 6


def test_another_user_without_rights_cannot(
    namespace: Namespace, root: Path, tmp_path: Path
) -> None:
    namespace.add_veth("tap0", "tap1")
    found = findings(namespace, RAYS_RIGHTS, root, tmp_path)
    assert {check for check, levels in found.items() if "fail" in levels} > {"service"}, found
