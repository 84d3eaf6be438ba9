"""The overlays, built once."""

from __future__ import annotations

from typing import Any

import pytest

from tools.manifests.check import ROOT
from tools.manifests.objects import build

OVERLAYS = ("dev", "production")


@pytest.fixture(scope="session")
def built() -> dict[str, list[dict[str, Any]]]:
    """The objects of each overlay."""
    return {name: build(ROOT / "k8s" / "overlays" / name) for name in OVERLAYS}


@pytest.fixture(scope="session")
def production(built: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return built["production"]
