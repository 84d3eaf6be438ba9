"""A collector shows its key and its certificate, and says which file is wrong."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from collectors.credentials import Credentials
from collectors.grpc_sender import GrpcSender
from collectors.sender import HttpSender
from flows.errors import ServiceUnavailableError, SettingsError
from flows.rpc.flow_classifier_pb2 import GetSchemaResponse
from flows.rpc.flow_classifier_pb2_grpc import (
    FlowClassifierServiceServicer,
    add_FlowClassifierServiceServicer_to_server,
)
from flows.service_schema import ServiceSchema

SCHEMA = ServiceSchema(10, 10.0, ("a",), ("t",), (10,), "v", 2, 100, 1000)


class TlsService:
    """Answers with its schema whoever shows a certificate of the right authority."""

    def __init__(self, folder: Path) -> None:
        self.authority = authority = trustme.CA()
        self.seen: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.seen.append(self.headers.get("authorization"))
                body = json.dumps(SCHEMA.to_dict()).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # strangers are part of the tests

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
        self._server = Server(("localhost", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"https://localhost:{self._server.server_port}"
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        self.client = self.issued(authority, folder, "client")
        self.forged = self.issued(trustme.CA(), folder, "forged")

    @staticmethod
    def issued(
        authority: trustme.CA, folder: Path, name: str, *, server: bool = False
    ) -> tuple[Path, Path]:
        cert, key = folder / f"{name}.pem", folder / f"{name}.key"
        made = authority.issue_cert(name if server else f"{name}@collectors")
        made.cert_chain_pems[0].write_to_path(str(cert))
        made.private_key_pem.write_to_path(str(key))
        return cert, key

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[TlsService]:
    service = TlsService(tmp_path)
    yield service
    service.close()


def test_the_right_certificate_and_key_are_shown(tls: TlsService, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("one-key\n# the old one: another\n")
    with HttpSender(tls.url, credentials=Credentials(key, tls.ca, *tls.client)) as sender:
        assert sender.schema() == SCHEMA
        key.write_text("another-key")  # exchanged: counts at once
        sender.schema()
    assert tls.seen == ["Bearer one-key", "Bearer another-key"]


def test_without_the_right_certificate_nobody_answers(tls: TlsService) -> None:
    for credentials in (
        Credentials(ca_file=tls.ca),
        Credentials(None, tls.ca, *tls.forged),
        Credentials(None, None, *tls.client),  # trusts whom the system trusts
    ):
        with (
            HttpSender(tls.url, credentials=credentials) as sender,
            pytest.raises(ServiceUnavailableError),
        ):
            sender.schema()
    assert tls.seen == []


class GrpcService(FlowClassifierServiceServicer):
    """The same over gRPC."""

    def __init__(self, tls: TlsService, chain: tuple[Path, Path]) -> None:
        self.seen: list[str | bytes | None] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        add_FlowClassifierServiceServicer_to_server(self, self._server)
        credentials = grpc.ssl_server_credentials(
            [(chain[1].read_bytes(), chain[0].read_bytes())],
            tls.ca.read_bytes(),
            require_client_auth=True,
        )
        port = self._server.add_secure_port("localhost:0", credentials)
        self.url = f"grpcs://localhost:{port}"
        self._server.start()

    def GetSchema(self, request: Any, context: Any) -> GetSchemaResponse:  # noqa: N802
        self.seen.append(dict(context.invocation_metadata()).get("authorization"))
        return GetSchemaResponse(**SCHEMA.to_dict())

    def close(self) -> None:
        self._server.stop(None).wait()


def test_the_same_over_grpc(tls: TlsService, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("one-key")
    service = GrpcService(tls, tls.issued(tls.authority, tmp_path, "localhost", server=True))
    try:
        with GrpcSender(service.url, credentials=Credentials(key, tls.ca, *tls.client)) as sender:
            assert sender.schema() == SCHEMA
        for strange in (Credentials(key, tls.ca), Credentials(key, tls.ca, *tls.forged)):
            with (
                GrpcSender(service.url, timeout_s=5, credentials=strange) as sender,
                pytest.raises(ServiceUnavailableError),
            ):
                sender.schema()
    finally:
        service.close()
    assert service.seen == ["Bearer one-key"]


@pytest.mark.parametrize("content", [b"", b"\nkey", b"two words", b"\xc3\xa4", b"x" * 5000])
def test_what_is_no_key_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match="API key") as caught:
        HttpSender("http://127.0.0.1:1", credentials=Credentials(file))
    assert str(file) in str(caught.value)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(SettingsError, match="gone"):
        Credentials(gone).authorization()
    with pytest.raises(SettingsError, match="gone"):
        Credentials(ca_file=gone).tls_context()
    with pytest.raises(SettingsError, match="go together"):
        Credentials(cert_file=gone)
