"""The parts of a bundle's tiers: made of files, and checked against what the manifest says."""

from __future__ import annotations

from pathlib import Path

from flows.errors import BundleError
from models.engines import Engine, engine_from_files
from models.features import Sight
from models.gates import BENEFIT_COLUMNS, OUTCOMES, Gate
from models.inputs import columns_of
from models.manifest import TierEntry
from models.novelty import Novelty
from models.novelty_files import novelty_from_files

__all__ = ["load_engine", "load_gate", "load_novelty", "sight_of"]


def load_engine(where: Path, classes: int, tier: TierEntry, files: dict[str, bytes]) -> Engine:
    """Make a tier's engine of its files.

    Args:
        where: Their folder, for messages.
        classes: Number of classes that it is to score.
        tier: What the manifest says of the tier.
        files: Their content, by name.

    Raises:
        BundleError: They do not make an engine of this tier.
    """
    try:
        engine = engine_from_files(tier.engine, files)
    except BundleError as error:
        raise BundleError(f"{where}: {error}") from None
    if engine.classes != classes:
        raise BundleError(
            f"{where}: scores {engine.classes} classes, the manifest names {classes}; "
            "make the bundle anew"
        )
    _check_columns(where, engine, columns_of(tier.inputs, tier.depth, sight_of(tier)))
    return engine


def load_gate(where: Path, tier: TierEntry, files: dict[str, bytes]) -> Gate:
    """Make a tier's gate of its files; see :func:`load_engine`."""
    if not files:
        return Gate(tier.gate)
    try:
        engine = engine_from_files(tier.gate_engine, files)
    except BundleError as error:
        raise BundleError(f"{where}: {error}") from None
    if engine.classes != OUTCOMES:
        raise BundleError(f"{where}: is no gate; make the bundle anew")
    columns = columns_of("columns", tier.depth, sight_of(tier))
    _check_columns(where, engine, BENEFIT_COLUMNS + columns)
    return Gate(tier.gate, engine)


def load_novelty(where: Path, tier: TierEntry, files: dict[str, bytes]) -> Novelty | None:
    """Make what tells a tier strange flows of its files, if any; see :func:`load_engine`."""
    if not files:
        return None
    try:
        return novelty_from_files(files, columns_of("columns", tier.depth, sight_of(tier)))
    except BundleError as error:
        raise BundleError(f"{where}: {error}") from None


def _check_columns(where: Path, engine: Engine, columns: int) -> None:
    """Make sure that an engine reads no further than its inputs go; 0: they are sequences."""
    if engine.columns > columns or (columns > 0) != (engine.columns > 0):
        raise BundleError(
            f"{where}: reads {engine.columns} columns, at its depth there are {columns}; "
            "make the bundle anew"
        )


def sight_of(tier: TierEntry) -> Sight:
    """Return what a tier sees beyond the headers of the flow's packets."""
    return Sight(port=tier.with_port, host=tier.with_host)
