"""The Ray Serve application: ``import_path: serveflow_app.app:build_app``."""

# No `from __future__ import annotations` here: Ray Serve reads build_app's annotation at run time
# to turn the configuration's `args` into AppArgs.

from typing import cast

from ray.serve import Application, Deployment

from deployments.fast_model import FastModel
from deployments.flow_tracker import FlowTracker
from deployments.limits import Limits
from deployments.local import spec_of
from deployments.router import Router, RouterSettings
from deployments.settling import Pace
from deployments.slow_model import SlowModel
from models.cascade import load_cascade
from serveflow_app.settings import AppArgs

__all__ = ["build_app", "tracker_name"]


def tracker_name(tracker: int) -> str:
    """Return the deployment's name of a tracker."""
    return f"FlowTracker-{tracker}"


def build_app(args: AppArgs) -> Application:
    """Compose the deployments.

    Replica counts, CPUs and autoscaling stand in ``serve_config.yaml``; the deployments are
    Router, FastModel, SlowModel and FlowTracker-0 … FlowTracker-(n-1).

    Raises:
        BundleError: The bundle cannot be loaded.
        pydantic.ValidationError: An argument is unknown or out of range.
    """
    bundle = args.bundle_path
    spec = spec_of(load_cascade(bundle))
    trackers = [
        _deployment(FlowTracker).options(name=tracker_name(t)).bind(spec)
        for t in range(args.trackers)
    ]
    router = _deployment(Router)
    limits = Limits(args.max_slow_flows, args.max_waiting_flows)
    settings = RouterSettings(
        spec,
        bundle,
        args.max_body_bytes,
        Pace(args.gather_s),
        limits,
        args.keys_file,
    )
    if args.placement == "colocated":
        return router.bind(settings, trackers, None, None)
    fast = _deployment(FastModel).bind(bundle, spec.fast_tiers)
    slow = _deployment(SlowModel).bind(bundle, spec.fast_tiers, len(spec.depths))
    return router.bind(settings, trackers, fast, slow)


def _deployment(decorated: type) -> Deployment:
    """Say what ``@serve.deployment`` made of a class, as its annotations do not."""
    return cast(Deployment, decorated)
