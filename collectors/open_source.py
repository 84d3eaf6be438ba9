"""The right source for what a user asks for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from collectors.file_sources import FileSource, StreamSource
from collectors.folder_source import FolderSettings, FolderSource, captures_in
from collectors.pyshark_source import PysharkSettings, PysharkSource
from collectors.ring_settings import RING_BYTES, RingSettings
from collectors.ring_source import RingSource
from collectors.sources import Source
from flows.errors import CaptureError, SettingsError

__all__ = ["SourceSettings", "open_source"]

_STDIN = "-"


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Where packets come from: either ``paths`` or ``interface``.

    Attributes:
        paths: Captures, in order of capture time. ``-`` is standard input; a folder stands for
            the captures that are in it now, by name, or with ``watch`` for all that come.
        interface: A network interface of this machine; with a ``display_filter`` whatever
            tshark can capture from, remote ones too.
        watch: Read what comes into a folder, the one path given, for ever.
        move_done: Move what was read of that folder into its subfolder ``done``.
        bpf: A tcpdump expression for what of an interface to see.
        display_filter: An expression of Wireshark for what to see. Packets then come by way of
            tshark (extra ``pyshark``), which is slow but understands far more kinds of captures.
        tshark: Go by way of tshark without a display filter.
        live: Standard input carries packets as they cross a wire.
        exclude: Addresses and ports of the service: packets to and from them are not seen.
        fanout: A number that processes share which divide an interface's flows among them.
        ring_bytes: The size of the ring in which the kernel hands packets over.
        wait_for_interface: Wait for an interface that is down or away.
        with_header: The packets hold their headers' bytes (``ServiceSchema.header``).
    """

    paths: Sequence[str] = ()
    interface: str | None = None
    watch: bool = False
    move_done: bool = False
    bpf: str = ""
    display_filter: str = ""
    tshark: bool = False
    live: bool = False
    exclude: Sequence[tuple[str, int]] = ()
    fanout: int | None = None
    ring_bytes: int = RING_BYTES
    wait_for_interface: bool = False
    with_header: bool = False

    def __post_init__(self) -> None:
        if bool(self.paths) == (self.interface is not None):
            raise SettingsError("give either captures or an interface to read packets from")
        if _STDIN in self.paths and len(self.paths) > 1:
            raise SettingsError("- (standard input) cannot be read together with other captures")
        if self.interface is None:
            for name in ("bpf", "fanout", "wait_for_interface"):
                if getattr(self, name):
                    raise SettingsError(f"{name}: only for an interface")
        if self.watch and (len(self.paths) != 1 or self.paths[0] == _STDIN or self.by_tshark):
            raise SettingsError("watch: give one folder to watch, and no display filter")
        if self.move_done and not self.watch:
            raise SettingsError("move_done: only for a folder that is watched")
        if self.by_tshark and self.fanout is not None:
            raise SettingsError("fanout: tshark knows nothing of it")

    @property
    def by_tshark(self) -> bool:
        """Whether packets come by way of tshark."""
        return self.tshark or bool(self.display_filter)


def open_source(settings: SourceSettings) -> Source:
    """Open what packets are to be read from.

    Raises:
        CaptureError: There is no such thing, it cannot be read, or a right is missing.
        SettingsError: A filter is none, or what it takes is not installed.
    """
    if settings.by_tshark:
        return _by_tshark(settings)
    if settings.interface is not None:
        return RingSource(
            RingSettings(
                interface=settings.interface,
                bpf=settings.bpf,
                exclude=settings.exclude,
                fanout=settings.fanout,
                ring_bytes=settings.ring_bytes,
                with_header=settings.with_header,
                wait_for_interface=settings.wait_for_interface,
            )
        )
    if settings.watch:
        watched = FolderSettings(move_done=settings.move_done, with_header=settings.with_header)
        return FolderSource(Path(settings.paths[0]), watched)
    if settings.paths[0] == _STDIN:
        if sys.stdin.isatty():
            raise SettingsError(
                "-: standard input is a terminal; give it a capture (tcpdump -U -w - | …)"
            )
        return StreamSource(
            sys.stdin.fileno(), live=settings.live, with_header=settings.with_header
        )
    return FileSource(_files(settings.paths), with_header=settings.with_header)


def _files(paths: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += captures_in(path)
        elif path.exists():
            files.append(path)
        else:
            raise CaptureError(path, "there is no such file")
    return files


def _by_tshark(settings: SourceSettings) -> Source:
    files = () if settings.interface is not None else tuple(_files(settings.paths))
    return PysharkSource(
        PysharkSettings(
            paths=files,
            interface=settings.interface,
            bpf=settings.bpf,
            display_filter=settings.display_filter,
            exclude=settings.exclude,
            with_header=settings.with_header,
        )
    )
