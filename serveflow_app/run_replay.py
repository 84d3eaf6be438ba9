"""What ``replay``, ``classify`` and ``demo`` share: captures in, summary out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from collectors.collector import Collector, Settled
from collectors.json_lines import JsonLinesSink
from collectors.replay import CaptureOutcome, Replay, ReplaySettings
from collectors.sender import Part, Sender
from collectors.sinks import Verdicts
from flows.errors import CaptureError
from models.labels import LabelBook
from serveflow_app.output import messages, progress_bar
from serveflow_app.tally import Tally

__all__ = ["Run", "capture_files", "run_replay"]

_SUFFIXES = (".pcap", ".pcapng", ".cap", ".gz")


@dataclass(frozen=True, slots=True)
class Run:
    """What a run left.

    Attributes:
        summary: The object that ``--json`` prints.
        tally: The sums behind it.
        read_any: Whether at least one capture could be read to its end.
    """

    summary: dict[str, Any]
    tally: Tally
    read_any: bool


def capture_files(paths: Sequence[Path]) -> list[Path]:
    """Return the captures named by ``paths``; a folder stands for the captures in it.

    Raises:
        CaptureError: A path does not exist, or a folder holds no capture.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES)
            if not found:
                raise CaptureError(path, f"the folder holds no {' or '.join(_SUFFIXES)} file")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise CaptureError(path, "there is no such file")
    return files


def run_replay(
    captures: Sequence[Path],
    sender: Sender,
    settings: ReplaySettings,
    *,
    out: Path | None = None,
    labels: LabelBook | None = None,
    on_progress: Callable[[Tally, Collector], None] | None = None,
) -> Run:
    """Take captures through a service and add up what it says.

    Damaged captures are named on standard error; what lies before the damage counts.

    Args:
        captures: Capture files.
        sender: The way to the service.
        settings: How to replay.
        out: File for verdict lines.
        labels: True labels, for the F1 scores.
        on_progress: Called now and then; by default a progress bar counts captures.

    Raises:
        ServiceError: The service cannot be reached, refuses, or was away for too long.
    """
    outcomes: list[CaptureOutcome] = []
    with ExitStack() as stack:
        sink = stack.enter_context(JsonLinesSink(out)) if out else None

        def on_settled(capture: Path, settled: Settled, part: Part) -> None:
            tally.add(capture, settled, part)
            if sink is not None:
                tiers, version = replay.schema.tiers, part.model_version
                sink.write(Verdicts(settled, part.classes, tiers, version, capture.name))

        def report(collector: Collector) -> None:
            if on_progress is not None:
                on_progress(tally, collector)

        replay = Replay(sender, settings, on_settled, report)
        stack.callback(replay.close)
        tally = Tally(replay.schema.tiers, labels)
        bar = stack.enter_context(progress_bar()) if on_progress is None else None
        task = bar.add_task("captures", total=len(captures)) if bar else None
        for capture in captures:
            outcome = replay.run(capture)
            outcomes.append(outcome)
            if outcome.damage:
                messages.print(
                    f"[yellow]damaged[/] {escape(f'{capture}: {outcome.damage}')}",
                    highlight=False,
                    soft_wrap=True,
                )
            if bar is not None and task is not None:
                bar.advance(task)
    summary = tally.summary(outcomes)
    read_any = any(outcome.damage is None for outcome in outcomes)
    return Run(summary, tally, read_any)
