"""Requests that nobody honest would send, drawn from a seed, and a client that sends them raw."""

from __future__ import annotations

import gzip
import json
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from flows.packet import PACKET_DTYPE
from flows.wire import ARROW_STREAM, PACKET_SCHEMA, PacketBatch, encode_batch

NOW_NS = 1_700_000_000 * 10**9
_METHODS = [
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "CONNECT",
    "get",
    "PRI",
]
_PATHS = [
    "/v1/batches", "/v1/schema", "/v1/status", "/healthz", "/readyz", "/openapi.json", "/docs",
    "/", "",
    "/../../etc/passwd", "/v1/../v1/batches", "/v1/batches/", "//v1//batches", "/%00", "/%2e/%2f",
    "/v1/batches?x=%ff", "/v1/batches;a=b", "/-/healthz", "/-/routes", "*", "/" + "a" * 9_000,
]  # fmt: skip
_HEADERS = [
    b"x-request-id: \xff\xfe", b"x-request-id: " + b"a" * 3_000, b"x-request-timeout-seconds: nan",
    b"x-request-timeout-seconds: -1", b"x-request-timeout-seconds: 1e-9",
    b"x-request-disconnect-disabled: ?1", b"x-request-disconnect-disabled: \xff",
    b"serve_multiplexed_model_id: \xff\xff", b"serve-multiplexed-model-id: ../..",
    b"traceparent: 00-zz-\xff-01", b"traceparent: " + b"0" * 500, b"tracestate: =,=,=",
    b"content-length: -1", b"content-length: 5", b"content-length: 99999999999999999999",
    b"content-length: 1, 2", b"transfer-encoding: chunked", b"transfer-encoding: gzip, chunked",
    b"transfer-encoding: xchunked", b"content-encoding: gzip", b"content-encoding: br, zstd",
    b"expect: 100-continue", b"upgrade: websocket",
    b"upgrade: h2c",
    b"connection: keep-alive, te",
    b"host: a\r\nhost: b", b"x: " + b"y" * 20_000, b"a: \x00", b" folded: x",
    b"no colon", b": empty",
    b"content-type: application/json",
    b"content-type: multipart/form-data; boundary=x",
    b"content-type: " + ARROW_STREAM.encode() + b"; charset=utf-7", b"content-type: \xff/\xff",
    b"serveflow-new-flows: " + b"9" * 5_000, b"serveflow-new-flows: \xb2",
    b"cookie: " + b"=;" * 900,
    b"authorization: Bearer", b"authorization: Bearer " + b"\xc3\xa4" * 20,
    b"authorization: Basic eA==",
    b"range: bytes=0-18446744073709551615", b"x-forwarded-for: 127.0.0.1", b"\x80: \x80",
]  # fmt: skip


@dataclass(frozen=True)
class Request:
    """Bytes to send, and whether they are one whole HTTP request, so that an answer must come."""

    kind: str
    data: bytes
    whole: bool


def arrow_body(n: int = 3, collector: str = "hostile#1", **ipc: str) -> bytes:
    """Return a sound batch, or a compressed one."""
    packets = np.zeros(n, PACKET_DTYPE)
    packets["flow_id"], packets["time_ns"], packets["from_originator"] = np.arange(n), NOW_NS, 1
    packets["ip_bytes"], packets["ip_version"], packets["protocol"] = 60, 4, 6
    if not ipc:
        return encode_batch(PacketBatch(collector, NOW_NS, packets))
    told = {"format": "serveflow.packets.v1", "collector": collector, "watermark_ns": "1"}
    schema = PACKET_SCHEMA.with_metadata(told)
    columns = [
        pa.array([bytes(f.type.byte_width)] * n, f.type)
        if pa.types.is_fixed_size_binary(f.type)
        else pa.array(np.zeros(n), f.type, from_pandas=False)
        for f in schema
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(**ipc)) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return bytes(sink.getvalue())


def _json_bodies() -> list[bytes]:
    packet = {"flow_id": 1, "proto": "TCP", "time_ns": NOW_NS, "ip_bytes": 60}

    def one(**changed: object) -> bytes:
        return json.dumps({"packets": [{**packet, **changed}]}).encode()

    return [
        b"[" * 100_000, b'{"packets":' * 5_000, b'{"a":' + b"[" * 200 + b"]" * 200 + b"}",
        one(src_port=float("nan")), one(dest_port=float("inf")), one(dest_port=-1),
        one(dest_port=65_536), one(ip_bytes=1e308), one(time_ns=10**30), one(flow_id=-(2**70)),
        one(src_ip="../../../x"), one(src_ip="::1%eth0"), one(proto="QUIC"),
        one(packet_index=10**9),
        one(flow_id=None), one(**{"k" * 50_000: 1}), one(__class__=1, constructor={}),
        json.dumps({"collector": "x" * 129, "packets": []}).encode(),
        json.dumps({"collector": "\0\x1b[31m", "packets": []}).encode(),
        b'{"collector":"\\ud800","packets":[]}', b'{"\xed\xa0\x80":1}',
        b'{"packets":[],"packets":[]}',
        b'{"packets":[' + b"{}," * 1_500 + b"{}]}", b'{"packets":' + b"9" * 5_000 + b"}",
        b"null", b"true", b'"x"', b"NaN", b"", b"\xef\xbb\xbf{}", b"\x00" * 100,
        b"{" + b",".join(b'"k%d":1' % i for i in range(9_000)) + b"}",
    ]  # fmt: skip


class Hostility:
    """Draws requests.

    Args:
        seed: Of all that is drawn.
        prefix: Path in front of the service's own paths.
        key: An API key that counts, which half of the requests show.
    """

    def __init__(self, seed: int, prefix: str, key: str) -> None:
        self._random = random.Random(seed)
        self._prefix = prefix
        self._key = key
        self._json = _json_bodies()
        self._arrow = arrow_body()
        self._odd_arrow = [
            arrow_body(2_000, compression="zstd"), arrow_body(2_000, compression="lz4"),
            self._arrow + self._arrow, self._arrow[:8] + b"\xff" * 64, self._arrow[:-9],
            b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(64), gzip.compress(bytes(1 << 20)),
        ]  # fmt: skip
        self._kinds: list[Callable[[], Request]] = [
            self.noise, self.mangled, self.mangled, self.odd_line, self.odd_headers,
            self.odd_headers, self.json_body, self.json_body, self.arrow_bits, self.arrow_bits,
            self.odd_body, self.chunks,
        ]  # fmt: skip

    def draw(self, n: int) -> Iterator[Request]:
        """Yield ``n`` requests."""
        for _ in range(n):
            yield self._random.choice(self._kinds)()

    def _bytes(self, most: int) -> bytes:
        return self._random.randbytes(self._random.randrange(1, most))

    def _shown(self) -> list[bytes]:
        return (
            [b"authorization: Bearer " + self._key.encode()] if self._random.random() < 0.7 else []
        )

    def _post(self, kind: str, body: bytes, content_type: str, *more: bytes) -> Request:
        headers = [
            b"host: service", b"connection: close", b"content-type: " + content_type.encode(),
            b"content-length: %d" % len(body), *self._shown(), *more,
        ]  # fmt: skip
        line = f"POST {self._prefix}/v1/batches HTTP/1.1".encode()
        return Request(kind, b"\r\n".join([line, *headers, b"", body]), whole=True)

    def noise(self) -> Request:
        """Bytes of any kind; some begin like TLS or HTTP/2."""
        begin = self._random.choice(
            [b"", b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
        )
        return Request("noise", begin + self._bytes(2_000), whole=False)

    def mangled(self) -> Request:
        """A sound request with some bytes changed, left out or doubled."""
        data = bytearray(self._post("", self._arrow, ARROW_STREAM).data)
        for _ in range(self._random.randrange(1, 6)):
            at = self._random.randrange(min(len(data), 400))
            match self._random.randrange(4):
                case 0:
                    data[at] ^= 1 << self._random.randrange(8)
                case 1:
                    del data[at : at + self._random.randrange(1, 20)]
                case 2:
                    data[at:at] = self._bytes(20)
                case _:
                    data[at:at] = data[at : at + 50]
        return Request("mangled", bytes(data), whole=False)

    def odd_line(self) -> Request:
        """Methods, paths and versions of any kind."""
        method, path = self._random.choice(_METHODS), self._random.choice(_PATHS)
        version = self._random.choice(
            ["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/9.9", "HTTQ/1.1", ""]
        )
        prefix = self._prefix if self._random.random() < 0.8 else ""
        head = [f"{method} {prefix}{path} {version}".encode(), b"host: a", *self._shown()]
        return Request(
            "odd line", b"\r\n".join([*head, b"connection: close", b"", b""]), whole=False
        )

    def odd_headers(self) -> Request:
        """Headers that Ray Serve, HTTP or we read, with odd values."""
        method, path = self._random.choice(["GET", "POST"]), self._random.choice(_PATHS[:4])
        line = f"{method} {self._prefix}{path}"
        some = self._random.sample(_HEADERS, self._random.randrange(1, 4))
        head = [
            line.encode() + b" HTTP/1.1",
            b"host: a",
            b"connection: close",
            *self._shown(),
            *some,
        ]
        if self._random.random() < 0.1:
            head += [b"h%d: 1" % i for i in range(self._random.randrange(90, 300))]
        return Request("odd headers", b"\r\n".join([*head, b"", b"12345"]), whole=False)

    def json_body(self) -> Request:
        """JSON that is none, or says what cannot be."""
        body = self._random.choice(self._json)
        if self._random.random() < 0.3 and body:
            at = self._random.randrange(len(body))
            body = body[:at] + self._bytes(8) + body[at:]
        return self._post("json", body, "application/json")

    def arrow_bits(self) -> Request:
        """A sound Arrow stream with some bits flipped, or cut."""
        body = bytearray(self._arrow)
        for _ in range(self._random.randrange(1, 12)):
            body[self._random.randrange(len(body))] ^= 1 << self._random.randrange(8)
        if self._random.random() < 0.2:
            del body[self._random.randrange(len(body)) :]
        return self._post("arrow bits", bytes(body), ARROW_STREAM)

    def odd_body(self) -> Request:
        """Compressed, doubled, cut streams; bodies of another kind than they claim."""
        body = self._random.choice([*self._odd_arrow, *self._json[:3], self._bytes(4_000)])
        kind = self._random.choice([ARROW_STREAM, ARROW_STREAM, "application/json", "text/xml", ""])
        more = [b"content-encoding: gzip"] if self._random.random() < 0.3 else []
        return self._post("odd body", body, kind, *more)

    def chunks(self) -> Request:
        """A sound body in chunks, some of which are not."""
        head = (
            f"POST {self._prefix}/v1/batches HTTP/1.1\r\nhost: a\r\nconnection: close\r\n".encode()
        )
        head += b"content-type: " + ARROW_STREAM.encode() + b"\r\ntransfer-encoding: chunked\r\n"
        parts = [head, *(one + b"\r\n" for one in self._shown()), b"\r\n"]
        for at in range(0, len(self._arrow), 300):
            piece = self._arrow[at : at + 300]
            size = b"%x" % len(piece)
            if self._random.random() < 0.1:
                size = self._random.choice(
                    [b"-1", b"fffffffffffffffff", b"0x10", b"zz", b"1;a=b", b"0"]
                )
            parts.append(size + b"\r\n" + piece + b"\r\n")
        parts.append(b"0\r\n\r\n")
        return Request("chunks", b"".join(parts), whole=False)


def send(url: str, request: Request, patience_s: float = 20.0) -> bytes:
    """Send a request and return all that is answered until the connection ends.

    One that may not be whole is ended after a moment, so that an answer to what there is comes.
    """
    parts = urlsplit(url)
    answer = b""
    with socket.create_connection((parts.hostname, parts.port), timeout=patience_s) as connection:
        with suppress(ConnectionError):  # whoever refuses early does not read to the end
            connection.sendall(request.data)
        connection.settimeout(patience_s if request.whole else 0.25)
        with suppress(ConnectionError):
            while True:
                try:
                    piece = connection.recv(1 << 16)
                except TimeoutError:
                    if request.whole or connection.gettimeout() == patience_s:
                        raise
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(patience_s)
                    continue
                if not piece:
                    break
                answer += piece
    return answer
