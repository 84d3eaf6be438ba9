"""Class by class: scores, the confusion matrix, and families of classes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.errors import LabelsError
from models.evaluation_answers import Study
from models.metrics import f1_from_counts, f1_scores

__all__ = ["confusion", "families", "per_class", "read_families"]


def confusion(study: Study) -> dict[str, Any]:
    """Return the confusion matrix of the cascade.

    Returns:
        ``labels``, those that occur or are claimed, and ``counts``: flows by true label (rows) and
        by what was said (columns).
    """
    which, counts = _counts(study)
    return {"labels": [study.names[i] for i in which], "counts": counts.tolist()}


def per_class(study: Study) -> list[dict[str, Any]]:
    """Return what the cascade makes of each class that occurs or is claimed.

    Returns:
        By class: ``precision`` (None: never claimed), ``recall`` (None: no flows), ``f1``,
        ``flows``, and of those flows the share ``escalated``, ``median_latency_ms``,
        ``median_wait_ms`` and ``mean_infer_us`` (None: no flows).
    """
    which, counts = _counts(study)
    hits, support, claimed = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    f1 = f1_from_counts(hits, support, claimed)
    way = study.cascade
    escalated, latency_ms = study.escalated(way), way.latency_ms
    # One sort by class, so that each class is a slice whatever the number of flows.
    order = np.argsort(study.true, kind="stable")
    bounds = np.searchsorted(study.true[order], [which, which + 1])
    table = []
    for i, (begin, end) in enumerate(bounds.T.tolist()):
        own = order[begin:end]
        row: dict[str, Any] = {
            "label": study.names[which[i]],
            "precision": round(float(hits[i] / claimed[i]), 4) if claimed[i] else None,
            "recall": round(float(hits[i] / support[i]), 4) if support[i] else None,
            "f1": round(float(f1[i]), 4),
            "flows": int(support[i]),
            "escalated": None,
            "median_latency_ms": None,
            "median_wait_ms": None,
            "mean_infer_us": None,
        }
        if len(own):
            row |= {
                "escalated": round(float(escalated[own].mean()), 4),
                "median_latency_ms": round(float(np.median(latency_ms[own])), 4),
                "median_wait_ms": round(float(np.median(way.wait_ms[own])), 4),
                "mean_infer_us": round(float(way.infer_ns[own].mean() / 1e3), 2),
            }
        table.append(row)
    return table


def families(study: Study, family_of: dict[str, str]) -> dict[str, Any]:
    """Return the F1 of each way when labels of one family count as one.

    Args:
        study: What was said of the flows.
        family_of: Family by label. A class that it does not hold can only be claimed, never true;
            it stands as a family of its own.

    Raises:
        LabelsError: A true label has no family.
    """
    occur = {study.names[i] for i in np.unique(study.true)}
    lacking = sorted(occur - set(family_of))
    if lacking:
        raise LabelsError(f"{', '.join(lacking)}: no row of the labels file gives a family")
    known = sorted({family_of[name] for name in occur})
    number = {name: i for i, name in enumerate(sorted(set(family_of.values())))}
    code = np.array(
        [
            number[family_of[name]] if name in family_of else len(number) + i
            for i, name in enumerate(study.names)
        ]
    )
    return {
        "families": known,
        **{
            name: {
                key: round(value, 4)
                for key, value in f1_scores(code[study.true], code[way.said]).items()
            }
            for name, way in study.ways.items()
        },
    }


def read_families(path: Path, label_column: str, family_column: str) -> dict[str, str]:
    """Read which family each label belongs to.

    Args:
        path: A labels file, see :meth:`models.labels.LabelBook.read`.
        label_column: Name of the label's column.
        family_column: Name of the family's column; rows where it is empty say nothing.

    Raises:
        LabelsError: The file cannot be read or lacks a column, or a label has two families.
    """
    family_of: dict[str, str] = {}
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            have = reader.fieldnames or ()
            missing = [name for name in (label_column, family_column) if name not in have]
            if missing:
                raise LabelsError(
                    f"{path}: columns {', '.join(missing)} are missing; "
                    f"it has {', '.join(have) or 'none'}"
                )
            for line, fields in enumerate(reader, start=2):
                label = (fields[label_column] or "").strip()
                family = (fields[family_column] or "").strip()
                if not label or not family:
                    continue
                if family_of.setdefault(label, family) != family:
                    raise LabelsError(
                        f"{path}: line {line}: {label} is of the family {family}, and of "
                        f"{family_of[label]} before; a label has one family"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(f"{path}: cannot be read: {error}") from None
    return family_of


def _counts(study: Study) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the labels that occur or are claimed, and the confusion matrix of those."""
    n = len(study.names)
    flat = np.bincount(study.true * n + study.cascade.said, minlength=n * n)
    counts = flat.reshape(n, n).astype(np.int64)
    which = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    return which, counts[np.ix_(which, which)]
