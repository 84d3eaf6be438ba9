"""The OpenAPI document: whole in itself, and it tells how to get in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from deployments.json_form import JsonBatch
from deployments.router import api

DOCUMENT = api.openapi()


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_leads_somewhere() -> None:
    assert set(references(DOCUMENT))
    for reference in references(DOCUMENT):
        found = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def test_all_but_health_wants_a_key_and_says_what_is_said_without() -> None:
    operations = {
        (path, method): operation
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    }
    assert {path for path, _ in operations} == {
        "/v1/batches",
        "/v1/schema",
        "/v1/status",
        "/healthz",
        "/readyz",
    }
    for (path, _), operation in operations.items():
        wants = path not in {"/healthz", "/readyz"}
        assert ("security" in operation) is wants
        assert ("401" in operation["responses"]) is wants
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert [one["scheme"] for one in schemes.values()] == ["bearer"]


def batch_schema() -> dict[str, Any]:
    operation = DOCUMENT["paths"]["/v1/batches"]["post"]
    schema: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]
    return schema


PACKET = {"flow_id": 1, "proto": "TCP", "time_ns": 1, "ip_bytes": 60}


@pytest.mark.parametrize(
    ("packet", "sound"),
    [
        (PACKET, True),
        ({**PACKET, "dest_port": 65_535}, True),
        ({**PACKET, "dest_port": 65_536}, False),
        ({**PACKET, "dest_port": -1}, False),
        ({**PACKET, "dest_port": "443"}, False),
        ({**PACKET, "other": 1}, False),
        ({**PACKET, "flow_id": None}, False),
        ({**PACKET, "flow_id": None, "src_ip": "192.0.2.1", "dest_ip": "::1"}, True),
    ],
)
def test_the_document_says_what_the_service_takes(packet: dict[str, Any], sound: bool) -> None:
    told = jsonschema.Draft202012Validator(batch_schema()).is_valid({"packets": [packet]})
    try:
        JsonBatch.model_validate_json(json.dumps({"packets": [packet]}))
        taken = True
    except ValidationError:
        taken = False
    assert told is taken is sound
