"""A bundle: the folder that holds a trained cascade.

::

    manifest.json       classes, tiers, thresholds, calibration, SHA-256 of everything else
    card.md             for people: what it was trained on and what it is worth
    tier0/feature.npy   … a forest as arrays, or model.onnx
    novelty0/*.npy      what known flows look like to a tier, see models.novelty_files
    validation/*.npy    what the tiers said in cross-validation, see models.validation; not needed
                        to serve

Nothing in it is a pickle, nothing in it can carry code, and a flipped bit anywhere is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.errors import BundleError
from models.bundle_files import check_file, checked_file, read_file, write_files
from models.bundle_tiers import load_engine, load_gate, load_novelty, sight_of
from models.calibration import Calibration, calibration_of
from models.engines import Engine
from models.features import FEATURE_SCHEMA, Sight
from models.gates import Gate
from models.goals import Threshold
from models.manifest import (
    FORMAT,
    MAX_WAIT_S,
    VALIDATION_FOLDER,
    Manifest,
    manifest_text,
    parse_manifest,
)
from models.novelty import Novelty
from models.novelty_files import novelty_files
from models.validation import Validation, validation_from_files

__all__ = [
    "BundleContents",
    "TierModel",
    "check_replaceable",
    "read_bundle",
    "read_validation",
    "rewrite_bundle",
    "write_bundle",
]

_MANIFEST = "manifest.json"
_CARD = "card.md"


@dataclass(frozen=True, slots=True)
class TierModel:
    """One trained tier.

    Attributes:
        name: Its name, such as ``tree@1``.
        depth: First packets that it judges.
        threshold: Assurance from which on its answer is final; above 1: never sure.
        inputs: A key of :data:`models.inputs.FORMS`.
        sight: What it sees beyond the headers of the flow's packets.
        calibration: Of its confidence.
        engine: What scores; None: not loaded.
        gate: What assurance is.
        class_thresholds: Instead of ``threshold``, by the class that it names; None: alike for all.
        cost_us: What it takes a flow, gate and features included, microseconds, by flows in a
            call; measured where it was trained.
        novelty: How strange flows are to it; None: it cannot tell, or is not loaded.
    """

    name: str
    depth: int
    threshold: float
    inputs: str
    sight: Sight
    calibration: Calibration
    engine: Engine | None
    gate: Gate = field(default_factory=Gate)
    class_thresholds: tuple[float, ...] | None = None
    cost_us: dict[int, float] = field(default_factory=dict)
    novelty: Novelty | None = None


@dataclass(frozen=True, slots=True)
class BundleContents:
    """What is written as a bundle and read back.

    Attributes:
        classes: Names of the labels, by index.
        tiers: The tiers, shallowest first.
        card: The text of card.md.
        training_data: SHA-256 over the training data.
        made_with: Versions of what made it.
        max_wait_s: How long a flow waits for packets after its first (capture time).
        unknown_from: Novelty from which on a flow is labelled ``unknown``; None, or above 1: never.
        model_version: The first 12 digits of the manifest's digest; empty before it is written.
    """

    classes: tuple[str, ...]
    tiers: tuple[TierModel, ...]
    card: str
    training_data: str
    made_with: dict[str, str]
    max_wait_s: float = MAX_WAIT_S
    unknown_from: float | None = None
    model_version: str = ""


def write_bundle(
    contents: BundleContents, folder: Path, validation: Validation | None = None
) -> str:
    """Write a bundle in one step: there is the old one or the whole new one, nothing between.

    Args:
        contents: With all engines loaded.
        folder: Where; a bundle that is there is replaced.
        validation: What the tiers said in cross-validation; without it, the bundle cannot be tuned.

    Returns:
        The model version.

    Raises:
        BundleError: There is something else than a bundle at ``folder``, or ``contents`` make none.
    """
    check_replaceable(folder)
    folder = Path(os.path.abspath(folder))  # without following a link: it is what is replaced
    files = {_CARD: contents.card.encode()}
    tiers = []
    for i, tier in enumerate(contents.tiers):
        if tier.engine is None:
            raise BundleError(f"{tier.name}: not loaded; a bundle is written with all its tiers")
        own = tier.engine.files()
        files |= {f"tier{i}/{name}": data for name, data in own.items()}
        asks = tier.gate.engine
        gate = asks.files() if asks is not None else {}
        files |= {f"gate{i}/{name}": data for name, data in gate.items()}
        strange = novelty_files(tier.novelty) if tier.novelty is not None else {}
        files |= {f"novelty{i}/{name}": data for name, data in strange.items()}
        tiers.append(
            {
                "name": tier.name,
                "depth": tier.depth,
                "threshold": tier.threshold,
                "class_thresholds": tier.class_thresholds and list(tier.class_thresholds),
                "gate": tier.gate.kind,
                **({"gate_engine": asks.kind} if asks is not None else {}),
                "gate_files": sorted(gate),
                "cost_us": {str(batch): cost for batch, cost in tier.cost_us.items()},
                "engine": tier.engine.kind,
                "inputs": tier.inputs,
                "with_port": tier.sight.port,
                "with_host": tier.sight.host,
                "folder": f"tier{i}",
                "files": sorted(own),
                "calibration": tier.calibration.fields(),
                "novelty_files": sorted(strange),
            }
        )
    kept = validation.files() if validation is not None else {}
    files |= {f"{VALIDATION_FOLDER}/{name}": data for name, data in kept.items()}
    return _write(
        folder,
        {
            "format": FORMAT,
            "feature_schema": FEATURE_SCHEMA,
            "classes": list(contents.classes),
            "tiers": tiers,
            "max_wait_s": contents.max_wait_s,
            "unknown_from": contents.unknown_from,
            "training_data": contents.training_data,
            "made_with": contents.made_with,
            "validation": sorted(kept),
        },
        files,
    )


def rewrite_bundle(
    source: Path,
    folder: Path,
    thresholds: Sequence[Threshold],
    card: str,
    *,
    unknown_from: float | None = None,
) -> str:
    """Write a bundle with other thresholds and another card; all else is the same byte for byte.

    Args:
        source: The bundle.
        folder: Where; a bundle that is there is replaced, and be it ``source`` itself.
        thresholds: Of all tiers but the deepest, each one for all classes or one for each.
        card: The text of card.md.
        unknown_from: See :class:`BundleContents`; None: as it is, above 1: never.

    Returns:
        The new model version.

    Raises:
        BundleError: ``source`` is damaged, incomplete or of another version, or there is something
            else than a bundle at ``folder``.
        ValueError: These are not as many thresholds as the bundle needs.
    """
    check_replaceable(folder)
    folder = Path(os.path.abspath(folder))
    text = read_file(source, _MANIFEST)
    manifest = parse_manifest(text, str(source / _MANIFEST))
    files = {name: checked_file(source, name, digest) for name, digest in manifest.files.items()}
    fields = json.loads(text)
    for tier, threshold in zip(fields["tiers"][:-1], thresholds, strict=True):
        by_class = None if isinstance(threshold, float) else threshold
        tier["class_thresholds"] = by_class
        tier["threshold"] = threshold if by_class is None else max(by_class)
    if unknown_from is not None:
        fields["unknown_from"] = unknown_from
    return _write(folder, fields, {**files, _CARD: card.encode()})


def check_replaceable(folder: Path) -> None:
    """Make sure that a bundle may be written to ``folder``, before long work is done for it.

    Raises:
        BundleError: There is something else than a bundle.
    """
    if (folder.exists() or folder.is_symlink()) and not _replaceable(folder):
        raise BundleError(f"{folder}: holds something else than a bundle; choose another folder")


def read_bundle(folder: Path, tiers: Collection[int] | None = None) -> BundleContents:
    """Read a bundle and check every byte of it.

    Args:
        folder: Where it is.
        tiers: Tiers whose engines are to be loaded; all when left out.

    Raises:
        BundleError: It is damaged, incomplete or of another version; the message names the file.
    """
    folder = Path(folder)
    manifest = parse_manifest(read_file(folder, _MANIFEST), str(folder / _MANIFEST))
    for name in manifest.validation:  # as large as they may be, they are not kept in memory
        path = f"{VALIDATION_FOLDER}/{name}"
        check_file(folder, path, manifest.files[path])
    checked = {
        name: checked_file(folder, name, digest)
        for name, digest in manifest.files.items()
        if not name.startswith(f"{VALIDATION_FOLDER}/")
    }
    wanted = range(len(manifest.tiers)) if tiers is None else tiers
    models = []
    for i, tier in enumerate(manifest.tiers):
        engine = None
        gate, novelty = Gate(tier.gate), None
        if i in wanted:
            own = {name: checked[f"{tier.folder}/{name}"] for name in tier.files}
            engine = load_engine(folder / tier.folder, len(manifest.classes), tier, own)
            own = {name: checked[f"gate{i}/{name}"] for name in tier.gate_files}
            gate = load_gate(folder / f"gate{i}", tier, own)
            own = {name: checked[f"novelty{i}/{name}"] for name in tier.novelty_files}
            novelty = load_novelty(folder / f"novelty{i}", tier, own)
        try:
            calibration = calibration_of(**dict(tier.calibration))
        except ValueError as error:
            raise BundleError(f"{folder / _MANIFEST}: {tier.name}: {error}") from None
        models.append(
            TierModel(
                tier.name,
                tier.depth,
                tier.threshold,
                tier.inputs,
                sight_of(tier),
                calibration,
                engine,
                gate,
                tier.class_thresholds,
                _by_batch(tier.cost_us),
                novelty,
            )
        )
    return BundleContents(
        classes=manifest.classes,
        tiers=tuple(models),
        card=checked[_CARD].decode(),
        training_data=manifest.training_data,
        made_with=manifest.made_with,
        max_wait_s=manifest.max_wait_s,
        unknown_from=manifest.unknown_from,
        model_version=_version(manifest),
    )


def read_validation(folder: Path) -> Validation:
    """Read what a bundle's tiers said in cross-validation.

    Args:
        folder: Where the bundle is.

    Raises:
        BundleError: It is damaged, incomplete or of another version, or keeps no judgements.
    """
    folder = Path(folder)
    manifest = parse_manifest(read_file(folder, _MANIFEST), str(folder / _MANIFEST))
    if not manifest.validation:
        raise BundleError(f"{folder}: keeps no judgements from cross-validation; train it anew")
    files = {}
    for name in manifest.validation:
        path = f"{VALIDATION_FOLDER}/{name}"
        files[name] = checked_file(folder, path, manifest.files[path])
    try:
        return validation_from_files(
            files,
            [tier.depth for tier in manifest.tiers],
            [_by_batch(tier.cost_us) for tier in manifest.tiers],
            len(manifest.classes),
        )
    except BundleError as error:
        raise BundleError(f"{folder / VALIDATION_FOLDER}/{error}; make the bundle anew") from None


def _by_batch(cost_us: dict[str, float]) -> dict[int, float]:
    return {int(batch): cost for batch, cost in cost_us.items()}


def _version(manifest: Manifest) -> str:
    return manifest.digest[:12]


def _replaceable(folder: Path) -> bool:
    """Tell whether nothing but a bundle, whole or not, or nothing at all is lost with it."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if not there:
        return not any(folder.iterdir())
    try:
        fields = json.loads((folder / _MANIFEST).read_bytes())
        listed = {*fields["files"], _MANIFEST}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return there <= listed and "feature_schema" in fields


def _write(folder: Path, fields: dict[str, Any], files: dict[str, bytes]) -> str:
    """Write files and the manifest over them; return the model version."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    text = manifest_text({**fields, "files": digests})
    manifest = parse_manifest(text, f"{folder}/{_MANIFEST}")
    write_files(folder, {**files, _MANIFEST: text})
    return _version(manifest)
