"""Clients of HTTP, HTTPS and HTTP/3."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from collections.abc import Callable

import httpx
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent

from lab.clients.base import Session

__all__ = ["SESSIONS"]

_AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "lab-client/1.0",
    "okhttp/4.12.0",
)


def _paths(session: Session) -> list[str]:
    paths = []
    for _ in range(session.count(1, 1, 1, 2, 3, 6)):
        kind = session.rng.random()
        if kind < 0.7:
            paths.append("/" + session.file())
        elif kind < 0.8:
            paths.append("/api")
        else:
            paths.append(session.rng.choice(["/", "/gone", "/moved", f"/slow/{session.file()}"]))
    return paths


def _curl(session: Session, scheme: str) -> None:
    argv = [
        "curl",
        "-s",
        "-k",
        "-g",
        "-m",
        "20",
        "-A",
        session.rng.choice(_AGENTS),
        "-o",
        "/dev/null",
    ]
    base = f"{scheme}://{session.at}"
    if scheme == "https":
        name = session.word(session.count(3, 8, 16)) + ".lab.test"
        if session.chance(0.6):
            argv += ["--resolve", f"{name}:{session.port}:{session.address}"]
            base = f"https://{name}:{session.port}"
        argv += session.rng.choice([[], ["--http1.1"], ["--http2"], ["--tls-max", "1.2"]])
    if session.chance(0.2):
        argv.append("--compressed")
    if session.chance(0.2):
        argv += ["--limit-rate", session.rng.choice(["20k", "80k"])]
    kind = session.rng.random()
    if kind < 0.15:
        (session.work / "body").write_bytes(session.data(1, 150_000))
        argv += ["--data-binary", f"@{session.work}/body", f"{base}/api"]
    elif kind < 0.25:
        argv += ["-I", base + session.rng.choice(_paths(session))]
    else:
        for path in _paths(session):
            argv += ["-o", "/dev/null", base + path]
    session.run(argv)


def _wget(session: Session, scheme: str) -> None:
    argv = ["wget", "-q", "-t", "1", "-T", "10", "--no-check-certificate", "-O", "/dev/null"]
    argv += [f"{scheme}://{session.at}{path}" for path in _paths(session)]
    session.run(argv)


def _httpx(session: Session, scheme: str) -> None:
    headers = {"user-agent": session.rng.choice(_AGENTS)}
    if session.chance(0.4):
        headers["cookie"] = "id=" + session.word(session.size(8, 900))
    with httpx.Client(
        verify=False,  # noqa: S501 - the lab's certificates are self-signed
        http2=session.chance(0.5),
        headers=headers,
        timeout=10,
        trust_env=False,
    ) as client:
        for path in _paths(session):
            if session.chance(0.2):
                client.post(f"{scheme}://{session.at}/api", content=session.data(1, 100_000))
            else:
                client.get(f"{scheme}://{session.at}{path}")
            session.think(0.3)


def _stdlib(session: Session, scheme: str) -> None:
    made: http.client.HTTPConnection
    if scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if session.chance(0.3):
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        if session.chance(0.3):
            context.set_ciphers("ECDHE+CHACHA20:ECDHE+AES128")
        made = http.client.HTTPSConnection(
            session.address, session.port, timeout=8, context=context
        )
    else:
        made = http.client.HTTPConnection(session.address, session.port, timeout=8)
    for path in _paths(session):
        made.request("GET", path, headers={"Host": session.word() + ".lab.test"})
        made.getresponse().read()
        session.think(0.4)
    if session.chance(0.2) and made.sock is not None:
        session.reset(made.sock)
    else:
        made.close()


def _ab(session: Session, scheme: str) -> None:
    argv = ["ab", "-q", "-n", str(session.count(3, 6)), "-c", str(session.count(1, 3)), "-s", "8"]
    if session.chance(0.5):
        argv.append("-k")
    session.run([*argv, f"{scheme}://{session.at}/{session.file()}"])


def _raw(session: Session, scheme: str) -> None:
    """Connect and say nothing, or pipeline requests and leave early."""
    made = session.connect()
    if session.chance(0.6) and scheme == "http":
        request = f"GET /{session.file()} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        made.sendall(request * session.count(1, 3))
        made.recv(session.size(100, 20_000))
    else:
        session.think(1.0)
    session.reset(made) if session.chance(0.5) else made.close()


def _web(session: Session, scheme: str) -> None:
    kinds: list[Callable[[Session, str], None]] = [_curl, _wget, _httpx, _stdlib, _ab, _raw]
    session.rng.choices(kinds, weights=[5, 2, 3, 3, 0.5, 0.5])[0](session, scheme)


def _http(session: Session) -> None:
    _web(session, "http")


def _https(session: Session) -> None:
    _web(session, "https")


class _Client(QuicConnectionProtocol):
    """Sends requests on one QUIC connection and waits for their answers."""

    http: H3Connection
    done: dict[int, asyncio.Future[None]]

    def ask(self, authority: str, path: str, body: bytes) -> asyncio.Future[None]:
        """Send one request; the future is done when its answer has ended."""
        stream = self._quic.get_next_available_stream_id()
        method = b"POST" if body else b"GET"
        fields = [(b":method", method), (b":scheme", b"https"), (b":path", path.encode()),
                  (b":authority", authority.encode())]  # fmt: skip
        self.http.send_headers(stream, fields, end_stream=not body)
        if body:
            self.http.send_data(stream, body, end_stream=True)
        self.done[stream] = asyncio.get_running_loop().create_future()
        self.transmit()
        return self.done[stream]

    def quic_event_received(self, event: QuicEvent) -> None:
        """Start HTTP/3 as soon as it is agreed on, and mark requests as done."""
        if isinstance(event, ProtocolNegotiated):
            # Not later: the server's streams for header compression begin in its first flight.
            self.http = H3Connection(self._quic)
            self.done = {}
        if not hasattr(self, "http"):
            return
        for answer in self.http.handle_event(event):
            if isinstance(answer, HeadersReceived | DataReceived) and answer.stream_ended:
                waiting = self.done.pop(answer.stream_id, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)


async def _http3(session: Session) -> None:
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        verify_mode=ssl.CERT_NONE,
        server_name=session.word(session.count(4, 12)) + ".lab.test",
        max_datagram_size=session.count(1200, 1200, 1252, 1280),
        idle_timeout=10.0,
    )
    if session.chance(0.3):
        configuration.congestion_control_algorithm = "cubic"
    async with connect(
        session.address,
        session.port,
        configuration=configuration,
        create_protocol=_Client,
        wait_connected=True,
    ) as client:
        assert isinstance(client, _Client)  # noqa: S101 - narrows what create_protocol made
        if session.chance(0.05):
            return
        at_once = session.chance(0.4)
        waiting = []
        for _ in range(session.count(1, 1, 2, 3, 6)):
            body = session.data(1, 60_000) if session.chance(0.2) else b""
            waiting.append(client.ask("lab.test", "/" + session.file(), body))
            if not at_once:
                await waiting[-1]
                if session.chance(0.5):
                    await asyncio.sleep(session.rng.expovariate(4))
        await asyncio.gather(*waiting)


def _quic(session: Session) -> None:
    async def limited() -> None:
        await asyncio.wait_for(_http3(session), timeout=min(12.0, session.remaining))

    asyncio.run(limited())


SESSIONS = {"http": _http, "https": _https, "quic": _quic}
