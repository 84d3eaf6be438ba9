"""The service's OpenAPI document: what goes in, what comes out, and how to show a key."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from deployments.json_form import JsonBatch
from deployments.problems import PROBLEM_JSON
from flows.wire import ARROW_STREAM, NEW_FLOWS

__all__ = ["BATCHES", "READINESS", "READS", "Api"]

_BEARER = "apiKey"
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "maxLength": 500},
    },
}
_PROBLEMS = {
    400: "Not an HTTP request, or one with other than printable ASCII in its headers",
    401: "No API key, or none that counts",
    403: "The key is another collector's",
    405: "The method is not one of this path",
    408: "The body did not come in time",
    413: "Too many bytes or too many packets",
    415: "Of another media type, or compressed",
    422: "Not a packet batch",
    429: "Too much to do: submit it again when Retry-After says",
    503: "A model or a tracker did not answer: try again",
}


_BY_PROXY = {400, 408, 429, 503}  # HAProxy and Ray Serve may say these before we are asked


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        schema = {"$ref": "#/components/schemas/Problem"}
        found[status] = {
            "description": _PROBLEMS[status],
            "content": {PROBLEM_JSON: {"schema": schema}},
        }
    for status in _BY_PROXY & set(statuses):
        text = {"schema": {"type": "string"}}
        found[status]["content"] |= {"text/plain": text, "text/html": text}
    if 401 in statuses:
        found[401]["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    if 429 in statuses:
        found[429]["headers"] = {"Retry-After": {"schema": {"type": "string"}}}
    return found


def _json_batch() -> dict[str, Any]:
    """Return the schema of a JSON batch, in one piece."""
    schema = JsonBatch.model_json_schema()
    packet = schema.pop("$defs")["JsonPacket"]
    schema["properties"]["packets"]["items"] = packet
    return schema


_VERDICTS = {
    "type": "object",
    "required": ["verdicts"],
    "properties": {"verdicts": {"type": "array", "items": {"type": "object"}}},
}
_BINARY = {"type": "string", "format": "binary"}
_KEY_WANTED: dict[str, Any] = {"security": [{_BEARER: []}]}

BATCHES: dict[str, Any] = {
    "responses": {
        200: {
            "description": "The verdicts",
            "content": {
                ARROW_STREAM: {"schema": _BINARY},
                "application/json": {"schema": _VERDICTS},
            },
        },
        **_problems(400, 401, 403, 408, 413, 415, 422, 429, 503),
    },
    "openapi_extra": {
        **_KEY_WANTED,
        "parameters": [
            {
                "name": NEW_FLOWS,
                "in": "header",
                "required": False,
                "description": "Rows that are a flow's first packet, so that the batch can be "
                "refused before it is read; what is no number says nothing",
                "schema": {"type": "string"},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                ARROW_STREAM: {"schema": _BINARY},
                "application/json": {"schema": _json_batch()},
            },
        },
    },
}
"""What the document says of ``POST /v1/batches``."""

READS: dict[str, Any] = {
    "responses": {
        200: {
            "description": "What was asked for",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        **_problems(400, 401, 503),
    },
    "openapi_extra": _KEY_WANTED,
}
"""What the document says of what is only read, with a key."""

READINESS: dict[str, Any] = {"responses": _problems(503)}
"""What the document says of ``GET /readyz``."""


class Api(FastAPI):
    """The API, with what FastAPI cannot be told route by route."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        document = super().openapi()
        components = document.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = _PROBLEM
        components["securitySchemes"] = {
            _BEARER: {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key (serveflow keys add). Where a service has no keys "
                "file, it is on loopback and wants none.",
            }
        }
        return document
