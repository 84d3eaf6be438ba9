"""Reads the verdict lines that ``--out`` writes, for tests that compare runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_verdicts(path: Path) -> dict[tuple[Any, ...], list[tuple[Any, ...]]]:
    """Return what was said of each flow; ids differ by run, so flows go by five-tuple and start."""
    said: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for line in path.read_text().splitlines():
        v = json.loads(line)
        ends = (v["src_ip"], v["src_port"], v["dest_ip"], v["dest_port"])
        answer = (v["label"], v["tier"], v["packets_used"], v["reason"], v["confidence"])
        flow = (v["start_time"], *ends, v["proto"])
        said.setdefault(flow, []).append((*answer, v["latency_ms"]["wait"]))
    return {flow: sorted(answers) for flow, answers in said.items()}
