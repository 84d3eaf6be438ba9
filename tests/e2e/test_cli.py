"""The command line as a user meets it: results, and errors that say what to do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import frames as f

pytestmark = pytest.mark.e2e


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "sound.pcap"
    path.write_bytes(f.pcap([f.ethernet(f.ipv4(f.tcp(p))) for p in range(1000, 1050)]))
    return path


def test_classify_gives_every_flow_a_verdict(cli: Any, capture: Path) -> None:
    result = cli("classify", capture)
    assert result.status == 0
    assert (result.out["flows"], result.out["final"], result.out["open"]) == (50, 50, 0)
    assert sum(result.out["by_tier"].values()) == 50
    assert sum(result.out["by_reason"].values()) == 50
    assert "weighted_f1" not in result.out, "no labels were given"


def test_a_damaged_capture_is_named_and_the_others_go_on(
    cli: Any, capture: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(capture.read_bytes()[:-5])
    other = tmp_path / "a[" / "b] radio.pcap"  # a name must not pass for markup
    other.parent.mkdir()
    other.write_bytes(f.pcap([b"x"], link=127))
    result = cli("classify", capture, cut, other)
    assert result.status == 0
    assert result.out["flows"] == 99, "what lies before the damage counts"
    reasons = {Path(d["capture"]).name: d["reason"] for d in result.out["damaged"]}
    assert set(reasons) == {cut.name, other.name}
    assert "cut off" in reasons["cut.pcap"]
    assert "link type 127" in reasons[other.name]
    assert "cut.pcap" in result.told
    assert cli("classify", cut, other).status == 1, "none was read to its end"


def test_a_flipped_byte_in_the_bundle_is_refused(
    cli: Any, capture: Path, bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    for file in sorted(p for p in copy.rglob("*") if p.is_file()):
        whole = file.read_bytes()
        broken = bytearray(whole)
        broken[len(broken) // 2] ^= 1
        file.write_bytes(broken)
        result = cli("classify", capture, "--bundle", copy)
        assert result.status == 1
        assert file.name in result.out["error"]
        file.write_bytes(whole)
    assert cli("serve", "--bundle", tmp_path).status == 1


def test_a_server_that_is_not_there(cli: Any, capture: Path) -> None:
    result = cli("replay", capture, "--to", "http://127.0.0.1:9")
    assert result.status == 1
    assert "Is the service running" in result.out["error"]


def test_an_unknown_key_in_the_configuration_is_named(cli: Any, root: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((root / "serve_config.yaml").read_text())
    path = tmp_path / "config.yaml"
    for place, key in (
        (config, "aplications"),
        (config["http_options"], "prot"),
        (config["applications"][0]["args"], "trakers"),
        (config["applications"][0]["deployments"][0], "num_replica"),
    ):
        place[key] = 1
        path.write_text(yaml.safe_dump(config))
        result = cli("serve", "--config", path)
        assert result.status == 1
        assert key in result.out["error"]
        del place[key]


def test_captures_that_are_not_there(cli: Any, tmp_path: Path) -> None:
    assert "no such file" in cli("classify", tmp_path / "absent.pcap").out["error"]
    assert "holds no" in cli("classify", tmp_path).out["error"]


def test_labels_that_do_not_fit_are_refused(cli: Any, capture: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("pcap,src_ip\nsound.pcap,1.2.3.4\n")
    result = cli("classify", capture, "--labels", labels)
    assert result.status == 1
    assert "labels.csv" in result.out["error"]


def test_an_unknown_rate_is_refused(cli: Any, capture: Path) -> None:
    result = cli("replay", capture, "--rate", "fast")
    assert result.status == 1
    assert "--rate fast" in result.out["error"]


def test_evaluate_compares_the_cascade_with_its_parts(
    cli: Any, bundle: Path, test_runs: Path
) -> None:
    result = cli(
        "evaluate", "--bundle", bundle, "--captures", test_runs,
        "--labels", test_runs / "labels.csv",
    )  # fmt: skip
    assert result.status == 0, result.told
    assert result.out["flows"] > 1000
    for part in ("cascade", "fast_only", "slow_only"):
        assert set(result.out[part]) >= {
            "weighted_f1", "macro_f1", "answered_within_16ms", "median_latency_ms",
            "p90_latency_ms", "escalated",
        }  # fmt: skip
    assert result.out["fast_only"]["escalated"] == 0
    assert result.out["slow_only"]["escalated"] == 1


def test_train_makes_a_bundle_that_classifies(
    cli: Any, test_runs: Path, capture: Path, tmp_path: Path
) -> None:
    """On the small test split, for time's sake; this bundle is thrown away."""
    result = cli(
        "train", "--captures", test_runs, "--labels", test_runs / "labels.csv",
        "--out", tmp_path / "bundle", timeout_s=230,
    )  # fmt: skip
    assert result.status == 0, result.told
    result = cli("classify", capture, "--bundle", tmp_path / "bundle")
    assert result.out["final"] == 50


@pytest.mark.parametrize(
    "command", ["demo", "serve", "replay", "classify", "train", "tune", "evaluate"]
)
def test_every_command_has_help(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from serveflow_app.cli import main; main()", command, "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "--json" in done.stdout
