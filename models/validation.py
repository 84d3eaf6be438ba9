"""What training keeps of its cross-validation, so that thresholds can be chosen anew later on.

Plain arrays, one row or column per flow::

    true.npy        true class, uint16 [n]
    group.npy       group (capture), int32 [n]
    size.npy        packets that count, uint8 [n]
    label.npy       class that each tier names, uint16 [tiers, n]
    assurance.npy   what thresholds are compared with, float32 [tiers, n]
    wait.npy        nanoseconds that the flow waits for the tier's packets, int64 [tiers, n]
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.errors import BundleError
from models.costs import COST_BATCH, call_us
from models.yardstick import Judgements

__all__ = ["VALIDATION_FILES", "Validation", "validation_from_files"]

_FLOW_DTYPES: dict[str, type[np.generic]] = {
    "true.npy": np.uint16,
    "group.npy": np.int32,
    "size.npy": np.uint8,
}
_TIER_DTYPES: dict[str, type[np.generic]] = {
    "label.npy": np.uint16,
    "assurance.npy": np.float32,
    "wait.npy": np.int64,
}

VALIDATION_FILES = tuple(sorted((*_FLOW_DTYPES, *_TIER_DTYPES)))
"""Names of the files."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What each tier says of flows of captures that it was not trained on.

    Attributes:
        true: Class of each flow, int64 ``[n]``.
        groups: Group (capture) of each flow, int64 ``[n]``.
        sizes: Packets of each flow that count, int64 ``[n]``.
        tiers: What each tier says, shallowest first.
    """

    true: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    tiers: tuple[Judgements, ...]

    def files(self) -> dict[str, bytes]:
        """Return the content of each file, by name; the same judgements give the same bytes."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "true.npy": self.true,
            "group.npy": self.groups,
            "size.npy": self.sizes,
            "label.npy": np.stack([tier.labels for tier in self.tiers]),
            "assurance.npy": np.stack([tier.assurance for tier in self.tiers]),
            "wait.npy": np.stack([tier.wait_ns for tier in self.tiers]),
        }
        dtypes = {**_FLOW_DTYPES, **_TIER_DTYPES}
        return {name: _npy(array.astype(dtypes[name])) for name, array in arrays.items()}


def validation_from_files(
    files: dict[str, bytes],
    depths: Sequence[int],
    costs_us: Sequence[Mapping[int, float]],
    classes: int,
) -> Validation:
    """Read judgements back.

    Args:
        files: The content of each of :data:`VALIDATION_FILES`.
        depths: First packets that each tier judges.
        costs_us: What each tier takes a flow, microseconds, by flows in a call; nothing where it
            was not measured.
        classes: Number of classes.

    Raises:
        BundleError: An array is missing, or none of this bundle.
    """
    flow = {name: _array(files, name, dtype, 1) for name, dtype in _FLOW_DTYPES.items()}
    tier = {name: _array(files, name, dtype, 2) for name, dtype in _TIER_DTYPES.items()}
    n = len(flow["true.npy"])
    for name, array in {**flow, **tier}.items():
        expected = (n,) if name in flow else (len(depths), n)
        if array.shape != expected:
            raise BundleError(f"{name}: has shape {array.shape}, {expected} was expected")
    if not n:
        raise BundleError("true.npy: there are no flows")
    for name in ("true.npy", "label.npy"):
        if int({**flow, **tier}[name].max()) >= classes:
            raise BundleError(f"{name}: names a class that the manifest does not")
    assurance = tier["assurance.npy"]
    if not ((assurance >= 0.0) & (assurance <= 1.0)).all():
        raise BundleError("assurance.npy: does not lie within 0 and 1")
    if int(tier["wait.npy"].min()) < 0:
        raise BundleError("wait.npy: a flow waits less than nothing")
    return Validation(
        true=flow["true.npy"].astype(np.int64),
        groups=flow["group.npy"].astype(np.int64),
        sizes=flow["size.npy"].astype(np.int64),
        tiers=tuple(
            Judgements(
                tier["label.npy"][t].astype(np.int64),
                assurance[t],
                depth,
                tier["wait.npy"][t],
                cost.get(COST_BATCH, 0.0),
                call_us(cost),
            )
            for t, (depth, cost) in enumerate(zip(depths, costs_us, strict=True))
        ),
    )


def _npy(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _array(
    files: dict[str, bytes], name: str, dtype: type[np.generic], dimensions: int
) -> npt.NDArray[Any]:
    if name not in files:
        raise BundleError(f"{name}: missing")
    try:
        array = np.load(io.BytesIO(files[name]), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BundleError(f"{name}: not an array ({error})") from None
    if array.dtype != dtype or array.ndim != dimensions:
        raise BundleError(f"{name}: is {array.dtype} {array.shape}, not {np.dtype(dtype)}")
    return array
