"""What a bundle's manifest.json says, and its digest."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flows.errors import BundleError
from flows.packet import MAX_DEPTH
from models.calibration import Kind
from models.features import FEATURE_SCHEMA
from models.novelty import UNKNOWN
from models.novelty_files import NOVELTY_FILES, UNGROUPED_NOVELTY_FILES
from models.validation import VALIDATION_FILES

__all__ = [
    "FORMAT",
    "MAX_WAIT_S",
    "VALIDATION_FOLDER",
    "CalibrationEntry",
    "Manifest",
    "TierEntry",
    "digest_of",
    "manifest_text",
    "parse_manifest",
]

FORMAT = 3
"""Version of the bundle's layout."""

VALIDATION_FOLDER = "validation"
"""Where in a bundle the judgements from cross-validation are."""

MAX_WAIT_S = 10.0
"""How long after its first packet a flow waits for more, unless a bundle says otherwise."""

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_FileName = Annotated[str, Field(pattern=r"^[a-z0-9]+(\.[a-z0-9]+)*\.[a-z]+$")]
_Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CalibrationEntry(_Strict):
    """The fields of a calibration, see :func:`models.calibration.calibration_of`."""

    kind: Kind = "isotonic"
    x: tuple[float, ...] = ()
    y: tuple[_Probability, ...] = ()
    temperature: float | None = None
    shift: float = 0.0


class TierEntry(_Strict):
    """One tier of the cascade.

    Attributes:
        name: Its name, unique in the bundle.
        depth: First packets that it judges.
        threshold: Assurance from which on its answer is final; above 1: never sure.
        class_thresholds: The same for each class that it names, instead; None: alike for all.
        gate: What assurance is, see :mod:`models.gates`.
        gate_engine: What of :data:`models.engines.ENGINES` a benefit gate is; in bundles of before,
            which do not say so, a forest.
        gate_files: Names of the gate's files, in its folder ``gate<tier>``.
        cost_us: What it takes a flow, microseconds, by flows in a call; where it was trained.
        engine: Key of :data:`models.engines.ENGINES`.
        inputs: What it sees: columns or a sequence of packets.
        with_port: Whether it sees the responder's port.
        with_host: Whether it sees what the flow's host did before.
        folder: Where in the bundle its files are.
        files: Names of its files, in that folder.
        calibration: Of its confidence.
        novelty_files: Names of the files of its novelty, in the folder ``novelty<tier>``: all of
            :data:`models.novelty_files.NOVELTY_FILES`, or of those of before, or none.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9@._-]{0,63}$")
    depth: int = Field(ge=1, le=MAX_DEPTH)
    threshold: float = Field(ge=0.0, le=2.0)
    class_thresholds: tuple[Annotated[float, Field(ge=0.0, le=2.0)], ...] | None = None
    gate: Literal["benefit", "confidence", "margin", "entropy"] = "confidence"
    gate_engine: Literal["forest", "boosted"] = "forest"
    gate_files: tuple[_FileName, ...] = ()
    cost_us: dict[Annotated[str, Field(pattern=r"^[0-9]{1,5}$")], float] = {}
    engine: str = Field(pattern=r"^[a-z]{1,32}$")
    inputs: Literal["columns", "sequence", "bits"]
    with_port: bool
    with_host: bool
    folder: str = Field(pattern=r"^tier[0-9]{1,2}$")
    files: tuple[_FileName, ...]
    calibration: CalibrationEntry
    novelty_files: tuple[_FileName, ...] = ()


class Manifest(_Strict):
    """What a bundle holds.

    Attributes:
        format: :data:`FORMAT`.
        feature_schema: :data:`models.features.FEATURE_SCHEMA` of the code that trained it.
        classes: Names of the labels, by index.
        tiers: The tiers, shallowest first.
        max_wait_s: How long a flow waits for packets after its first (capture time).
        unknown_from: Novelty from which on a flow is labelled ``unknown``; None, or above 1: never.
        training_data: SHA-256 over the labelled flows that it was trained on.
        made_with: Versions of what made it.
        validation: Names of the files that keep the tiers' judgements from cross-validation, in
            the folder ``validation``: all of :data:`models.validation.VALIDATION_FILES` or none.
        files: SHA-256 of each file of the bundle but the manifest.
        digest: SHA-256 of the rest of this manifest.
    """

    format: Literal[3]
    feature_schema: int
    classes: tuple[str, ...] = Field(min_length=1, max_length=65_535)
    tiers: tuple[TierEntry, ...] = Field(min_length=1, max_length=16)
    max_wait_s: float = Field(gt=0.0, le=3_600.0)
    unknown_from: float | None = Field(None, ge=0.0, le=2.0)
    training_data: str
    made_with: dict[str, str]
    validation: tuple[str, ...]
    files: dict[str, _Digest]
    digest: _Digest

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        depths = [tier.depth for tier in self.tiers]
        names = [tier.name for tier in self.tiers]
        if depths != sorted(depths):
            raise ValueError(f"the depths {depths} decrease")
        if len(set(names)) != len(names) or len(set(self.classes)) != len(self.classes):
            raise ValueError("a tier or a class is named twice")
        listed = {f"{tier.folder}/{name}" for tier in self.tiers for name in tier.files}
        for i, tier in enumerate(self.tiers):
            if tier.inputs == "bits" and (tier.with_port or tier.with_host):
                raise ValueError(f"{tier.name}: bits show neither port nor host")
            if (tier.gate == "benefit") != bool(tier.gate_files):
                raise ValueError(f"{tier.name}: a {tier.gate} gate with files {tier.gate_files}")
            if tier.class_thresholds is not None and len(tier.class_thresholds) != len(
                self.classes
            ):
                raise ValueError(f"{tier.name}: there is not one threshold for each class")
            if tier.novelty_files not in ((), NOVELTY_FILES, UNGROUPED_NOVELTY_FILES):
                raise ValueError(f"{tier.name}: {', '.join(NOVELTY_FILES)} are kept, or nothing")
            listed |= {f"gate{i}/{name}" for name in tier.gate_files}
            listed |= {f"novelty{i}/{name}" for name in tier.novelty_files}
        if self.unknown_from is not None and self.unknown_from <= 1.0:
            if UNKNOWN in self.classes:
                raise ValueError(f"a class is named {UNKNOWN}, like the label of strange flows")
            if not all(tier.novelty_files for tier in self.tiers):
                raise ValueError("unknown_from is given, and a tier cannot tell strange flows")
        if self.validation not in ((), VALIDATION_FILES):
            raise ValueError(f"validation: {', '.join(VALIDATION_FILES)} are kept, or nothing")
        kept = {f"{VALIDATION_FOLDER}/{name}" for name in self.validation}
        if listed | kept | {"card.md"} != set(self.files):
            raise ValueError("the files listed by tier are not those listed with digests")
        return self


def digest_of(fields: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest's fields, its own digest left out, in canonical JSON."""
    rest = {key: value for key, value in fields.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def manifest_text(fields: dict[str, Any]) -> bytes:
    """Return the bytes of manifest.json; there is one way only to write each manifest."""
    full = {**fields, "digest": digest_of(fields)}
    return (json.dumps(full, sort_keys=True, indent=1, ensure_ascii=True) + "\n").encode()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest.

    Args:
        data: The bytes of manifest.json.
        where: Its path, for messages.

    Raises:
        BundleError: It is damaged or of another version.
    """
    try:
        fields = json.loads(data)
        if not isinstance(fields, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise BundleError(f"{where}: damaged, not JSON ({error}); copy the bundle again") from None
    for key, here in (("format", FORMAT), ("feature_schema", FEATURE_SCHEMA)):
        if key in fields and fields[key] != here:
            raise BundleError(
                f"{where}: {key} is {fields[key]!r}, this release reads {here}; "
                "train the bundle anew or install the release that made it"
            )
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleError(f"{where}: {at}: {first['msg']}; copy the bundle again") from None
    # Bytes, not only fields, are compared: so no flipped bit in white space goes unnoticed.
    if data != manifest_text(fields):
        raise BundleError(f"{where}: damaged, its digest differs; copy the bundle again")
    return manifest
