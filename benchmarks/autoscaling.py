"""``serveflow bench autoscaling``: how replicas come and go with the load.

On two cores the Router takes most of a flow's CPU, and FastModel and SlowModel are far from busy
with the models that come along. So that they have to grow too, a bundle can be made dearer: each
engine is asked several times and the mean taken, which gives the same answers.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.rate import RateSettings, measure_rate
from benchmarks.started import config_under_test, started
from collectors.connections import Connections
from models.bundle import BundleContents, read_bundle, write_bundle
from models.engines import Engine, MeanEngine
from serveflow_app.deploy_errors import applications
from serveflow_app.settings import AppArgs

__all__ = ["AutoscalingSettings", "changes", "dearer", "measure_autoscaling"]

_LOOK_S = 1.0
_PARTS = 9  # of one mean; more are means of means


@dataclass(frozen=True, slots=True)
class AutoscalingSettings:
    """What to measure.

    Attributes:
        captures: Where the flows come from.
        rate: New flows per second.
        seconds: How long the load is measured.
        after_s: How long replicas are watched after it.
        downscale_delay_s: In place of the configuration's, which may be longer than one waits.
        fast_times: How often engines on packet 1 are asked.
        slow_times: How often the others are.
        collectors: How many send, each with one request in flight.
        config: Serve configuration; None: the one that comes along.
        bundle: The bundle; None: as the configuration says.
        placement: separate or colocated; None: as the configuration says.
    """

    captures: list[Path]
    rate: float
    seconds: float
    after_s: float
    downscale_delay_s: float
    fast_times: int
    slow_times: int
    collectors: int
    config: Path | None
    bundle: Path | None
    placement: str | None = None


def measure_autoscaling(
    settings: AutoscalingSettings, on_progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure; return the object that ``--json`` prints.

    Args:
        settings: What to measure.
        on_progress: Called with what goes on.

    Raises:
        ServeFlowError: A capture, the configuration, the bundle or the service is not as it
            should be.
    """
    config = config_under_test(
        settings.config, placement=settings.placement, bundle=settings.bundle
    )
    (app,) = config["applications"]
    placement = AppArgs.model_validate(app["args"]).placement
    names = ("rate", "seconds", "downscale_delay_s", "fast_times", "slow_times", "collectors")
    taken = environment(
        captures=[path.name for path in settings.captures],
        placement=placement,
        **{name: getattr(settings, name) for name in names},
    )
    with tempfile.TemporaryDirectory(prefix="serveflow-bench-") as folder:
        contents = read_bundle(AppArgs.model_validate(app["args"]).bundle_path)
        dear = dearer(contents, settings.fast_times, settings.slow_times)
        write_bundle(dear, Path(folder) / "bundle")
        app["args"]["bundle"] = str(Path(folder) / "bundle")
        for deployment in app["deployments"]:
            if "autoscaling_config" in deployment:
                deployment["autoscaling_config"] = {
                    **deployment["autoscaling_config"],
                    "downscale_delay_s": settings.downscale_delay_s,
                }
        with started(config) as (service, _):
            watch = _Watch(service.dashboard, app["name"])
            load = RateSettings(
                settings.captures, "http", None, None, None, None, service.url, settings.rate,
                settings.seconds, 0.0, 1_000.0, 1,
                {"collectors": settings.collectors, "batch_delay_s": 0.06, "keep_going": True},
            )  # fmt: skip
            begin_s = watch.elapsed_s
            measured = measure_rate(load, on_progress)
            end_s = watch.elapsed_s
            on_progress(f"watching replicas for {settings.after_s:.0f} s after the load …")
            time.sleep(settings.after_s)
            seen = watch.close()
    wanted = ("answered_per_second", "flows", "lost_flows", "refused_flows", "queue_ms", "status")
    return {
        "load_from_s": begin_s,
        "load_to_s": end_s,
        "replicas": changes(seen),
        "load": {name: measured[name] for name in wanted},
        "model_version": contents.model_version,
        "environment": taken,
    }


def dearer(contents: BundleContents, fast_times: int, slow_times: int) -> BundleContents:
    """Return a bundle that answers alike but takes several times the CPU.

    Args:
        contents: The bundle, all engines loaded.
        fast_times: How often engines on packet 1 are asked.
        slow_times: How often the others are.
    """
    tiers = []
    for tier in contents.tiers:
        assert tier.engine is not None  # noqa: S101 (all are loaded)
        times = fast_times if tier.depth == 1 else slow_times
        tiers.append(replace(tier, engine=_asked(tier.engine, times)))
    return replace(contents, tiers=tuple(tiers))


def _asked(engine: Engine, times: int) -> Engine:
    while times > 1:
        parts = min(times, _PARTS)
        engine, times = MeanEngine([engine] * parts), -(-times // parts)
    return engine


def changes(seen: list[tuple[float, dict[str, int]]]) -> list[dict[str, Any]]:
    """Return when the number of replicas of a deployment changed, the first number included.

    Args:
        seen: Seconds, and running replicas by deployment.
    """
    found: list[dict[str, Any]] = []
    for at_s, replicas in seen:
        if not found or found[-1]["replicas"] != replicas:
            found.append({"at_s": round(at_s, 1), "replicas": replicas})
    return found


class _Watch:
    """Asks Ray's dashboard for the running replicas, once a second, in a thread of its own."""

    def __init__(self, dashboard: str, app: str) -> None:
        self._connections = Connections(dashboard, timeout_s=10.0, idle=1)
        self._app = app
        self._seen: list[tuple[float, dict[str, int]]] = []
        self._begin_s = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._begin_s

    def close(self) -> list[tuple[float, dict[str, int]]]:
        self._ended.set()
        self._thread.join()
        self._connections.close()
        return self._seen

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_S):
            # Under load the dashboard may be late; the next look tells as much.
            with suppress(OSError, HTTPException, ValueError, KeyError):
                self._seen.append((self.elapsed_s, self._replicas()))

    def _replicas(self) -> dict[str, int]:
        deployments = applications(self._connections)[self._app]["deployments"]
        return {
            name: sum(replica["state"] == "RUNNING" for replica in one["replicas"])
            for name, one in deployments.items()
            if not name.startswith("FlowTracker")
        }
