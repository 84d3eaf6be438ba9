"""Whether selectors find pods, and ports and routes lead to something."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flows.rpc import flow_classifier_pb2
from tools.manifests.objects import Objects, Pod, containers_of, of_kind, pods_of, ray_groups, title

__all__ = ["network_problems"]

_DNS, _API_SERVER = {53}, {443, 6443}
_SELECTING = ("NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "Service")
_ROUTES = ("HTTPRoute", "GRPCRoute")


def network_problems(objects: Objects) -> list[str]:
    """Return selectors without pods, ports that nobody declares, and routes to nowhere."""
    pods = pods_of(objects)
    found = []
    for selecting in of_kind(objects, *_SELECTING):
        chosen = [
            pod
            for pod in pods
            if pod.namespace == selecting["metadata"]["namespace"]
            and _matches(_selector(selecting), pod)
        ]
        if not chosen:
            found.append(f"{title(selecting)}: its selector finds no pod")
        found += [f"{title(selecting)}: {p}" for p in _of_selecting(selecting, chosen, pods)]
    for controller in of_kind(objects, "DaemonSet", "StatefulSet", "Deployment"):
        (pod,) = pods_of([controller])
        if not _matches(controller["spec"]["selector"], pod):
            found.append(f"{title(controller)}: its selector does not find its own pods")
    for pod in pods:
        for spread in pod.spec.get("topologySpreadConstraints", []):
            if not _matches(spread["labelSelector"], pod):
                found.append(f"{pod.owner}: spreads pods that it is none of")
    for namespace in of_kind(objects, "Namespace"):
        found += _of_namespace(objects, namespace["metadata"]["name"])
    for route in of_kind(objects, *_ROUTES):
        found += [f"{title(route)}: {problem}" for problem in _of_route(objects, route)]
    return found


def _selector(selecting: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = selecting["spec"]
    if selecting["kind"] == "Service":
        return {"matchLabels": spec["selector"]}
    selector: Mapping[str, Any] = spec.get("podSelector", spec.get("selector"))
    return selector


def _matches(selector: Mapping[str, Any], pod: Pod) -> bool:
    for key, value in selector.get("matchLabels", {}).items():
        if pod.labels.get(key) != value:
            return False
    for wanted in selector.get("matchExpressions", []):
        if wanted["operator"] != "In" or pod.labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return True


def _ports(pods: list[Pod]) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for pod in pods
        for container in containers_of(pod)
        for port in container.get("ports", [])
    }


def _of_selecting(
    selecting: Mapping[str, Any], chosen: list[Pod], pods: list[Pod]
) -> Iterator[str]:
    spec, ports = selecting["spec"], _ports(chosen)
    if selecting["kind"] == "PodMonitor":
        for endpoint in spec["podMetricsEndpoints"]:
            if endpoint["port"] not in ports:
                yield f"its pods declare no port {endpoint['port']}"
    elif selecting["kind"] == "Service":
        for port in spec["ports"]:
            if port.get("targetPort", port["port"]) not in {*ports, *ports.values()}:
                yield f"its pods declare no port {port.get('targetPort', port['port'])}"
    elif selecting["kind"] == "PodDisruptionBudget":
        if not isinstance(spec.get("minAvailable"), int):
            yield "minAvailable must be a number: nobody knows of how many pods KubeRay's are"
    else:
        for rule in spec.get("ingress", []):
            yield from _undeclared(rule, set(ports.values()))
            yield from _peers(rule.get("from", []), pods)
        for rule in spec.get("egress", []):
            yield from _undeclared(rule, {*_ports(pods).values(), *_DNS, *_API_SERVER})
            yield from _peers(rule.get("to", []), pods)


def _undeclared(rule: Mapping[str, Any], declared: set[int]) -> Iterator[str]:
    for port in rule.get("ports", []):
        if port["port"] not in declared:
            yield f"port {port['port']} is declared by no pod that it is about"


def _peers(peers: list[Mapping[str, Any]], pods: list[Pod]) -> Iterator[str]:
    for peer in peers:
        ours = "podSelector" in peer and "namespaceSelector" not in peer
        if ours and not any(_matches(peer["podSelector"], pod) for pod in pods):
            yield f"the peer {dict(peer['podSelector'])} finds no pod"


def _of_namespace(objects: Objects, namespace: str) -> Iterator[str]:
    """See that in a namespace nothing is allowed but what a policy allows."""
    for policy in of_kind(objects, "NetworkPolicy"):
        spec = policy["spec"]
        if (
            policy["metadata"]["namespace"] == namespace
            and not spec["podSelector"]
            and {*spec["policyTypes"]} == {"Ingress", "Egress"}
            and not {"ingress", "egress"} & spec.keys()
        ):
            return
    yield f"Namespace/{namespace}: no NetworkPolicy refuses what none allows"


def _of_route(objects: Objects, route: Mapping[str, Any]) -> Iterator[str]:
    spec, kind = route["spec"], route["kind"]
    listeners = {
        (gateway["metadata"]["name"], listener["name"]): listener
        for gateway in of_kind(objects, "Gateway")
        for listener in gateway["spec"]["listeners"]
    }
    secrets = {
        c["spec"]["secretName"]: c["spec"]["dnsNames"] for c in of_kind(objects, "Certificate")
    }
    for parent in spec["parentRefs"]:
        listener = listeners.get((parent["name"], parent.get("sectionName")))
        if listener is None:
            yield f"there is no listener {parent.get('sectionName')} of Gateway {parent['name']}"
            continue
        if spec["hostnames"] != [listener["hostname"]]:
            yield f"its hostnames are not its listener's {listener['hostname']}"
        for reference in listener.get("tls", {}).get("certificateRefs", [{"name": None}]):
            if listener["hostname"] not in secrets.get(reference["name"], []):
                yield f"no certificate {reference['name']} names {listener['hostname']}"
    for other in of_kind(objects, *_ROUTES):
        if other["kind"] != kind and set(other["spec"]["hostnames"]) & set(spec["hostnames"]):
            yield f"a Gateway refuses a {other['kind']} and a {kind} for one hostname"
    wanted = _serve_ports(objects).get("serve" if kind == "HTTPRoute" else "serve-grpc")
    for rule in spec["rules"]:
        for backend in rule["backendRefs"]:
            if (backend["name"], backend["port"]) != wanted:
                yield f"it leads to {backend['name']}:{backend['port']}, not {wanted}"
        if kind == "GRPCRoute":
            ours = {s.full_name for s in flow_classifier_pb2.DESCRIPTOR.services_by_name.values()}
            services = {match["method"]["service"] for match in rule["matches"]}
            if services != ours:
                yield f"it matches {sorted(services)}, not {sorted(ours)}"


def _serve_ports(objects: Objects) -> dict[str, tuple[str, int]]:
    """Return name and port of the Service that KubeRay will make, by the port's name."""
    (service,) = of_kind(objects, "RayService")
    (_, head), *_ = ray_groups(service)
    return {
        port["name"]: (f"{service['metadata']['name']}-serve-svc", port["containerPort"])
        for port in head["template"]["spec"]["containers"][0]["ports"]
    }
