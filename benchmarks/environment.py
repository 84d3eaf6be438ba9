"""What a figure has to be quoted with: machine, commit, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["environment"]

_ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, Any]:
    """Return the machine, the commit and the versions of what does the work."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--short=12", "HEAD") + ("+" if _git("diff", "HEAD") else ""),
        **{name: version(name) for name in ("numpy", "numba", "onnxruntime", "ray")},
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
