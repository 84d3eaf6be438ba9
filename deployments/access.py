"""Who may ask the service for what: API keys of collectors, the same over HTTP and gRPC.

A key is shown as ``authorization: Bearer KEY`` (RFC 6750), in gRPC as metadata of that name. The
keys file is looked at once a second, by a thread of its own, so that no request waits for a disk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from pathlib import Path
from typing import Any

from deployments.api_keys import ANY_COLLECTOR, ApiKey, digest_of, id_of, read_keys
from flows.errors import ForbiddenError, SettingsError, UnauthenticatedError

__all__ = ["ANYBODY", "Access", "Caller", "KeysFile", "bearer_of"]

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0
_LOG_EVERY_S = 60.0  # a file that stays damaged
_NO_SALT, _NO_DIGEST = bytes(16), bytes(32)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever asks, once its key has been seen to count.

    Attributes:
        key_id: Public name of its key; empty: no key is wanted.
        collector: The collector that the key is for; ``*``: any.
    """

    key_id: str
    collector: str

    def speaks_for(self, collector: str) -> None:
        """See that it may submit flows of ``collector``, a name with or without incarnation.

        Raises:
            ForbiddenError: It may not.
        """
        if self.collector == ANY_COLLECTOR:
            return
        name, mark, _ = collector.rpartition("#")
        if (name if mark else collector) != self.collector:
            raise ForbiddenError("this key is for flows of another collector")


ANYBODY = Caller("", ANY_COLLECTOR)
"""Everybody, where no keys are wanted."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a key is compared with."""

    caller: Caller
    salt: bytes
    digest: bytes
    not_after_s: float


class KeysFile:
    """The keys that count, as the file has them now.

    Args:
        path: The file.

    Attributes:
        reloads: How often another content was taken over.
        failures: How often it was damaged or gone, and the keys before it went on to hold.

    Raises:
        SettingsError: It cannot be read or is damaged: nothing could hold in its place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._look()
        self._known = _known(read_keys(path))
        self._logged_at_s = float("-inf")
        self.reloads = 0
        self.failures = 0
        if not self._known:
            _log.warning("%s: it holds no key: nobody gets in", path)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key_id: str) -> _Known | None:
        """Return what is known of a key, expired or not."""
        return self._known.get(key_id)

    def refresh(self) -> None:
        """Take a changed file over; a damaged one leaves the keys as they are."""
        seen = self._look()
        if seen == self._seen:
            return
        try:
            known = _known(read_keys(self._path))
        except SettingsError as error:
            # Looked at again each second: it may be half written, or its folder just exchanged.
            self.failures += 1
            if time.monotonic() - self._logged_at_s > _LOG_EVERY_S:
                self._logged_at_s = time.monotonic()
                _log.error("the keys before it go on to hold: %s", error)
            return
        self._logged_at_s = float("-inf")
        self._seen, self._known = seen, known
        self.reloads += 1
        _log.info("%s: %d keys hold from now on", self._path, len(known))

    def follow(self) -> None:
        """Look at the file once a second, for as long as the process lives."""
        threading.Thread(target=self._follow, name="keys-file", daemon=True).start()

    def _follow(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY_S)
            self.refresh()

    def _look(self) -> tuple[int, ...] | None:
        """Return what tells one content from another; Kubernetes exchanges a link on the way."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size


def _known(keys: Iterable[ApiKey]) -> Mapping[str, _Known]:
    return {
        key.id: _Known(
            Caller(key.id, key.collector),
            bytes.fromhex(key.salt),
            bytes.fromhex(key.digest),
            key.not_after.timestamp() if key.not_after else float("inf"),
        )
        for key in keys
    }


def bearer_of(values: list[str]) -> str | None:
    """Return the key in the values of ``authorization``; None: there is none.

    Raises:
        UnauthenticatedError: There are several, or one of another form.
    """
    if not values:
        return None
    scheme, _, key = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not key:
        raise UnauthenticatedError("show one key, as: authorization: Bearer KEY", shown=True)
    return key.strip()


@dataclass(slots=True)
class Access:
    """Decides who may ask.

    Args:
        keys: The keys that count; None: anybody may ask.
        grpc_closed: Why nobody may ask over gRPC without keys; empty: everybody may.
        on_refused: Called for each refusal with its kind: ``no_key``, ``bad_key``,
            ``expired_key``, ``other_collector`` or ``no_keys_file``.
    """

    keys: KeysFile | None = None
    grpc_closed: str = ""
    on_refused: Callable[[str], None] = lambda _: None
    refused: dict[str, int] = field(default_factory=dict)

    def caller(self, authorization: list[str]) -> Caller:
        """Return who shows these values of ``authorization``.

        Raises:
            UnauthenticatedError: It shows no key that counts.
        """
        if self.keys is None:
            return ANYBODY
        try:
            key = bearer_of(authorization)
        except UnauthenticatedError:
            self._count("bad_key")
            raise
        if key is None:
            self._count("no_key")
            raise UnauthenticatedError("an API key is wanted here", shown=False)
        known = self.keys.get(id_of(key) or "")
        # A digest is made and compared in any case, so that time tells nobody which ids exist.
        salt, digest = (known.salt, known.digest) if known else (_NO_SALT, _NO_DIGEST)
        same = compare_digest(digest_of(key, salt), digest)
        if known is None or not same:
            self._count("bad_key")
            raise UnauthenticatedError("this API key is not known here", shown=True)
        self._still_counts(known)
        return known.caller

    def grpc_caller(self, context: Any) -> Caller:
        """Return who makes a gRPC call; see :meth:`caller`."""
        if self.keys is None:
            if self.grpc_closed:
                self._count("no_keys_file")
                raise UnauthenticatedError(self.grpc_closed, shown=False)
            return ANYBODY
        shown = [value for name, value in context.invocation_metadata() if name == "authorization"]
        return self.caller(shown)

    def speaks_for(self, caller: Caller, collector: str) -> None:
        """See that ``caller`` may submit, or watch, flows of ``collector``.

        Raises:
            ForbiddenError: It may not.
        """
        try:
            caller.speaks_for(collector)
        except ForbiddenError:
            self._count("other_collector")
            raise

    def still(self, caller: Caller) -> None:
        """See that the key of someone who stays for long still counts.

        Raises:
            UnauthenticatedError: It was revoked, or has expired.
        """
        if self.keys is None or not caller.key_id:
            return
        known = self.keys.get(caller.key_id)
        if known is None or known.caller != caller:
            self._count("bad_key")
            raise UnauthenticatedError("this API key no longer counts", shown=True)
        self._still_counts(known)

    def to_dict(self) -> dict[str, Any]:
        """Return what has been counted, for ``/v1/status``."""
        found: dict[str, Any] = {"keys": None, "refused": dict(self.refused)}
        if self.keys is not None:
            found |= {
                "keys": len(self.keys),
                "reloads": self.keys.reloads,
                "reload_failures": self.keys.failures,
            }
        return found

    def _still_counts(self, known: _Known) -> None:
        if time.time() >= known.not_after_s:
            self._count("expired_key")
            raise UnauthenticatedError("this API key has expired", shown=True)

    def _count(self, kind: str) -> None:
        self.refused[kind] = self.refused.get(kind, 0) + 1
        self.on_refused(kind)
