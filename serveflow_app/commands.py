"""What each command does; :mod:`serveflow_app.cli` says how it is called.

Ray, torch and scikit-learn are imported by the commands that need them, so that the others start
at once and an edge box can do without.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from collectors.credentials import Credentials
from collectors.replay import ReplaySettings
from collectors.sender import open_sender
from flows.errors import SettingsError
from models.labels import LabelBook
from serveflow_app.evaluation_tables import evaluation_tables, unknown_tables
from serveflow_app.output import (
    emit_json,
    messages,
    peak_memory_mib,
    progress_bar,
    summary_table,
)
from serveflow_app.run_replay import Run, capture_files, run_replay
from serveflow_app.settings import bundle_folder

__all__ = [
    "classify",
    "demo",
    "evaluate",
    "evaluate_unknown",
    "replay",
    "serve",
    "train",
    "tune",
]

_LabelsOption = tuple[Path | None, str]


def serve(
    config: Path | None,
    host: str | None,
    ports: tuple[int | None, int | None],
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Run the service until Ctrl-C."""
    from serveflow_app.serve_config import (
        check_bundles,
        default_config,
        load_config,
        override,
    )
    from serveflow_app.service import Service

    args = {key: _resolved(key, value) for key, value in options.items() if value is not None}
    port, grpc_port = ports
    checked = override(
        load_config(config or default_config()),
        host=host,
        port=port,
        grpc_port=grpc_port,
        args=args,
    )
    check_bundles(checked)  # Ray would say it late, and in many words
    with Service(checked) as service:
        with messages.status("starting Ray Serve …"):
            took_s = service.wait_ready()
        if as_json:
            emit_json(
                {
                    "url": service.url,
                    "grpc_url": service.grpc_url,
                    "dashboard": service.dashboard,
                    "start_s": took_s,
                }
            )
        grpc = f" and [bold]{service.grpc_url}[/]" if service.grpc_url else ""
        messages.print(
            f"ServeFlow serves at [bold]{service.url}[/]{grpc} after {took_s:.1f} s · "
            f"Ray's dashboard: {service.dashboard} · Ctrl-C ends it",
            highlight=False,
            soft_wrap=True,
        )
        try:
            service.wait()
        except KeyboardInterrupt:
            messages.print("shutting down …")
            return
        raise SettingsError(f"the service ended by itself:\n{service.tail()}")


def replay(
    captures: list[Path],
    to: tuple[str, Path | None],
    rate: str,
    out: Path | None,
    labels: _LabelsOption,
    as_json: bool,
) -> None:
    """Send captures to a running service, an address and what holds the API key for it."""
    settings = ReplaySettings(speed=_speed(rate))
    address, api_key_file = to
    sender = open_sender(address, Credentials(api_key_file))
    try:
        run = run_replay(
            capture_files(captures), sender, settings, out=out, labels=_label_book(labels)
        )
    finally:
        sender.close()
    _finish(run, f"replayed to {address}", as_json)


def classify(
    captures: list[Path],
    bundle: Path | None,
    trackers: int,
    out: Path | None,
    labels: _LabelsOption,
    as_json: bool,
) -> None:
    """Classify captures in this process."""
    from models.cascade import load_cascade
    from serveflow_app.local_sender import LOCAL_REPLAY, LocalSender

    sender = LocalSender(load_cascade(bundle_folder(bundle)), trackers)
    try:
        run = run_replay(
            capture_files(captures), sender, LOCAL_REPLAY, out=out, labels=_label_book(labels)
        )
    finally:
        sender.close()
    _finish(run, "classified in this process", as_json)


def demo(speed: float, port: int | None, as_json: bool) -> None:
    """Start the service, replay the embedded test runs, sum up, shut down."""
    from serveflow_app.demo import run_demo

    run = run_demo(speed, port)
    _finish(run, "the embedded test runs, never trained on", as_json)


def train(
    captures: Path,
    labels: Path,
    out: Path,
    label_column: str,
    group_by: str,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Train a cascade and write its bundle."""
    from models.training import train as train_cascade
    from serveflow_app.train_options import train_settings
    from serveflow_app.train_table import complete, train_tables

    begin_s = time.monotonic()
    settings = train_settings(**options)
    with progress_bar() as bar:
        task = bar.add_task("training", total=None)

        def on_progress(step: str, done: int, total: int) -> None:
            bar.update(task, description=step, completed=done, total=total)

        report = train_cascade(
            captures,
            labels,
            out,
            settings,
            label_column=label_column,
            group_by=group_by,
            progress=on_progress,
        )
    result = complete(report.to_dict(), time.monotonic() - begin_s, peak_memory_mib())
    if as_json:
        emit_json(result)
        return
    for table in train_tables(result):
        messages.print(table, "")
    told = f"wrote {out}; its card.md says what it is worth, serveflow evaluate tells of others"
    messages.print(told, highlight=False, markup=False, soft_wrap=True)


def evaluate(
    bundle: Path | None,
    folds: int | None,
    where: tuple[Path, Path, str, str | None, Path | None],
    options: dict[str, Any],
    both_ports: bool,
    as_json: bool,
) -> None:
    """Compare the cascade with its tiers alone: a bundle's, or one trained for each fold."""
    from models.crossvalidation import evaluate_training
    from models.evaluation import evaluate as evaluate_bundle
    from serveflow_app.train_options import train_settings

    if (bundle is None) == (folds is None):
        raise SettingsError("give either --bundle, to evaluate it, or --folds, to train anew")
    if bundle is not None and (
        both_ports or any(value for value in options.values() if value != "search")
    ):
        raise SettingsError("options of training go with --folds: a bundle is trained already")
    captures, labels, label_column, family_column, report = where
    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=None)

        def on_progress(step: str, done: int, total: int) -> None:
            bar.update(task, description=step, completed=done, total=total)

        common: dict[str, Any] = {
            "label_column": label_column,
            "family_column": family_column,
            "report": report,
            "progress": on_progress,
        }
        if bundle is not None:
            found = evaluate_bundle(bundle_folder(bundle), captures, labels, **common)
        else:
            settings = train_settings(**options)
            common["both_ports"] = both_ports
            found = evaluate_training(captures, labels, settings, folds=folds or 0, **common)
    result = found.to_dict()
    if as_json:
        emit_json(result)
        return
    for table in evaluation_tables(result):
        messages.print(table, "")
    _tell_damaged(result)
    if report is not None:
        told = f"wrote {report / 'report.md'}"
        messages.print(told, highlight=False, markup=False, soft_wrap=True)


def evaluate_unknown(
    folds: int, where: tuple[Path, Path, str], options: dict[str, Any], as_json: bool
) -> None:
    """Tell how well a way of training tells classes that it never saw."""
    from models.crossvalidation_unknown import evaluate_unknown as leave_out
    from serveflow_app.train_options import train_settings

    captures, labels, label_column = where
    settings = train_settings(**options)
    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=None)

        def on_progress(step: str, done: int, total: int) -> None:
            bar.update(task, description=step, completed=done, total=total)

        found = leave_out(
            captures,
            labels,
            settings,
            folds=folds,
            label_column=label_column,
            progress=on_progress,
        )
    result = found.to_dict()
    if as_json:
        emit_json(result)
        return
    for table in unknown_tables(result):
        messages.print(table, "")
    _tell_damaged(result)


def tune(
    bundle: Path,
    out: Path,
    goals: dict[str, float | None],
    how: dict[str, Any],
    curve: Path | None,
    as_json: bool,
) -> None:
    """Move a bundle to another operating point."""
    from models.figures import check_drawing, draw_curve
    from models.tuning import goal_of
    from models.tuning import tune as tune_bundle
    from serveflow_app.tune_table import curve_table, write_curve

    goal = goal_of(**goals)
    if curve is not None and not curve.parent.is_dir():
        raise SettingsError(f"--curve {curve}: there is no folder {curve.parent}")
    if curve is not None and curve.suffix == ".png":
        check_drawing()
    with messages.status("weighing thresholds …"):
        report = tune_bundle(bundle_folder(bundle), out, goal, **how)
    result = report.to_dict()
    if curve is not None:
        write_curve(result, curve.with_suffix(".csv") if curve.suffix == ".png" else curve)
    if curve is not None and curve.suffix == ".png":
        draw_curve(result, curve)
    if as_json:
        emit_json(result)
        return
    messages.print(curve_table(result))
    messages.print(f"guaranteed: {result['guaranteed']}", highlight=False, markup=False)
    messages.print(
        f"wrote {out}; its card.md says what is guaranteed and what is not", markup=False
    )


def _resolved(option: str, value: Any) -> Any:
    """Return an option's value; Ray's processes run elsewhere, so a path has to be whole."""
    if option == "bundle":
        return str(bundle_folder(value).resolve())
    return str(value.resolve()) if isinstance(value, Path) else value


def _label_book(option: _LabelsOption) -> LabelBook | None:
    path, column = option
    return None if path is None else LabelBook.read(path, column)


def _tell_damaged(result: dict[str, Any]) -> None:
    for name, reason in result["damaged"]:
        told = f"damaged, read up to the damage: {name}: {reason}"
        messages.print(told, highlight=False, markup=False, soft_wrap=True)


def _speed(rate: str) -> float | None:
    """Read ``--rate``: None stands for as fast as it goes."""
    if rate == "max":
        return None
    if rate == "real":
        return 1.0
    try:
        speed = float(rate)
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e6:
        raise SettingsError(f"--rate {rate}: give real, max, or a multiple such as 10")
    return speed


def _finish(run: Run, title: str, as_json: bool) -> None:
    """Print the summary; fail when no capture was read to its end."""
    if as_json:
        emit_json(run.summary)
    else:
        messages.print(summary_table(run.summary, title))
    if not run.read_any:
        if not as_json:
            messages.print("[bold red]error[/] no capture could be read to its end")
        raise SystemExit(1)
