"""An HTTP response whose pieces leave one by one, each at once.

Starlette's own sends an empty piece at the end and watches for clients that leave, which Ray Serve
does already; each costs a system call or a task per batch (docs/performance.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.answers import Piece

__all__ = ["StreamedResponse"]

_TURNS_TO_SEND = 2  # of the event loop, until Ray Serve has passed a chunk on to the socket


class StreamedResponse(Response):
    """Sends pieces as they come.

    Args:
        first: The first piece.
        others: The pieces behind it.
        media_type: Of the body.
    """

    def __init__(
        self, first: Piece, others: AsyncGenerator[Piece, None], *, media_type: str
    ) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]  # how long it gets is not known yet
        self._first = first
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response (ASGI)."""
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        try:
            await self._send(send, self._first)
            for _ in range(_TURNS_TO_SEND):
                await asyncio.sleep(0)
            async for piece in self._others:
                await self._send(send, piece)
        finally:
            await self._others.aclose()

    async def _send(self, send: Send, piece: Piece) -> None:
        await send({"type": "http.response.body", "body": piece.data, "more_body": not piece.last})
