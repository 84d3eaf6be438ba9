"""The documents hold what the kept results say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.report import DOCUMENTS, filled
from benchmarks.report_reliability import RELIABILITY_BLOCKS
from benchmarks.report_text import BLOCKS, markdown, newest
from benchmarks.results import kept
from flows.errors import SettingsError


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_documents_are_made_of_the_kept_results(path: Path) -> None:
    """Where this fails, run ``serveflow bench report``."""
    text = path.read_text()
    assert "<!-- bench:" in text
    assert filled(text, kept()) == text


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_picture_is_there_and_described(path: Path) -> None:
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", path.read_text(), re.DOTALL)
    assert pictures
    for told, file in pictures:
        assert len(told) > 40
        assert (path.parent / file).is_file()


def test_only_what_stands_between_marks_is_changed() -> None:
    text = "before\n<!-- bench:engine -->\nold\n<!-- /bench -->\nafter\n"
    made = filled(text, [])
    assert made.startswith("before\n<!-- bench:engine -->\n")
    assert made.endswith("\n<!-- /bench -->\nafter\n")
    assert "old" not in made
    assert filled(made, []) == made


def test_a_block_that_nobody_makes_is_refused() -> None:
    with pytest.raises(SettingsError, match="block nothing"):
        filled("<!-- bench:nothing -->\n<!-- /bench -->", [])


ALL = {**BLOCKS, **RELIABILITY_BLOCKS}


@pytest.mark.parametrize("name", ALL)
def test_without_a_result_a_block_says_how_to_get_one(name: str) -> None:
    command = {"overload": "service-rate --rate R --keep-going"}.get(name, name)
    assert f"serveflow bench {command} --save" in ALL[name]([])


def test_results_are_kept_in_the_order_of_time(tmp_path: Path) -> None:
    for name in ("scale-20260102T000000Z", "engine-20260101T000000Z", "engine-20260103T000000Z"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"made": name}))
    results = kept(tmp_path)
    assert [name[-16:-8] for name, _ in results] == ["20260101", "20260102", "20260103"]
    name, result = newest(results, "engine")[None]
    assert name == result["made"] == "engine-20260103T000000Z"


def test_a_table_has_its_numbers_flush_right() -> None:
    assert markdown(("a", "b"), [("x", "1")]) == "| a | b |\n|---|--:|\n| x | 1 |"
