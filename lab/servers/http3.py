"""An HTTP/3 server on aioquic: ``python -m lab.servers.http3 ADDRESS PORT CRT KEY FILES RETRY``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent

__all__ = ["main"]


class _Protocol(QuicConnectionProtocol):
    """Answers each request with a file or, to a body, with a short acknowledgement."""

    files: dict[str, bytes]

    def quic_event_received(self, event: QuicEvent) -> None:
        """Hand transport events to HTTP/3 and answer what comes out."""
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        http: H3Connection | None = getattr(self, "_http", None)
        if http is None:
            return
        for http_event in http.handle_event(event):
            self._answer(http, http_event)

    def _answer(self, http: H3Connection, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            headers = dict(event.headers)
            path = headers.get(b":path", b"/").decode().lstrip("/")
            if headers.get(b":method") == b"POST" and not event.stream_ended:
                return
            body = self.files.get(path, b"nothing here")
            status = b"200" if path in self.files else b"404"
        elif isinstance(event, DataReceived) and event.stream_ended:
            body, status = b'{"ok":true}', b"200"
        else:
            return
        fields = [(b":status", status), (b"content-length", str(len(body)).encode())]
        http.send_headers(event.stream_id, fields)
        http.send_data(event.stream_id, body, end_stream=True)
        self.transmit()


async def _serve(address: str, port: int, crt: str, key: str, folder: Path, retry: bool) -> None:
    _Protocol.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(crt, key)
    await serve(address, port, configuration=configuration, create_protocol=_Protocol, retry=retry)
    await asyncio.Event().wait()


def main(argv: list[str]) -> int:
    """Serve until ended."""
    address, port, crt, key, folder, retry = argv
    asyncio.run(_serve(address, int(port), crt, key, Path(folder), retry == "True"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
