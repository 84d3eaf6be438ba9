"""The service as KubeRay starts it: Ray's head and a worker in pods, told what to serve by REST.

With the pods' environment, rights and file systems, Ray's token, Redis behind the head, and the
production configuration, with one replica of each deployment, as there is one worker.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.api_keys import ANY_COLLECTOR, editing, new_key
from pods import RAYS_RIGHTS, PodNetwork, start_pod

pytestmark = [pytest.mark.serve, pytest.mark.e2e, pytest.mark.timeout(600)]

TOKEN = "t" * 64
PASSWORD = "made-up"
# As KubeRay writes it, from rayStartParams and what the container is limited to.
START = (
    "ulimit -n 65536; exec ray start {0} --block --dashboard-agent-listen-port=52365 "
    "--metrics-export-port=8080 --object-store-memory=209715200 "
)
HEAD = (
    START.format("--head") + "--dashboard-host=0.0.0.0 --memory=2000000000 --num-cpus=0 "
    '--redis-password="$REDIS_PASSWORD"'
)
WORKER = START.format("--address={0}:6379") + "--memory=4000000000 --num-cpus=12"
ASK = """
import json, sys, urllib.error, urllib.request
method, url, token = sys.argv[1:4]
headers = {"content-type": "application/json"}
if token:
    headers["authorization"] = f"Bearer {token}"
request = urllib.request.Request(url, sys.stdin.buffer.read() or None, headers, method=method)
try:
    with urllib.request.urlopen(request, timeout=20) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
except OSError as error:
    print(0, error)
"""


@dataclass
class Cluster:
    """Head and worker, and what is asked of them from the head's network."""

    network: PodNetwork
    root: Path
    folder: Path
    environment: dict[str, str]
    key: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)

    def start_head(self) -> None:
        redis = {
            "RAY_REDIS_ADDRESS": f"{self.network.worker_ip}:6380",
            "REDIS_PASSWORD": PASSWORD,
            "RAY_external_storage_namespace": "serveflow",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "60",
        }
        environment = self.environment | redis
        log = self.folder / "head.log"
        pod = start_pod(self.network.head, RAYS_RIGHTS, HEAD, environment, log, [self.root])
        self.processes.append(pod)

    def start_worker(self) -> None:
        more = {
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
            "SERVEFLOW_KEYS_FILE": str(self.folder / "keys" / "keys.yaml"),
        }
        command = WORKER.format(self.network.head_ip)
        environment = self.environment | more
        log, mounted = self.folder / "worker.log", [self.root, self.folder / "keys"]
        pod = start_pod(self.network.worker, RAYS_RIGHTS, command, environment, log, mounted)
        self.processes.append(pod)

    def kill_head(self) -> None:
        listed = ["ip", "netns", "pids", self.network.head.name]
        for pid in subprocess.run(listed, capture_output=True, text=True).stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def inside(self, *command: str, text: str = "") -> str:
        return subprocess.run(
            self.network.head.inside(command),
            input=text, capture_output=True, text=True, cwd=self.root, timeout=300,
            env={**os.environ, "PYTHONPATH": str(self.root), "COLUMNS": "200"},
        ).stdout  # fmt: skip

    def ask(
        self, url: str, method: str = "GET", body: Any = None, token: str = TOKEN
    ) -> tuple[int, str]:
        text = "" if body is None else json.dumps(body)
        said = self.inside(sys.executable, "-c", ASK, method, url, token, text=text)
        status, _, answer = said.partition(" ")
        return int(status), answer

    @property
    def dashboard(self) -> str:
        return f"http://{self.network.head_ip}:8265"

    @property
    def service(self) -> str:
        return f"http://{self.network.worker_ip}:8000"

    def running(self) -> bool:
        status, text = self.ask(f"{self.dashboard}/api/serve/applications/")
        if status != 200:
            return False
        self.last = json.loads(text)["applications"].get("serveflow", {})
        assert self.last.get("status") != "DEPLOY_FAILED", self.last.get("message")
        return self.last.get("status") == "RUNNING"

    def wait_until(self, true: Callable[[], bool], most_s: float = 200) -> None:
        until_s = time.monotonic() + most_s
        while not true():
            logs = [path.read_text()[-2000:] for path in self.folder.glob("*.log")]
            assert time.monotonic() < until_s, "\n".join([*logs, json.dumps(self.last)[:2000]])
            time.sleep(1)

    def replay(self, to: str) -> dict[str, Any]:
        code = "from serveflow_app.cli import main; main()"
        captures = str(self.root / "lab" / "captures" / "test")
        key = str(self.folder / "key")
        told = self.inside(
            sys.executable, "-c", code, "replay", captures, "--to", to, "--api-key-file", key,
            "--json",
        )  # fmt: skip
        summary: dict[str, Any] = json.loads(told)
        return summary

    def incarnations(self) -> list[int]:
        _, text = self.ask(f"{self.service}/v1/status", token=self.key)
        status = json.loads(text)
        assert status["holds"], status
        return [tracker["incarnation"] for tracker in status["trackers"]]


@pytest.fixture(scope="module")
def redis_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("redis")


@pytest.fixture(scope="module")
def cluster(
    root: Path, redis_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    lines = (root / "k8s/base/ray.env").read_text().splitlines()
    environment = dict(line.split("=", 1) for line in lines if line[0] != "#")
    # By KubeRay, from authOptions; and the pods' own.
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    environment |= {"NUMBA_CACHE_DIR": "/tmp/numba"}  # noqa: S108 (the pod's)
    folder = tmp_path_factory.mktemp("pods")
    key = new_key(ANY_COLLECTOR)
    (folder / "keys").mkdir()
    with editing(folder / "keys" / "keys.yaml") as entries:
        entries.append(key.entry)
    (folder / "keys" / "keys.yaml").chmod(0o644)  # Kubernetes gives it to the pod's group
    (folder / "key").write_text(key.key)
    with PodNetwork() as network:
        redis = ["redis-server", "--bind", network.worker_ip, "--port", "6380", "--save", "",
                 "--requirepass", PASSWORD, "--dir", str(redis_folder)]  # fmt: skip
        made = Cluster(network, root, folder, environment, key.key)
        store = subprocess.Popen(network.worker.inside(redis), stdout=subprocess.DEVNULL)
        made.processes.append(store)
        made.start_head()
        made.wait_until(lambda: made.ask(f"{made.dashboard}/api/version")[0] == 200)
        made.start_worker()
        patch = yaml.safe_load((root / "k8s/overlays/production/serve-config.yaml").read_text())
        config = yaml.safe_load(patch["spec"]["serveConfigV2"])
        for deployment in config["applications"][0]["deployments"]:
            if "autoscaling_config" in deployment:
                deployment["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 1}
        put, said = made.ask(f"{made.dashboard}/api/serve/applications/", "PUT", config)
        assert put == 200, said
        made.wait_until(made.running)
        yield made
    for process in made.processes:
        process.wait(30)


def test_rays_dashboard_wants_the_token(cluster: Cluster) -> None:
    url = f"{cluster.dashboard}/api/serve/applications/"
    assert cluster.ask(url, token="")[0] == 401
    assert cluster.ask(url, token="x" * 64)[0] in (401, 403)
    assert cluster.ask(url)[0] == 200


def test_only_the_worker_has_replicas_and_is_ready(cluster: Cluster) -> None:
    replicas = [r for d in cluster.last["deployments"].values() for r in d["replicas"]]
    assert len(replicas) == 7
    assert {replica["node_ip"] for replica in replicas} == {cluster.network.worker_ip}
    # KubeRay's readiness probe.
    probe = "wget --tries 1 -T 2 -q -O- http://localhost:8000/-/healthz | grep success"
    done = subprocess.run(cluster.network.worker.inside(["bash", "-c", probe]))
    assert done.returncode == 0


def test_collectors_want_a_key(cluster: Cluster) -> None:
    assert cluster.ask(f"{cluster.service}/v1/status", token="")[0] == 401
    assert cluster.ask(f"{cluster.service}/v1/status", token=TOKEN)[0] == 401
    assert cluster.ask(f"{cluster.service}/healthz", token="")[0] == 200


def test_every_port_that_the_manifests_name_answers(cluster: Cluster) -> None:
    head, worker = cluster.network.head_ip, cluster.network.worker_ip
    for url in (f"{head}:8080", f"{worker}:8080", f"{head}:44227"):
        status, text = cluster.ask(f"http://{url}/metrics")
        assert status == 200, url
        assert "# TYPE ray_" in text, url


def test_a_head_may_die(cluster: Cluster) -> None:
    """Workers serve on without it; a new one finds all as it was, trackers and their flows too."""
    grpc = f"grpc://{cluster.network.worker_ip}:9000"
    for to in (cluster.service, grpc):
        summary = cluster.replay(to)
        assert summary["final"] == summary["flows"] > 1000
    before = cluster.incarnations()
    cluster.kill_head()
    assert cluster.ask(f"{cluster.dashboard}/api/version")[0] == 0
    for to in (cluster.service, grpc):
        summary = cluster.replay(to)
        assert summary["final"] == summary["flows"] > 1000
    cluster.start_head()
    cluster.wait_until(cluster.running)
    summary = cluster.replay(cluster.service)
    assert summary["final"] == summary["flows"] > 1000
    assert cluster.incarnations() == before
