"""Make ``flows/rpc`` of ``proto/``: run it after a change there, and commit what it writes.

It takes the ``dev`` extra; ``tests/unit/test_grpc_generated.py`` fails when it was forgotten.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = "serveflow/v1/flow_classifier.proto"
MODULES = ("flow_classifier_pb2.py", "flow_classifier_pb2.pyi", "flow_classifier_pb2_grpc.py")


def generate(folder: Path) -> None:
    """Write the generated modules to ``folder``.

    Raises:
        RuntimeError: protoc refuses the file; it has said why on standard error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    common = files("grpc_tools") / "_proto"
    outs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{common}", *outs, PROTO]):
        raise RuntimeError(f"protoc refuses {PROTO}")
    made = folder / "serveflow" / "v1"
    for name in MODULES:
        # protoc names modules after the interface's package. Here they stand elsewhere, where they
        # import each other, and where Ray's fallback proxy finds the messages that it pickles.
        text = (made / name).read_text()
        for before, after in (
            ("from serveflow.v1 import", "from flows.rpc import"),
            ("'serveflow.v1.flow_classifier_pb2'", "'flows.rpc.flow_classifier_pb2'"),
        ):
            text = text.replace(before, after)
        (folder / name).write_text(text)
        (made / name).unlink()
    made.rmdir()
    made.parent.rmdir()


if __name__ == "__main__":
    generate(ROOT / "flows" / "rpc")
    sys.exit(0)
