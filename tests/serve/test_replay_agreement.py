"""The same verdicts by every way: HTTP and gRPC, with 4 trackers and with 1, and one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Running
from verdict_lines import read_verdicts

pytestmark = [pytest.mark.serve, pytest.mark.e2e]


def test_http_grpc_and_one_process_agree_on_every_flow(
    running: Running, cli: Any, test_runs: Path, tmp_path: Path
) -> None:
    runs = sorted(test_runs.glob("*.pcap"))
    assert runs
    results = [
        cli("classify", *runs, "--out", tmp_path / "classify"),
        cli("classify", *runs, "--trackers", 3, "--out", tmp_path / "classify-3"),
        cli("replay", *runs, "--to", running.separate, "--out", tmp_path / "http-4"),
        cli("replay", *runs, "--to", running.colocated, "--out", tmp_path / "http-1"),
        cli("replay", *runs, "--to", running.separate_grpc, "--out", tmp_path / "grpc-4"),
        cli("replay", *runs, "--to", running.colocated_grpc, "--out", tmp_path / "grpc-1"),
        cli("replay", *runs, "--to", running.separate, "--rate", "20", "--out", tmp_path / "paced"),
    ]
    for result in results:
        assert result.status == 0, result.told
        assert result.out["final"] == result.out["flows"] > 1000
        assert result.out["open"] == 0
    reference = read_verdicts(tmp_path / "classify")
    for name in ("classify-3", "http-4", "http-1", "grpc-4", "grpc-1", "paced"):
        assert read_verdicts(tmp_path / name) == reference, name


def test_the_summary_and_the_lines_say_the_same(
    running: Running, cli: Any, test_runs: Path, tmp_path: Path
) -> None:
    run = sorted(test_runs.glob("*.pcap"))[0]
    result = cli(
        "replay", run, "--to", running.separate, "--out", tmp_path / "v.jsonl",
        "--labels", test_runs / "labels.csv",
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert len(lines) == result.out["final"]
    for tier, flows in result.out["by_tier"].items():
        assert flows == sum(line["tier"] == tier for line in lines)
    for reason, flows in result.out["by_reason"].items():
        assert flows == sum(line["reason"] == reason for line in lines)
    assert set(lines[0]) == {
        "flow_id", "community_id", "src_ip", "src_port", "dest_ip", "dest_port", "proto",
        "start_time", "label", "confidence", "novelty", "tier", "packets_used", "reason",
        "model_version", "latency_ms",
    }  # fmt: skip
    assert set(lines[0]["latency_ms"]) == {"wait", "queue", "infer", "total"}
    assert 0 < result.out["macro_f1"] <= 1
    assert 0 < result.out["weighted_f1"] <= 1
