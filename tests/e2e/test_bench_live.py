"""``serveflow bench live`` keeps its contract for machines and says what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.live import LiveSettings, measure_live
from flows.errors import ServeFlowError, SettingsError

pytestmark = pytest.mark.e2e


def test_every_packet_offered_is_accounted_for(cli: Any, test_runs: Path) -> None:
    done = cli(
        "bench", "live", test_runs / "run-01.pcap", "--rate", 20_000, "--rate", 40_000,
        "--seconds", 1, "--rounds", 1,
    )  # fmt: skip
    assert done.status == 0, done.told
    slow, fast = done.out["rates"]
    assert (slow["asked_per_second"], fast["asked_per_second"]) == (20_000, 40_000)
    for one in (slow, fast):
        assert one["offered"] == one["ring_packets"] + one["kernel_drops"]
        assert one["frames"] == one["ring_packets"]
        assert 0 < one["decode_us"] < one["decode_and_table_us"]
        assert one["flows"] > 0
    assert {"cpu", "cores", "commit", "settings"} <= set(done.out["environment"])


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="apt-get install tcpreplay"):
        measure_live(LiveSettings([]))


def test_a_tcpreplay_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, test_runs: Path
) -> None:
    program = tmp_path / "tcpreplay"
    program.write_text("#!/bin/sh\necho no such luck\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(ServeFlowError, match="no such luck"):
        measure_live(LiveSettings([test_runs / "run-01.pcap"], rates=(0.0,), seconds=1, rounds=1))
