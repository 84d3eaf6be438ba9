"""Errors as ``application/problem+json`` (RFC 9457), without stack traces or paths."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from flows.errors import BodyTooLargeError, WireError

__all__ = ["add_problem_handlers", "problem"]

PROBLEM_JSON = "application/problem+json"


def problem(status: int, detail: str) -> JSONResponse:
    """Return an error as a problem document."""
    return JSONResponse(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
        },
        status_code=status,
        media_type=PROBLEM_JSON,
    )


def _first(errors: Sequence[Any]) -> str:
    """Say the first thing that a validation found, with its place."""
    error = errors[0]
    place = ".".join(str(part) for part in error.get("loc", ()))
    return f"{place}: {error.get('msg')}" if place else str(error.get("msg"))


def add_problem_handlers(api: FastAPI) -> None:
    """Make every error that ``api`` answers a problem document."""

    @api.exception_handler(BodyTooLargeError)
    async def _too_large(_: Request, error: BodyTooLargeError) -> JSONResponse:
        return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error))

    @api.exception_handler(WireError)
    async def _wire(_: Request, error: WireError) -> JSONResponse:
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))

    @api.exception_handler(ValidationError)
    async def _validation(_: Request, error: ValidationError) -> JSONResponse:
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, _first(error.errors()))

    @api.exception_handler(RequestValidationError)
    async def _request_validation(_: Request, error: RequestValidationError) -> JSONResponse:
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, _first(list(error.errors())))

    @api.exception_handler(Exception)
    async def _defect(_: Request, error: Exception) -> JSONResponse:
        # What it was stands in the replica's log; the client must not learn our insides.
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the service failed on this request")

    @api.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail))
