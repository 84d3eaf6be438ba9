"""Write what in ``k8s/`` is made of something else: ``python -m tools.manifests.generate``.

``tests/k8s/test_generated.py`` fails when it was forgotten.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from flows.errors import SettingsError
from serveflow_app.serve_config import load_config
from serveflow_app.service_environment import service_settings
from tools.manifests.serve_config import EVERY, in_cluster

__all__ = ["ROOT", "generated"]

ROOT = Path(__file__).resolve().parents[2]
_MADE = "# Made by `python -m tools.manifests.generate` of {0}; do not edit.\n"
_ALERTS = ROOT / "monitoring" / "alerts.yaml"
# KubeRay sets it from authOptions.
_NOT_IN_PODS = {"RAY_AUTH_MODE"}


def generated() -> dict[str, str]:
    """Return the generated files, by their path in the repository."""
    config = load_config(ROOT / "serve_config.yaml")
    changes = yaml.safe_load((ROOT / "k8s" / "serve-config-changes.yaml").read_text())
    overlays = [name for name in changes if name != EVERY]
    configs = {name: in_cluster(config, changes, name) for name in overlays}
    files = {
        f"k8s/overlays/{name}/serve-config.yaml": _serve_config(changed)
        for name, changed in configs.items()
    }
    environments = {_environment(changed) for changed in configs.values()}
    if len(environments) != 1:
        raise SettingsError("changes: max_body_bytes must be one for all overlays (ray.env)")
    files["k8s/base/ray.env"] = environments.pop()
    files["k8s/base/prometheus-rule.yaml"] = _prometheus_rule(yaml.safe_load(_ALERTS.read_text()))
    return files


def _serve_config(config: dict[str, Any]) -> str:
    patch = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "serveflow", "namespace": "serveflow"},
        "spec": {"serveConfigV2": _Text(yaml.dump(config, Dumper=_Dumper, sort_keys=False))},
    }
    sources = "serve_config.yaml and k8s/serve-config-changes.yaml"
    return _MADE.format(sources) + yaml.dump(patch, Dumper=_Dumper, sort_keys=False)


def _environment(config: dict[str, Any]) -> str:
    settings = {k: v for k, v in service_settings(config).items() if k not in _NOT_IN_PODS}
    lines = [f"{name}={value}\n" for name, value in settings.items()]
    return _MADE.format("serveflow_app/service_environment.py, which says why") + "".join(lines)


def _prometheus_rule(rules: dict[str, Any]) -> str:
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "serveflow", "namespace": "serveflow"},
        "spec": rules,
    }
    return _MADE.format("monitoring/alerts.yaml") + yaml.dump(
        rule, Dumper=_Dumper, sort_keys=False, width=1000
    )


class _Text(str):
    """A text of several lines."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _as_block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")


_Dumper.add_representer(_Text, _as_block)


def main() -> int:
    """Write the files."""
    for path, text in generated().items():
        (ROOT / path).write_text(text)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
