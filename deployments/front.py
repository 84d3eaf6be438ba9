"""Answers batches ahead of FastAPI's own layers, which take longer than a small batch itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPMethod
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from ray import serve
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Front", "answer_of_replica"]

Answer = Callable[[Request], Awaitable[Response]]


def answer_of_replica(request: Request) -> Awaitable[Response]:
    """Have the Router whose replica this is answer a request for ``/v1/batches``."""
    router: Any = serve.get_replica_context().servable_object
    answer: Awaitable[Response] = router.batches(request)
    return answer


class Front:
    """Passes requests for one path to their handler, and all others on.

    What the handler raises is answered by the application's own handlers of errors; what it raises
    that has none is raised to whoever is in front.

    Args:
        app: What answers the others.
        api: Whose handlers of errors to ask.
        path: The path, for ``POST``.
        answer: Its handler; it is the one that the application has for that path, too.
    """

    def __init__(self, app: ASGIApp, api: FastAPI, path: str, answer: Answer) -> None:
        self._app = app
        self._api = api
        self._path = path
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if not self._is_own(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Exception as error:
            handlers = self._api.exception_handlers
            known = [k for k in type(error).__mro__ if k in handlers and k is not Exception]
            if not known:
                raise
            response = await handlers[known[0]](request, error)  # type: ignore[misc] # the handlers are asynchronous
        await response(scope, receive, send)

    def _is_own(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] != HTTPMethod.POST:
            return False
        path: str = scope["path"]
        return path.removeprefix(scope.get("root_path", "")) == self._path
