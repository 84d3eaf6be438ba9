"""The models that are tried: each can be made, and those of the quick way can be trained."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.candidates import task_of
from models.engines import Engine, MeanEngine, engine_from_files
from models.features import Sight
from models.inputs import FORMS, see
from models.synthetic import synthetic_dataset
from models.zoo import DEPTHS, EFFORTS, Recipe, extra_trees, mean, paper_zoo, quick_zoo, zoo

DATA = synthetic_dataset(120, classes=3, seed=1)
TRUE = np.unique(DATA.labels, return_inverse=True)[1]


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("share", [0.4, "sqrt", None])
def test_every_recipe_is_one_of_a_kind(effort: str, share: float | None) -> None:
    recipes = zoo(effort, share, costly=False)  # type: ignore[arg-type]
    names = [one.name for one in recipes]
    assert len(set(names)) == len(names)
    for one in recipes:
        assert one.depth in DEPTHS
        assert one.inputs in FORMS
        assert one.name.endswith(f"@{one.depth}")
        assert re.fullmatch(r"[a-z0-9][a-z0-9@._-]{0,63}", one.name), "a bundle takes the name"


def test_more_effort_tries_all_that_less_tries_and_more() -> None:
    quick, standard, full = (
        [one.name for one in zoo(effort, 0.4, costly=False)] for effort in EFFORTS
    )
    assert standard[: len(quick)] == full[: len(quick)] == quick, "the most promising come first"
    assert set(quick) < set(standard) < set(full)
    assert [one.name for one in quick_zoo(0.4)] == quick


def test_the_papers_tiers_read_bits() -> None:
    recipes = paper_zoo()
    assert [one.depth for one in recipes] == [1, 1, 10]
    assert {one.inputs for one in recipes} == {"bits"}
    assert len(
        {one.name for one in recipes} | {one.name for one in zoo("full", None, costly=False)}
    ) == len(recipes) + len(zoo("full", None, costly=False)), "a bundle tells them apart"


@pytest.mark.parametrize("host", [False, True])
def test_an_augmented_network_learns_from_changed_flows_of_the_right_classes(host: bool) -> None:
    drawn = []

    def fit_drawn(*given: Any) -> Engine:
        inputs, labels, groups, classes, _, draw = given
        for seed in (0, 1):
            changed, row = draw(np.random.default_rng(seed))
            assert changed.shape == inputs.shape
            assert len(row) == len(labels) == len(groups)
            drawn.append(changed)
            # Packet 1 stays, so it is the same flow: what the classes differ in is still there.
            np.testing.assert_array_equal(changed[:, :3], inputs[row][:, :3])
        assert classes == 3
        return recipe.fit(*given[:-1])

    task = task_of(DATA, 2, 0, 10.0)
    recipe = extra_trees(10, 3, None)
    engine = task.fit(replace(recipe, fit_drawn=fit_drawn), Sight(host=host), task.fold == 0)
    assert engine.classes == 3
    assert not np.array_equal(drawn[0], drawn[1]), "each time others"
    names = {one.name for one in zoo("full", None, costly=False) if one.fit_drawn is not None}
    assert names == {f"{kind}-augmented@10" for kind in ("mlp", "cnn", "gru", "transformer")}


def test_a_mean_comes_after_its_parts() -> None:
    """So it needs no training of its own."""
    recipes = zoo("full", 0.4, costly=False)
    for at, one in enumerate(recipes):
        before = {earlier.name for earlier in recipes[:at]}
        for part in one.parts:
            assert part.name in before
            assert (part.depth, part.inputs) == (one.depth, one.inputs)


def trained(recipe: Recipe, seed: int = 0) -> bytes:
    inputs = see(recipe.inputs, DATA.packets, DATA.offsets, recipe.depth, Sight())
    engine = recipe.fit(inputs, TRUE, DATA.groups, 3, seed)
    scores = engine.scores(inputs)
    assert scores.shape == (len(DATA), 3)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-5)
    # Half of the flows of a pair look alike in packet 1.
    assert (scores.argmax(axis=1) == TRUE).mean() > (0.6 if recipe.depth == 1 else 0.9)
    files = engine.files()
    again = engine_from_files(engine.kind, files)
    np.testing.assert_array_equal(again.scores(inputs), scores)
    return b"".join(files[name] for name in sorted(files))


@pytest.mark.parametrize("recipe", quick_zoo(0.4), ids=lambda one: one.name)
def test_quick_recipes_learn_and_are_repeatable(recipe: Recipe) -> None:
    assert trained(recipe) == trained(recipe)


def test_a_mean_is_the_mean_of_its_parts() -> None:
    tree, trees = quick_zoo(0.4)[:2]
    recipe = mean(tree, trees)
    assert (recipe.name, recipe.parts) == ("tree-extra-trees-20@1", (tree, trees))
    inputs = see("columns", DATA.packets, DATA.offsets, 1, Sight())
    engine = recipe.fit(inputs, TRUE, DATA.groups, 3, 0)
    assert isinstance(engine, MeanEngine)
    parts = [part.fit(inputs, TRUE, DATA.groups, 3, 0).scores(inputs) for part in (tree, trees)]
    np.testing.assert_allclose(engine.scores(inputs), np.mean(parts, axis=0), atol=1e-6)
