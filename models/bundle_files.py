"""Files of a bundle: written all at once, read with every byte checked."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from pathlib import Path

from flows.errors import BundleError

__all__ = ["check_file", "checked_file", "read_file", "write_files"]


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Put a folder with ``files`` in the place of ``folder``: there is the old one or the new."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    new = folder.with_name(f".{folder.name}.{mark}.new")
    old = folder.with_name(f".{folder.name}.{mark}.old")
    try:
        for name, data in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def read_file(folder: Path, name: str) -> bytes:
    """Read a file.

    Raises:
        BundleError: It is missing or cannot be read.
    """
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        raise _missing(folder / name) from None
    except OSError as error:
        raise _unreadable(folder / name, error) from None


def check_file(folder: Path, name: str, expected: str) -> None:
    """Check a file's SHA-256 without holding the file in memory.

    Raises:
        BundleError: It is missing, cannot be read or is damaged.
    """
    try:
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise _missing(folder / name) from None
    except OSError as error:
        raise _unreadable(folder / name, error) from None
    if digest != expected:
        raise _damaged(folder / name)


def checked_file(folder: Path, name: str, digest: str) -> bytes:
    """Read a file whose SHA-256 is ``digest``.

    Raises:
        BundleError: It is missing, cannot be read or is damaged.
    """
    data = read_file(folder, name)
    if hashlib.sha256(data).hexdigest() != digest:
        raise _damaged(folder / name)
    return data


def _missing(path: Path) -> BundleError:
    return BundleError(f"{path}: missing; copy the bundle again")


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(f"{path}: cannot be read: {error.strerror}")


def _damaged(path: Path) -> BundleError:
    return BundleError(f"{path}: damaged, its digest differs; copy the bundle again")
