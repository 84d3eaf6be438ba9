"""``serveflow demo``: the main job, on the embedded captures and bundle.

In a folder that comes first, so that it runs before the other tests' service takes the cores.
"""

from __future__ import annotations

from typing import Any

import pytest

from conftest import free_port

pytestmark = [pytest.mark.serve, pytest.mark.e2e]


def test_the_demo_settles_every_flow_and_shuts_down(cli: Any) -> None:
    port = free_port()
    result = cli("demo", "--speed", 30, "--port", port)
    assert result.status == 0, result.told
    out = result.out
    assert out["final"] == out["flows"] > 1000
    assert (out["open"], out["malformed"], out["damaged"]) == (0, 0, [])
    assert sum(out["by_tier"].values()) == out["flows"]
    assert out["weighted_f1"] > 0.5
    again = cli("replay", "--to", f"http://127.0.0.1:{port}", "/dev/null")
    assert again.status == 1, "nothing is left running"
