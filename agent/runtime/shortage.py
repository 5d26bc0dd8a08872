"""Telling an error that passes by itself (no descriptor, memory or thread to spare) from one that does not."""

import errno

from memory.errors import OutOfResources

_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS})
_WORDS = ("can't start new thread", "can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc")
"""What Python and torch say in a RuntimeError."""


def is_shortage(error: BaseException) -> bool:
    """True when the same call may succeed in a moment, as the system merely had nothing to spare."""
    if isinstance(error, MemoryError | OutOfResources):
        return True
    if isinstance(error, OSError):
        return error.errno in _SHORT
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)
