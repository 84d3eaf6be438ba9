"""``serveflow bench`` keeps its contract for machines and says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Running

pytestmark = pytest.mark.e2e

ENVIRONMENT = {"cpu", "cores", "load_1min", "commit", "versions", "settings"}


def test_engine_tells_every_stage(cli: Any, test_runs: Path) -> None:
    done = cli("bench", "engine", test_runs / "run-01.pcap", "--rounds", 1, "--flows", 700)
    assert done.status == 0, done.told
    out = done.out
    assert out["flows"] >= 700
    assert out["flows"] % out["passes"] == 0
    stages = out["stages_us_per_flow"]
    tiers = {name for name in stages if name.startswith("tier ")}
    assert len(tiers) >= 2
    assert set(stages) - tiers == {
        "read_decode", "table", "first_packets", "features", "packet_side", "file_to_verdicts",
    }  # fmt: skip
    assert all(value > 0 for value in stages.values())
    whole_us = stages["file_to_verdicts"]
    assert out["new_flows_per_second_per_core"] == pytest.approx(1e6 / whole_us, rel=1e-3)
    assert out["packets_per_second_per_core"] > out["new_flows_per_second_per_core"]
    assert sum(out["answered_share"].values()) == pytest.approx(1.0, abs=1e-3)
    assert set(out["environment"]) >= ENVIRONMENT


def test_scale_tells_how_costs_grow(cli: Any, test_runs: Path) -> None:
    done = cli(
        "bench", "scale", test_runs / "run-01.pcap", "--most-flows", 10_000, "--rounds", 1
    )  # fmt: skip
    assert done.status == 0, done.told
    assert [one["open_flows"] for one in done.out["by_open_flows"]] == [1_000, 10_000]
    assert all(one["table_ns_per_packet"] > 0 for one in done.out["by_depth"])
    assert done.out["by_open_flows"][-1]["collector_bytes_per_flow"] > 0
    assert [one["trackers"] for one in done.out["by_trackers"]] == [1, 2, 4, 8]
    assert all(one["us_per_flow"] > 0 for one in done.out["by_batch_flows"])


def test_a_collector_that_is_killed_loses_nothing_that_it_had_spooled(
    cli: Any, test_runs: Path
) -> None:
    done = cli(
        "bench", "kills", test_runs / "run-01.pcap", "--fake", "--parts", "collector", "--spool",
        "--passes", 15, "--rate", 250, "--times", 2, "--every", 2,
    )  # fmt: skip
    assert done.status == 0, done.told
    out = done.out
    assert out["killed"] == {"collector": 2}
    assert not out["load_was_over"]
    assert out["missing_by"]["spooled"] == 0
    assert out["missing"] == out["missing_by"]["unread"]
    assert out["same_share"] > 0.9
    assert out["collector"]["spooled_bytes"] > 0
    assert set(out["environment"]) >= ENVIRONMENT


def test_what_stands_still_is_told(cli: Any) -> None:
    done = cli("bench", "pauses", "--seconds", 0.5, "--rate", 500)
    assert done.status == 0, done.told
    assert set(done.out["paused"]) == {"service", "sink"}
    assert all(one["flows"] == one["written"] > 0 for one in done.out["paused"].values())


def test_verdicts_on_a_silent_wire_come_after_their_deadlines(cli: Any, running: Running) -> None:
    done = cli("bench", "silence", "--flows", 20, "--url", running.separate)
    assert done.status == 0, done.told
    assert 0 < done.out["timed_out"] <= 20
    assert 0 < done.out["late_ms"]["median"] <= done.out["late_ms"]["most"]


def test_peers_are_compared_on_one_capture(cli: Any, test_runs: Path) -> None:
    """Those that are not installed are named, with how to get them."""
    done = cli(
        "bench", "peers", test_runs / "run-01.pcap", "--rounds", 1, "--flows", 1,
        "--only", "tshark", "--only", "ours: flow table", "--only", "ours: engine and cascade",
    )  # fmt: skip
    assert done.status == 0, done.told
    table, engine, tshark = done.out["peers"]
    assert table["flows"] == engine["flows"] == tshark["flows"] == done.out["flows"]
    for one in done.out["peers"]:
        assert one["flows_per_second_per_core"] == pytest.approx(
            one["flows"] / one["cpu_s"], rel=1e-3
        )
        assert one["does"]
    assert all(one["install"] for one in done.out["not_installed"])
    assert set(done.out["environment"]) >= ENVIRONMENT


def test_capacity_is_planned_from_the_kept_points(cli: Any) -> None:
    done = cli("bench", "capacity", "--rate", 100_000, "--utilisation", 0.5)
    assert done.status == 0, done.told
    told = done.out["plan"]
    assert told["rate"] == 100_000
    assert told["cores"] >= told["cores_used"] / 0.5
    assert set(told["parts"]) == {"ingress", "fast", "slow", "trackers"}
    assert all(one["utilisation"] <= 0.5 for one in told["parts"].values())
    assert done.out["check"], "no point is left for the check"
    assert not {one["point"] for one in done.out["check"]} & set(done.out["fitted_on"])


@pytest.mark.serve
@pytest.mark.parametrize("how", ["--spread", "--whole"])
def test_service_rate_holds_a_low_rate(cli: Any, running: Running, how: str) -> None:
    """Each flow of the load gets its final verdict; nothing is refused."""
    done = cli(
        "bench", "service-rate", "--url", running.separate, "--rate", 400, "--seconds", 1,
        "--warm-up", 0.5, "--rounds", 1, "--limit", 60_000, "--batch-flows", 100, how,
    )  # fmt: skip
    assert done.status == 0, done.told
    out = done.out
    assert out["held"] is True
    assert out["lost_flows"] == out["open_flows"] == out["refused_batches"] == 0
    assert out["new_flows_per_second"] == pytest.approx(400, rel=0.3)
    assert out["packets_per_second"] >= out["new_flows_per_second"]
    assert out["transport"] == "http"
    assert out["queue_p99_ms"] > 0
    assert out["batches_per_second"] > 0
    assert out["sent_bytes_per_flow"] > out["received_bytes_per_flow"] > 0
    assert out["cpu_ms_per_1000_flows"]["generator"] > 0
    assert out["status"]["holds"] is True
    assert set(out["environment"]) >= ENVIRONMENT


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["engine", "nowhere.pcap"], "there is no such file"),
        (["engine", "--bundle", "nowhere"], "nowhere"),
        (["service-rate", "--transport", "pigeon"], "there is http, grpc"),
        (["service-rate", "--keep-going"], "goes with --rate"),
        (["service-rate", "--url", "localhost"], "give an address such as http://127.0.0.1:8000"),
        (["service-rate", "--url", "http://127.0.0.1:1"], "Is the service running"),
        (["service-rate", "--placement", "nowhere"], "placement"),
        (["latency", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["peers", "--only", "nobody"], "there is ours: flow table"),
        (["capacity-points", "--load", "20000"], "RATE@COLLECTORS"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(cli: Any, arguments: list[str], said: str) -> None:
    done = cli("bench", *arguments)
    assert done.status == 1
    assert said in done.out["error"]
    assert "Traceback" not in done.told


def test_results_are_kept_when_asked_for(cli: Any, test_runs: Path, root: Path) -> None:
    """The file holds what was printed."""
    before = set((root / "docs" / "results").glob("*.json"))
    done = cli("bench", "engine", test_runs / "run-01.pcap", "--rounds", 1, "--flows", 1, "--save")
    (made,) = set((root / "docs" / "results").glob("*.json")) - before
    try:
        assert json.loads(made.read_text()) == done.out
    finally:
        made.unlink()
        if not any(made.parent.iterdir()):
            made.parent.rmdir()
