"""Settings of the service, each default in this one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from deployments.limits import Limits

__all__ = [
    "DEFAULT_GRPC_PORT",
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "DEFAULT_URL",
    "AppArgs",
    "bundle_folder",
]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
DEFAULT_GRPC_PORT = 9000
DEFAULT_URL = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"


_MODELS = Path(__file__).resolve().parent.parent / "models"
_EMBEDDED = {"balanced": _MODELS / "embedded", "accurate": _MODELS / "embedded_accurate"}


def bundle_folder(named: str | Path | None = None) -> Path:
    """Return the folder of a bundle.

    Args:
        named: ``balanced`` or ``accurate``, the operating points that come with ServeFlow, or any
            folder; ``balanced`` when left out.
    """
    return _EMBEDDED.get(str(named or "balanced")) or Path(str(named))


class AppArgs(BaseModel):
    """The ``args`` of the application in ``serve_config.yaml``."""

    model_config = ConfigDict(extra="forbid")

    bundle: Annotated[
        str | None, Field(description="Bundle's folder, or balanced (none) or accurate.")
    ] = None
    trackers: Annotated[int, Field(ge=1, le=256, description="Number of FlowTrackers.")] = 2
    placement: Annotated[
        Literal["separate", "colocated"],
        Field(
            description="separate: FastModel and SlowModel replicas of their own, autoscaled; "
            "colocated: the models inside each Router replica, for one small box."
        ),
    ] = "separate"
    gather_s: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Least time between two calls to a tracker; what comes meanwhile shares "
            "one. Verdicts on packet 1 do not wait for it.",
        ),
    ] = 0.025
    max_waiting_flows: Annotated[
        int,
        Field(
            ge=1,
            description="New flows that may wait for their first answer at one Router; beyond it "
            "batches with new flows are refused: 429 with Retry-After, RESOURCE_EXHAUSTED.",
        ),
    ] = Limits().waiting_flows
    max_slow_flows: Annotated[
        int,
        Field(
            ge=0,
            description="Flows of one Router that SlowModel may have before it; beyond it new "
            "flows keep the verdict of packet 1, with the reason degraded.",
        ),
    ] = Limits().slow_flows
    max_body_bytes: Annotated[
        int, Field(ge=1024, description="The most bytes of one submitted body.")
    ] = 16 * 1024 * 1024
    keys_file: Annotated[
        str | None,
        Field(
            pattern="^/",
            description="Keys file of those who may ask (serveflow keys), by its whole path; by "
            "default what SERVEFLOW_KEYS_FILE says. Without one the service keeps to loopback.",
        ),
    ] = None

    @property
    def bundle_path(self) -> Path:
        """The bundle's folder."""
        return bundle_folder(self.bundle)
