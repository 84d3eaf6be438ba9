"""Custom objects against the schemas of their definitions, where these are at hand.

The schemas belong to other projects and are not kept here. A folder of them, named by
``SERVEFLOW_K8S_SCHEMAS`` or at ``../shared/k8s``, holds JSON Schemas that are called
``<kind>_<version>.json`` or ``<kind>_<version>.strict.schema.json``, all in lower case.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from tools.manifests.objects import Objects, title

__all__ = ["CUSTOM_KINDS", "schema_folder", "schema_of", "schema_problems"]

CUSTOM_KINDS = (
    "RayService", "PodMonitor", "PrometheusRule", "HTTPRoute", "GRPCRoute", "Certificate",
)  # fmt: skip
"""Those that are checked by schema; a Gateway's was not at hand."""

_VARIABLE = "SERVEFLOW_K8S_SCHEMAS"
_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "k8s"


def schema_folder() -> Path | None:
    """Return the folder of the schemas, if there is one."""
    folder = Path(os.environ.get(_VARIABLE, _BESIDE))
    return folder if folder.is_dir() else None


def schema_of(folder: Path, found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the schema of an object; None: the folder has none."""
    name = f"{found['kind'].lower()}_{found['apiVersion'].rpartition('/')[2]}"
    for path in (folder / f"{name}.strict.schema.json", folder / f"{name}.json"):
        if path.is_file():
            schema: dict[str, Any] = json.loads(path.read_text())
            return schema
    return None


def schema_problems(objects: Objects, folder: Path) -> list[str]:
    """Return where custom objects depart from their schemas."""
    return [
        f"{title(found)}: {problem}"
        for found in objects
        if found["kind"] in CUSTOM_KINDS
        for problem in _of(found, schema_of(folder, found))
    ]


def _of(found: Mapping[str, Any], schema: dict[str, Any] | None) -> Iterator[str]:
    if schema is None:
        yield f"there is no schema of {found['kind']} {found['apiVersion']}"
        return
    for error in Draft202012Validator(schema).iter_errors(found):
        place = ".".join(str(part) for part in error.absolute_path)
        yield f"{place}: {error.message[:200]}"
