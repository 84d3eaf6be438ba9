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


def made(**result: object) -> dict[str, object]:
    taken = {
        "commit": "abc", "cores": 2, "cpu": "made up", "load_1min": 0.5, "python": "3",
        "versions": {"numpy": "2"}, "settings": result.pop("settings", {}),
    }  # fmt: skip
    return {**result, "environment": taken}


def test_what_dies_is_told_with_what_it_cost() -> None:
    told = {"flows": 1000, "flows_per_second": 500.0, "missing": 7, "twice": 3, "other_label": 0}
    collector = made(
        **told, again=1, continued=2, killed={"collector": 2}, trackers=None,
        missing_by={"spooled": 0, "unread": 7}, packets_while_nobody_read=40,
        settings={"parts": ["collector"], "every_s": 1.0, "fake": True},
    )  # fmt: skip
    watched = {"others_that_lost_their_state": [], "others_s": 0.31, "usual_s": 0.2, "owner_s": 3.5}
    tracker = made(
        **told, killed={"FlowTracker": 5}, trackers=watched,
        settings={"parts": ["FlowTracker"], "every_s": 8.0},
    )  # fmt: skip
    before = made(**told, killed={"Router": 5, "proxy": 4}, settings={"parts": ["Router", "proxy"],
                                                                      "every_s": 3.0})  # fmt: skip
    text = ALL["kills"]([("kills-1", collector), ("kills-2", tracker), ("kills-3", before)])
    assert "| the collector, on its spool: 2 times, every 1 s, service made up | 1,000 |" in text
    assert "0 had been spooled, 7 had not been read (7 ms of flows a time" in text
    assert "silent for 0.31 s at most" in text
    assert "the killed one for 3.50 s" in text
    assert "| Router, proxy: 4 to 5 times, every 3 s |" in text


def test_what_grows_is_told_by_process() -> None:
    process = {"memory_mib": 200.4, "memory_mib_per_minute": 0.25, "open_files": [60, 60]}
    soak = made(
        seconds=600.0, processes={"ingress 17": process, "collector": process},
        load={"answered_per_second": 25_000.0, "lost_flows": 0},
        collector={"flows": 9, "open": 0, "refused_flows": 0},
    )  # fmt: skip
    text = ALL["soak"]([("soak-1", soak)])
    assert "| ingress | 200 | +0.25 | 60 |" in text
    assert "600 s; load generator: 25,000 final verdicts/s" in text


def test_the_wire_and_its_silence_are_told() -> None:
    rate = {
        "asked_per_second": None, "offered_per_second": 1e6, "ring_packets": 5, "kernel_drops": 0,
        "decode_us": 0.1, "decode_and_table_us": 0.2, "cores_used": 0.3,
    }  # fmt: skip
    live = ALL["live"]([("live-1", made(rates=[rate], frame_bytes=268.0))])
    assert "| top speed | 1,000,000 | 5 | 0 | 0.10 µs | 0.20 µs | 0.30 |" in live
    late = made(flows=60, timed_out=58, late_ms={"median": 80.0, "most": 120.0})
    assert "80 ms after the deadline at the median, 120 ms at most" in ALL["silence"](
        [("silence-1", late)]
    )
