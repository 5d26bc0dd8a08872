"""Errors of media, each with a message that says what to do, and the translation of PyAV and FFmpeg errors into them.

PyAV raises FFmpegError for what FFmpeg reports, and Python's own classes where a medium confuses PyAV itself:
AttributeError for a track without a decoder, ValueError for an unknown number, AssertionError, and others. None of them
leaves this package: a broken medium affects its own camera only.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import av

from streaming.redact import redact, redact_text


class MediaError(Exception):
    """The medium cannot be used. The message says why and what to do, with passwords of addresses removed."""

    def __init__(self, message: str) -> None:
        super().__init__(redact_text(message))


class MediaNotFound(MediaError):
    """There is no such file or device."""


class MediaUnreadable(MediaError):
    """It holds no video that can be decoded."""


class MediaDamaged(MediaError):
    """It stopped before its declared end. The frames before the damage were delivered."""


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
    """Return the error as text, without the address that FFmpeg puts into it."""
    if isinstance(error, av.ExitError):  # PyAV's own time limit
        return "no data arrived within the time limit"
    if isinstance(error, MediaError):
        return str(error)
    if isinstance(error, av.FFmpegError | OSError):
        return error.strerror or type(error).__name__
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def shown(url: str) -> str:
    """Return an address or path for people: without passwords, with undecodable bytes escaped."""
    return redact(url).encode("utf-8", "backslashreplace").decode()


@contextmanager
def in_words(what: str, kind: type[MediaError] = MediaUnreadable) -> Iterator[None]:
    """Raise FAULTS in the block as `kind`, with the message "<what> (<reason>)". MediaErrors pass unchanged."""
    try:
        yield
    except MediaError:
        raise
    except FAULTS as error:
        raise kind(f"{what} ({reason(error)})") from error
