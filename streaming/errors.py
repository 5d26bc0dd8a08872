"""Errors of video files and live cameras, and the translation of PyAV and FFmpeg errors into them.

Each message says what to do. PyAV raises FFmpegError for errors that FFmpeg reports. For unexpected input it also
raises Python's own classes: AttributeError for a track without a decoder, ValueError for an unknown number,
AssertionError, and others. This package raises none of these to its callers, so that a broken file or stream affects
its own camera only.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import av

from streaming.redact import redact, redact_text


class MediaError(Exception):
    """A file or camera cannot be used. The message says why and what to do, without the passwords in addresses."""

    def __init__(self, message: str) -> None:
        super().__init__(redact_text(message))


class MediaNotFound(MediaError):
    """There is no such file or device."""


class MediaUnreadable(MediaError):
    """The file or stream has no video that can be decoded."""


class MediaDamaged(MediaError):
    """The file ended before its declared length, or is damaged. All frames before the damage were delivered."""


class MediaLost(MediaError):
    """A live camera cannot be reached or stopped sending. The source reconnects by itself."""


class MediaStalled(MediaLost):
    """A live camera is connected but sent nothing for `stall_timeout_s`."""


class AddressUnknown(MediaError, ValueError):
    """The address is of no supported kind."""


class PictureTooLarge(MediaError):
    """The frames have more pixels than are accepted."""


FAULTS = (
    av.FFmpegError, OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError,
    AssertionError, MemoryError,
)  # fmt: skip
"""What PyAV raises about a medium."""


def reason(error: BaseException) -> str:
    """Return the error's message without the address that FFmpeg adds to it."""
    if isinstance(error, av.ExitError):  # PyAV's own time limit
        return "no data arrived within the time limit"
    if isinstance(error, MediaError):
        return str(error)
    if isinstance(error, av.FFmpegError | OSError):
        return error.strerror or type(error).__name__
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def shown(url: str) -> str:
    """Return an address or path for messages: without passwords, and with bytes that are not valid text escaped."""
    return redact(url).encode("utf-8", "backslashreplace").decode()


@contextmanager
def in_words(what: str, kind: type[MediaError] = MediaUnreadable) -> Iterator[None]:
    """Context manager: raise errors of PyAV and FFmpeg in the block as `kind`, with the message "<what> (<reason>)".

    MediaErrors are raised unchanged.
    """
    try:
        yield
    except MediaError:
        raise
    except FAULTS as error:
        raise kind(f"{what} ({reason(error)})") from error
