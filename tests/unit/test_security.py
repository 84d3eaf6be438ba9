"""What docs/security.md says has its tests; and what only the text of the project can show."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
import pytest
import yaml

from deployments.json_form import MAX_JSON_PACKETS, JsonBatch, JsonPacket
from flows.errors import BundleError
from flows.ids import flow_ids, slots_of
from models.cascade import load_cascade
from models.manifest import manifest_text
from serveflow_app.serve_config import default_config, load_config
from serveflow_app.service_environment import service_environment

ROOT = Path(__file__).resolve().parents[2]
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_test_that_the_threat_model_names_exists() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    named = _TEST.findall(text)
    rows = [line for line in text.splitlines() if re.match(r"\| T\d+ ", line)]
    assert len(rows) >= 15
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text())
        assert test in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, test
    for row in rows:
        assert _TEST.search(row) or "no test" in row, f"neither a test nor a word on why: {row}"


def test_each_way_to_start_says_how_ray_authenticates(tmp_path: Path) -> None:
    """Left out, Ray turns tokens on for itself and writes one into the home directory."""
    assert re.search(r"^export RAY_AUTH_MODE \?= \w+", (ROOT / "Makefile").read_text(), re.M)
    assert service_environment(load_config(default_config()), tmp_path)["RAY_AUTH_MODE"]
    assert re.search(r"^ +RAY_AUTH_MODE=token", (ROOT / "docker" / "Dockerfile").read_text(), re.M)
    cluster = yaml.safe_load((ROOT / "k8s" / "base" / "ray-service.yaml").read_text())
    assert cluster["spec"]["rayClusterConfig"]["authOptions"]["mode"] == "token"


def test_each_test_that_starts_ray_says_it_through_the_service() -> None:
    """Tests start Ray by `Service`, the command line or make; none by ray.init or serve.run."""
    for path in (ROOT / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text())
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        started = calls & {"ray.init", "serve.run", "serve.start"}
        assert not started or "RAY_AUTH_MODE" in path.read_text(), f"{path}: {started}"


def test_reflection_is_off_in_the_configuration() -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    assert config["grpc_options"]["enable_reflection"] is False


class Canary:
    """Sings when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self._file,))  # type: ignore[return-value]


def slots_by_json(secret: bytes, ports: list[int]) -> np.ndarray:
    packets = [
        JsonPacket(src_ip=IPv4Address("192.0.2.1"), dest_ip=IPv4Address("192.0.2.2"), src_port=port,
                   proto="TCP", time_ns=1, ip_bytes=60)
        for port in ports
    ]  # fmt: skip
    batches = (packets[i : i + MAX_JSON_PACKETS] for i in range(0, len(packets), MAX_JSON_PACKETS))
    made = [JsonBatch(packets=some).to_batch(secret).packets["flow_id"] for some in batches]
    return slots_of(np.concatenate(made))


@pytest.mark.parametrize("trackers", [2, 4])
def test_flows_cannot_be_steered_to_one_tracker(trackers: int) -> None:
    """Whoever knows which flows one secret sends to tracker 0 learns nothing of the next secret."""
    ports = np.arange(1, 8_193)
    chosen = ports[slots_by_json(b"a" * 32, ports.tolist()) % trackers == 0]
    by_json = slots_by_json(b"b" * 32, chosen.tolist())
    numbers = np.arange(400_000, dtype=np.uint64)
    steered = numbers[slots_of(flow_ids(numbers, 1)) % trackers == 0]
    by_collector = slots_of(flow_ids(steered, 2**62 + 12_345))
    for slots in (by_json, by_collector):
        load = np.bincount(slots % trackers, minlength=trackers)
        assert load.max() / load.mean() <= 1.3


def test_a_pickle_in_a_bundle_never_runs(bundle: Path, tmp_path: Path) -> None:
    """In place of each file, with its digest put right, so that nothing but the reader stops it."""
    sung = tmp_path / "sung"
    np.save(tmp_path / "canary.npy", np.array([Canary(sung)], object), allow_pickle=True)
    canary = (tmp_path / "canary.npy").read_bytes()
    np.load(tmp_path / "canary.npy", allow_pickle=True)
    assert sung.exists(), "the canary does sing"
    sung.unlink()
    fields = json.loads((bundle / "manifest.json").read_text())
    del fields["digest"]
    arrays = [n for n in fields["files"] if n.endswith(".npy") and not n.startswith("validation/")]
    assert arrays
    for name in arrays:
        copy = tmp_path / "copy"
        shutil.copytree(bundle, copy)
        (copy / name).write_bytes(canary)
        files = {**fields["files"], name: hashlib.sha256(canary).hexdigest()}
        (copy / "manifest.json").write_bytes(manifest_text({**fields, "files": files}))
        with pytest.raises(BundleError):
            load_cascade(copy)
        assert not sung.exists()
        shutil.rmtree(copy)
