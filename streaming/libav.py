"""The one place where an error of PyAV or FFmpeg, of whatever class, becomes a MediaError in words.

PyAV raises its own FFmpegError for what FFmpeg reports, and Python's own classes where it trips over a medium itself:
AttributeError for a track without a decoder, ValueError for a number that it does not know, AssertionError, and so on.
None of them may leave this package: a camera's medium is its own affair and ends nothing else.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import av

from streaming.errors import MediaError, MediaUnreadable
from streaming.redact import redact

FAULTS = (
    av.FFmpegError, OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError,
    AssertionError, MemoryError,
)  # fmt: skip


def reason(error: BaseException) -> str:
    """The error in words, without the address that FFmpeg puts into it."""
    if isinstance(error, av.ExitError):  # PyAV's own time limit
        return "nothing came within the time limit"
    if isinstance(error, MediaError):
        return str(error)
    if isinstance(error, av.FFmpegError | OSError):
        return error.strerror or type(error).__name__
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def shown(url: str) -> str:
    """The address or path for people: without passwords, and without bytes that are no text."""
    return redact(url).encode("utf-8", "backslashreplace").decode()


@contextmanager
def in_words(what: str, kind: type[MediaError] = MediaUnreadable) -> Iterator[None]:
    """Any fault of the block becomes `kind`: "<what> (<reason>)". A MediaError goes through as it is."""
    try:
        yield
    except MediaError:
        raise
    except FAULTS as error:
        raise kind(f"{what} ({reason(error)})") from error
