"""Recognise errors that pass by themselves: the system has no file descriptor, memory or thread to spare."""

import errno

from memory.errors import OutOfResources

_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS})
_WORDS = ("can't start new thread", "can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc")
"""Texts of such RuntimeErrors of Python and torch."""


def is_shortage(error: BaseException) -> bool:
    """Return True if the same call may succeed in a moment."""
    if isinstance(error, MemoryError | OutOfResources):
        return True
    if isinstance(error, OSError):
        return error.errno in _SHORT
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)
