"""Flows of classes that nobody trained on are told, and known ones are left alone."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from collectors.collector import Settled
from collectors.json_lines import verdict_lines
from deployments.json_form import verdicts_to_json
from deployments.local import local_dispatcher, spec_of
from flows.errors import BundleError
from flows.table import FLOW_DTYPE
from flows.verdict_wire import VerdictReader, VerdictWriter
from flows.wire import PacketBatch
from models.bundle import BundleContents, TierModel, read_bundle, rewrite_bundle, write_bundle
from models.bundle_files import read_file
from models.calibration import Isotonic
from models.candidates import task_of
from models.cascade import Cascade, load_cascade
from models.dataset import Dataset
from models.evaluation_answers import answer_all, study
from models.evaluation_unknown import auroc, flagged, unknown
from models.features import Sight, flow_features
from models.forest import fit_extra_trees
from models.known_flows import MOST_FLOWS, KnownFlows
from models.manifest import manifest_text
from models.novelty import Novelty, Ranks
from models.novelty_files import NOVELTY_FILES, novelty_files, novelty_from_files
from models.novelty_training import fit_novelty
from models.synthetic import synthetic_bundle, synthetic_dataset

DEPTHS = (1, 3)
NEVER = 2.0


def flows(seed: int, *, known: bool) -> Dataset:
    """Draw flows of classes 0 to 3, or of classes 4 to 7, which have other sizes and windows."""
    data = synthetic_dataset(3_000, classes=8, groups=30, seed=seed)
    return data.select(np.isin(data.labels, [f"class-{c}" for c in range(4)]) == known)


def scores_of(data: Dataset, depth: int) -> tuple[np.ndarray, np.ndarray]:
    columns = flow_features(data.packets, data.offsets, depth, Sight())
    scores = np.zeros((len(data), 4), np.float32)
    task = task_of(data, 3, 0, 10.0)
    for fold in range(3):
        rest = task.fold != fold
        engine = fit_extra_trees(columns[rest], task.true[rest], 4, trees=10)
        scores[~rest] = engine.scores(columns[~rest])
    return columns, scores


@pytest.fixture(scope="module")
def contents() -> BundleContents:
    data = flows(0, known=True)
    task = task_of(data, 3, 0, 10.0)
    tiers = []
    for depth in DEPTHS:
        columns, scores = scores_of(data, depth)
        tiers.append(
            TierModel(
                name=f"extra-trees@{depth}",
                depth=depth,
                threshold=0.9 if depth == 1 else NEVER,
                inputs="columns",
                sight=Sight(),
                calibration=Isotonic((0.0, 1.0), (0.0, 1.0)),
                engine=fit_extra_trees(columns, task.true, 4, trees=10),
                novelty=fit_novelty(columns, scores, task.fold),
            )
        )
    return BundleContents(task.classes, tuple(tiers), "# Card\n", "none", {})


@pytest.fixture
def bundle(contents: BundleContents, tmp_path: Path) -> Path:
    write_bundle(contents, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture(scope="module")
def relabelling(contents: BundleContents) -> Cascade:
    return Cascade(replace(contents, unknown_from=0.95))


def novelty_of(contents: BundleContents) -> Novelty:
    novelty = contents.tiers[-1].novelty
    assert novelty is not None
    return novelty


def test_ranks_are_shares_of_what_has_less() -> None:
    ranks = Ranks.of(np.array([0, 0, 0, 1, 2, 3, 4, 5, 6, 7], np.float32))
    assert ranks(np.array([-1, 0, 1, 2, 2.5, 7, 8], np.float32)).tolist() == pytest.approx(
        [0, 0, 0.3, 0.4, 0.45, 0.9, 1.0]
    )


def test_ranks_tell_the_last_few_of_many_apart() -> None:
    ranks = Ranks.of(np.arange(100_000, dtype=np.float32))
    assert len(ranks.x) < 500
    said = ranks(np.array([50_123, 99_990, 99_998], np.float32))
    np.testing.assert_allclose(said, [0.50123, 0.9999, 0.99998], atol=1e-5)


def test_known_flows_are_as_strange_as_promised(contents: BundleContents) -> None:
    data = flows(7, known=True)
    columns = flow_features(data.packets, data.offsets, 3, Sight())
    engine = contents.tiers[-1].engine
    assert engine is not None
    novelty = novelty_of(contents)(engine.scores(columns), columns)
    assert novelty.dtype == np.float32
    assert 0.0 <= novelty.min() <= novelty.max() <= 1.0
    for rank, margin in ((0.5, 0.05), (0.9, 0.03), (0.95, 0.02), (0.99, 0.01)):
        assert (novelty >= rank).mean() == pytest.approx(1 - rank, abs=margin)


def test_flows_of_unknown_classes_are_stranger(relabelling: Cascade) -> None:
    known, new = flows(8, known=True), flows(8, known=False)
    of_known = answer_all(relabelling, known, 0).novelty
    of_new = answer_all(relabelling, new, 0).novelty
    assert of_known is not None
    assert of_new is not None
    new_ones = np.repeat([False, True], [len(known), len(new)])
    assert auroc(np.concatenate([of_known, of_new]), new_ones) > 0.9


def test_strange_flows_are_labelled_unknown_and_others_are_not(
    contents: BundleContents, relabelling: Cascade
) -> None:
    plain = Cascade(contents)
    assert plain.classes == contents.classes
    assert relabelling.classes == (*contents.classes, "unknown")
    assert relabelling.learned == len(contents.classes)
    data = flows(9, known=True)
    before, after = answer_all(plain, data, 0), answer_all(relabelling, data, 0)
    named = after.said == relabelling.learned
    assert after.novelty is not None
    assert (named == (after.novelty >= np.float32(0.95))).all()
    assert (before.said[~named] == after.said[~named]).all()
    assert (before.tier == after.tier).all()
    assert named.mean() == pytest.approx(0.05, abs=0.02)
    assert (answer_all(relabelling, flows(9, known=False), 0).said == 4).mean() > 0.4


def test_novelty_rests_on_the_flow_alone(contents: BundleContents, relabelling: Cascade) -> None:
    data = flows(10, known=False).select(np.arange(300))
    whole = ask(relabelling, data)
    for at in range(0, 300, 37):
        alone = ask(relabelling, data.select(np.arange(at, at + 1)))
        assert alone["novelty"] == whole["novelty"][at]
        assert alone["label"] == whole["label"][at]
    order = np.random.default_rng(0).permutation(300)
    assert (ask(relabelling, data.select(order))["novelty"] == whole["novelty"][order]).all()


def ask(cascade: Cascade, data: Dataset, stop_tier: int | None = None) -> np.ndarray:
    n = len(data)
    ended = np.full(n, stop_tier is None, np.uint8)
    none = np.zeros(n, np.uint8)
    return cascade.answer(data.packets, data.offsets, none, ended, stop_tier=stop_tier)


def test_only_final_answers_tell_novelty(relabelling: Cascade) -> None:
    answers = ask(relabelling, flows(11, known=True), stop_tier=1)
    provisional = answers["final"] == 0
    assert provisional.any()
    assert not provisional.all()
    assert (answers["novelty"][provisional] == 0).all()
    assert (answers["label"][provisional] < relabelling.learned).all()
    assert (answers["novelty"][~provisional] > 0).any()


def test_a_tier_that_reads_sequences_tells_novelty_too(contents: BundleContents) -> None:
    class Even:
        kind, classes, columns = "even", 4, 0

        def scores(self, inputs: np.ndarray) -> np.ndarray:
            assert inputs.ndim == 3
            return np.full((len(inputs), 4), 0.25, np.float32)

        def files(self) -> dict[str, bytes]:
            return {}

    tier = replace(contents.tiers[-1], inputs="sequence", engine=Even())
    answers = ask(Cascade(replace(contents, tiers=(tier,))), flows(12, known=True))
    assert len(np.unique(answers["novelty"])) > 10


def test_flows_without_their_hosts_histories_are_no_stranger() -> None:
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(2_000, 6)).astype(np.float32)
    columns[:, 3:] += 50
    bare = columns.copy()
    bare[:, 3:] = 0
    scores = np.full((2_000, 2), 0.5, np.float32)
    fold = np.arange(2_000) % 4
    assert fit_novelty(columns, scores, fold)(scores, bare).mean() > 0.95
    assert fit_novelty(columns, scores, fold, bare=bare)(scores, bare).mean() < 0.6


def test_the_same_flows_give_the_same_arrays() -> None:
    columns, scores = scores_of(flows(3, known=True), 3)
    fold = np.arange(len(scores)) % 3
    assert novelty_files(fit_novelty(columns, scores, fold)) == novelty_files(
        fit_novelty(columns, scores, fold)
    )


@pytest.mark.filterwarnings("error")
def test_few_flows_that_are_all_alike_can_be_learned() -> None:
    columns = np.ones((6, 3), np.float32)
    scores = np.full((6, 2), 0.5, np.float32)
    novelty = fit_novelty(columns, scores, np.arange(6) % 2)
    assert novelty(scores, columns).tolist() == [0.0] * 6
    assert (novelty(scores, columns + 1) == 1.0).all()
    with pytest.raises(ValueError, match="two folds"):
        fit_novelty(columns, scores, np.zeros(6, np.int64))


def test_columns_of_another_tier_are_refused(contents: BundleContents) -> None:
    novelty = novelty_of(contents)
    with pytest.raises(ValueError, match="columns"):
        novelty(np.zeros((2, 4), np.float32), np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="columns"):
        novelty(np.zeros((2, 4), np.float32), np.zeros((3, novelty.columns), np.float32))


def test_a_bundle_keeps_novelty(bundle: Path, contents: BundleContents) -> None:
    data = flows(4, known=False)
    assert (
        (ask(load_cascade(bundle), data)["novelty"]).tolist()
        == (ask(Cascade(contents), data)["novelty"]).tolist()
    )
    assert {path.name for path in (bundle / "novelty1").iterdir()} == set(NOVELTY_FILES)


def test_bundles_without_novelty_serve_none(tmp_path: Path) -> None:
    cascade = load_cascade(synthetic_bundle(tmp_path / "bundle"))
    assert (ask(cascade, flows(5, known=True))["novelty"] == 0).all()


def test_a_bundle_can_be_told_to_label_or_not_to(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    rewrite_bundle(bundle, other, [0.9], "# Card\n", unknown_from=0.99)
    assert load_cascade(other).classes[-1] == "unknown"
    rewrite_bundle(other, other, [0.8], "# Card\n")
    assert load_cascade(other).classes[-1] == "unknown"
    rewrite_bundle(other, other, [0.8], "# Card\n", unknown_from=NEVER)
    assert "unknown" not in load_cascade(other).classes


def test_labelling_needs_novelty_and_a_free_name(contents: BundleContents, tmp_path: Path) -> None:
    first = replace(contents.tiers[0], novelty=None)
    with pytest.raises(BundleError, match="cannot tell strange flows"):
        write_bundle(
            replace(contents, tiers=(first, contents.tiers[1]), unknown_from=0.9), tmp_path / "a"
        )
    taken = (*contents.classes[:-1], "unknown")
    with pytest.raises(BundleError, match="named unknown"):
        write_bundle(replace(contents, classes=taken, unknown_from=0.9), tmp_path / "b")
    with pytest.raises(BundleError, match="unknown_from"):
        write_bundle(replace(contents, unknown_from=3.0), tmp_path / "c")


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


HOSTILE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "prototypes of another width": lambda a: a[:, 1:],
    "no prototypes": lambda a: a[:0],
    "too many prototypes": lambda a: np.resize(a, (MOST_FLOWS + 1, a.shape[1])),
    "prototypes that are no numbers": lambda a: np.full_like(a, np.nan),
    "prototypes far away": lambda a: a + 1e9,
    "prototypes of another type": lambda a: a.astype(np.float64),
    "one prototype as a row": lambda a: a[0],
}


def test_known_flows_take_half_the_room_where_that_changes_none(contents: BundleContents) -> None:
    novelty = novelty_of(contents)
    flows = novelty.known.flows
    files = novelty_files(novelty)
    assert len(files["prototypes.npy"]) < 0.6 * flows.nbytes + 200
    np.testing.assert_array_equal(novelty_from_files(files, novelty.columns).known.flows, flows)
    whole = {**files, "prototypes.npy": npy(flows)}  # as in bundles of before
    np.testing.assert_array_equal(novelty_from_files(whole, novelty.columns).known.flows, flows)
    finer = np.clip(flows + np.float32(1e-4), -5.0, 5.0).astype(np.float32)
    known = KnownFlows(
        novelty.known.mean, novelty.known.scale, finer, novelty.known.centres, novelty.known.starts
    )
    kept = novelty_files(Novelty(known, novelty.entropy, novelty.distance, novelty.both))
    np.testing.assert_array_equal(novelty_from_files(kept, novelty.columns).known.flows, finer)


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_prototypes_are_refused(contents: BundleContents, what: str) -> None:
    novelty = novelty_of(contents)
    files = novelty_files(novelty)
    assert novelty_from_files(files, novelty.columns).columns == novelty.columns
    with pytest.raises(BundleError, match=r"novelty|prototypes"):
        novelty_from_files(
            {**files, "prototypes.npy": npy(HOSTILE[what](novelty.known.flows))}, novelty.columns
        )


@pytest.mark.parametrize(
    "ranks",
    [
        np.zeros((2, 0)),
        np.zeros((3, 4)),
        np.array([[0, 0], [0, 1]]),
        np.array([[1, 0], [0, 1]]),
        np.array([[0, np.inf], [0, 1]]),
        np.array([[0, np.nan], [0, 1]]),
        np.array([[0, 1], [1, 0]]),
        np.array([[0, 1], [0, 1.5]]),
        np.array([[0, 1], [np.nan, 1]]),
    ],
)
@pytest.mark.parametrize("name", ["entropy.npy", "distance.npy", "both.npy"])
def test_hostile_ranks_are_refused(contents: BundleContents, name: str, ranks: np.ndarray) -> None:
    files = novelty_files(novelty_of(contents))
    with pytest.raises(BundleError):
        novelty_from_files({**files, name: npy(ranks.astype(np.float32))}, 1)
    with pytest.raises(BundleError):
        novelty_from_files(
            {**files, name: npy(ranks.astype(np.float32))}, novelty_of(contents).columns
        )


@pytest.mark.parametrize("name", ["mean.npy", "scale.npy"])
def test_hostile_scales_are_refused(contents: BundleContents, name: str) -> None:
    novelty = novelty_of(contents)
    files = novelty_files(novelty)
    for bad in (novelty.known.mean[1:], novelty.known.mean * np.nan, npy(np.array([{}]))):
        data = bad if isinstance(bad, bytes) else npy(bad)
        with pytest.raises(BundleError):
            novelty_from_files({**files, name: data}, novelty.columns)
    with pytest.raises(BundleError, match="scales"):
        novelty_from_files({**files, "scale.npy": npy(-novelty.known.scale)}, novelty.columns)


def test_what_is_missing_or_of_another_tier_is_refused(contents: BundleContents) -> None:
    novelty = novelty_of(contents)
    files = novelty_files(novelty)
    for name in files:
        with pytest.raises(BundleError, match=name):
            novelty_from_files({k: v for k, v in files.items() if k != name}, novelty.columns)
    with pytest.raises(BundleError, match="columns"):
        novelty_from_files(files, novelty.columns + 1)


def test_damage_and_a_part_of_the_files_are_refused(bundle: Path) -> None:
    path = bundle / "novelty0" / "both.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"novelty0/both\.npy.*damaged"):
        load_cascade(bundle)
    path.unlink()
    with pytest.raises(BundleError, match=r"novelty0/both\.npy: missing"):
        read_bundle(bundle)


def test_a_manifest_that_lists_half_of_the_files_is_refused(bundle: Path) -> None:

    fields = json.loads(read_file(bundle, "manifest.json"))
    del fields["tiers"][0]["novelty_files"][0]
    (bundle / "manifest.json").write_bytes(manifest_text(fields))
    with pytest.raises(BundleError, match="or nothing"):
        read_bundle(bundle)


def test_novelty_travels_over_arrow_json_and_into_the_sinks(relabelling: Cascade) -> None:
    data = flows(6, known=False).select(np.arange(60))
    packets = data.packets.copy()
    batch = PacketBatch("edge", int(packets["time_ns"].max()) + 60_000_000_000, packets)

    async def verdicts() -> np.ndarray:
        dispatcher = local_dispatcher(relabelling)
        return np.concatenate([part async for part in dispatcher.handle(batch)])

    found = asyncio.run(verdicts())
    found = found[found["final"] == 1]
    found = found[np.argsort(found["flow_id"])]
    assert len(found) == 60
    wanted = ask(relabelling, data)
    order = np.argsort(packets["flow_id"][data.offsets[:-1]])
    assert found["novelty"].tolist() == wanted["novelty"][order].tolist()
    assert found["label"].tolist() == wanted["label"][order].tolist()
    spec = spec_of(relabelling)
    writer = VerdictWriter(spec.classes, spec.model_version)
    reader = VerdictReader(io.BytesIO(writer.part(found) + writer.end()))
    ((arrived, _),) = list(reader)
    assert arrived["novelty"].tolist() == found["novelty"].tolist()
    lines = verdicts_to_json(arrived, reader.classes, spec.tiers, "v")
    records = np.zeros(60, FLOW_DTYPE)
    records["protocol"] = 6
    settled = Settled(records, arrived, np.zeros(60, np.int64), np.zeros(60, np.int64))
    for some in (lines, verdict_lines(settled, reader.classes, spec.tiers, "v")):
        assert [line["novelty"] for line in some] == [
            round(float(one), 4) for one in found["novelty"]
        ]
        assert {line["label"] for line in some} >= {"unknown"}


def test_the_evaluation_counts_unknown_as_right(
    contents: BundleContents, relabelling: Cascade
) -> None:
    data = synthetic_dataset(1_500, classes=8, groups=30, seed=13)
    plain, named = study(Cascade(contents), data), study(relabelling, data)
    assert plain.names == (*contents.classes, "class-4", "class-5", "class-6", "class-7")
    assert named.names == (*contents.classes, "unknown")
    assert (named.true >= 4).tolist() == (plain.true >= 4).tolist()
    assert (named.cascade.said == named.true)[named.true == 4].mean() > 0.4
    for one in (plain, named):
        found = unknown(one)
        assert found is not None
        assert found["flows"] == int((plain.true >= 4).sum())
        assert found["auroc_by_flow"] > 0.9
        assert found["auroc_by_capture"] > 0.9
        assert found["slow_only"]["auroc_by_flow"] > 0.9
        assert 0 <= found["flagged"]["0.01"] <= found["flagged"]["0.05"] <= 1
        assert found["flagged_from"]["0.95"]["known"] < 0.12
    assert unknown(study(relabelling, flows(14, known=True))) is None
    alone = unknown(study(relabelling, flows(14, known=False)))
    assert alone is not None
    assert alone["auroc_by_flow"] is None


def test_the_area_under_the_curve_and_false_alarms() -> None:
    score = np.array([0.1, 0.2, 0.3, 0.4, 0.3, 0.9])
    new = np.array([False, False, False, False, True, True])
    assert auroc(score, new) == (2.5 + 4) / 8
    assert flagged(score, new, 0.0) == 0.5
    assert flagged(score, new, 0.5) == 1.0
    with pytest.raises(ValueError, match="positives and negatives"):
        auroc(score, np.zeros(6, bool))
