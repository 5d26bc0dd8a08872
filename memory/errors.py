"""The exceptions of this package: one line each, whose fault it is in the name."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class StorageError(OSError):
    """The disk or the journal refused an operation; what was asked is not done, the store stays usable."""

    def __str__(self) -> str:
        return str(self.strerror or super().__str__())  # the words, without "[Errno 28]" before them


class StorageFull(StorageError):
    """No space (or quota) left for a frame: it was not remembered. Goes away by itself once space returns."""


class StorageBusy(StorageError):
    """Another process owns this data folder."""


class OutOfResources(StorageError):
    """The system has no file descriptor or no memory to spare now. Nothing was done: make the same call again."""


class JournalDamaged(StorageError):
    """The journal file cannot be read as a database; at the next start its rows are rebuilt from the segment files."""


class TimeNotRising(ValueError):
    """A frame's time is not after the newest remembered frame of its camera; the frame was not remembered."""


class FrameGone(KeyError):
    """No such frame is remembered: never was, evicted since, or found damaged and dropped."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "frame gone"


class RecordDamaged(ValueError):
    """Stored bytes do not match their checksum, length or identity."""


class OtherEncoder(RecordDamaged):
    """Stored vectors are sound but were made by another network; the frame must be encoded again."""


@contextmanager
def out_of_memory(what: str) -> Iterator[None]:
    """A MemoryError of the block as OutOfResources; `what` was tried."""
    try:
        yield
    except MemoryError as error:
        raise OutOfResources(errno.ENOMEM, f"cannot {what}: out of memory; it is tried again") from error
