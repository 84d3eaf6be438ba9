"""The Ray Serve application: ``import_path: serveflow_app.app:build_app``."""

# No `from __future__ import annotations` here: Ray Serve reads build_app's annotation at run time
# to turn the configuration's `args` into AppArgs.

from ray.serve import Application

from deployments.fast_model import FastModel
from deployments.flow_tracker import FlowTracker
from deployments.local import spec_of
from deployments.router import Router, RouterSettings
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
    bundle = str(args.bundle_path)
    spec = spec_of(load_cascade(bundle))
    trackers = [
        FlowTracker.options(name=tracker_name(t)).bind(spec) for t in range(args.trackers)
    ]
    settings = RouterSettings(spec, bundle, args.max_body_bytes)
    if args.placement == "colocated":
        return Router.bind(settings, trackers, None, None)
    fast = FastModel.bind(bundle, spec.fast_tiers)
    slow = SlowModel.bind(bundle, spec.fast_tiers, len(spec.depths))
    return Router.bind(settings, trackers, fast, slow)
