"""The generated code is what protoc makes of the interface."""

from __future__ import annotations

import pickle
import runpy
from pathlib import Path

from flows.rpc.flow_classifier_pb2 import StreamVerdictsRequest

ROOT = Path(__file__).resolve().parents[2]


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "generate_grpc.py"))
    tool["generate"](tmp_path)
    for name in tool["MODULES"]:
        committed = (ROOT / "flows" / "rpc" / name).read_text()
        assert (tmp_path / name).read_text() == committed, "run tools/generate_grpc.py"
    assert {path.name for path in tmp_path.iterdir()} == set(tool["MODULES"])


def test_messages_can_be_pickled() -> None:
    """Ray's proxy does so while no Router is up."""
    message = StreamVerdictsRequest(collector="edge")
    assert pickle.loads(pickle.dumps(message)) == message  # noqa: S301 (our own, of this moment)
