"""Figures as numbers that fit into JSON, kept as files that documents are made from."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["FOLDER", "Kept", "kept", "medians", "percentiles", "plain", "save", "spread"]

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "results"
"""Where results are kept."""

Kept: TypeAlias = list[tuple[str, dict[str, Any]]]
"""Kept results: names without suffix and contents, the oldest first."""

_PERCENTILES = (50, 90, 99)


def percentiles(values: npt.NDArray[np.floating]) -> dict[str, float]:
    """Return p50, p90 and p99 of ``values``, float ``[n]``; NaN if there are none."""
    if not len(values):
        return {f"p{p}": math.nan for p in _PERCENTILES}
    found = np.percentile(values, _PERCENTILES)
    return {f"p{p}": float(v) for p, v in zip(_PERCENTILES, found, strict=True)}


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each number over rounds, dictionaries of the same form."""
    first = rounds[0]
    return {
        key: medians([one[key] for one in rounds])
        if isinstance(value, dict)
        else median(one[key] for one in rounds)
        for key, value in first.items()
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return the least and the greatest of rounds, and how many there were."""
    return {"lowest": min(values), "highest": max(values), "rounds": len(values)}


def plain(value: Any, digits: int = 5) -> Any:
    """Return ``value`` as JSON has it: floats to some significant digits, NaN as None."""
    if isinstance(value, dict):
        return {str(key): plain(one, digits) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one, digits) for one in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, Path):
        return value.name
    number = float(value)
    return float(f"{number:.{digits}g}") if math.isfinite(number) else None


def save(name: str, result: dict[str, Any]) -> Path:
    """Keep a result in ``docs/results``; return the file, named after the command and the time."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def kept(folder: Path = FOLDER) -> Kept:
    """Return the kept results."""
    paths = sorted(folder.glob("*-*.json"), key=lambda path: path.stem.rpartition("-")[2])
    return [(path.stem, json.loads(path.read_text())) for path in paths]
