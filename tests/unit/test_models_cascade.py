"""Who is asked, on which packets, and what the answer says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.packet import PACKET_DTYPE
from models.bitvectors import FEWEST_ROWS
from models.cascade import NO_TIER, Cascade, load_cascade
from models.synthetic import synthetic_bundle

SURE_SMALL, UNSURE_SMALL, UNSURE_LARGE, SURE_LARGE = 60, 100, 500, 1_000


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Cascade:
    folder = tmp_path_factory.mktemp("cascade") / "bundle"
    return load_cascade(synthetic_bundle(folder, depths=(1, 1, 3, 10)))


def flow(*sizes: int) -> np.ndarray:
    packets = np.zeros(len(sizes), PACKET_DTYPE)
    packets["ip_bytes"] = sizes
    packets["packet_index"] = np.arange(len(sizes))
    return packets


def ask(
    cascade: Cascade,
    *flows: np.ndarray,
    next_tier: int = 0,
    ended: int = 0,
    stop_tier: int | None = None,
) -> np.ndarray:
    offsets = np.cumsum([0, *map(len, flows)])
    return cascade.answer(
        np.concatenate(flows),
        offsets,
        np.full(len(flows), next_tier, np.uint8),
        np.full(len(flows), ended, np.uint8),
        stop_tier=stop_tier,
    )


def test_a_cascade_says_what_it_is(cascade: Cascade) -> None:
    assert cascade.classes == ("small", "large")
    assert [tier.depth for tier in cascade.tiers] == [1, 1, 3, 10]
    assert [tier.name for tier in cascade.tiers] == [
        "stump0@1",
        "stump1@1",
        "stump2@3",
        "stump3@10",
    ]
    assert cascade.depth == 10
    assert cascade.fast_tiers == 2
    assert cascade.max_wait_s == 10.0


def test_the_first_tier_that_is_sure_answers(cascade: Cascade) -> None:
    answer = ask(cascade, flow(SURE_SMALL), flow(SURE_LARGE))
    assert answer["label"].tolist() == [0, 1]
    assert answer["tier"].tolist() == [0, 0]
    assert answer["final"].tolist() == answer["sure"].tolist() == [1, 1]
    assert answer["packets_used"].tolist() == [1, 1]
    np.testing.assert_allclose(answer["confidence"], 0.95, atol=1e-6)
    assert (answer["infer_ns"] > 0).all()


def test_an_unsure_flow_waits_for_the_packets_of_the_next_tier(cascade: Cascade) -> None:
    answer = ask(cascade, flow(UNSURE_SMALL, UNSURE_SMALL))
    assert answer["final"].tolist() == answer["sure"].tolist() == [0]
    assert answer["next_tier"].tolist() == [2]
    assert answer["tier"].tolist() == [1]  # the provisional label is that of the last one asked
    assert answer["packets_used"].tolist() == [1]


def test_a_tier_in_between_answers_if_it_is_sure(cascade: Cascade) -> None:
    answer = ask(cascade, flow(UNSURE_SMALL, 20, 20), next_tier=2)
    assert (answer["tier"], answer["final"], answer["sure"]) == (2, 1, 1)
    assert answer["packets_used"] == 3


def test_a_tier_judges_exactly_its_packets_however_many_are_there(cascade: Cascade) -> None:
    few = ask(cascade, flow(UNSURE_SMALL, 20, 20), next_tier=2)
    many = ask(cascade, flow(UNSURE_SMALL, 20, 20, 1_500, 1_500, 1_500), next_tier=2)
    for name in ("label", "confidence", "tier", "packets_used", "final", "sure"):
        assert few[name] == many[name]


def test_the_deepest_tier_has_the_last_word_sure_or_not(cascade: Cascade) -> None:
    for size in (UNSURE_LARGE, SURE_LARGE):
        answer = ask(cascade, flow(*[size] * 12), next_tier=3)
        assert (answer["tier"], answer["final"], answer["sure"]) == (3, 1, 0)
        assert answer["packets_used"] == 10
        assert answer["label"] == 1


def test_all_tiers_are_asked_in_one_call_if_the_packets_are_there(cascade: Cascade) -> None:
    answer = ask(cascade, flow(*[UNSURE_LARGE] * 10))
    assert (answer["tier"], answer["final"], answer["packets_used"]) == (3, 1, 10)


def test_an_ended_flow_goes_to_the_deepest_tier_with_what_there_is(cascade: Cascade) -> None:
    answer = ask(cascade, flow(UNSURE_SMALL, UNSURE_LARGE), next_tier=2, ended=1)
    assert (answer["tier"], answer["final"], answer["sure"]) == (3, 1, 0)
    assert answer["packets_used"] == 2


def test_an_ended_flow_still_passes_the_tiers_whose_packets_are_there(cascade: Cascade) -> None:
    answer = ask(cascade, flow(UNSURE_SMALL, 20, 20, 20), next_tier=2, ended=1)
    assert (answer["tier"], answer["sure"], answer["packets_used"]) == (2, 1, 3)


def test_a_flow_without_any_packets_is_answered_when_it_has_ended(cascade: Cascade) -> None:
    answer = ask(cascade, flow(), flow(SURE_SMALL), ended=1)
    assert answer["final"].tolist() == [1, 1]
    assert answer["packets_used"].tolist() == [0, 1]
    assert answer["tier"].tolist() == [3, 0]
    waiting = ask(cascade, flow())
    assert (waiting["final"], waiting["tier"], waiting["next_tier"]) == (0, NO_TIER, 0)


def test_tiers_from_the_stop_on_are_not_asked(cascade: Cascade) -> None:
    answer = ask(cascade, flow(SURE_SMALL), flow(*[UNSURE_SMALL] * 10), stop_tier=2)
    assert answer["final"].tolist() == [1, 0]
    assert answer["next_tier"].tolist()[1] == 2
    assert answer["tier"].tolist() == [0, 1]
    none = ask(cascade, flow(SURE_SMALL), stop_tier=0)
    assert (none["final"], none["tier"], none["next_tier"], none["infer_ns"]) == (0, NO_TIER, 0, 0)
    later = ask(cascade, flow(SURE_SMALL), next_tier=3, stop_tier=2)
    assert (later["final"], later["tier"], later["next_tier"]) == (0, NO_TIER, 3)


def test_an_ended_flow_is_handed_over_at_the_stop(cascade: Cascade) -> None:
    held = ask(cascade, flow(UNSURE_SMALL, UNSURE_SMALL), next_tier=2, ended=1, stop_tier=3)
    assert (held["final"], held["next_tier"]) == (0, 3)
    settled = ask(cascade, flow(UNSURE_SMALL, UNSURE_SMALL), next_tier=3, ended=1)
    assert settled["final"] == 1


def test_no_flows_get_no_answers(cascade: Cascade) -> None:
    none = np.zeros(0, np.uint8)
    assert len(cascade.answer(np.zeros(0, PACKET_DTYPE), np.zeros(1, np.int64), none, none)) == 0


def test_packets_may_be_read_only(cascade: Cascade) -> None:
    frozen = flow(UNSURE_SMALL, 20, 20)
    frozen.flags.writeable = False
    assert ask(cascade, frozen)["tier"] == 2


def test_columns_of_another_length_are_refused(cascade: Cascade) -> None:
    with pytest.raises(ValueError, match="offsets"):
        cascade.answer(flow(60), np.array([0, 1]), np.zeros(2, np.uint8), np.zeros(2, np.uint8))


def test_a_tier_that_was_not_loaded_cannot_be_asked(tmp_path: Path) -> None:
    folder = synthetic_bundle(tmp_path / "bundle")
    fast = load_cascade(folder, tiers=range(2))
    assert fast.depth == 10
    ask(fast, flow(UNSURE_SMALL), stop_tier=2)
    with pytest.raises(ValueError, match="stump2@10 is not loaded"):
        ask(fast, flow(*[UNSURE_SMALL] * 10))


def test_a_warm_up_asks_every_tier_about_one_flow_and_about_several(
    cascade: Cascade, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    ask_tier = Cascade._ask

    def noting(self: Cascade, t: int, *rest: Any) -> Any:
        asked.append((t, len(rest[2])))
        return ask_tier(self, t, *rest)

    monkeypatch.setattr(Cascade, "_ask", noting)
    cascade.warm_up()
    assert sorted(asked) == [(t, n) for t in range(4) for n in (1, FEWEST_ROWS)]
