"""A classifier service as one would write it first: ``BUNDLE PORT``. For ``bench peers``.

One process, FastAPI under uvicorn, one request a flow, no cascade: the deepest model judges each
flow by itself. Requests hold a flow's first packets in the same encoding that ServeFlow's
collectors use, which is kind to it: JSON would cost more.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI, Request

from flows.packet import FlowEndReason
from flows.wire import decode_batch
from models.cascade import load_cascade

__all__ = ["build"]


def build(bundle: Path) -> FastAPI:
    """Return the service: ``POST /classify`` with one flow.

    Raises:
        BundleError: The bundle cannot be loaded.
    """
    cascade = load_cascade(bundle)
    cascade.warm_up()
    last = len(cascade.tiers) - 1
    next_tier, ended = np.full(1, last, np.uint8), np.ones(1, np.uint8)
    app = FastAPI()

    @app.get("/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/classify")
    async def classify(request: Request) -> dict[str, str | float]:
        batch = decode_batch(await request.body(), with_header=cascade.needs_header)
        packets = batch.packets[batch.packets["flow_end_reason"] == FlowEndReason.NONE]
        answers = cascade.answer(packets, np.array([0, len(packets)]), next_tier, ended)
        label = cascade.classes[int(answers["label"][0])]
        return {"label": label, "confidence": float(answers["confidence"][0])}

    return app


if __name__ == "__main__":
    uvicorn.run(build(Path(sys.argv[1])), port=int(sys.argv[2]), access_log=False, workers=1)
