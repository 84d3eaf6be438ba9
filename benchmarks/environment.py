"""What a figure has to be quoted with: machine, commit, versions, settings."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["environment"]

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("numpy", "numba", "pyarrow", "onnxruntime", "ray", "grpcio")
# A text that is being written changes nothing that is measured.
_DIFFERS = ("diff", "HEAD", "--", ".", ":!docs", ":!*.md")


def environment(**settings: Any) -> dict[str, Any]:
    """Return the machine, the commit, the versions of what does the work, and the settings.

    Take it before the measurement: the load is that of whatever else runs on the machine.

    Args:
        settings: What the measurement was told, by name; must fit into JSON.
    """
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--short=12", "HEAD") + ("+" if _git(*_DIFFERS) else ""),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "settings": settings,
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
