"""What a collector shows to the service: an API key, a TLS client certificate; both by file."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from flows.errors import SettingsError

__all__ = ["Credentials"]

_LONGEST_KEY = 4_096


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files, read when they are needed, so that what is exchanged in them counts from then on.

    Attributes:
        api_key_file: Holds the API key, on its first line.
        ca_file: Certificates (PEM) of whom to trust with TLS, in place of the system's.
        cert_file: The client's certificate and what leads from it to its authority (PEM).
        key_file: The certificate's private key (PEM).
    """

    api_key_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise SettingsError("a TLS client certificate and its key go together: give both files")

    def authorization(self) -> str | None:
        """Return the value of the header ``authorization`` (RFC 6750), None: there is no key.

        Raises:
            SettingsError: The file cannot be read, or holds no key.
        """
        if self.api_key_file is None:
            return None
        first = _read(self.api_key_file, "API key").split(b"\n", 1)[0].strip()
        if not first or len(first) > _LONGEST_KEY or not all(33 <= byte <= 126 for byte in first):
            raise SettingsError(
                f"{self.api_key_file}: an API key of printable characters was expected on the "
                "first line"
            )
        return f"Bearer {first.decode('ascii')}"

    def tls_context(self) -> ssl.SSLContext:
        """Return a TLS client's context.

        Raises:
            SettingsError: A file cannot be read or holds something else.
        """
        try:
            context = ssl.create_default_context(
                cafile=None if self.ca_file is None else str(self.ca_file)
            )
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(
                str(file) for file in (self.ca_file, self.cert_file, self.key_file) if file
            )
            raise SettingsError(f"TLS ({files}): {error}") from None
        return context

    def tls_files(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return authorities, key and certificate as PEM, None where there is none; for gRPC.

        Raises:
            SettingsError: A file cannot be read.
        """
        self.tls_context()  # its errors are clearer than gRPC's
        named = ((self.ca_file, "CA"), (self.key_file, "key"), (self.cert_file, "certificate"))
        authorities, key, certificate = (
            None if file is None else _read(file, what) for file, what in named
        )
        return authorities, key, certificate


def _read(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SettingsError(f"{what} file {file}: {error.strerror or error}") from None
