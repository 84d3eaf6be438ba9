"""The options of ``serveflow train``, checked: what a library takes for granted, people mistype."""

from __future__ import annotations

from collections.abc import Iterable

from flows.errors import SettingsError
from models.gates import GATES
from models.training import TrainSettings
from models.zoo import EFFORTS, Effort

__all__ = ["train_settings"]

_OPERATING_POINTS = ("balanced", "accurate")
_PRESETS = ("search", "paper")


def train_settings(
    *,
    effort: str | None = None,
    quick: bool = False,
    operating_point: str | None = None,
    max_f1_loss: float = 0.5,
    port: bool | None = None,
    host: bool | None = None,
    gate: str | None = None,
    time_limit: float = 20.0,
    seed: int = 0,
    preset: str = "search",
    unknown_from: float | None = None,
) -> TrainSettings:
    """Return the settings that options stand for.

    Args:
        effort: One of :data:`models.zoo.EFFORTS`; ``standard`` when left out.
        quick: The same as the effort ``quick``.
        operating_point: ``balanced`` or ``accurate``; ``balanced`` when left out.
        max_f1_loss: Percentage points that answering early may cost.
        port: Whether models see the responder's port; None: if it helps.
        host: Whether models see what the flow's host did before; None: if it helps.
        gate: One of :data:`models.gates.GATES`; None: the best.
        time_limit: Minutes after which no further candidate is tried.
        seed: Of all that is drawn.
        preset: ``search``, or ``paper``, whose tiers are given: then nothing may be said of what
            is searched for.
        unknown_from: Novelty from which on a flow is labelled unknown; None: never.

    Raises:
        SettingsError: An option is none of those it may be, is out of range, or contradicts
            another one.
    """
    tried: Effort = "quick" if quick else "standard"
    if effort is not None:
        if effort not in EFFORTS:
            raise _none_of("--effort", effort, EFFORTS)
        if quick and effort != "quick":
            raise SettingsError(f"--quick is short for --effort quick, not for --effort {effort}")
        tried = effort
    if operating_point not in (None, *_OPERATING_POINTS):
        raise _none_of("--operating-point", operating_point, _OPERATING_POINTS)
    if gate is not None and gate not in GATES:
        raise _none_of("--gate", gate, GATES)
    if not 0.0 <= max_f1_loss <= 100.0:
        raise SettingsError(
            f"--max-f1-loss {max_f1_loss:g}: must lie from 0 to 100: percentage points, such as 0.5"
        )
    if not 0.0 <= time_limit <= 10_000.0:
        raise SettingsError(f"--time-limit {time_limit:g}: give minutes, such as 5")
    if preset not in _PRESETS:
        raise _none_of("--preset", preset, _PRESETS)
    if preset == "paper":
        given = {"--effort": effort, "--quick": quick or None, "--operating-point": operating_point,
                 "--port": port, "--host": host, "--gate": gate}  # fmt: skip
        told = [option for option, value in given.items() if value is not None]
        if told:
            raise SettingsError(f"--preset paper has tiers of its own and takes no {told[0]}")
        operating_point = "accurate"  # no cost limits it
    return TrainSettings(
        effort=tried,
        operating_point=operating_point or "balanced",
        max_f1_loss=max_f1_loss / 100.0,
        port=port,
        host=host,
        gate=gate,
        time_limit_s=60.0 * time_limit,
        seed=seed,
        preset=preset,
        unknown_from=unknown_from,
    )


def _none_of(option: str, value: str | None, known: Iterable[str]) -> SettingsError:
    return SettingsError(f"{option} {value}: is none of {', '.join(known)}")
