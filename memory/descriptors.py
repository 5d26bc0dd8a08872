"""Opening files when the process has no file descriptor left: a few are kept in reserve.

A process at its limit of open files (a flood of connections, for instance) could otherwise remember no frame. The
reserve is a handful of descriptors of /dev/null. When an open fails for want of one, a descriptor of the reserve is
closed and the open is tried again; when the file is closed, its descriptor becomes /dev/null again in one step, so that
no other thread can take it in between. Thread-safe.
"""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RESERVED = 8
"""One is never given away: the others are made whole from it. An append uses one or two at a time."""

NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE})


class Reserve:
    """The spare descriptors of this process."""

    def __init__(self, size: int = RESERVED) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._spare: list[int] = []

    def fill(self) -> None:
        """Open what is missing, as far as there are descriptors."""
        with self._lock:
            try:
                while len(self._spare) < self._size:
                    self._spare.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
            except OSError:
                pass  # the next call goes on; what is open already serves

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """As `os.open`, from the reserve where the process has no descriptor left."""
        while True:
            try:
                return os.open(path, flags | os.O_CLOEXEC, mode)
            except OSError as error:
                if error.errno not in NONE_LEFT or not self._give_one():
                    raise

    def _give_one(self) -> bool:
        with self._lock:
            if len(self._spare) < 2:
                return False
            os.close(self._spare.pop())
            return True

    def close(self, fd: int) -> None:
        """As `os.close`; the reserve takes the descriptor back if one is missing."""
        with self._lock:
            if self._spare and len(self._spare) < self._size:
                os.dup2(self._spare[0], fd, inheritable=False)
                self._spare.append(fd)
                return
        os.close(fd)


RESERVE = Reserve()


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """The descriptor of an open file, made with mode 0600 where it is new. Raises OSError."""
    fd = RESERVE.open(path, flags)
    try:
        yield fd
    finally:
        RESERVE.close(fd)
