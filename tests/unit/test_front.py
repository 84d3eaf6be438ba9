"""The short way to the handler of batches answers as the application does."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import Response

from deployments.front import Front
from deployments.problems import add_problem_handlers
from flows.errors import BodyTooLargeError, OverloadedError, WireError


def service(error: Exception | None = None, root_path: str = "") -> tuple[httpx.AsyncClient, list]:
    """Return a client of an application, and the bodies that its handler has seen."""
    seen: list[bytes] = []
    api = FastAPI()

    async def answer(request: Request) -> Response:
        seen.append(await request.body())
        if error is not None:
            raise error
        return Response(b"short way", status_code=202)

    @api.post("/v1/batches")
    async def long_way() -> Response:
        return Response(b"long way")

    @api.get("/v1/schema")
    async def schema() -> dict[str, int]:
        return {"depth": 10}

    add_problem_handlers(api)
    api.add_middleware(Front, api=api, path="/v1/batches", answer=answer)
    transport = httpx.ASGITransport(app=api, raise_app_exceptions=False, root_path=root_path)
    return httpx.AsyncClient(transport=transport, base_url=f"http://test{root_path}"), seen


def ask(client: httpx.AsyncClient, *requests: tuple[str, str]) -> list[httpx.Response]:
    async def answers() -> list[httpx.Response]:
        async with client:
            return [await client.request(*one, content=b"packets") for one in requests]

    return asyncio.run(answers())


@pytest.mark.parametrize("root_path", ["", "/edge"])
def test_batches_go_the_short_way(root_path: str) -> None:
    client, seen = service(root_path=root_path)
    (answer,) = ask(client, ("POST", "/v1/batches"))
    assert (answer.status_code, answer.content, seen) == (202, b"short way", [b"packets"])


def test_others_go_on_to_the_application() -> None:
    client, seen = service()
    schema, other, beside = ask(
        client, ("GET", "/v1/schema"), ("GET", "/v1/batches"), ("POST", "/v1/batches/")
    )
    assert schema.json() == {"depth": 10}
    assert other.status_code == 405
    assert beside.status_code in (307, 404)
    assert not seen


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (WireError("no batch"), 422),
        (BodyTooLargeError("too large"), 413),
        (OverloadedError("too much to do", 0.2), 429),
        (RuntimeError("a secret"), 500),
    ],
)
def test_errors_are_answered_as_the_application_does(error: Exception, status: int) -> None:
    client, _ = service(error)
    (answer,) = ask(client, ("POST", "/v1/batches"))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert ("retry-after-ms" in answer.headers) == (status == 429)
