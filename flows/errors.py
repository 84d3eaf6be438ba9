"""Every error that ServeFlow raises on purpose.

::

    ServeFlowError
    ├── CaptureError                 a capture file cannot be read, or not to its end
    │   ├── CaptureFormatError       it is no pcap or pcapng file, or its structure is broken
    │   ├── CaptureTruncatedError    it ends in the middle of a record
    │   └── LinkTypeError            its link type is not one that the decoder knows
    ├── WireError                    a submitted body is not what the service reads
    │   ├── WireSchemaError          columns or types differ from the schema
    │   ├── BodyTooLargeError        it is over the size limit
    │   └── BodyTooSlowError         it did not come in time
    ├── BundleError                  a model bundle is damaged, incomplete or of another version
    ├── LabelsError                  a labels file is missing columns or names no known flow
    ├── SettingsError                a setting is unknown or out of range
    ├── AccessError                  whoever asks the service may not
    │   ├── UnauthenticatedError     it shows no key, or none that counts
    │   └── ForbiddenError           its key is for something else
    ├── SinkError                    verdicts cannot be written; trying again may help
    └── ServiceError                 the service did not answer as it should
        ├── ServiceUnavailableError  it cannot be reached, or is not ready; trying again may help
        │   └── OverloadedError      it has more to do than it can; try again a little later
        └── ServiceRefusedError      it refused the request; trying the same again will not help
            └── KeyRefusedError      it wants a key, or another one

Each message names the thing, says what is wrong and, where there is one, what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "AccessError",
    "BodyTooLargeError",
    "BodyTooSlowError",
    "BundleError",
    "CaptureError",
    "CaptureFormatError",
    "CaptureTruncatedError",
    "ForbiddenError",
    "KeyRefusedError",
    "LabelsError",
    "LinkTypeError",
    "OverloadedError",
    "ServeFlowError",
    "ServiceError",
    "ServiceRefusedError",
    "ServiceUnavailableError",
    "SettingsError",
    "SinkError",
    "UnauthenticatedError",
    "WireError",
    "WireSchemaError",
]


class ServeFlowError(Exception):
    """The base of every error that ServeFlow raises on purpose."""


class CaptureError(ServeFlowError):
    """A capture file cannot be read, or not to its end.

    Args:
        path: The capture file.
        reason: What is wrong, in words that fit behind "path: ".
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


class CaptureFormatError(CaptureError):
    """The file is no pcap or pcapng file, or its structure is broken."""


class CaptureTruncatedError(CaptureError):
    """The file ends in the middle of a record; everything before it has been read."""


class LinkTypeError(CaptureError):
    """The capture's link type is not one that the decoder knows."""


class WireError(ServeFlowError):
    """A submitted body is not what the service reads."""


class WireSchemaError(WireError):
    """Columns or types of a batch differ from the schema."""


class BodyTooLargeError(WireError):
    """A submitted body is over the size limit."""


class BodyTooSlowError(WireError):
    """A submitted body did not come in time."""


class BundleError(ServeFlowError):
    """A model bundle is damaged, incomplete or of another version."""


class LabelsError(ServeFlowError):
    """A labels file lacks columns or fits no flow of the captures."""


class SettingsError(ServeFlowError):
    """A setting is unknown or out of range."""


class AccessError(ServeFlowError):
    """Whoever asks the service may not."""


class UnauthenticatedError(AccessError):
    """Whoever asks shows no key, or none that counts.

    Args:
        message: What to tell.
        shown: Whether a key was shown.
    """

    def __init__(self, message: str, *, shown: bool) -> None:
        super().__init__(message)
        self.shown = shown


class ForbiddenError(AccessError):
    """The key is for something else, such as another collector's flows."""


class SinkError(ServeFlowError):
    """Verdicts cannot be written; trying again may help.

    Args:
        message: What to tell.
        left: The rows of what was to be written that have not been; None: all of them.
    """

    def __init__(self, message: str, left: Sequence[int] | None = None) -> None:
        super().__init__(message)
        self.left = left


class ServiceError(ServeFlowError):
    """The service did not answer as it should."""


class ServiceUnavailableError(ServiceError):
    """The service cannot be reached or is not ready; trying again may help."""


class OverloadedError(ServiceUnavailableError):
    """The service has more to do than it can; nothing of the request has been done.

    Args:
        message: What to tell.
        retry_after_s: When to try again.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServiceRefusedError(ServiceError):
    """The service refused the request; sending the same again will not help."""


class KeyRefusedError(ServiceRefusedError):
    """The service wants a key, or another one."""
