"""The overlays of ``k8s/``, built once; a plugin of the tests that want them."""

from __future__ import annotations

from typing import Any

import pytest

from tools.manifests.check import ROOT
from tools.manifests.objects import build

__all__ = ["built", "production"]

_OVERLAYS = ("dev", "production")


@pytest.fixture(scope="session")
def built() -> dict[str, list[dict[str, Any]]]:
    """The objects of each overlay."""
    return {name: build(ROOT / "k8s" / "overlays" / name) for name in _OVERLAYS}


@pytest.fixture(scope="session")
def production(built: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The objects of the overlay of which there is most to check."""
    return built["production"]
