"""Packets by way of tshark: whatever it can read or capture from, with a display filter.

pyshark finds tshark and knows its parameters. tshark hands the frames on as a pcapng stream, which
the compiled decoder reads as it does a file's. Where it cannot (link layers that it does not know,
and a live capture with a display filter, which tshark does not write) tshark's own dissection
says where the IP packet is (:mod:`collectors.tshark_lines`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collectors.bpf import without_own
from collectors.file_sources import StreamSource, no_packets
from collectors.sources import Source, SourceCounters
from collectors.tshark_lines import LINES, LineSource
from flows.decode import Decoded, Skip
from flows.errors import CaptureError, SettingsError

__all__ = ["PysharkSettings", "PysharkSource"]

_EMPTY = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1)  # a pcap without packets
_BEHIND_S = 3.0  # so far what tshark hands on may be behind the wire
_END_S = 5.0
_MOST_TOLD = 300
_CHATTER = ("Running as user", "Capturing on", "This could be dangerous", "packets captured")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PysharkSettings:
    """What tshark is to read.

    Attributes:
        paths: Captures, one after the other.
        interface: Or whatever tshark can capture from: ``tshark -D`` lists it.
        bpf: A capture filter for an interface.
        display_filter: A display filter; empty: all frames.
        exclude: Addresses and ports whose TCP packets of an interface are not to be seen.
        with_header: The packets hold their headers' bytes, see :mod:`flows.header`.
    """

    paths: Sequence[Path] = ()
    interface: str | None = None
    bpf: str = ""
    display_filter: str = ""
    exclude: Sequence[tuple[str, int]] = ()
    with_header: bool = False


class PysharkSource:
    """What tshark reads, as a :class:`collectors.sources.Source`.

    Args:
        settings: What to read.

    Raises:
        SettingsError: pyshark or tshark is missing, or the display filter is none.
    """

    def __init__(self, settings: PysharkSettings) -> None:
        self._settings = settings
        self.live = settings.interface is not None
        self._program = _tshark()
        if settings.display_filter:
            _check(self._program, settings.display_filter)
        self._inputs: list[Path | str] = (
            [settings.interface] if settings.interface is not None else list(settings.paths)
        )
        self._run: _Run | None = None
        self._ended: list[SourceCounters] = []
        self._damaged: tuple[tuple[str, str], ...] = ()

    @property
    def counters(self) -> SourceCounters:
        """What it has seen so far."""
        run = self._run
        all_of = [*self._ended, *([run.source.counters] if run is not None else [])]
        skipped: Counter[str] = Counter()
        for one in all_of:
            skipped.update(one.skipped)
        return SourceCounters(
            frames=sum(one.frames for one in all_of),
            malformed=sum(one.malformed for one in all_of),
            skipped=dict(skipped),
            damaged=self._damaged,
            damaged_captures=len(self._damaged),
            captures=0 if self.live else len(all_of),
            broken_entries=sum(one.broken_entries for one in all_of),
        )

    def read(self, wait_s: float) -> Decoded | None:
        """Return packets that are there or come within ``wait_s``; None: all has been read.

        Raises:
            CaptureError: tshark cannot capture from the interface.
        """
        if self._run is None:
            if not self._inputs:
                return None
            # tshark does not write what it captures through a display filter.
            lines = self.live and bool(self._settings.display_filter)
            self._run = _Run(self._program, self._settings, self._inputs.pop(0), lines=lines)
        decoded = self._run.source.read(wait_s)
        if decoded is not None and len(decoded.packets):
            self._run.has_given = True
        elif self._run.is_beyond_decoder:
            self._run.close()
            self._run = _Run(self._program, self._settings, self._run.input, lines=True)
            decoded = no_packets(self._settings.with_header)
        elif decoded is None:
            self._finish(self._run)
            decoded = no_packets(self._settings.with_header)
        return decoded

    def quiet_until_ns(self) -> int:
        """Return the wall clock less some seconds at the last silence of an interface, else 0."""
        return self._run.source.quiet_until_ns() if self._run is not None else 0

    def close(self) -> None:
        """End tshark."""
        self._inputs.clear()
        if self._run is not None:
            self._ended.append(self._run.source.counters)
            self._run.close()
            self._run = None

    def _finish(self, run: _Run) -> None:
        failure = run.failure()
        counters = run.source.counters
        self._run = None
        run.close()
        self._ended.append(counters)
        if failure and self.live:
            raise CaptureError(str(run.input), f"tshark: {failure}")
        if failure or counters.damaged:
            reason = f"tshark: {failure}" if failure else counters.damaged[0][1]
            self._damaged = (*self._damaged, (str(run.input), reason))
            _log.warning("%s: %s", run.input, reason)


class _Run:
    """One tshark at work on one input."""

    def __init__(
        self, program: str, settings: PysharkSettings, source: Path | str, *, lines: bool
    ) -> None:
        self.input = source
        self.has_given = False
        self._lines = lines
        self._told = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        command = [
            program,
            "-n",
            *(LINES if lines else ["-w", "-"]),
            *_parameters(settings, source),
        ]
        live = isinstance(source, str)
        try:
            self._process = subprocess.Popen(  # noqa: S603 (no shell; the words are the user's own)
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._told,
                start_new_session=True, bufsize=0,
            )  # fmt: skip
        except OSError as error:
            self._told.close()
            raise SettingsError(f"{program}: {error.strerror}") from None
        if self._process.stdout is None:
            raise SettingsError(f"{program}: has no output")
        descriptor = self._process.stdout.fileno()
        self.source: Source
        if lines:
            self.source = LineSource(
                descriptor, live=live, behind_s=_BEHIND_S, with_header=settings.with_header
            )
        else:
            self.source = StreamSource(
                descriptor, name=str(source), live=live, behind_s=_BEHIND_S,
                with_header=settings.with_header,
            )  # fmt: skip

    @property
    def is_beyond_decoder(self) -> bool:
        """Whether frames have come, all of them of link layers that the decoder does not know."""
        if self._lines or self.has_given:
            return False
        return Skip.LINK_TYPE.text in self.source.counters.skipped

    def failure(self) -> str:
        """Return what tshark says has gone wrong, once it has nothing more to read."""
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "it does not end"
        return self._words() or f"ended with status {status}" if status else ""

    def _words(self) -> str:
        self._told.seek(0)
        return _complaint(self._told.read(1 << 16))

    def close(self) -> None:
        """End it."""
        self.source.close()
        # tshark ends its dumpcap by itself when it is asked to.
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, 9)
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._told.close()


def _tshark() -> str:
    """Return tshark's path."""
    try:
        from pyshark.tshark.tshark import TSharkNotFoundException, get_process_path
    except ImportError:
        raise SettingsError(
            "reading by way of tshark needs pyshark: pip install 'serveflow[pyshark]'"
        ) from None
    try:
        return str(get_process_path())
    except TSharkNotFoundException:
        raise SettingsError(
            "there is no tshark here; install it (Debian: apt-get install tshark)"
        ) from None


def _parameters(settings: PysharkSettings, source: Path | str) -> list[str]:
    """Return tshark's parameters for what is to be read, as pyshark forms them."""
    from pyshark.capture.capture import Capture
    from pyshark.capture.file_capture import FileCapture

    loop = asyncio.new_event_loop()  # never run; without it pyshark makes one for good
    try:
        if isinstance(source, Path):
            capture: Any = FileCapture(
                str(source), display_filter=settings.display_filter, eventloop=loop
            )
            return list(capture.get_parameters())
        capture = Capture(
            display_filter=settings.display_filter,
            capture_filter=without_own(settings.bpf, settings.exclude),
            eventloop=loop,
        )
        return [*capture.get_parameters(), "-q", "-i", source]
    except FileNotFoundError as error:
        raise CaptureError(str(source), "there is no such file") from error
    finally:
        loop.close()


def _check(program: str, display_filter: str) -> None:
    """Let tshark look at a display filter.

    Raises:
        SettingsError: It is none.
    """
    done = subprocess.run(  # noqa: S603 (as above)
        [program, "-n", "-Y", display_filter, "-r", "-"], input=_EMPTY, capture_output=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        reason = _complaint(done.stderr) or "tshark refuses it"
        raise SettingsError(
            f"display_filter: {display_filter!r}: {reason} (see man wireshark-filter)"
        )


def _complaint(told: bytes) -> str:
    """Return what tshark has told, but for what it always tells, on one line."""
    lines = told.decode(errors="replace").splitlines()
    left = [line.strip() for line in lines if not any(word in line for word in _CHATTER)]
    return " ".join(line.removeprefix("tshark: ") for line in left if line)[:_MOST_TOLD]
