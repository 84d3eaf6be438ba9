"""Settings of the service, each default in this one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "DEFAULT_URL", "AppArgs", "embedded_bundle"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
DEFAULT_URL = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"


def embedded_bundle() -> Path:
    """Return the folder of the bundle that comes with ServeFlow."""
    return Path(__file__).resolve().parent.parent / "models" / "embedded"


class AppArgs(BaseModel):
    """The ``args`` of the application in ``serve_config.yaml``."""

    model_config = ConfigDict(extra="forbid")

    bundle: Annotated[str | None, Field(description="Bundle's folder; none: the embedded one.")] = (
        None
    )
    trackers: Annotated[int, Field(ge=1, le=256, description="Number of FlowTrackers.")] = 2
    placement: Annotated[
        Literal["separate", "colocated"],
        Field(
            description="separate: FastModel and SlowModel replicas of their own, autoscaled; "
            "colocated: the models inside each Router replica, for one small box."
        ),
    ] = "separate"
    max_body_bytes: Annotated[
        int, Field(ge=1024, description="The most bytes of one submitted body.")
    ] = 16 * 1024 * 1024

    @property
    def bundle_path(self) -> Path:
        """The bundle's folder."""
        return Path(self.bundle) if self.bundle else embedded_bundle()
