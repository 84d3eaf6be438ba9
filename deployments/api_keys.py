"""The keys file: which API keys count, for which collector, and until when.

It holds no key, only a salted digest of each, so that whoever reads it cannot submit anything
(docs/decisions/0027-access.md says why a fast digest is the right one here). A key is::

    sfk_1f0c9a3e_pX0…43 characters of 256 random bits

Its middle part, the key's id, is no secret: it finds the entry, so that one digest is enough.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from flows.errors import SettingsError

__all__ = [
    "ANY_COLLECTOR",
    "MAX_VALID_KEYS",
    "ApiKey",
    "digest_of",
    "editing",
    "id_of",
    "new_key",
    "read_keys",
]

ANY_COLLECTOR = "*"
"""In a collector's place: the key is for the flows of any collector, and for watching all."""

MAX_VALID_KEYS = 2
"""Of one collector at a time: the one in use, and the one that takes its place."""

_MAX_FILE_BYTES = 4 * 1024 * 1024
_KEY = re.compile(r"sfk_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_DIGEST_BYTES = 32
_NAME = r"^(\*|[\w.:@-]+)$"  # what a collector may be called


class ApiKey(BaseModel):
    """One key, as the file has it.

    Attributes:
        id: Public name of the key.
        collector: Name of the collector that it is for, without incarnation; ``*``: any.
        salt: 16 random bytes, hexadecimal.
        digest: :func:`digest_of` the key, hexadecimal.
        created: When it was made.
        not_after: From when on it no longer counts; None: it has no end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    collector: Annotated[str, Field(max_length=100, pattern=_NAME)]
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime
    not_after: AwareDatetime | None = None

    def valid_at(self, now: datetime) -> bool:
        """Tell whether it counts at ``now``."""
        return self.not_after is None or now < self.not_after


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Annotated[int, Field(ge=1, le=1)]
    keys: list[ApiKey]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made.

    Attributes:
        key: The key itself, to be shown once.
        entry: What the file keeps of it.
    """

    key: str
    entry: ApiKey


def digest_of(key: str, salt: bytes) -> bytes:
    """Return the digest of a key: BLAKE2b with a salt, 32 bytes."""
    return blake2b(
        key.encode(), digest_size=_DIGEST_BYTES, salt=salt, person=b"serveflow-key"
    ).digest()


def id_of(key: str) -> str | None:
    """Return a key's id; None: it is none of our keys."""
    found = _KEY.fullmatch(key)
    return found.group(1) if found else None


def new_key(collector: str, not_after: datetime | None = None) -> NewKey:
    """Make a key for a collector.

    Raises:
        SettingsError: No collector can be called that.
    """
    key_id = secrets.token_hex(4)
    key = f"sfk_{key_id}_{secrets.token_urlsafe(32)}"
    salt = secrets.token_bytes(16)
    try:
        entry = ApiKey(
            id=key_id,
            collector=collector,
            salt=salt.hex(),
            digest=digest_of(key, salt).hex(),
            created=datetime.now(UTC).replace(microsecond=0),
            not_after=not_after,
        )
    except ValidationError:
        raise SettingsError(
            f"{collector!r} is no name of a collector: up to 100 letters, digits and ._:@-, or * "
            "for any collector; leave '#' and what follows it out"
        ) from None
    return NewKey(key, entry)


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Read a keys file.

    Raises:
        SettingsError: It cannot be read, is damaged, anybody may write to it, or a collector has
            more than two keys that count.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IWOTH:
                raise SettingsError(f"{path}: anybody may write to it: chmod o-w")
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"keys file {path}: {error.strerror or error}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise SettingsError(f"keys file {path}: over {_MAX_FILE_BYTES:,} bytes")
    try:
        keys = tuple(_File.model_validate(yaml.safe_load(data.decode())).keys)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise SettingsError(f"keys file {path}: {place}: {first['msg']}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        told = type(error).__name__  # its text may quote the file
        raise SettingsError(f"keys file {path}: not YAML ({told})") from None
    _check(path, keys)
    return keys


def _check(path: Path, keys: Sequence[ApiKey]) -> None:
    now = datetime.now(UTC)
    ids: set[str] = set()
    valid: dict[str, int] = {}
    for key in keys:
        if key.id in ids:
            raise SettingsError(f"keys file {path}: id {key.id} stands there twice")
        ids.add(key.id)
        if key.valid_at(now):
            valid[key.collector] = valid.get(key.collector, 0) + 1
            if valid[key.collector] > MAX_VALID_KEYS:
                raise SettingsError(
                    f"keys file {path}: {key.collector} has over {MAX_VALID_KEYS} keys that "
                    "count: revoke the old one first (serveflow keys list, serveflow keys revoke)"
                )


@contextmanager
def editing(path: Path) -> Iterator[list[ApiKey]]:
    """Change a keys file: what the list holds at the end is written, at once or not at all.

    A file that is not there yet is made. One process at a time edits; the file is its user's
    alone (0600), and keeps its owner.

    Raises:
        SettingsError: The file is damaged or cannot be written, or the outcome is not allowed.
    """
    path = path.resolve()  # a link stays one
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SettingsError(f"keys file {path}: {error.strerror or error}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        keys = list(read_keys(path)) if path.exists() else []
        yield keys
        _check(path, keys)
        try:
            _write(path, keys)
            os.fsync(folder)
        except OSError as error:
            raise SettingsError(f"keys file {path}: {error.strerror or error}") from None
    finally:
        os.close(folder)


def _write(path: Path, keys: Sequence[ApiKey]) -> None:
    entries = [key.model_dump(mode="json", exclude_none=True) for key in keys]
    text = "# Written by `serveflow keys`. It holds digests; no key can be had from it.\n"
    text += yaml.safe_dump({"version": 1, "keys": entries}, sort_keys=False)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            if path.exists():
                was = path.stat()
                if (was.st_uid, was.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), was.st_uid, was.st_gid)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
