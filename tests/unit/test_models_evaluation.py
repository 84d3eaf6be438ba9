"""What an evaluation makes of answers: scores by class, intervals, escalation, confidence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.errors import LabelsError
from flows.verdict import Reason
from models.bundle import read_bundle
from models.calibration import calibration_error
from models.cascade import NO_TIER, Cascade, Tier, load_cascade
from models.dataset import Dataset
from models.evaluation import assess
from models.evaluation_answers import Answers, Study, Way, answer_all, study
from models.evaluation_calibration import by_chance, calibration, debiased, reliability
from models.evaluation_classes import confusion, families, per_class, read_families
from models.evaluation_escalation import escalation, share_to_catch
from models.evaluation_intervals import intervals, resampled
from models.evaluation_timeouts import by_idle_timeout, percentiles
from models.metrics import f1_scores
from models.synthetic import synthetic_bundle, synthetic_dataset

MS = 1_000_000


def way(said: list[int], tier: list[int], confidence: float = 0.9, wait_ms: int = 0) -> Way:
    n = len(said)
    tiers = np.array(tier, np.uint8)
    return Way(
        np.array(said),
        np.full(n, confidence, np.float32),
        tiers,
        np.where(tiers > 0, wait_ms * MS, 0),
        np.full(n, 1_000),
    )


def made() -> Study:
    """Eight flows in two captures: a tier on packet 1 and one on ten, and an unknown label."""
    true = [0, 0, 0, 1, 1, 1, 2, 2]
    fast = way([0, 1, 1, 1, 0, 1, 0, 0], [0] * 8)
    fast = replace(fast, confidence=np.array([9, 1, 8, 9, 2, 9, 3, 9], np.float32) / 10)
    slow = way([0, 0, 0, 1, 1, 0, 1, 0], [1] * 8, 0.8, wait_ms=100)
    both = way([0, 0, 1, 1, 1, 1, 1, 0], [0, 1, 0, 0, 1, 0, 1, 0], wait_ms=100)
    return Study(
        model_version="0123456789ab",
        tiers=(Tier("first@1", 1), Tier("last@10", 10)),
        fast_tiers=1,
        names=("web", "name", "strange"),
        true=np.array(true),
        groups=np.array([0, 0, 0, 0, 1, 1, 1, 1]),
        captures=("a.pcap", "b.pcap"),
        sizes=np.array([10, 10, 10, 3, 10, 10, 1, 1]),
        cascade=both,
        alone=(fast, slow),
        by_idle_timeout=(Answers(0.0, both, slow), Answers(5.0, both, slow)),
    )


def test_each_class_is_judged_by_itself() -> None:
    rows = {row["label"]: row for row in per_class(made())}
    assert list(rows) == ["web", "name", "strange"]
    assert rows["web"]["precision"] == round(2 / 3, 4)
    assert rows["web"]["recall"] == round(2 / 3, 4)
    assert rows["web"]["escalated"] == round(1 / 3, 4)
    assert rows["name"]["precision"] == 0.6
    assert rows["name"]["recall"] == 1.0
    assert rows["name"]["median_wait_ms"] == 0.0
    assert rows["name"]["median_latency_ms"] == 0.001
    assert rows["strange"]["precision"] is None, "nobody claims it"
    assert (rows["strange"]["recall"], rows["strange"]["f1"]) == (0.0, 0.0)
    assert rows["strange"]["mean_infer_us"] == 1.0


def test_a_class_that_is_only_claimed_has_no_recall() -> None:
    found = replace(made(), true=np.array([0, 0, 0, 0, 0, 0, 2, 2]))
    row = next(row for row in per_class(found) if row["label"] == "name")
    assert (row["flows"], row["recall"], row["median_latency_ms"]) == (0, None, None)
    assert row["precision"] == 0.0


def test_the_confusion_matrix_counts_flows_by_true_label_and_by_what_was_said() -> None:
    found = confusion(made())
    assert found["labels"] == ["web", "name", "strange"]
    assert found["counts"] == [[2, 1, 0], [0, 3, 0], [1, 1, 0]]


def test_labels_of_one_family_count_as_one() -> None:
    found = families(made(), {"web": "known", "name": "known", "strange": "other"})
    assert found["families"] == ["known", "other"]
    # 6 of "known", said of all 8: F1 12/14; "other": 0.
    assert found["cascade"]["weighted_f1"] == round(12 / 14 * 6 / 8, 4)
    assert found["cascade"]["macro_f1"] == round(6 / 14, 4)
    with pytest.raises(LabelsError, match="strange"):
        families(made(), {"web": "known", "name": "known"})


def test_a_class_without_a_family_can_be_claimed() -> None:
    study_ = replace(made(), true=np.array([0] * 8))
    found = families(study_, {"web": "known"})
    assert found["cascade"]["macro_f1"] < found["cascade"]["weighted_f1"] < 1.0


def test_families_are_read_from_a_column(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("label,family\nweb,known\nweb,known\nname,known\nodd,\n")
    assert read_families(path, "label", "family") == {"web": "known", "name": "known"}
    with pytest.raises(LabelsError, match="kin are missing"):
        read_families(path, "label", "kin")
    with pytest.raises(LabelsError, match="cannot be read"):
        read_families(tmp_path / "absent.csv", "label", "family")
    path.write_text("label,family\nweb,known\nweb,other\n")
    with pytest.raises(LabelsError, match=r"line 3: web .* other.* known"):
        read_families(path, "label", "family")


def test_a_tier_is_judged_on_what_it_is_asked() -> None:
    first, last = calibration(made())
    assert (first["flows"], first["asked"], first["answered"]) == (8, 8, 5)
    assert (last["flows"], last["asked"], last["answered"]) == (8, 3, 3)
    assert first["ece"] == first["ece_asked"]
    assert last["ece"] != last["ece_asked"]
    assert last["accuracy"] == round(2 / 3, 4)
    assert last["ece_asked"] == round(0.8 - 2 / 3, 4)
    assert last["bins"] == [
        {"low": 0.8, "high": 0.8667, "flows": 3, "confidence": 0.8, "accuracy": 0.6667}
    ]


def test_a_tier_that_nothing_reaches_has_no_calibration() -> None:
    found = made()
    alone = replace(found, cascade=replace(found.cascade, tier=np.zeros(8, np.uint8)))
    assert calibration(alone)[1]["ece_asked"] is None
    assert calibration(alone)[1]["rms_asked_debiased"] is None
    assert calibration(alone)[1]["ece"] is not None
    assert calibration(alone)[1]["bins"] == []
    assert calibration(alone)[1]["by_chance"] is None


def test_a_flow_short_of_packets_is_not_asked_of_a_tier_between() -> None:
    found = made()
    between = replace(
        found,
        tiers=(Tier("first@1", 1), Tier("between@5", 5), Tier("last@10", 10)),
        cascade=replace(found.cascade, tier=np.array([0, 1, 2, 2, 2, 2, 2, 2], np.uint8)),
    )
    assert between.asked(1).tolist() == [False, True, True, False, True, True, False, False]
    assert between.asked(2).tolist() == [False, False] + [True] * 6


def test_a_perfect_tier_shows_an_error_too_the_more_the_fewer_its_flows() -> None:
    rng = np.random.default_rng(3)
    confidence = rng.random(20_000).astype(np.float32)
    errors = [by_chance(confidence[:n]) for n in (50, 500, 20_000)]
    means = [one["mean"] for one in errors]
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.08
    assert means[-1] < 0.01
    assert all(one["mean"] < one["p95"] for one in errors)
    assert by_chance(confidence[:50]) == errors[0], "it is the same each time"
    shown = [calibration_error(confidence[:500], rng.random(500) < confidence[:500])
             for _ in range(40)]  # fmt: skip
    assert np.mean(shown) == pytest.approx(errors[1]["mean"], abs=0.006)
    assert by_chance(np.ones(30, np.float32)) == {"mean": 0.0, "p95": 0.0}


def test_of_a_perfect_tier_nothing_is_left_and_of_another_what_it_is_off_by() -> None:
    """Of 400 flows in 9 bins chance alone makes the mean square .22 * 9 / 400."""
    rng = np.random.default_rng(4)
    off: dict[float, list[float]] = {0.0: [], 0.1: []}
    for by, squares in off.items():
        for _ in range(300):
            confidence = rng.uniform(0.2, 0.8, 400).astype(np.float32)
            right = rng.random(400) < confidence - by
            squares.append(debiased(confidence, right) ** 2)
    assert np.mean(off[0.0]) < 0.22 * 9 / 400 / 5, "sums below 0 count as 0: a little is left"
    assert np.mean(off[0.1]) == pytest.approx(0.1**2, rel=0.1)
    assert debiased(np.array([0.9], np.float32), np.array([False])) == 0.0


def test_the_bins_hold_what_the_calibration_error_sums() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(2_000, np.float32)
    right = rng.random(2_000) < confidence**2
    bins = reliability(confidence, right)
    gaps = sum(b["flows"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / 2_000
    assert gaps == pytest.approx(calibration_error(confidence, right), abs=1e-4)


def test_a_draw_of_every_capture_once_gives_the_figures_themselves() -> None:
    found = made()
    for own in (found.cascade, found.slow_only):
        weighted, macro, soon = resampled(found, own, found.groups, np.ones((1, 2)))[0]
        scores = f1_scores(found.true, own.said)
        assert weighted == pytest.approx(scores["weighted_f1"])
        assert macro == pytest.approx(scores["macro_f1"])
        assert soon == (own.latency_ms <= 16).mean()


def test_a_draw_counts_a_capture_as_often_as_it_is_drawn() -> None:
    found = made()
    twice = resampled(found, found.cascade, found.groups, np.array([[0.0, 2.0]]))[0]
    rows = found.groups == 1
    scores = f1_scores(found.true[rows], found.cascade.said[rows])
    assert twice[:2].tolist() == pytest.approx([scores["weighted_f1"], scores["macro_f1"]])


def test_intervals_hold_the_estimate_and_are_the_same_again() -> None:
    rng = np.random.default_rng(1)
    n = 1_200
    true = rng.integers(0, 3, n)
    said = np.where(rng.random(n) < 0.8, true, 0)
    base = made()
    own = replace(way(said.tolist(), [0] * n), said=said)
    found = replace(base, true=true, groups=rng.integers(0, 12, n), cascade=own, alone=(own, own))
    first = intervals(found)
    assert first is not None
    assert first == intervals(found)
    for name, value in first["cascade"].items():
        assert value["low"] <= value["estimate"] <= value["high"], name
    assert first["cascade"]["weighted_f1"]["low"] < first["cascade"]["weighted_f1"]["high"]
    # Paired: two ways that say the same differ in no draw.
    assert set(first["difference"]["weighted_f1"].values()) == {0.0}


def test_one_capture_gives_no_interval() -> None:
    assert intervals(replace(made(), groups=np.zeros(8, np.int64))) is None


def test_escalation_is_held_against_an_oracle_and_chance() -> None:
    found = escalation(made())
    assert found is not None
    # Wrong on packet 1: flows 1, 2, 4, 6, 7; right at the deepest tier: 1, 2, 4.
    assert (found["fast_errors"], found["benefit_flows"]) == (5, 3)
    assert found["benefit_escalated"] == round(2 / 3, 4)
    assert found["fast_errors_caught"] == 0.6
    assert found["escalated"] == 0.375
    f1 = found["weighted_f1"]
    assert f1["oracle"] >= max(f1.values())
    assert f1["fast_only"] < f1["random"] < f1["oracle"]
    # The three least sure flows: 1, 4, 6.
    said = np.array([0, 0, 1, 1, 1, 1, 1, 0])
    assert f1["least_confidence"] == round(f1_scores(made().true, said)["weighted_f1"], 4)
    assert found == escalation(made())


def test_without_a_tier_on_packet_1_nothing_is_escalated() -> None:
    assert escalation(replace(made(), fast_tiers=0)) is None


def test_errors_are_caught_from_the_least_sure_on() -> None:
    confidence = np.arange(100, dtype=np.float32) / 100
    wrong = np.zeros(100, bool)
    wrong[[5, 10, 20, 90]] = True
    key = "escalated"
    assert share_to_catch(confidence, wrong, 0.75)[key] == 0.21
    assert share_to_catch(confidence, wrong, 0.76)[key] == 0.91
    assert share_to_catch(confidence, wrong, 0.75)["escalated_ties_by_chance"] == 0.21
    assert share_to_catch(confidence, np.zeros(100, bool), 0.5)[key] is None


def test_flows_of_equal_confidence_go_together_or_by_chance() -> None:
    confidence = np.repeat(np.array([0.2, 0.9], np.float32), [10, 90])
    wrong = np.zeros(100, bool)
    wrong[[0, 1, 50]] = True
    found = share_to_catch(confidence, wrong, 1.0)
    assert found == {"escalated": 1.0, "escalated_ties_by_chance": round((10 + 91 / 2) / 100, 4)}


def test_percentiles_are_of_all_flows() -> None:
    found = percentiles(np.arange(101, dtype=np.float64))
    assert found == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "mean": 50.0, "within_16ms": 0.1683}


def test_waits_are_compared_for_all_and_for_long_flows() -> None:
    first, second = by_idle_timeout(made())
    assert (first["idle_timeout_s"], second["idle_timeout_s"]) == (0.0, 5.0)
    assert first["flows"] == 8
    assert first["cascade"]["wait_ms"]["mean"] == 37.5
    assert first["slow_only"]["wait_ms"]["p50"] == 100.0
    assert first["cascade"]["mean_infer_us"] == 1.0
    assert first["slow_over_cascade"]["mean"] == pytest.approx(100.001 / 37.501, abs=0.01)
    assert first["long_flows"]["flows"] == 5
    instant = by_idle_timeout(made().without_inference())[0]
    assert instant["slow_over_cascade"]["median"] is None, "the cascade's median wait is 0"
    short = replace(made(), sizes=np.ones(8, np.int64))
    assert by_idle_timeout(short)[0]["long_flows"] is None


def flows_of(times_ms: list[list[int]], over_ms: list[int]) -> Dataset:
    """Flows with packets at the given times."""
    data = synthetic_dataset(len(times_ms), depth=4, seed=1)
    sizes = np.array([len(own) for own in times_ms])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    packets = np.resize(data.packets, offsets[-1])
    packets["time_ns"] = np.concatenate(times_ms) * MS
    packets["packet_index"] = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
    return replace(data, packets=packets, offsets=offsets, over_ns=np.array(over_ms) * MS)


def test_packets_behind_a_silence_do_not_count() -> None:
    data = flows_of(
        [
            [0, 500, 1_400, 1_500],  # never silent for long
            [7_000, 8_000, 9_001, 9_002],  # at the timeout is in time, behind it is not
            [100],  # waits in vain
            [50, 60],  # ends before it would be given up
            [9_000, 9_001, 12_000],  # begins after a later one's end
        ],
        [1_500, 2_002, 10_000, 200, 10_000],
    )
    seen = data.with_idle_timeout(1.0)
    assert seen.sizes.tolist() == [4, 2, 1, 2, 2]
    assert seen.packets["time_ns"].tolist() == [
        at * MS for at in (0, 500, 1_400, 1_500, 7_000, 8_000, 100, 50, 60, 9_000, 9_001)
    ]
    assert (seen.wait_ns(4) // MS).tolist() == [1_500, 2_000, 1_000, 200, 1_001]
    assert (seen.wait_ns(2) // MS).tolist() == [500, 1_000, 1_000, 10, 1]
    assert seen.reasons.tolist() == [
        Reason.ENDED, Reason.TIMEOUT, Reason.TIMEOUT, Reason.ENDED, Reason.TIMEOUT
    ]  # fmt: skip
    assert data.sizes.tolist() == [4, 4, 1, 2, 3], "the dataset itself is as it was"


def test_without_patience_a_flow_is_its_first_packet() -> None:
    seen = flows_of([[0, 1, 2], [5, 5, 9]], [2, 4]).with_idle_timeout(0.0)
    assert seen.sizes.tolist() == [1, 2], "packets at the same time are no silence apart"
    assert seen.wait_ns(4).tolist() == [0, 0]


def test_a_long_idle_timeout_changes_nothing() -> None:
    data = synthetic_dataset(200, seed=3)
    seen = data.with_idle_timeout(1e9)
    assert seen.digest == data.digest
    assert (seen.wait_ns(10) == data.wait_ns(10)).all()
    assert len(data.select(np.arange(0)).with_idle_timeout(1.0)) == 0


@pytest.mark.parametrize("idle_timeout_s", [-1.0, float("nan"), float("inf"), 1e10])
def test_an_idle_timeout_out_of_range_is_refused(idle_timeout_s: float) -> None:
    with pytest.raises(ValueError, match="out of range"):
        synthetic_dataset(3).with_idle_timeout(idle_timeout_s)


def test_idle_timeouts_agree_with_a_look_at_each_flow() -> None:
    data = synthetic_dataset(300, seed=5)
    seen = data.with_idle_timeout(0.02)
    for i in range(len(data)):
        times = data.packets["time_ns"][data.offsets[i] : data.offsets[i + 1]].tolist()
        kept = 1
        while kept < len(times) and times[kept] - times[kept - 1] <= 20 * MS:
            kept += 1
        assert seen.sizes[i] == kept
        given_up = times[kept - 1] - times[0] + 20 * MS
        over = given_up if kept < len(times) else min(given_up, int(data.over_ns[i]))
        assert seen.over_ns[i] == over


def test_a_study_asks_each_tier_of_every_flow(tmp_path: Path) -> None:
    cascade = load_cascade(synthetic_bundle(tmp_path / "bundle", depths=(1, 1, 3, 10)))
    data = synthetic_dataset(300, seed=2)
    large = data.packets["ip_bytes"][data.offsets[:-1]] > 100
    data = replace(
        data,
        labels=np.where(large, "large", "small"),
        group_names=tuple(f"{i}.pcap" for i in range(8)),
    )
    data.labels[:3] = ["odd", "odd", "small"]
    told: list[tuple[str, int, int]] = []
    found = study(cascade, data, lambda *step: told.append(step))
    assert [done for _, done, _ in told] == list(range(told[0][2]))
    assert found.names == ("small", "large", "odd")
    assert [found.names[i] for i in found.true] == data.labels.tolist()
    assert (found.slow_only.tier == 3).all()
    short = data.sizes < 3
    assert ((found.alone[2].tier == NO_TIER) == short).all()
    # What a tier says alone is what it says in the cascade.
    for t in range(4):
        answered = found.cascade.tier == t
        assert found.asked(t)[answered].all()
        assert (found.alone[t].said == found.cascade.said)[answered].all()
        assert (found.alone[t].wait_ns == found.cascade.wait_ns)[answered].all()
    result = assess(found, data, {"small": "s", "large": "l", "odd": "o"}).to_dict()
    json.dumps(result)
    assert result["fast_only"]["escalated"] == 0.0
    assert result["classes"] == 3
    assert result["cascade"]["mean_infer_us"] > 0
    assert found.without_inference().cascade.latency_ms.tolist() == found.cascade.wait_ms.tolist()
    assert set(result["families"]) == {"families", "cascade", "fast_only", "slow_only"}
    alone = assess(replace(found, fast_tiers=0), data)
    assert (alone.fast_only, alone.escalation, alone.families) == (None, None, None)


def test_a_call_takes_what_it_takes_when_nothing_else_runs(tmp_path: Path) -> None:
    asked: list[int] = []

    class Disturbed(Cascade):
        """Whose calls take long now and then."""

        def answer(self, *args: Any, **options: Any) -> np.ndarray:
            answers = super().answer(*args, **options)
            answers["infer_ns"] = [9_000, 500, 700, 600, 8_000, 800][len(asked)]
            asked.append(len(answers))
            return answers

    cascade = Disturbed(read_bundle(synthetic_bundle(tmp_path / "bundle")))
    found = answer_all(cascade, synthetic_dataset(100), 0)
    assert asked == [64, 36] * 3, "no call is repeated at once"
    assert found.infer_ns.tolist() == [700] * 64 + [500] * 36
