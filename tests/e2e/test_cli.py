"""The command line as a user meets it: results, and errors that say what to do."""

from __future__ import annotations

import os
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
    # One file of each kind; all of them: tests/unit/test_models_bundle.py.
    kinds = {p.suffix: p for p in sorted(copy.rglob("*")) if p.is_file()}
    assert len(kinds) > 1
    for file in kinds.values():
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
        "--out", tmp_path / "bundle", "--quick", "--no-port", "--no-host",
        "--operating-point", "accurate", "--max-f1-loss", 2, "--seed", 3, timeout_s=230,
    )  # fmt: skip
    assert result.status == 0, result.told
    report = result.out
    assert report["seconds"] > 1.0
    assert 50.0 < report["peak_memory_mib"] < 10_000.0
    assert (report["with_port"], report["with_host"]) == (False, False)
    assert report["operating_point"] == "accurate"
    assert report["loss_bound"] <= 0.02
    tried = {one["name"]: one for one in report["candidates"]}
    assert {name for name, one in tried.items() if one["tier"]} == {
        tier["name"] for tier in report["tiers"]
    }
    assert any(one["pareto"] for one in tried.values())
    assert not all(one["pareto"] for one in tried.values())
    result = cli("classify", capture, "--bundle", tmp_path / "bundle")
    assert result.out["final"] == 50


def test_train_shows_people_what_it_tried_and_chose(test_runs: Path, tmp_path: Path) -> None:
    done = plain(
        "train", "--captures", test_runs, "--labels", test_runs / "labels.csv",
        "--out", tmp_path / "bundle", "--quick", "--port", "--no-host", "--gate", "confidence",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "results for machines come with --json only"
    for word in (
        "models tried", "extra-trees-60@10+port", "µs at 1 ", "µs at 16", "µs at 256", "front",
        "weighted F1", "macro F1", "gate confidence", "operating point balanced", "always",
        "the same tiers by each gate", "≤ 16 ms", "escalated", "MiB at most", "wrote ",
    ):  # fmt: skip
        assert word in done.stderr, done.stderr
    assert "{" not in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--quick", "--effort", "full"), "--quick is short for --effort quick"),
        (("--effort", "lots"), "--effort lots: is none of quick, standard, full"),
        (("--operating-point", "fast"), "--operating-point fast: is none of balanced, accurate"),
        (("--gate", "luck"), "--gate luck: is none of benefit, confidence, margin, entropy"),
        (("--max-f1-loss", 101), "--max-f1-loss 101: must lie from 0 to 100"),
        (("--max-f1-loss", "nan"), "--max-f1-loss nan"),
        (("--time-limit", -1), "--time-limit -1: give minutes"),
        (("--preset", "thesis"), "--preset thesis: is none of search, paper"),
        (("--preset", "paper", "--quick"), "--preset paper has tiers of its own"),
    ],
)
def test_options_of_train_that_make_no_sense_are_refused(
    cli: Any, tmp_path: Path, options: tuple[object, ...], says: str
) -> None:
    """Before anything is read."""
    result = cli(
        "train", "--captures", tmp_path, "--labels", tmp_path, "--out", tmp_path / "out", *options
    )
    assert result.status == 1
    assert says in result.out["error"]


def test_train_has_help_that_teaches() -> None:
    done = plain("train", "--help")
    assert done.returncode == 0
    for word in (
        "--quick", "--effort", "--operating-point", "--max-f1-loss", "--no-port", "--no-host",
        "--gate", "--time-limit", "--seed", "--preset", "--json", "11,000 flows", "minutes",
        "Percentage", "captures", "serveflow tune",
    ):  # fmt: skip
        assert word in " ".join(done.stdout.split()), word


def plain(*args: object) -> subprocess.CompletedProcess[str]:
    """Run ``serveflow ARGS`` without ``--json``, on a wide terminal."""
    return subprocess.run(
        [sys.executable, "-c", "from serveflow_app.cli import main; main()", *map(str, args)],
        capture_output=True, text=True, check=False, timeout=200,
        env={**os.environ, "COLUMNS": "240", "NO_COLOR": "1"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "command", ["demo", "serve", "replay", "classify", "train", "tune", "evaluate"]
)
def test_every_command_has_help(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from serveflow_app.cli import main; main()", command, "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "--json" in done.stdout
