"""F1 as scikit-learn defines it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from models.metrics import accuracy, f1_scores


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["str", "int"])
def test_f1_is_that_of_scikit_learn(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 5, 200)
    said = np.where(rng.random(200) < 0.6, true, rng.integers(1, 7, 200))  # 5 and 6: never true
    if kind == "str":
        true, said = (
            np.char.add("class-", true.astype(str)),
            np.char.add("class-", said.astype(str)),
        )
    found = f1_scores(true, said)
    for average in ("weighted", "macro"):
        wanted = f1_score(true, said, average=average, zero_division=0.0)
        assert found[f"{average}_f1"] == pytest.approx(wanted)


def test_all_right_is_1_and_all_wrong_is_0() -> None:
    true = np.array(["a", "b", "b"])
    assert f1_scores(true, true) == {"weighted_f1": 1.0, "macro_f1": 1.0}
    assert f1_scores(true, np.array(["c", "c", "c"])) == {"weighted_f1": 0.0, "macro_f1": 0.0}


def test_labels_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="0 true labels"):
        f1_scores(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="2 true labels and 1"):
        f1_scores(np.array([1, 2]), np.array([1]))


def test_accuracy_is_the_share_that_is_right() -> None:
    assert accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.75
    assert np.isnan(accuracy(np.array([]), np.array([])))
