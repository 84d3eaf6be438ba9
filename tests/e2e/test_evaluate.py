"""``serveflow evaluate`` as a user runs it, on the embedded bundle and its test runs."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


def evaluate(cli: Any, bundle: Path, test_runs: Path, *args: object) -> Any:
    return cli(
        "evaluate", "--bundle", bundle, "--captures", test_runs,
        "--labels", test_runs / "labels.csv", *args,
    )  # fmt: skip


@pytest.fixture(scope="module")
def reported(
    cli: Any, bundle: Path, test_runs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("reported") / "report"
    result = evaluate(cli, bundle, test_runs, "--report", folder)
    assert result.status == 0, result.told
    return result.out, folder


def test_every_part_of_the_findings_is_there(reported: tuple[dict[str, Any], Path]) -> None:
    found, _ = reported
    assert sum(row["flows"] for row in found["per_class"]) == found["flows"]
    counts = found["confusion"]["counts"]
    assert sum(map(sum, counts)) == found["flows"]
    assert len(counts) == len(found["confusion"]["labels"]) == len(found["per_class"])
    assert [tier["tier"] for tier in found["calibration"]] == found["tiers"]
    assert sum(tier["answered"] for tier in found["calibration"]) == found["flows"]
    assert found["families"] is None
    assert set(found["intervals"]) >= {"cascade", "slow_only", "difference"}
    assert [at["idle_timeout_s"] for at in found["by_idle_timeout"]] == [0, 1, 5, 15]
    assert {catch["errors"] for catch in found["escalation"]["to_catch"]} == {0.82, 0.95}
    f1 = found["escalation"]["weighted_f1"]
    assert f1["oracle"] >= f1["slow_only"]
    for part in ("cascade", "fast_only", "slow_only"):
        assert found[part]["mean_infer_us"] > 0
        assert found[part]["median_wait_ms"] <= found[part]["median_latency_ms"]


def test_the_report_is_written_and_nothing_is_overwritten(
    cli: Any, bundle: Path, test_runs: Path, reported: tuple[dict[str, Any], Path]
) -> None:
    found, folder = reported
    card = (folder / "report.md").read_text()
    assert found["model_version"] in card
    assert "run-01.pcap, run-02.pcap, run-03.pcap" in card
    assert len(list(folder.glob("*.png"))) == 4
    again = evaluate(cli, bundle, test_runs, "--report", folder)
    assert again.status == 1
    assert "a new or an empty folder" in again.out["error"]


def test_families_come_from_a_column(
    cli: Any, bundle: Path, test_runs: Path, tmp_path: Path
) -> None:
    with (test_runs / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = tmp_path / "labels.csv"
    with labels.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "family"])
        writer.writeheader()
        web = {"http", "https", "quic"}
        writer.writerows({**r, "family": "web" if r["label"] in web else "rest"} for r in rows)
    result = cli(
        "evaluate", "--bundle", bundle, "--captures", test_runs, "--labels", labels,
        "--family-column", "family",
    )  # fmt: skip
    assert result.status == 0, result.told
    assert result.out["families"]["families"] == ["rest", "web"]
    assert result.out["families"]["cascade"]["weighted_f1"] >= result.out["cascade"]["weighted_f1"]
    result = evaluate(cli, bundle, test_runs, "--family-column", "proto")
    assert result.status == 1
    assert "a label has one family" in result.out["error"]


def test_people_get_tables(bundle: Path, test_runs: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from serveflow_app.cli import main; main()", "evaluate",
         "--bundle", bundle, "--captures", test_runs, "--labels", test_runs / "labels.csv"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    assert done.stdout == "", "standard output is left to machines"
    for word in (
        "cascade",
        "slow only",
        "intervals",
        "oracle",
        "idle timeout",
        "bittorrent",
        "extra-trees-20@1",
    ):
        assert word in done.stderr
    assert "{" not in done.stderr
