"""The overlays of ``k8s/``, built once; a plugin of the tests that want them."""

from __future__ import annotations

from typing import Any

import pytest

from tools.manifests.check import ROOT
from tools.manifests.objects import build
from tools.manifests.schemas import schema_folder

__all__ = ["built", "production", "pytest_collection_modifyitems", "pytest_terminal_summary"]

_OVERLAYS = ("dev", "production")
_LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what wants the schemas of other projects, which are not kept here."""
    if schema_folder() is not None:
        return
    wanting = [item for item in items if "schemas" in getattr(item, "fixturenames", ())]
    items[:] = [item for item in items if item not in wanting]
    config.hook.pytest_deselected(items=wanting)
    config.stash[_LEFT_OUT] = len(wanting)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out."""
    if left_out := terminalreporter.config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(
            f"{left_out} checks of custom objects left out, as their schemas are not at hand: "
            "name a folder of them by SERVEFLOW_K8S_SCHEMAS"
        )


@pytest.fixture(scope="session")
def built() -> dict[str, list[dict[str, Any]]]:
    """The objects of each overlay."""
    return {name: build(ROOT / "k8s" / "overlays" / name) for name in _OVERLAYS}


@pytest.fixture(scope="session")
def production(built: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The objects of the overlay of which there is most to check."""
    return built["production"]
