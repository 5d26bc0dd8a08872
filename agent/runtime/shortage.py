"""Recognise temporary errors: the system has run out of file descriptors, memory or threads for the moment."""

import errno

from memory.errors import OutOfResources

_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS})
_WORDS = ("can't start new thread", "can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc")
"""Texts in the RuntimeErrors that Python and torch raise for such a shortage."""


def is_shortage(error: BaseException) -> bool:
    """Return True if `error` is such a shortage, so that the same call may succeed later."""
    if isinstance(error, MemoryError | OutOfResources):
        return True
    if isinstance(error, OSError):
        return error.errno in _SHORT
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)
