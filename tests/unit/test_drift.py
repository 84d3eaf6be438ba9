"""Drift is told when answers move away from those in validation, and not otherwise."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from deployments.drift_watch import WINDOW_FLOWS, DriftWatch
from flows.errors import BundleError
from flows.packet import Records
from flows.verdict import VERDICT_DTYPE, Reason
from models.bundle import read_bundle, write_bundle
from models.drift import DriftReference, drift_reference, psi

MUCH = 0.25  # as in monitoring/alerts.yaml


@pytest.fixture(scope="module")
def reference(bundle: Path) -> DriftReference:
    found = drift_reference(bundle)
    assert found is not None
    return found


def window(reference: DriftReference, rng: np.random.Generator, n: int = WINDOW_FLOWS) -> Records:
    """Draw final verdicts as they are in validation."""
    finals = np.zeros(n, VERDICT_DTYPE)
    finals["final"], finals["reason"] = 1, Reason.CONFIDENT
    for name, counts in (("label", reference.labels), ("tier", reference.tiers)):
        finals[name] = rng.choice(len(counts), n, p=counts / counts.sum())
    return finals


def test_the_reference_is_what_the_cascade_answers(reference: DriftReference, bundle: Path) -> None:
    contents = read_bundle(bundle, tiers=())
    assert len(reference.labels) == len(contents.classes)
    assert len(reference.tiers) == len(contents.tiers)
    assert reference.labels.sum() == reference.tiers.sum() > 1_000
    assert (reference.tiers > 0).all()


def test_a_bundle_without_judgements_has_no_reference(bundle: Path, tmp_path: Path) -> None:
    write_bundle(read_bundle(bundle), tmp_path / "bare")
    assert drift_reference(tmp_path / "bare") is None


def test_the_index_of_equal_shares_is_0_and_grows_with_the_shift() -> None:
    even = np.full(4, 1_000)
    assert psi(even, even) == 0.0
    assert psi(even, even * 7) == pytest.approx(0.0, abs=1e-6)
    scores = [psi(even, np.array([1_000 + d, 1_000 - d, 1_000, 1_000])) for d in (100, 500, 1_000)]
    assert scores == sorted(scores)
    assert 0 < scores[0] < 0.01
    assert np.isfinite(scores[-1])


def test_200_windows_as_in_validation_raise_no_alarm(reference: DriftReference) -> None:
    """At most 1 in 100 may: flows here are independent, as those of many hosts nearly are."""
    rng = np.random.default_rng(1)
    watch = DriftWatch(reference)
    highest = []
    for _ in range(200):
        watch.add(window(reference, rng))
        highest.append(max(watch.scores.values()))
    assert sum(score > MUCH for score in highest) == 0
    assert max(highest) < 0.05


def test_a_planted_shift_is_told_in_the_first_window(reference: DriftReference) -> None:
    rng = np.random.default_rng(2)
    watch = DriftWatch(reference)
    shifted = window(reference, rng)
    shifted["label"][: WINDOW_FLOWS // 2] = 0  # half of all flows are of one service
    watch.add(shifted)
    assert watch.scores["labels"] > MUCH
    assert watch.scores["tiers"] < 0.05


def test_the_score_is_that_of_the_latest_full_window(reference: DriftReference) -> None:
    rng = np.random.default_rng(3)
    watch = DriftWatch(reference, window_flows=500)
    watch.add(window(reference, rng, 499))
    assert watch.scores == {}
    watch.add(window(reference, rng, 1))
    first = watch.scores
    assert set(first) == {"labels", "tiers"}
    watch.add(window(reference, rng, 300))
    assert watch.scores is first


def test_what_the_models_did_not_decide_does_not_count(reference: DriftReference) -> None:
    rng = np.random.default_rng(4)
    watch = DriftWatch(reference, window_flows=500)
    for reason in (Reason.DEGRADED, Reason.STATE_LOST, Reason.EVICTED):
        finals = window(reference, rng)
        finals["reason"] = reason
        watch.add(finals)
    assert watch.scores == {}


def test_a_label_that_validation_does_not_know_counts_for_tiers_alone(
    reference: DriftReference,
) -> None:
    finals = window(reference, np.random.default_rng(5))
    finals["label"][::2] = len(reference.labels)  # "unknown"
    watch = DriftWatch(reference)
    watch.add(finals)
    assert max(watch.scores.values()) < 0.05


def test_a_damaged_bundle_is_not_taken_for_one_without_judgements(
    bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    file = tmp_path / "b" / "validation" / "true.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(BundleError):
        drift_reference(tmp_path / "b")
