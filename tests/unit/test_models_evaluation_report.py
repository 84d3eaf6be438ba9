"""The report of an evaluation: what is written, and that it is the same again."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.errors import SettingsError
from models.cascade import load_cascade
from models.dataset import Dataset
from models.evaluation import assess
from models.evaluation_answers import Study, study
from models.report import check_report_folder, report_text, write_report
from models.report_tables import latency_table, pareto_table
from models.synthetic import synthetic_bundle, synthetic_dataset

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ("confusion", "latency", "pareto", "reliability")


@pytest.fixture
def studied(tmp_path: Path) -> tuple[Study, Dataset]:
    cascade = load_cascade(synthetic_bundle(tmp_path / "bundle"))
    data = synthetic_dataset(200, seed=2)
    large = data.packets["ip_bytes"][data.offsets[:-1]] > 100
    labels = np.where(large, "large", "small").astype("U8")
    labels[:4] = "a|b $x$"  # nothing in a label is markup
    data = replace(data, labels=labels, group_names=tuple(f"run-{i}.pcap" for i in range(8)))
    return study(cascade, data), data


def write(folder: Path, found: Study, data: Dataset) -> None:
    lasting = found.without_inference()
    write_report(folder, assess(lasting, data).to_dict(), lasting, found)


def test_a_report_holds_figures_their_data_and_a_card(
    studied: tuple[Study, Dataset], tmp_path: Path
) -> None:
    folder = tmp_path / "deep" / "report"
    write(folder, *studied)
    there = {path.name for path in folder.iterdir()}
    drawn = {f"{name}.{end}" for name in FIGURES for end in ("csv", "png")}
    assert there == {"report.md", "inference.csv", *drawn}
    card = (folder / "report.md").read_text()
    for name in FIGURES:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"({name}.png)" in card
    for word in (studied[0].model_version, "run-0.pcap", "run-7.pcap", "200 labelled", "a\\|b $x$"):
        assert word in card
    with (folder / "confusion.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["true", "small", "large", "a|b $x$"]
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == 200


def test_a_report_is_the_same_whatever_the_machine_took(
    studied: tuple[Study, Dataset], tmp_path: Path
) -> None:
    found, data = studied
    slower = replace(
        found, cascade=replace(found.cascade, infer_ns=found.cascade.infer_ns + 50_000_000)
    )
    write(tmp_path / "one", found, data)
    write(tmp_path / "two", slower, data)
    for path in (tmp_path / "one").iterdir():
        same = path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        assert same == (path.name != "inference.csv"), path.name


def test_the_sweep_reaches_from_the_first_tier_to_the_deepest(
    studied: tuple[Study, Dataset],
) -> None:
    found = studied[0]
    rows = pareto_table(found).rows
    at = {row[0]: row for row in rows if row[0] != "sweep"}
    sweep = [row for row in rows if row[0] == "sweep"]
    assert set(at) == {"cascade", "fast_only", "slow_only"}
    assert sweep[0][2] == 0.0
    assert sweep[-1][2:] == at["slow_only"][2:]
    waits = [row[2] for row in sweep]
    assert waits == sorted(waits), "a higher threshold never waits less"


def test_the_waits_are_a_distribution(studied: tuple[Study, Dataset]) -> None:
    rows = [row for row in latency_table(studied[0]).rows if row[0] == "slow_only"]
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    assert rows[-1][2] == pytest.approx(studied[0].slow_only.wait_ms.max(), abs=1e-4)


def test_one_capture_and_no_fast_tier_make_a_report_too(
    studied: tuple[Study, Dataset], tmp_path: Path
) -> None:
    found, data = studied
    bare = replace(found, fast_tiers=0, groups=np.zeros(200, np.int64), captures=("only.pcap",))
    write(tmp_path / "report", bare, data)
    card = (tmp_path / "report" / "report.md").read_text()
    assert "One capture gives no intervals" in card
    assert "fast only" not in card


def test_damage_and_families_stand_in_the_card(studied: tuple[Study, Dataset]) -> None:
    found, data = studied
    data = replace(data, damaged=(("run-1.pcap", "it is cut off"),))
    family_of = {"small": "s", "large": "l", "a|b $x$": "odd"}
    lasting = found.without_inference()
    card = report_text(assess(lasting, data, family_of).to_dict(), lasting)
    assert "run-1.pcap: it is cut off" in card
    assert "Families: l, odd, s." in card


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    check_report_folder(tmp_path)
    check_report_folder(tmp_path / "new")
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(SettingsError, match="a new or an empty folder"):
            check_report_folder(path)


def test_a_folder_that_cannot_be_made_is_told(
    studied: tuple[Study, Dataset], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SettingsError, match="cannot be written"):
        write(tmp_path / "file" / "report", *studied)


def test_without_matplotlib_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingsError, match=r"matplotlib .* pip install 'serveflow\[train\]'"):
        check_report_folder(tmp_path)


def test_one_module_alone_draws() -> None:
    drawing = {
        path.relative_to(ROOT).as_posix()
        for package in ("models", "serveflow_app", "flows", "collectors", "deployments")
        for path in (ROOT / package).rglob("*.py")
        if "matplotlib." in path.read_text() or "import matplotlib" in path.read_text()
    }
    assert drawing == {"models/figures.py"}
