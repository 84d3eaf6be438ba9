"""A dearer bundle answers alike, and a timeline tells changes alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.autoscaling import changes, dearer
from models.bundle import read_bundle, write_bundle
from models.cascade import load_cascade


@pytest.mark.parametrize("times", [2, 12])
def test_a_dearer_bundle_says_the_same(bundle: Path, tmp_path: Path, times: int) -> None:
    """Also when it has been written and read back, which the service does."""
    write_bundle(dearer(read_bundle(bundle), times, 1), tmp_path / "dear")
    plain, dear = load_cascade(bundle), load_cascade(tmp_path / "dear")
    assert [tier.name for tier in dear.tiers] == [tier.name for tier in plain.tiers]
    for contents, dearer_contents in zip(
        read_bundle(bundle).tiers, read_bundle(tmp_path / "dear").tiers, strict=True
    ):
        ours, theirs = contents.engine, dearer_contents.engine
        assert ours is not None
        assert theirs is not None
        assert (ours.kind == theirs.kind) == (contents.depth != 1 or ours.kind == "mean")
        inputs = np.random.default_rng(0).random((5, max(ours.columns, 1)), np.float32)
        if ours.columns:
            assert theirs.scores(inputs) == pytest.approx(ours.scores(inputs), abs=1e-5)


def test_a_timeline_tells_changes_alone() -> None:
    one, two = {"Router": 1}, {"Router": 2}
    seen = [(1.0, one), (2.04, one), (3.0, two), (4.0, two), (5.0, one)]
    assert [(found["at_s"], found["replicas"]) for found in changes(seen)] == [
        (1.0, one),
        (3.0, two),
        (5.0, one),
    ]
    assert changes([]) == []
