"""A bundle: the folder that holds a trained cascade.

::

    manifest.json       classes, tiers, thresholds, calibration, SHA-256 of everything else
    card.md             for people: what it was trained on and what it is worth
    tier0/feature.npy   … a forest as arrays, or model.onnx
    validation/*.npy    what the tiers said in cross-validation, see models.validation; not needed
                        to serve

Nothing in it is a pickle, nothing in it can carry code, and a flipped bit anywhere is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.errors import BundleError
from models.calibration import Calibration
from models.engines import Engine, ForestEngine, engine_from_files
from models.features import FEATURE_SCHEMA, Sight, feature_names
from models.manifest import (
    FORMAT,
    MAX_WAIT_S,
    VALIDATION_FOLDER,
    Manifest,
    TierEntry,
    manifest_text,
    parse_manifest,
)
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
        threshold: Confidence from which on its answer is final; above 1: never sure.
        inputs: ``columns`` (:func:`models.features.flow_features`) or ``sequence``
            (:func:`models.features.packet_sequence`).
        sight: What it sees beyond the headers of the flow's packets.
        calibration: Of its confidence.
        engine: What scores; None: not loaded.
    """

    name: str
    depth: int
    threshold: float
    inputs: str
    sight: Sight
    calibration: Calibration
    engine: Engine | None


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
        model_version: The first 12 digits of the manifest's digest; empty before it is written.
    """

    classes: tuple[str, ...]
    tiers: tuple[TierModel, ...]
    card: str
    training_data: str
    made_with: dict[str, str]
    max_wait_s: float = MAX_WAIT_S
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
        tiers.append(
            {
                "name": tier.name,
                "depth": tier.depth,
                "threshold": tier.threshold,
                "engine": tier.engine.kind,
                "inputs": tier.inputs,
                "with_port": tier.sight.port,
                "with_host": tier.sight.host,
                "folder": f"tier{i}",
                "files": sorted(own),
                "calibration": {"x": list(tier.calibration.x), "y": list(tier.calibration.y)},
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
            "training_data": contents.training_data,
            "made_with": contents.made_with,
            "validation": sorted(kept),
        },
        files,
    )


def rewrite_bundle(source: Path, folder: Path, thresholds: Sequence[float], card: str) -> str:
    """Write a bundle with other thresholds and another card; all else is the same byte for byte.

    Args:
        source: The bundle.
        folder: Where; a bundle that is there is replaced, and be it ``source`` itself.
        thresholds: Of all tiers but the deepest.
        card: The text of card.md.

    Returns:
        The new model version.

    Raises:
        BundleError: ``source`` is damaged, incomplete or of another version, or there is something
            else than a bundle at ``folder``.
        ValueError: These are not as many thresholds as the bundle needs.
    """
    check_replaceable(folder)
    folder = Path(os.path.abspath(folder))
    text = _read(source, _MANIFEST)
    manifest = parse_manifest(text, str(source / _MANIFEST))
    files = {name: _checked(source, name, digest) for name, digest in manifest.files.items()}
    fields = json.loads(text)
    for tier, threshold in zip(fields["tiers"][:-1], thresholds, strict=True):
        tier["threshold"] = threshold
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
    manifest = parse_manifest(_read(folder, _MANIFEST), str(folder / _MANIFEST))
    for name in manifest.validation:  # as large as they may be, they are not kept in memory
        _check(folder, f"{VALIDATION_FOLDER}/{name}", manifest)
    checked = {
        name: _checked(folder, name, digest)
        for name, digest in manifest.files.items()
        if not name.startswith(f"{VALIDATION_FOLDER}/")
    }
    wanted = range(len(manifest.tiers)) if tiers is None else tiers
    models = []
    for i, tier in enumerate(manifest.tiers):
        engine = None
        if i in wanted:
            own = {name: checked[f"{tier.folder}/{name}"] for name in tier.files}
            engine = _load_engine(folder / tier.folder, manifest, tier, own)
        try:
            calibration = Calibration(tier.calibration.x, tier.calibration.y)
        except ValueError as error:
            raise BundleError(f"{folder / _MANIFEST}: {tier.name}: {error}") from None
        models.append(
            TierModel(
                tier.name,
                tier.depth,
                tier.threshold,
                tier.inputs,
                Sight(port=tier.with_port, host=tier.with_host),
                calibration,
                engine,
            )
        )
    return BundleContents(
        classes=manifest.classes,
        tiers=tuple(models),
        card=checked[_CARD].decode(),
        training_data=manifest.training_data,
        made_with=manifest.made_with,
        max_wait_s=manifest.max_wait_s,
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
    manifest = parse_manifest(_read(folder, _MANIFEST), str(folder / _MANIFEST))
    if not manifest.validation:
        raise BundleError(f"{folder}: keeps no judgements from cross-validation; train it anew")
    files = {}
    for name in manifest.validation:
        path = f"{VALIDATION_FOLDER}/{name}"
        files[name] = _checked(folder, path, manifest.files[path])
    try:
        return validation_from_files(
            files, [tier.depth for tier in manifest.tiers], len(manifest.classes)
        )
    except BundleError as error:
        raise BundleError(f"{folder / VALIDATION_FOLDER}/{error}; make the bundle anew") from None


def _load_engine(
    where: Path, manifest: Manifest, tier: TierEntry, files: dict[str, bytes]
) -> Engine:
    try:
        engine = engine_from_files(tier.engine, files)
    except BundleError as error:
        raise BundleError(f"{where}: {error}") from None
    if engine.classes != len(manifest.classes):
        raise BundleError(
            f"{where}: scores {engine.classes} classes, the manifest names "
            f"{len(manifest.classes)}; make the bundle anew"
        )
    columns = len(feature_names(tier.depth, Sight(port=tier.with_port, host=tier.with_host)))
    if isinstance(engine, ForestEngine) and engine.columns > columns:
        raise BundleError(
            f"{where}: reads {engine.columns} columns, at its depth there are {columns}; "
            "make the bundle anew"
        )
    return engine


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
    _write_files(folder, {**files, _MANIFEST: text})
    return _version(manifest)


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    new = folder.with_name(f".{folder.name}.{mark}.new")
    old = folder.with_name(f".{folder.name}.{mark}.old")
    try:
        for name, data in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        raise _missing(folder / name) from None
    except OSError as error:
        raise _unreadable(folder / name, error) from None


def _check(folder: Path, name: str, manifest: Manifest) -> None:
    """Check a file's digest without holding the file in memory."""
    try:
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise _missing(folder / name) from None
    except OSError as error:
        raise _unreadable(folder / name, error) from None
    if digest != manifest.files[name]:
        raise _damaged(folder / name)


def _checked(folder: Path, name: str, digest: str) -> bytes:
    data = _read(folder, name)
    if hashlib.sha256(data).hexdigest() != digest:
        raise _damaged(folder / name)
    return data


def _missing(path: Path) -> BundleError:
    return BundleError(f"{path}: missing; copy the bundle again")


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(f"{path}: cannot be read: {error.strerror}")


def _damaged(path: Path) -> BundleError:
    return BundleError(f"{path}: damaged, its digest differs; copy the bundle again")
