"""What each error means to a client, without stack traces or paths.

HTTP says it as ``application/problem+json`` (RFC 9457), gRPC as a status
(:mod:`deployments.grpc_status`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from starlette.exceptions import HTTPException

from flows.errors import (
    AccessError,
    BodyTooLargeError,
    BodyTooSlowError,
    ForbiddenError,
    OverloadedError,
    ServiceUnavailableError,
    UnauthenticatedError,
    WireError,
)

__all__ = ["add_problem_handlers", "problem", "problem_of"]

PROBLEM_JSON = "application/problem+json"
_MOST_DETAIL = 500  # characters; it may name what was sent, which may be long
_TOO_MANY = "too_long"  # pydantic's word
_UNPROCESSABLE = HTTPStatus.UNPROCESSABLE_ENTITY


def problem(
    status: int, detail: str, retry_after_s: float | None = None, challenge: str | None = None
) -> JSONResponse:
    """Return an error as a problem document.

    Args:
        status: The HTTP status.
        detail: What went wrong.
        retry_after_s: When to try again; ``Retry-After`` says it in whole seconds (RFC 9110),
            ``Retry-After-Ms`` as it is.
        challenge: How to show who one is (``WWW-Authenticate``).
    """
    headers = {}
    if challenge is not None:
        headers["www-authenticate"] = challenge
    if retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(retry_after_s))
        headers["retry-after-ms"] = str(round(1e3 * retry_after_s))
    return JSONResponse(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail[:_MOST_DETAIL],
        },
        status_code=status,
        headers=headers,
        media_type=PROBLEM_JSON,
    )


def _first(errors: Sequence[Any]) -> str:
    """Say the first thing that a validation found, with its place."""
    error = errors[0]
    place = ".".join(str(part) for part in error.get("loc", ()))
    return f"{place}: {error.get('msg')}" if place else str(error.get("msg"))


def problem_of(error: Exception) -> tuple[HTTPStatus, str]:
    """Return an error's HTTP status and what a client is told of it."""
    match error:
        case BodyTooLargeError():
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)
        case BodyTooSlowError():
            return HTTPStatus.REQUEST_TIMEOUT, str(error)
        case UnauthenticatedError():
            return HTTPStatus.UNAUTHORIZED, str(error)
        case ForbiddenError():
            return HTTPStatus.FORBIDDEN, str(error)
        case WireError():
            return _UNPROCESSABLE, str(error)
        case ValidationError():
            errors = error.errors(include_url=False, include_input=False)
            large = errors[0]["type"] == _TOO_MANY
            kind = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if large else _UNPROCESSABLE
            return kind, _first(errors)
        case OverloadedError():
            return HTTPStatus.TOO_MANY_REQUESTS, str(error)
        case ServiceUnavailableError():
            return HTTPStatus.SERVICE_UNAVAILABLE, str(error)
        case RayServeException() | RayActorError():
            detail = f"a model did not answer: {type(error).__name__}"
            return HTTPStatus.SERVICE_UNAVAILABLE, detail
        case _:
            # What it was stands in the replica's log; the client must not learn our insides.
            return HTTPStatus.INTERNAL_SERVER_ERROR, "the service failed on this request"


def _challenge(error: Exception) -> str | None:
    """Return what ``WWW-Authenticate`` has to say (RFC 6750)."""
    if not isinstance(error, UnauthenticatedError):
        return None
    return 'Bearer realm="serveflow"' + (', error="invalid_token"' if error.shown else "")


def add_problem_handlers(api: FastAPI) -> None:
    """Make every error that ``api`` answers a problem document."""

    async def _answer(_: Request, error: Exception) -> JSONResponse:
        status, detail = problem_of(error)
        answer = problem(status, detail, getattr(error, "retry_after_s", None), _challenge(error))
        if isinstance(error, BodyTooSlowError):
            answer.headers["connection"] = "close"  # or the rest could go on dripping in
        return answer

    expected = (
        AccessError,
        WireError,
        ValidationError,
        ServiceUnavailableError,
        RayServeException,
        RayActorError,
    )
    # What only Exception matches is raised once more after its answer, and Ray Serve logs it.
    for kind in (*expected, Exception):
        api.add_exception_handler(kind, _answer)

    @api.exception_handler(RequestValidationError)
    async def _request_validation(_: Request, error: RequestValidationError) -> JSONResponse:
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, _first(list(error.errors())))

    @api.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        answer = problem(error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})  # Allow, with 405
        return answer
