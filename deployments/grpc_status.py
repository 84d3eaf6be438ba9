"""What each error means to a gRPC client: the same as over HTTP, as a status."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Protocol

from grpc import StatusCode

from deployments.problems import problem_of

__all__ = ["StatusContext", "telling"]

_CODES = {
    HTTPStatus.UNAUTHORIZED: StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: StatusCode.PERMISSION_DENIED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.TOO_MANY_REQUESTS: StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.UNPROCESSABLE_ENTITY: StatusCode.INVALID_ARGUMENT,
    HTTPStatus.SERVICE_UNAVAILABLE: StatusCode.UNAVAILABLE,
    HTTPStatus.INTERNAL_SERVER_ERROR: StatusCode.INTERNAL,
}


class StatusContext(Protocol):
    """What is used of :class:`ray.serve.grpc_util.RayServegRPCContext`."""

    def invocation_metadata(self) -> Iterable[tuple[str, str]]:
        """Return the call's metadata."""

    def set_code(self, code: StatusCode) -> None:
        """Set the status that the call ends with."""

    def set_details(self, details: str) -> None:
        """Set what the client is told."""


@contextmanager
def telling(context: StatusContext) -> Iterator[None]:
    """Tell the client what an error means; it goes on to Ray Serve, which logs and counts it.

    Without a status of ours Ray Serve would tell the client the error's text, insides and all.
    """
    try:
        yield
    except Exception as error:
        status, detail = problem_of(error)
        context.set_code(_CODES[status])
        context.set_details(detail)
        raise
