"""What a service is to the lab: how to prepare its files and which commands serve it."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.plan import Endpoint

__all__ = ["Command", "Service", "Site", "give_to", "material", "must"]


@dataclass(frozen=True)
class Site:
    """Where one service runs in one run."""

    endpoint: Endpoint
    work: Path
    """Fresh for this service in this run."""
    shared: Path
    """Made once per lab by ``prepare``; only read from."""
    passive_ports: tuple[int, int]
    """Where the service may open further ports (FTP data)."""

    @property
    def rng(self) -> random.Random:
        """The service's own chance; every call starts it anew."""
        return random.Random(self.endpoint.seed)

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """Write a file into the work folder."""
        path = self.work / name
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path

    def folder(self, name: str, mode: int = 0o755) -> Path:
        """Make a folder in the work folder."""
        path = self.work / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        return path


@dataclass(frozen=True)
class Command:
    """One server process."""

    name: str
    argv: Sequence[str]


@dataclass(frozen=True)
class Service:
    """One class of traffic."""

    name: str
    port: int
    software: dict[str, str]
    """Variant → the Debian package (or PyPI project) that serves it."""
    commands: Callable[[Site], list[Command]]
    prepare: Callable[[Path], None] | None = None
    transports: tuple[str, ...] = ("tcp",)
    """What the main port must listen on before the run starts."""
    weight: float = 1.0
    """Sessions, relative to the other services; makes up for unequal flows per session."""

    @property
    def variants(self) -> tuple[str, ...]:
        """The kinds a run draws from."""
        return tuple(self.software)


def must(*command: str, user: str | None = None, data: str | None = None) -> None:
    """Run a preparing command; its failure is the lab's."""
    done = subprocess.run(
        command, input=data, capture_output=True, text=True, check=False, user=user
    )
    if done.returncode != 0:
        tail = (done.stderr or done.stdout).strip()[-400:]
        raise LabError(f"{command[0]} failed while preparing a service: {tail}")


def give_to(user: str, *paths: Path) -> None:
    """Make a system user own files, recursively."""
    for path in paths:
        must("chown", "-R", f"{user}:", str(path))


def material(shared: Path) -> None:
    """Make what several services use: certificates, and files of many sizes."""
    shared.mkdir(parents=True, exist_ok=True)
    shared.chmod(0o755)
    for kind, options in (
        ("rsa", ["rsa:2048"]),
        ("ecdsa", ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]),
    ):
        must(
            "openssl", "req", "-x509", "-nodes", "-days", "30", "-subj", f"/CN={kind}.lab.test",
            "-newkey", *options,
            "-keyout", str(shared / f"{kind}.key"), "-out", str(shared / f"{kind}.crt"),
        )  # fmt: skip
        (shared / f"{kind}.key").chmod(0o644)
    rng = random.Random(7)
    files = shared / "files"
    files.mkdir(exist_ok=True)
    for index in range(48):
        size = int(10 ** rng.uniform(0, 5.3))
        body = (
            rng.randbytes(size) if index % 3 else (b"lorem ipsum dolor " * (size // 18 + 1))[:size]
        )
        (files / f"f{index:02d}.bin").write_bytes(body)
    shutil.copy(files / "f03.bin", files / "index.html")
