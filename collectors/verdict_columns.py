"""Columns of final verdicts that several formats have in common."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from collectors.community_ids import community_ids
from collectors.exchange import Settled
from collectors.sinks import Verdicts
from collectors.text_columns import Piece, Texts, addresses, decimals, integers, names
from flows.packet import Array
from flows.verdict import Reason

__all__ = ["REASONS", "Shared", "json_judgement", "json_text", "shared_of"]

REASONS = tuple(reason.text for reason in Reason)
"""Reasons as text, by their numbers."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What needs more than a look into the arrays.

    Attributes:
        src: Originators' addresses.
        dst: Responders' addresses.
        community_id: Community ID v1.
        confidence: In ten-thousandths, int64 ``[n]``.
        novelty: Likewise.
        latency_ns: int64 ``[n]`` each, under ``wait``, ``queue``, ``infer`` and ``total``.
    """

    src: Texts
    dst: Texts
    community_id: Texts
    confidence: npt.NDArray[np.int64]
    novelty: npt.NDArray[np.int64]
    latency_ns: dict[str, npt.NDArray[np.int64]]


def shared_of(settled: Settled) -> Shared:
    """Work these columns out."""
    src, dst = addresses(settled.flows)
    wait_ns, queue_ns, infer_ns = (
        np.maximum(part, 0)
        for part in (settled.verdicts["wait_ns"], settled.queue_ns, settled.infer_ns)
    )
    return Shared(
        src,
        dst,
        community_ids(settled.flows),
        _ten_thousandths(settled.verdicts["confidence"]),
        _ten_thousandths(settled.verdicts["novelty"]),
        {
            "wait": wait_ns,
            "queue": queue_ns,
            "infer": infer_ns,
            "total": wait_ns + queue_ns + infer_ns,
        },
    )


def _ten_thousandths(ratios: Array) -> npt.NDArray[np.int64]:
    # A float32 times 10,000 is exact in a float64, so this rounds as Python's round(x, 4) does.
    sane = np.clip(np.nan_to_num(ratios.astype(np.float64)), 0.0, 1.0)
    return np.rint(sane * 10_000.0).astype(np.int64)


def json_text(text: str) -> bytes:
    """Return a text as JSON, with its quotes."""
    return json.dumps(text).encode()


def json_judgement(found: Verdicts, shared: Shared, before: bytes) -> list[Piece]:
    """Return the JSON members from ``label`` to ``latency_ms``, whose object is left open.

    Args:
        found: The verdicts.
        shared: Their columns.
        before: What stands before it all.
    """
    verdicts, latency_ns = found.settled.verdicts, shared.latency_ns
    model = b'","model_version":' + json_text(found.model_version)
    return [
        (before + b'"label":', names(found.classes, verdicts["label"], json_text)),
        (b',"confidence":', decimals(shared.confidence, 4, short=True)),
        (b',"novelty":', decimals(shared.novelty, 4, short=True)),
        (b',"tier":', names(found.tiers, verdicts["tier"], json_text)),
        (b',"packets_used":', integers(verdicts["packets_used"])),
        (b',"reason":"', names(REASONS, verdicts["reason"])),
        (model + b',"latency_ms":{"wait":', decimals(latency_ns["wait"], 6, short=True)),
        (b',"queue":', decimals(latency_ns["queue"], 6, short=True)),
        (b',"infer":', decimals(latency_ns["infer"], 6, short=True)),
        (b',"total":', decimals(latency_ns["total"], 6, short=True)),
    ]
