"""What a service tells a collector at connect: ``GET /v1/schema``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from flows.errors import WireSchemaError
from flows.packet import MAX_DEPTH
from flows.wire import PACKET_FORMAT, packet_schema

__all__ = ["ServiceSchema"]


@dataclass(frozen=True, slots=True)
class ServiceSchema:
    """What the service's bundle needs and what the service takes.

    Attributes:
        depth: First packets of a flow that are worth sending.
        max_wait_s: How long after its first packet (capture time) a flow waits for more.
        classes: Names of the labels.
        tiers: Names of the tiers, fastest first.
        depths: First packets that each tier wants.
        model_version: Short digest of the bundle.
        trackers: Number of trackers; slot ``s`` belongs to tracker ``s % trackers``.
        max_batch_packets: The most rows of one batch.
        max_body_bytes: The most bytes of one body.
        header: The packets must hold their headers' bytes (:func:`flows.packet.packet_dtype`).
    """

    depth: int
    max_wait_s: float
    classes: tuple[str, ...]
    tiers: tuple[str, ...]
    depths: tuple[int, ...]
    model_version: str
    trackers: int
    max_batch_packets: int
    max_body_bytes: int
    header: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as JSON has it, the columns of a batch included."""
        return {
            "format": PACKET_FORMAT,
            **asdict(self),
            "columns": [{"name": f.name, "type": str(f.type)} for f in packet_schema(self.header)],
        }

    @classmethod
    def from_dict(cls, data: Any) -> ServiceSchema:
        """Read what :meth:`to_dict` wrote.

        Raises:
            WireSchemaError: It is not that, or of another format version.
        """
        try:
            if data["format"] != PACKET_FORMAT:
                raise WireSchemaError(
                    f"the service speaks {data['format']}, this collector {PACKET_FORMAT}: "
                    "install the same version of serveflow on both sides"
                )
            schema = cls(
                depth=int(data["depth"]),
                max_wait_s=float(data["max_wait_s"]),
                classes=tuple(map(str, data["classes"])),
                tiers=tuple(map(str, data["tiers"])),
                depths=tuple(map(int, data["depths"])),
                model_version=str(data["model_version"]),
                trackers=int(data["trackers"]),
                max_batch_packets=int(data["max_batch_packets"]),
                max_body_bytes=int(data["max_body_bytes"]),
                header=bool(data.get("header", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise WireSchemaError(f"the service's schema cannot be read: {error!r}") from None
        if not 1 <= schema.depth <= MAX_DEPTH or schema.trackers < 1:
            raise WireSchemaError(
                f"the service's schema is out of range: depth {schema.depth}, "
                f"{schema.trackers} trackers"
            )
        return schema
