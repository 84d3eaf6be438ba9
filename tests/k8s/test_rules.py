"""Each rule is seen to fail: one thing is changed, and what is wrong with it is told."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from broken_objects import GONE, changed
from tools.manifests.check import rule_problems
from tools.manifests.objects import ray_service

pytest_plugins = ["built_overlays"]

RAY, COLLECTOR = "RayService/serveflow", "DaemonSet/serveflow-collector"
CLUSTER = "spec.rayClusterConfig"
HEAD = f"{CLUSTER}.headGroupSpec"
HEAD_POD, HEAD_MAIN = f"{HEAD}.template.spec", f"{HEAD}.template.spec.containers.0"
WORKERS = f"{CLUSTER}.workerGroupSpecs.0"
WORKER_MAIN = f"{WORKERS}.template.spec.containers.0"
POD = "spec.template.spec"
MAIN = f"{POD}.containers.0"


def variable(name: str) -> list[dict[str, str]]:
    return [{"name": name, "value": "1"}]


KUBERAY = [
    ("metadata.name", "s" * 48, "longer than 47"),
    ("metadata.name", "serveflow-", "DNS-1035"),
    ("metadata.annotations", {"ray.io/ft-enabled": "true"}, "ft-enabled"),
    ("spec.serviceUnhealthySecondThreshold", 300, "no effect"),
    ("spec.upgradeStrategy.type", "NewClusterWithIncrementalUpgrade", "only NewCluster"),
    ("spec.excludeHeadPodFromServeSvc", False, "the head would serve"),
    (f"{HEAD}.headService", {"metadata": {"name": "head"}}, "headService.metadata.name"),
    (f"{HEAD}.serviceType", "LoadBalancer", "reached from outside"),
    (f"{HEAD}.enableIngress", True, "reached from outside"),
    (f"{HEAD}.rayStartParams.num-cpus", "2", "replicas would run there"),
    (f"{HEAD}.rayStartParams.object-store-memory", 1, "is no string"),
    (f"{HEAD}.rayStartParams.labels", "a=b", "labels is refused"),
    (f"{HEAD}.rayStartParams.redis-password", "x", "redis-password"),
    (f"{HEAD}.rayStartParams.redis-username", "x", "redisUsername"),
    (f"{HEAD}.resources", {"CPU": "0"}, "in two places"),
    (f"{HEAD_MAIN}.env", variable("REDIS_PASSWORD"), "REDIS_PASSWORD is set beside"),
    (f"{HEAD_MAIN}.env", variable("RAY_REDIS_ADDRESS"), "RAY_REDIS_ADDRESS is set beside"),
    (f"{HEAD_MAIN}.env", variable("RAY_enable_autoscaler_v2"), "autoscaler_v2 is set beside"),
    (f"{HEAD_POD}.restartPolicy", "Always", "restartPolicy must be Never"),
    (f"{WORKERS}.template.spec.restartPolicy", "OnFailure", "restartPolicy must be Never"),
    (f"{HEAD_MAIN}.name", "log-shipper", "first container is not Ray's"),
    (f"{HEAD}.template.metadata.labels.app~kubernetes~io/name", "x", "in its selectors"),
    (f"{WORKERS}.template.metadata.labels.ray~io/cluster", "x", "in its selectors"),
    (f"{HEAD_MAIN}.ports.1.name", "board", "declares no port dashboard"),
    (f"{CLUSTER}.authOptions.mode", "disabled", "could run code"),
    (f"{CLUSTER}.authOptions.enableK8sTokenAuth", True, "enableK8sTokenAuth is refused"),
    (f"{CLUSTER}.rayVersion", GONE, "rayVersion is missing"),
    (f"{CLUSTER}.rayVersion", "2.51.0", "needs Ray 2.52"),
    (f"{CLUSTER}.enableInTreeAutoscaling", False, "could not get more workers"),
    (f"{CLUSTER}.autoscalerOptions.version", "v1", "version is not v2"),
    (f"{CLUSTER}.autoscalerOptions.securityContext", GONE, "sidecar would be refused"),
    (f"{WORKERS}.replicas", 11, "replicas 11 are not within 3 … 10"),
    (f"{WORKERS}.suspend", True, "suspend is refused"),
]

SERVING = [
    (f"{HEAD_MAIN}.ports.3.name", "grpc", "port serve-grpc is None, Serve's is 9000"),
    (f"{WORKER_MAIN}.ports.0.containerPort", 8001, "port serve is 8001, Serve's is 8000"),
    (f"{WORKERS}.minReplicas", 2, "at least 3 replicas, but not as many workers"),
    (f"{WORKERS}.maxReplicas", 9, "up to 10 replicas, but not as many workers"),
    (f"{WORKER_MAIN}.resources.limits.cpu", "2", "at least Serve wants 8 CPUs of workers that"),
    (f"{WORKER_MAIN}.resources.limits.cpu", "500m", "wants 8 CPUs of workers that have 3"),
    (f"{WORKER_MAIN}.image", "serveflow/serveflow:0.1.0-ray2.59.0", "is not of 0.1.0-ray"),
    (f"{WORKER_MAIN}.image", "serveflow/serveflow:latest", "another every day"),
    (f"{WORKER_MAIN}.image", "serveflow/serveflow", "neither tag nor digest"),
    (f"{WORKER_MAIN}.image", "other:1", "images of their own"),
    (f"{CLUSTER}.rayVersion", "2.59.0", "is not pyproject.toml's"),
]

REFERENCES = [
    (RAY, f"{CLUSTER}.authOptions.secretName", "x", "no Secret x that holds auth_token"),
    (RAY, f"{CLUSTER}.gcsFaultToleranceOptions.redisPassword.valueFrom.secretKeyRef.key", "pw",
     "no Secret serveflow-redis that holds pw"),
    (RAY, f"{HEAD_MAIN}.envFrom.0.configMapRef.name", "ray-env", "no ConfigMap ray-env"),
    (RAY, f"{WORKER_MAIN}.env.0.value", "/etc/serveflow/keys/k.yaml", "holds no k.yaml"),
    (RAY, f"{WORKERS}.template.spec.volumes.1.secret.secretName", "k", "no Secret k"),
    (RAY, f"{WORKER_MAIN}.volumeMounts.0.name", "temp", "mounts temp, which is no volume"),
    (RAY, f"{CLUSTER}.autoscalerOptions.volumeMounts.0.name", "temp", "autoscaler mounts temp"),
    (RAY, f"{HEAD_POD}.serviceAccountName", "x", "no ServiceAccount x"),
    (RAY, f"{HEAD_POD}.volumes.1.projected.sources.1.configMap.items.0.key", "crt",
     "no ConfigMap kube-root-ca"),
    (COLLECTOR, f"{POD}.volumes.0.configMap.name", "x", "no ConfigMap x"),
    (COLLECTOR, f"{MAIN}.volumeMounts.0.subPath", "c.yaml", "holds no c.yaml"),
    ("StatefulSet/redis", f"{MAIN}.args.0", "redis-server $(cat /run/secrets/redis/pw)",
     "holds no pw"),
]  # fmt: skip

NETWORK = [
    ("NetworkPolicy/names", "spec.podSelector", {"matchLabels": {"a": "b"}}, "finds no pod"),
    ("NetworkPolicy/within-ray", "spec.ingress.0.from.0.podSelector.matchExpressions.0.values",
     ["leader"], "finds no pod"),
    ("NetworkPolicy/from-gateway", "spec.ingress.0.ports.0.port", 8001, "port 8001 is declared by"),
    ("NetworkPolicy/head-to-redis", "spec.egress.0.ports.0.port", 6380, "port 6380 is declared by"),
    ("NetworkPolicy/nothing-else", "spec.policyTypes", ["Ingress"], "refuses what none allows"),
    ("PodDisruptionBudget/serveflow-workers", "spec.selector.matchLabels.serveflow~io/part", "w",
     "finds no pod"),
    ("PodDisruptionBudget/serveflow-workers", "spec.minAvailable", "50%", "must be a number"),
    ("PodMonitor/serveflow-ray", "spec.podMetricsEndpoints.1.port", "auto", "no port auto"),
    ("Service/redis", "spec.ports.0.targetPort", "red", "no port red"),
    ("Service/redis", "spec.selector", {"app": "redis"}, "finds no pod"),
    (COLLECTOR, "spec.selector.matchLabels.serveflow~io/part", "x", "not find its own pods"),
    (RAY, f"{WORKERS}.template.spec.topologySpreadConstraints.0.labelSelector.matchLabels",
     {"a": "b"}, "spreads pods that it is none of"),
    ("HTTPRoute/serveflow", "spec.parentRefs.0.sectionName", "http", "no listener http"),
    ("HTTPRoute/serveflow", "spec.hostnames", ["x.example"], "are not its listener's"),
    ("HTTPRoute/serveflow", "spec.rules.0.backendRefs.0.port", 9000, "it leads to"),
    ("GRPCRoute/serveflow", "spec.rules.0.backendRefs.0.name", "serveflow-svc", "it leads to"),
    ("GRPCRoute/serveflow", "spec.hostnames", ["serveflow.example.net"], "for one hostname"),
    ("GRPCRoute/serveflow", "spec.rules.0.matches.0.method.service", "serveflow.v1.Flow",
     "it matches"),
    ("Certificate/serveflow-tls", "spec.dnsNames", ["serveflow.example.net"], "no certificate"),
    ("Certificate/serveflow-tls", "spec.secretName", "x", "no certificate"),
]  # fmt: skip

POD_SECURITY = [
    ("Namespace/serveflow", "metadata.labels", {}, "enforce is None"),
    ("Namespace/serveflow", "metadata.name", "other", "its namespace serveflow is not made here"),
    (RAY, f"{HEAD_POD}.hostNetwork", True, "hostNetwork is set"),
    (RAY, f"{HEAD_MAIN}.securityContext.runAsNonRoot", False, "may run as root"),
    (RAY, f"{HEAD_POD}.securityContext.runAsUser", 0, "may run as root"),
    (RAY, f"{HEAD_MAIN}.securityContext.privileged", True, "is privileged"),
    (RAY, f"{HEAD_MAIN}.securityContext.allowPrivilegeEscalation", GONE, "Escalation is not false"),
    (RAY, f"{HEAD_MAIN}.securityContext.capabilities", {}, "does not drop ALL"),
    (RAY, f"{HEAD_MAIN}.securityContext.capabilities.add", ["NET_RAW"], "adds capabilities"),
    (RAY, f"{HEAD_MAIN}.securityContext.seccompProfile.type", "Unconfined", "no seccomp"),
    (RAY, f"{HEAD_MAIN}.ports.0.hostPort", 6379, "has a host port"),
    (RAY, f"{HEAD_POD}.volumes.0", {"name": "tmp", "hostPath": {"path": "/"}}, "refused: hostPath"),
    (RAY, f"{CLUSTER}.autoscalerOptions.securityContext.capabilities", GONE,
     "autoscaler does not drop ALL"),
]  # fmt: skip

COLLECTORS = [
    (f"{MAIN}.env.1.value", "https://other.example", "no route of the Gateway"),
    (f"{MAIN}.env.1.value", "serveflow.example.net", "must be an address"),
    (f"{MAIN}.env.2.name", "SERVEFLOW_COLLECT_INTERFACES", "INTERFACES"),
    (f"{MAIN}.securityContext.runAsUser", 1000, "what can use NET_RAW"),
    (f"{MAIN}.securityContext.allowPrivilegeEscalation", True, "what can use NET_RAW"),
    (f"{MAIN}.securityContext.capabilities.add", ["NET_RAW", "NET_ADMIN"], "its capabilities"),
    (f"{MAIN}.securityContext.capabilities.drop", [], "its capabilities"),
    (f"{MAIN}.securityContext.privileged", True, "its capabilities"),
    (f"{MAIN}.securityContext.readOnlyRootFilesystem", False, "can be written to"),
    (f"{MAIN}.livenessProbe", GONE, "no livenessProbe"),
    (f"{MAIN}.readinessProbe.httpGet.port", 9100, "readinessProbe asks another address"),
    (f"{MAIN}.startupProbe.httpGet.host", GONE, "startupProbe asks another address"),
    (f"{MAIN}.resources.limits.memory", "512Mi", "memory limit is below"),
    (f"{POD}.volumes.2.emptyDir.sizeLimit", "2Gi", "not larger than spool.max_bytes"),
    (f"{POD}.volumes.2", {"name": "spool", "hostPath": {"path": "/srv"}}, "folders of the node"),
    (f"{MAIN}.volumeMounts.2.mountPath", "/spool", "is on no volume"),
    (f"{POD}.hostNetwork", False, "what a tap needs"),
    (f"{POD}.dnsPolicy", "ClusterFirst", "what a tap needs"),
    (f"{POD}.nodeSelector", GONE, "on every node"),
]


def of(named: str, cases: list[tuple[str, Any, str]]) -> list[tuple[str, str, Any, str]]:
    return [(named, *case) for case in cases]


@pytest.mark.parametrize(
    ("named", "path", "value", "said"),
    [
        *of(RAY, KUBERAY),
        *of(RAY, SERVING),
        *REFERENCES,
        *NETWORK,
        *POD_SECURITY,
        *of(COLLECTOR, COLLECTORS),
    ],
)
def test_what_is_wrong_is_told(
    production: list[dict[str, Any]], named: str, path: str, value: Any, said: str
) -> None:
    assert any(
        said in problem for problem in rule_problems(changed(production, named, path, value))
    )


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("EveryNode", "HeadOnly", "workers would never be ready"),
        ("host: 0.0.0.0", "host: 127.0.0.1", "nobody outside the pod"),
        ("enable_reflection: false", "enable_reflection: true", "tells strangers"),
        ("  port: 8000", "  port: 8000\n  ssl_keyfile: /k\n  ssl_certfile: /c", "TLS is the"),
        ("max_replicas_per_node: 1", "max_replicas_per_node: 2", "would have no proxy"),
        ("proxy_location", "proxy_locations", "unknown key proxy_locations"),
        ("health_check_period_s", "health_check_period", "unknown key applications.0.deploy"),
        ("trackers: 4", "tracker: 4", "args: tracker: unknown key"),
        ("- name: Router", "- name: Rooter", "unknown deployment Rooter"),
        ("num_cpus: 0.5", "num_cpus: 5", "a replica of 5 CPUs fits on no worker"),
    ],
)
def test_serve_is_told_what_fits_its_cluster(
    production: list[dict[str, Any]], before: str, after: str, said: str
) -> None:
    """An unknown key is refused here, as Ray Serve itself would ignore it."""
    config = ray_service(production)["spec"]["serveConfigV2"]
    assert before in config
    broken = changed(production, RAY, "spec.serveConfigV2", config.replace(before, after, 1))
    assert any(said in problem for problem in rule_problems(broken))


def test_redis_is_named_in_one_place(production: list[dict[str, Any]]) -> None:
    without = changed(production, RAY, f"{CLUSTER}.gcsFaultToleranceOptions", GONE)
    assert rule_problems(without) == []
    broken = changed(without, RAY, f"{HEAD_MAIN}.env", variable("RAY_REDIS_ADDRESS"))
    assert any("without gcsFaultToleranceOptions" in problem for problem in rule_problems(broken))


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("bfp", "tcp", "bfp"),
        ("metrics", "0.0.0.0:9105", "asks another address"),
        ("memory", "1GiB", "memory limit is below"),
        ("spool", {"folder": None}, "it has no spool"),
    ],
)
def test_collectors_are_told_what_fits_their_pod(
    production: list[dict[str, Any]], setting: str, value: Any, said: str
) -> None:
    (found,) = (o for o in production if o["metadata"]["name"].startswith("serveflow-collect-"))
    settings = yaml.safe_load(found["data"]["collect.yaml"]) | {setting: value}
    broken = changed(
        production, "ConfigMap/serveflow-collect", "data.collect~yaml", yaml.safe_dump(settings)
    )
    assert any(said in problem for problem in rule_problems(broken))


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("http://serveflow-head-svc.serveflow:8000", "not KubeRay's Service"),
        ("http://serveflow-serve-svc.serveflow:9000", "where Serve does not listen"),
        ("grpc://serveflow-serve-svc.serveflow:8000", "where Serve does not listen"),
    ],
)
def test_without_a_gateway_collectors_send_to_kuberays_service(
    built: dict[str, list[dict[str, Any]]], to: str, said: str
) -> None:
    broken = changed(built["dev"], COLLECTOR, f"{MAIN}.env.1.value", to)
    assert any(said in problem for problem in rule_problems(broken))
