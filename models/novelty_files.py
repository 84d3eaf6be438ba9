"""What a tier's novelty is made of, as files of a bundle.

::

    mean.npy        of each column, float32 [columns]
    scale.npy       what a difference to it is multiplied with, float32 [columns]
    prototypes.npy  known flows, so scaled, by group, float16 or float32 [prototypes, columns]
    centres.npy     of the groups, float32 [groups, columns]
    starts.npy      where each group's flows begin, int64 [groups + 1]
    entropy.npy     ranks of the scores' entropy, float32 [2, knots]
    distance.npy    ranks of the squared distance to the nearest of them, float32 [2, knots]
    both.npy        ranks of both ranks, added, float32 [2, knots]

Bundles of before hold no groups: all their prototypes are compared, by columns as they are.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.errors import BundleError
from models.known_flows import KnownFlows
from models.novelty import Novelty, Ranks

__all__ = [
    "NOVELTY_FILES",
    "UNGROUPED_NOVELTY_FILES",
    "novelty_files",
    "novelty_from_files",
]

_RANKS = ("entropy", "distance", "both")
_PLAIN = {"mean": ("<f4", 1), "scale": ("<f4", 1), "prototypes": ("<f4", 2)}
_HALF = {"prototypes": ("<f2", 2)}  # may be, too
_GROUPS = {"centres": ("<f4", 2), "starts": ("<i8", 1)}
_UNGROUPED = {**_PLAIN, **dict.fromkeys(_RANKS, ("<f4", 2))}

UNGROUPED_NOVELTY_FILES = tuple(sorted(f"{name}.npy" for name in _UNGROUPED))
"""Names of the files of bundles of before."""

NOVELTY_FILES = tuple(sorted(f"{name}.npy" for name in _UNGROUPED | _GROUPS))
"""Names of the files."""


def novelty_files(novelty: Novelty) -> dict[str, bytes]:
    """Return the content of each file, by name; the same arrays give the same bytes."""
    known = novelty.known
    arrays: dict[str, npt.NDArray[Any]] = {
        "mean": known.mean,
        "scale": known.scale,
        "prototypes": _halved(known.flows),
        **{name: _stacked(getattr(novelty, name)) for name in _RANKS},
    }
    if known.centres is not None and known.starts is not None:
        arrays |= {"centres": known.centres, "starts": known.starts}
    out = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        out[f"{name}.npy"] = buffer.getvalue()
    return out


def novelty_from_files(files: dict[str, bytes], columns: int) -> Novelty:
    """Read what :func:`novelty_files` gave.

    Args:
        files: The content of each of :data:`NOVELTY_FILES`, or of
            :data:`UNGROUPED_NOVELTY_FILES`.
        columns: Columns that the tier's flows have.

    Raises:
        BundleError: A file is missing or no array, or the arrays are none of this tier.
    """
    grouped = any(f"{name}.npy" in files for name in _GROUPS)
    forms = _UNGROUPED | _GROUPS if grouped else _UNGROUPED
    arrays = {name: _array(files, name, form) for name, form in forms.items()}
    for name in _RANKS:
        if len(arrays[name]) != 2:
            raise BundleError(f"{name}.npy: has {len(arrays[name])} rows, 2 were expected")
    try:
        known = KnownFlows(
            arrays["mean"],
            arrays["scale"],
            arrays["prototypes"],
            centres=arrays.get("centres"),
            starts=arrays.get("starts"),
        )
        novelty = Novelty(known, **{name: Ranks(*arrays[name]) for name in _RANKS})
    except ValueError as error:
        raise BundleError(f"novelty: {error}; make the bundle anew") from None
    if novelty.columns != columns:
        raise BundleError(
            f"novelty: reads {novelty.columns} columns, at its depth there are {columns}; "
            "make the bundle anew"
        )
    return novelty


def _halved(flows: npt.NDArray[np.float32]) -> npt.NDArray[np.floating[Any]]:
    """Return flows as float16, where that changes none: they are the most of the files."""
    half = flows.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), flows) else flows


def _stacked(ranks: Ranks) -> npt.NDArray[np.float32]:
    return np.stack([ranks.x, ranks.y])


def _array(files: dict[str, bytes], name: str, form: tuple[str, int]) -> npt.NDArray[Any]:
    if f"{name}.npy" not in files:
        raise BundleError(f"{name}.npy: missing; make the bundle anew")
    try:
        # Not np.load, which would open archives and pickles too.
        array = np.lib.format.read_array(io.BytesIO(files[f"{name}.npy"]), allow_pickle=False)
    except Exception as error:  # a damaged header fails in many ways
        raise BundleError(f"{name}.npy: no array ({error}); make the bundle anew") from None
    if (array.dtype.str, array.ndim) not in (form, _HALF.get(name)):
        raise BundleError(f"{name}.npy: is {array.dtype} {array.shape}; make the bundle anew")
    return np.asarray(array)
