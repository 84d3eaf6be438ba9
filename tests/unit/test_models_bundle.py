"""A bundle is written whole or not at all, and read only if not a bit of it has changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.errors import BundleError
from models.bundle import (
    read_bundle,
    read_validation,
    rewrite_bundle,
    write_bundle,
)
from models.cascade import load_cascade
from models.features import FEATURE_SCHEMA
from models.manifest import FORMAT, digest_of, manifest_text
from models.synthetic import synthetic_bundle, synthetic_validation
from models.validation import VALIDATION_FILES


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return synthetic_bundle(tmp_path / "bundle")


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the manifest and sign it anew, as a well-meaning person would."""
    path = folder / "manifest.json"
    fields = json.loads(path.read_text())
    path.write_bytes(manifest_text({**fields, **changes}))


def test_what_is_written_is_read_back(bundle: Path) -> None:
    contents = read_bundle(bundle)
    assert contents.classes == ("small", "large")
    assert [tier.name for tier in contents.tiers] == ["stump0@1", "stump1@1", "stump2@10"]
    assert contents.max_wait_s == 10.0
    assert contents.card == "# Made by hand\n"
    assert len(contents.model_version) == 12
    assert json.loads((bundle / "manifest.json").read_text())["digest"].startswith(
        contents.model_version
    )


def test_the_same_contents_give_the_same_version(bundle: Path, tmp_path: Path) -> None:
    again = synthetic_bundle(tmp_path / "again")
    assert read_bundle(again).model_version == read_bundle(bundle).model_version
    other = synthetic_bundle(tmp_path / "other", max_wait_s=3.0)
    assert read_bundle(other).model_version != read_bundle(bundle).model_version


def test_a_flipped_bit_in_any_file_is_refused(bundle: Path) -> None:
    for path in files_of(bundle):
        data = path.read_bytes()
        for at in {0, len(data) // 3, len(data) // 2, len(data) - 1}:
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with pytest.raises(BundleError) as caught:
                load_cascade(bundle)
            assert str(path.relative_to(bundle)) in str(caught.value)
        path.write_bytes(data)
    load_cascade(bundle)


def test_every_flipped_bit_in_the_manifest_is_refused(bundle: Path) -> None:
    path = bundle / "manifest.json"
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        with pytest.raises(BundleError, match=r"manifest\.json"):
            read_bundle(bundle, tiers=range(0))


def test_a_damaged_file_is_refused_even_if_its_tier_is_not_wanted(bundle: Path) -> None:
    (bundle / "tier2" / "values.npy").write_bytes(b"")
    with pytest.raises(BundleError, match=r"tier2/values\.npy"):
        load_cascade(bundle, tiers=range(2))


def test_a_missing_file_is_named(bundle: Path, tmp_path: Path) -> None:
    for path in files_of(bundle):
        copy = tmp_path / "copy"
        shutil.copytree(bundle, copy)
        gone = copy / path.relative_to(bundle)
        gone.unlink()
        with pytest.raises(BundleError, match=r"missing.*copy the bundle again") as caught:
            read_bundle(copy)
        assert str(gone) in str(caught.value)
        shutil.rmtree(copy)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere"):
        read_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("key", ["format", "feature_schema"])
def test_another_version_is_refused_with_both_named(bundle: Path, key: str) -> None:
    here = {"format": FORMAT, "feature_schema": FEATURE_SCHEMA}[key]
    rewrite(bundle, **{key: 99})
    with pytest.raises(BundleError, match=f"{key} is 99, this release reads {here}"):
        read_bundle(bundle)


def test_bundles_of_the_first_format_are_refused(bundle: Path) -> None:
    rewrite(bundle, format=1)
    with pytest.raises(BundleError, match="format is 1, this release reads 3"):
        load_cascade(bundle)


def test_a_key_that_nobody_knows_is_refused(bundle: Path) -> None:
    rewrite(bundle, colour="blue")
    with pytest.raises(BundleError, match="colour"):
        read_bundle(bundle)


def test_a_key_that_is_missing_is_named(bundle: Path) -> None:
    path = bundle / "manifest.json"
    fields = json.loads(path.read_text())
    del fields["classes"]
    path.write_bytes(manifest_text(fields))
    with pytest.raises(BundleError, match="classes"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("tiers", 0, "folder"), "../tier0", "folder"),
        (("tiers", 0, "files"), ["../../secret.npy"], "files"),
        (("tiers", 0, "depth"), 65, "depth"),
        (("tiers", 0, "depth"), 20, "decrease"),
        (("tiers", 0, "name"), "stump1@1", "twice"),
        (("tiers", 0, "engine"), "pickle", "engine"),
        (("tiers", 0, "files"), ["feature.npy"], "listed"),
        (("tiers", 0, "calibration"), {"x": [1.0, 0.5], "y": [0.1, 0.2]}, "increase"),
        (("tiers", 0, "calibration"), {"x": [0.5, 1.0], "y": [0.2, 0.1]}, "decrease"),
        (("tiers", 0, "calibration"), {"x": [0.5], "y": [0.1, 0.2]}, "as many"),
        (("tiers", 0, "inputs"), "sequence", "reads .* columns, at its depth there are 0"),
        (("tiers", 2, "depth"), 1, "reads .* columns"),
        (("tiers", 0, "gate"), "oracle", "gate"),
        (("tiers", 0, "gate"), "benefit", "a benefit gate with files"),
        (("tiers", 0, "gate_files"), ["roots.npy"], "a confidence gate with files"),
        (("tiers", 0, "class_thresholds"), [0.5], "one threshold for each class"),
        (("tiers", 0, "class_thresholds"), [0.5, 2.5], "class_thresholds"),
        (("tiers", 0, "cost_us"), {"many": 1.0}, "cost_us"),
        (("classes",), ["small"], "classes"),
        (("classes",), ["small", "small"], "twice"),
        (("max_wait_s",), 0, "max_wait_s"),
        (("validation",), [], "listed"),
        (("validation",), ["true.npy"], "or nothing"),
        (("validation",), ["../secret.npy"], "or nothing"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    bundle: Path, place: tuple[Any, ...], value: Any, says: str
) -> None:
    fields = json.loads((bundle / "manifest.json").read_text())
    part = fields
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    rewrite(bundle, **fields)
    with pytest.raises(BundleError, match=says):
        read_bundle(bundle)


def test_a_manifest_that_is_no_object_is_refused(bundle: Path) -> None:
    for text in ("[]", "{", "", "\x00"):
        (bundle / "manifest.json").write_text(text)
        with pytest.raises(BundleError, match=r"manifest\.json: damaged"):
            read_bundle(bundle)


def test_only_the_wanted_engines_are_loaded(bundle: Path) -> None:
    contents = read_bundle(bundle, tiers=range(1, 2))
    assert [tier.engine is not None for tier in contents.tiers] == [False, True, False]


def test_a_bundle_is_replaced_in_place(bundle: Path) -> None:
    before = read_bundle(bundle).model_version
    synthetic_bundle(bundle, depths=(1, 5))
    assert read_bundle(bundle).model_version != before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]  # nothing left over


def test_a_damaged_bundle_may_be_replaced(bundle: Path) -> None:
    (bundle / "card.md").write_text("torn")
    synthetic_bundle(bundle)
    read_bundle(bundle)


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    read_bundle(synthetic_bundle(tmp_path / "empty"))


def test_what_is_no_bundle_is_not_overwritten(tmp_path: Path, bundle: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("a file")
    link = tmp_path / "link"
    link.symlink_to(bundle)
    manifest = tmp_path / "extension"
    manifest.mkdir()
    (manifest / "manifest.json").write_text('{"manifest_version": 3}')
    (bundle / "notes.txt").write_text("mine")
    for place in (folder, file, link, manifest, bundle):
        before = sorted(path.name for path in tmp_path.rglob("*"))
        with pytest.raises(BundleError, match="choose another folder"):
            synthetic_bundle(place)
        assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert (folder / "chapter1.tex").read_text() == "years of work"


def test_a_failed_write_leaves_the_old_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_bundle(bundle).model_version

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("models.bundle.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        synthetic_bundle(bundle, depths=(1, 5))
    assert read_bundle(bundle).model_version == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_contents_that_make_no_bundle_are_not_written(bundle: Path, tmp_path: Path) -> None:
    contents = read_bundle(bundle, tiers=())
    with pytest.raises(BundleError, match="stump0@1: not loaded"):
        write_bundle(contents, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_digest_is_over_everything_but_itself() -> None:
    fields = {"b": 1, "a": [1.5, "ü"]}
    assert digest_of({**fields, "digest": "x"}) == digest_of(dict(reversed(fields.items())))
    assert digest_of(fields) != digest_of({**fields, "b": 2})


def test_arrays_are_plain_npy_files(bundle: Path) -> None:
    arrays = list(bundle.rglob("*.npy"))
    assert len(arrays) == 24
    for path in arrays:
        assert np.load(path, allow_pickle=False).dtype.kind in "iuf"


def test_judgements_are_kept_and_read_back(bundle: Path) -> None:
    kept, made = read_validation(bundle), synthetic_validation((1, 1, 10))
    for name in ("true", "groups", "sizes"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(made, name))
        assert getattr(kept, name).dtype == np.int64
    assert [tier.depth for tier in kept.tiers] == [1, 1, 10]
    for here, there in zip(kept.tiers, made.tiers, strict=True):
        for name in ("labels", "assurance", "wait_ns"):
            np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
    assert [path.name for path in files_of(bundle / "validation")] == list(VALIDATION_FILES)


def test_judgements_are_checked_but_not_held_to_serve(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    whole = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (read.append(str(self)), whole(self))[1])
    load_cascade(bundle)
    assert any("tier0" in name for name in read)
    assert not any("validation" in name for name in read)


def test_a_flipped_bit_in_the_judgements_is_refused_by_all_who_read(bundle: Path) -> None:
    for name in VALIDATION_FILES:
        path = bundle / "validation" / name
        data = path.read_bytes()
        for at in range(0, len(data), 37):
            path.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
            for read in (read_bundle, read_validation):
                with pytest.raises(BundleError, match=f"validation/{name}: damaged"):
                    read(bundle)
        path.write_bytes(data)
    read_validation(bundle)


def test_a_bundle_may_keep_no_judgements_and_says_so(bundle: Path, tmp_path: Path) -> None:
    write_bundle(read_bundle(bundle), tmp_path / "bare")
    load_cascade(tmp_path / "bare")
    with pytest.raises(BundleError, match="keeps no judgements"):
        read_validation(tmp_path / "bare")


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("true.npy", np.zeros(400, np.int64), "true.npy: is int64"),
        ("true.npy", np.full(400, 2, np.uint16), "true.npy: names a class"),
        ("true.npy", np.zeros(0, np.uint16), "shape"),
        ("label.npy", np.full((3, 400), 9, np.uint16), "label.npy: names a class"),
        ("label.npy", np.zeros((2, 400), np.uint16), "label.npy: has shape"),
        ("size.npy", np.zeros((1, 400), np.uint8), "size.npy: is uint8"),
        ("assurance.npy", np.full((3, 400), 1.5, np.float32), "within 0 and 1"),
        ("assurance.npy", np.full((3, 400), np.nan, np.float32), "within 0 and 1"),
        ("wait.npy", np.full((3, 400), -1, np.int64), "less than nothing"),
        ("wait.npy", None, "wait.npy: not an array"),
    ],
)
def test_judgements_that_make_no_sense_are_refused(
    bundle: Path, name: str, array: np.ndarray | None, says: str
) -> None:
    """Signed anew, so that only their content tells."""
    path = bundle / "validation" / name
    if array is None:
        path.write_bytes(b"neither")
    else:
        np.save(path, array)
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rewrite(bundle, files={**files, f"validation/{name}": digest})
    with pytest.raises(BundleError, match=says):
        read_validation(bundle)
    load_cascade(bundle)  # it serves all the same


def test_a_bundle_is_rewritten_with_other_thresholds_and_the_same_rest(
    bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    version = rewrite_bundle(bundle, out, (0.25, 2.0), "# Another\n")
    contents = read_bundle(out)
    assert contents.model_version == version != read_bundle(bundle).model_version
    assert [tier.threshold for tier in contents.tiers] == [0.25, 2.0, 2.0]
    assert contents.card == "# Another\n"
    for path in files_of(bundle):
        if path.name not in ("manifest.json", "card.md"):
            assert (out / path.relative_to(bundle)).read_bytes() == path.read_bytes()
    assert rewrite_bundle(bundle, bundle, (0.25, 2.0), "# Another\n") == version, "in place, too"
    by_class = ((0.25, 0.75), 2.0)
    rewrite_bundle(bundle, out, by_class, "# Another\n")
    tiers = read_bundle(out).tiers
    assert [tier.class_thresholds for tier in tiers] == [(0.25, 0.75), None, None]
    rewrite_bundle(out, out, (0.25, 2.0), "# Another\n")
    assert read_bundle(out).model_version == version, "one for all classes again"
    with pytest.raises(ValueError, match="shorter"):
        rewrite_bundle(bundle, out, (0.25,), "")
    with pytest.raises(BundleError, match="threshold"):
        rewrite_bundle(bundle, out, (0.25, -1.0), "")
