"""A bundle moves to another operating point; what is promised of it is true."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.errors import BundleError, SettingsError
from models.bundle import read_bundle, read_validation, write_bundle
from models.card import with_operating_point
from models.cascade import load_cascade
from models.costs import COST_BATCH
from models.goals import NEVER, EscalationGoal, LossGoal, WithinGoal
from models.guarantee import (
    PATH,
    certified,
    fewest_units,
    group_losses,
    hoeffding_bentkus,
    least_risk,
    path_losses,
)
from models.synthetic import synthetic_bundle, synthetic_validation
from models.tuning import TuneReport, goal_of, tune
from models.uncertainty import SCORES, certainty, risk_coverage, risk_coverage_area
from models.validation import Validation
from models.yardstick import Judgements


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_bundle(tmp_path_factory.mktemp("tuning") / "bundle")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of 300 captures: enough for a guarantee."""
    kept = synthetic_validation((1, 1, 10), flows=6_000, groups=300)
    return synthetic_bundle(tmp_path_factory.mktemp("many") / "bundle", validation=kept)


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that says what its tiers take: 1, 2 and 40 µs of a flow."""
    folder = tmp_path_factory.mktemp("priced")
    return with_costs(synthetic_bundle(folder / "plain"), folder / "bundle")


def with_costs(bundle: Path, out: Path) -> Path:
    contents = read_bundle(bundle)
    tiers = [
        replace(tier, cost_us={COST_BATCH: cost, 1: 10 * cost})
        for tier, cost in zip(contents.tiers, (1.0, 2.0, 40.0), strict=True)
    ]
    write_bundle(replace(contents, tiers=tuple(tiers)), out, read_validation(bundle))
    return out


def thresholds_of(folder: Path) -> tuple[float, ...]:
    return tuple(tier.threshold for tier in read_bundle(folder).tiers[:-1])


def test_exactly_one_goal_is_needed() -> None:
    assert goal_of(max_f1_loss=0.5) == LossGoal(0.005)
    assert goal_of(within_16ms=0.8) == WithinGoal(0.8)
    assert goal_of(max_escalation=0.0) == EscalationGoal(0.0)
    with pytest.raises(SettingsError, match="give exactly one goal"):
        goal_of()
    with pytest.raises(SettingsError, match="got --max-f1-loss and --max-escalation"):
        goal_of(max_f1_loss=0.5, max_escalation=0.3)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
def test_a_share_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(SettingsError, match=r"--within-16ms .* from 0 to 1: a share"):
        goal_of(within_16ms=value)
    with pytest.raises(SettingsError, match="--max-f1-loss"):
        goal_of(max_f1_loss=100.0 * value)


def test_a_tuned_bundle_meets_its_goal(bundle: Path, tmp_path: Path) -> None:
    fast = tune(bundle, tmp_path / "fast", goal_of(within_16ms=0.8))
    assert fast.chosen.within_16ms >= 0.8
    calm = tune(bundle, tmp_path / "calm", goal_of(max_escalation=0.3))
    assert calm.chosen.escalated <= 0.3
    good = tune(bundle, tmp_path / "good", goal_of(max_f1_loss=2.0))
    assert good.chosen.loss_bound <= 0.02
    assert good.chosen.typical_wait_ms > calm.chosen.typical_wait_ms
    for report, name in ((fast, "fast"), (calm, "calm"), (good, "good")):
        contents = read_bundle(tmp_path / name)
        assert contents.model_version == report.model_version
        assert report.tuned_from == read_bundle(bundle).model_version != report.model_version
        assert thresholds_of(tmp_path / name) == report.chosen.thresholds
        json.dumps(report.to_dict())


def test_tuning_leaves_the_engines_as_they_are(bundle: Path, tmp_path: Path) -> None:
    tune(bundle, tmp_path / "out", goal_of(max_escalation=0.3))
    for path in bundle.rglob("*.npy"):
        assert (tmp_path / "out" / path.relative_to(bundle)).read_bytes() == path.read_bytes()
    cascade = load_cascade(tmp_path / "out")
    assert [tier.name for tier in cascade.tiers] == ["stump0@1", "stump1@1", "stump2@10"]


def test_tuning_again_gives_the_same_bundle(bundle: Path, tmp_path: Path) -> None:
    goal = goal_of(max_f1_loss=1.0)
    first = tune(bundle, tmp_path / "out", goal)
    again = tune(tmp_path / "out", tmp_path / "out", goal)
    assert again.model_version == first.model_version == again.tuned_from
    assert again.chosen.current
    assert read_bundle(tmp_path / "out").card.count("## Operating point") == 1


def test_the_curve_trades_waits_for_loss(bundle: Path, tmp_path: Path) -> None:
    report = tune(bundle, tmp_path / "out", goal_of(max_f1_loss=1.0))
    waits = [point.typical_wait_ms for point in report.curve]
    assert waits == sorted(waits, reverse=True)
    assert report.curve[0].thresholds == (NEVER, NEVER)
    assert report.curve[0].loss == 0.0
    assert [point for point in report.curve if point.chosen] == [report.chosen]
    assert sum(point.current for point in report.curve) == 1
    assert 5 <= len(report.curve) <= 18
    assert len(set(report.curve)) == len(report.curve)


def test_the_card_says_what_was_chosen_and_what_it_is_worth(bundle: Path, tmp_path: Path) -> None:
    report = tune(bundle, tmp_path / "out", goal_of(within_16ms=0.8))
    card = read_bundle(tmp_path / "out").card
    assert card.startswith("# Made by hand\n")
    assert "`serveflow tune --within-16ms 0.8`" in card
    assert f"stump0@1 | 1 | {report.chosen.thresholds[0]:.3f}" in card
    assert "stump2@10 | 10 | always" in card
    assert "### Guaranteed\n\nNothing." in card
    for text in ("any one class", "other networks", "trained on all"):
        assert text in card.partition("### Not guaranteed")[2]
    assert report.guaranteed.startswith("Nothing.")
    assert report.guarantee is None


def test_a_section_of_a_card_is_replaced() -> None:
    once = with_operating_point("# Card\n\nText.\n", "one\n")
    assert once == "# Card\n\nText.\n\n## Operating point\n\none\n"
    assert with_operating_point(once, "two\n") == once.replace("one", "two")


def test_a_goal_out_of_reach_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    slow = synthetic_bundle(tmp_path / "slow", depths=(5, 10))
    with pytest.raises(SettingsError, match=r"out of reach: at best \d+\.\d% of the flows"):
        tune(slow, tmp_path / "out", goal_of(within_16ms=1.0))
    with pytest.raises(SettingsError, match=r"out of reach: at least 100\.0% of the flows"):
        tune(slow, tmp_path / "out", goal_of(max_escalation=0.3))
    assert not (tmp_path / "out").exists()


def test_a_bundle_of_one_tier_has_one_operating_point(tmp_path: Path) -> None:
    lone = synthetic_bundle(tmp_path / "lone", depths=(10,))
    report = tune(lone, tmp_path / "out", goal_of(max_f1_loss=0.5))
    assert report.chosen.thresholds == ()
    assert len(report.curve) == 1


def test_what_the_models_may_take_limits_the_loss_goal_only() -> None:
    assert goal_of(max_f1_loss=0.5, max_cost_us=8.0) == LossGoal(0.005, 8.0)
    with pytest.raises(SettingsError, match="--max-cost-us limits --max-f1-loss; --within-16ms"):
        goal_of(within_16ms=0.8, max_cost_us=8.0)
    with pytest.raises(SettingsError, match="give exactly one goal"):
        goal_of(max_cost_us=8.0)
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(SettingsError, match=r"--max-cost-us .* above 0"):
            goal_of(max_f1_loss=0.5, max_cost_us=value)


def test_a_bundle_is_tuned_to_what_its_models_may_take(priced: Path, tmp_path: Path) -> None:
    free = tune(priced, tmp_path / "out", goal_of(max_f1_loss=5.0))
    assert free.max_cost_us is None
    limit = 0.8 * free.chosen.cost_us
    with pytest.raises(SettingsError, match=r"out of reach at --max-f1-loss 5: .* points; allow"):
        tune(priced, tmp_path / "out", goal_of(max_f1_loss=5.0, max_cost_us=limit))
    cheap = tune(priced, tmp_path / "out", goal_of(max_f1_loss=25.0, max_cost_us=limit))
    assert cheap.max_cost_us == limit
    assert cheap.chosen.cost_us <= limit
    assert cheap.chosen.loss_bound <= 0.25
    assert all(point.cost_us > 0.0 for point in cheap.curve)
    card = " ".join(read_bundle(tmp_path / "out").card.split())
    assert f"--max-f1-loss 25 --max-cost-us {limit:g}`" in card
    assert f"take at most {limit:g} µs of a flow on average" in card
    assert f"{cheap.chosen.cost_us:,.1f} µs of a flow in the mean" in card
    json.dumps(cheap.to_dict(), allow_nan=False)


def test_a_limit_that_no_thresholds_keep_is_told(priced: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"take \d+\.\d µs of a flow at least"):
        tune(priced, tmp_path / "out", goal_of(max_f1_loss=100.0, max_cost_us=0.5))
    assert not (tmp_path / "out").exists()


def test_a_limit_needs_costs_that_were_measured(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not say what its tiers take"):
        tune(bundle, tmp_path / "out", goal_of(max_f1_loss=1.0, max_cost_us=8.0))
    tune(bundle, tmp_path / "out", goal_of(max_f1_loss=1.0))
    assert "take, where they were trained: not measured" in read_bundle(tmp_path / "out").card


def test_a_guarantee_may_be_limited_in_what_the_models_take(many: Path, tmp_path: Path) -> None:
    dear = with_costs(many, tmp_path / "priced")
    goal = goal_of(max_f1_loss=8.0)
    free = tune(dear, tmp_path / "out", goal, guarantee=True)
    limit = free.chosen.cost_us + 1.0
    same = tune(
        dear, tmp_path / "out", goal_of(max_f1_loss=8.0, max_cost_us=limit), guarantee=True
    )  # fmt: skip
    assert same.chosen.thresholds == free.chosen.thresholds
    with pytest.raises(SettingsError, match="of a flow at least"):
        tune(dear, tmp_path / "no", goal_of(max_f1_loss=8.0, max_cost_us=1.0), guarantee=True)
    assert not (tmp_path / "no").exists()


def by_class_tuned(out: Path) -> TuneReport:
    """The first tier is right wherever it names class 0, however sure; class 1 it guesses."""
    kept = synthetic_validation((1, 10), flows=1_000, groups=20)
    first = kept.tiers[0]
    right = (first.labels == 0) | (np.arange(1_000) % 2 == 0)
    kept = replace(kept, true=np.where(right, first.labels, 1 - first.labels))
    kept.tiers[1].labels[:] = kept.true
    made = synthetic_bundle(out / "made", depths=(1, 10), validation=kept)
    return tune(made, out / "tuned", goal_of(max_f1_loss=1.0), per_class=True)


def test_classes_may_get_thresholds_of_their_own(tmp_path: Path) -> None:
    report = by_class_tuned(tmp_path)
    assert report.per_class
    (thresholds,) = report.chosen.thresholds
    assert isinstance(thresholds, tuple)
    assert thresholds[0] < thresholds[1]
    assert report.chosen.loss_bound <= 0.01
    plain = tune(tmp_path / "made", tmp_path / "plain", goal_of(max_f1_loss=1.0))
    assert report.chosen.early > plain.chosen.early + 0.2
    first = read_bundle(tmp_path / "tuned").tiers[0]
    assert first.class_thresholds == thresholds
    load_cascade(tmp_path / "tuned")
    json.dumps(report.to_dict())


def test_the_card_says_that_thresholds_by_class_promise_less(tmp_path: Path) -> None:
    report = by_class_tuned(tmp_path)
    card = " ".join(read_bundle(tmp_path / "tuned").card.split())
    assert "--max-f1-loss 1 --per-class`" in card
    (thresholds,) = report.chosen.thresholds
    assert isinstance(thresholds, tuple)
    assert f"stump0@1 | 1 | {thresholds[0]:.3f} to " in card
    assert "by class |" in card
    for text in ("chosen on the few flows of its class", "the bound promises less"):
        assert text in card
        assert text in report.guaranteed


def test_a_bundle_with_thresholds_by_class_is_tuned_from_where_it_is(tmp_path: Path) -> None:
    report = by_class_tuned(tmp_path)
    again = tune(
        tmp_path / "tuned", tmp_path / "again", goal_of(max_f1_loss=1.0), per_class=True
    )  # fmt: skip
    assert again.model_version == report.model_version
    assert again.chosen.current
    back = tune(tmp_path / "tuned", tmp_path / "back", goal_of(max_f1_loss=1.0))
    (current,) = [point for point in back.curve if point.current]
    assert current.thresholds == report.chosen.thresholds
    assert read_bundle(tmp_path / "back").tiers[0].class_thresholds is None
    assert "promises less" not in read_bundle(tmp_path / "back").card


def test_thresholds_by_class_can_get_no_guarantee(many: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--per-class and --guarantee exclude"):
        tune(many, tmp_path / "out", goal_of(max_f1_loss=8.0), guarantee=True, per_class=True)


def test_a_bundle_without_judgements_cannot_be_tuned(bundle: Path, tmp_path: Path) -> None:
    write_bundle(read_bundle(bundle), tmp_path / "bare")
    with pytest.raises(BundleError, match="train it anew"):
        tune(tmp_path / "bare", tmp_path / "out", goal_of(max_f1_loss=0.5))


def test_tuning_does_not_overwrite_what_is_no_bundle(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="another folder"):
        tune(bundle, tmp_path, goal_of(max_f1_loss=0.5))


def test_few_captures_cannot_guarantee_a_small_loss_and_that_is_said(
    bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"8 captures .* 460 would be needed; .* 25\.0 points"):
        tune(bundle, tmp_path / "out", goal_of(max_f1_loss=0.5), guarantee=True)
    assert not (tmp_path / "out").exists()


def test_a_guarantee_needs_a_loss_to_bound(bundle: Path, tmp_path: Path) -> None:
    for goal in (goal_of(within_16ms=0.8), goal_of(max_escalation=0.3)):
        with pytest.raises(SettingsError, match="with --max-f1-loss"):
            tune(bundle, tmp_path / "out", goal, guarantee=True)
    for points in (0.0, 100.0):
        with pytest.raises(SettingsError, match="more than 0 and less than 100"):
            tune(bundle, tmp_path / "out", goal_of(max_f1_loss=points), guarantee=True)


def guaranteed(many: Path, out: Path, points: float) -> TuneReport:
    return tune(many, out, goal_of(max_f1_loss=points), guarantee=True)


def test_many_captures_can_guarantee_a_loss(many: Path, tmp_path: Path) -> None:
    report = guaranteed(many, tmp_path / "out", 8.0)
    found = report.guarantee
    assert found is not None
    assert (found.risk, found.confidence, found.captures) == (0.08, 0.9, 300)
    assert found.loss < 0.08
    assert found.p_value <= 0.1
    threshold, *others = set(report.chosen.thresholds)
    assert not others
    assert threshold in PATH
    card = read_bundle(tmp_path / "out").card
    guaranteed_part = card.partition("### Guaranteed")[2].partition("### Not guaranteed")
    for part, words in ((guaranteed_part[0], ("90%", "300 captures", "at most 8 percentage")),
                        (guaranteed_part[2], ("weighted F1", "trained on all"))):  # fmt: skip
        for word in words:
            assert word in " ".join(part.split())


def test_more_loss_allowed_guarantees_shorter_waits(many: Path, tmp_path: Path) -> None:
    waits = [guaranteed(many, tmp_path / "out", p).chosen.typical_wait_ms for p in (6, 9, 15)]
    assert waits == sorted(waits, reverse=True)
    assert waits[0] > waits[-1]


def test_captures_that_lose_too_much_get_no_guarantee(tmp_path: Path) -> None:
    """The fast tier is always sure and always wrong."""
    kept = synthetic_validation((1, 10), flows=600, groups=300)
    fast = kept.tiers[0]
    fast.labels[:] = 1 - kept.true
    fast.assurance[:] = 1.0
    wrong = synthetic_bundle(tmp_path / "wrong", depths=(1, 10), validation=kept)
    with pytest.raises(SettingsError, match="cannot be guaranteed: 300 captures lose"):
        tune(wrong, tmp_path / "out", goal_of(max_f1_loss=2.0), guarantee=True)
    assert not (tmp_path / "out").exists()


def test_p_values_are_those_of_the_papers() -> None:
    """Without losses Hoeffding's is (1 - risk)^n; Bentkus' is e times a binomial tail."""
    assert hoeffding_bentkus(0.0, 8, 0.25) == pytest.approx(0.75**8)
    assert hoeffding_bentkus(0.3, 8, 0.25) == hoeffding_bentkus(0.25, 8, 0.25) == 1.0
    assert hoeffding_bentkus(0.5, 8, 1.0) == 0.0
    n, risk, k = 100, 0.1, 3
    tail = sum(math.comb(n, i) * risk**i * (1 - risk) ** (n - i) for i in range(k + 1))
    entropy = 0.03 * math.log(0.03 / 0.1) + 0.97 * math.log(0.97 / 0.9)
    expected = min(math.e * tail, math.exp(-n * entropy))
    assert hoeffding_bentkus(k / n, n, risk) == pytest.approx(expected)
    assert 0.0 <= hoeffding_bentkus(0.001, 1_000_000, 0.01) < 1e-100


def test_the_needs_of_a_guarantee_fit_its_test() -> None:
    for risk in (0.005, 0.05, 0.25):
        n = fewest_units(risk, 0.9)
        assert hoeffding_bentkus(0.0, n, risk) <= 0.1 < hoeffding_bentkus(0.0, n - 1, risk)
        assert least_risk(n, 0.9) <= risk


def test_the_path_goes_down_and_is_finest_about_one_half() -> None:
    assert (PATH[0], PATH[-1]) == (0.999, 0.0)
    steps = -np.diff(PATH)
    assert (steps > 0.0).all()
    middle = (np.array(PATH[:-1]) < 0.601) & (np.array(PATH[1:]) > 0.399)
    np.testing.assert_allclose(steps[middle], 0.002)
    assert middle.sum() == 100
    np.testing.assert_allclose(steps[~middle][2:], 0.01)
    assert {0.5, 0.6, 0.4, 0.9} <= set(PATH), "as written, to the last bit"


def test_tests_end_at_the_first_that_fails() -> None:
    n = 200
    losses = [np.zeros(n), np.full(n, 0.02), np.full(n, 0.5), np.zeros(n)]
    assert len(certified(losses, 0.1, 0.9)) == 2
    assert certified(losses[2:], 0.1, 0.9) == []


def test_the_guarantee_holds_as_often_as_it_says() -> None:
    """Losses of 0 or 1 whose mean grows along the path and exceeds the risk from step 5 on."""
    rng = np.random.default_rng(0)
    means = [0.02, 0.04, 0.06, 0.08, 0.1001, 0.12, 0.2]
    broken = 0
    for _ in range(1_000):
        draws = rng.random(300)
        losses = [(draws < mean).astype(np.float64) for mean in means]
        broken += len(certified(losses, 0.1, 0.9)) > 4
    assert 10 < broken <= 120, "at most 1 in 10, but not for being idle"


def captures(n: int, rng: np.random.Generator) -> Validation:
    """Draw captures of 12 flows; some are of a kind that the fast tiers are sure of and wrong.

    So flows of a capture are right or wrong together, and the tiers, the gate and the deepest tier
    depend on each other.
    """
    flows = 12 * n
    groups = np.repeat(np.arange(n), 12)
    odd = (rng.random(n) < 0.15)[groups]
    true = rng.integers(0, 3, flows)
    sizes = np.where(rng.random(flows) < 0.2, rng.integers(1, 11, flows), 10)
    hard = rng.random(flows)
    tiers = []
    for depth, skill in ((1, 0.5), (3, 0.75), (10, 0.92)):
        right = rng.random(flows) < np.where(odd & (depth < 10), 0.3, skill + 0.08 * (1 - hard))
        sure = np.clip(0.9 - 0.6 * hard + rng.normal(0, 0.1, flows), 0, 0.98).astype(np.float32)
        label = np.where(right, true, (true + 1) % 3)
        tiers.append(Judgements(label, sure, depth, np.zeros(flows, np.int64)))
    return Validation(true, groups, sizes, tuple(tiers))


def losses_of(kept: Validation) -> Iterator[np.ndarray]:
    return path_losses(kept.true, kept.groups, kept.sizes, kept.tiers)


def test_a_whole_cascade_keeps_its_guarantee_on_new_captures() -> None:
    """What 20,000 further captures lose at the thresholds that 150 captures passed."""
    rng = np.random.default_rng(1)
    expected = [float(losses.mean()) for losses in losses_of(captures(20_000, rng))]
    risk, trials = 0.1, 150
    assert expected[0] < risk < expected[-1], "some thresholds keep to it and some do not"
    last = [len(certified(losses_of(captures(150, rng)), risk, 0.9)) - 1 for _ in range(trials)]
    broken = sum(at >= 0 and max(expected[: at + 1]) > risk for at in last)
    assert broken <= 0.1 * trials, "at most 1 in 10"
    used = np.mean([expected[at] for at in last if at >= 0])
    assert sum(at >= 0 for at in last) > 0.9 * trials
    assert used > 0.4 * risk, "not by being idle"


def test_the_loss_of_a_group_is_of_accuracy_and_no_gain_makes_up_for_it() -> None:
    right = np.array([True, False, False, True, True, True])
    deepest = np.array([True, True, False, True, False, False])
    losses = group_losses(right, deepest, np.array([7, 7, 7, 7, 9, 9]))
    assert losses.tolist() == [0.25, 0.0]


def test_ways_to_be_sure() -> None:
    scores = np.array([[0.25] * 4, [0.7, 0.2, 0.1, 0.0], [1.0, 0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(certainty(scores, "least_confidence"), [0.25, 0.7, 1.0])
    np.testing.assert_allclose(certainty(scores, "margin"), [0.0, 0.5, 1.0])
    entropy = -sum(p * math.log(p) for p in (0.7, 0.2, 0.1)) / math.log(4)
    np.testing.assert_allclose(certainty(scores, "entropy"), [0.0, 1 - entropy, 1.0], atol=1e-6)
    with pytest.raises(ValueError, match="least_confidence, margin, entropy"):
        certainty(scores, "mood")


def test_the_area_under_the_risk_coverage_curve() -> None:
    right = np.array([True, True, False, False])
    best = risk_coverage_area(np.array([0.9, 0.8, 0.2, 0.1], np.float32), right)
    assert best == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)
    worst = risk_coverage_area(np.array([0.1, 0.2, 0.8, 0.9], np.float32), right)
    assert worst == pytest.approx((1 + 1 + 2 / 3 + 2 / 4) / 4)
    blind = risk_coverage_area(np.full(4, 0.5, np.float32), right)
    assert blind == pytest.approx(0.5), "what is equally sure counts in any order"
    shuffled = risk_coverage_area(np.full(4, 0.5, np.float32), right[::-1])
    assert shuffled == blind
    with pytest.raises(ValueError, match="at least one flow"):
        risk_coverage_area(np.zeros(0, np.float32), np.zeros(0, bool))


def test_each_way_is_worth_what_its_curve_says() -> None:
    """With two classes all three put flows in the same order."""
    rng = np.random.default_rng(0)
    top = rng.uniform(0.5, 1.0, 2_000)
    scores = np.stack([top, 1.0 - top], axis=1).astype(np.float32)
    true = (rng.random(2_000) > top).astype(np.int64)
    areas = risk_coverage(scores, true, np.arange(2_000) % 4)
    assert list(areas) == list(SCORES)
    assert max(areas.values()) - min(areas.values()) < 0.01
    assert max(areas.values()) < (true != 0).mean() - 0.05, "better than knowing nothing"
