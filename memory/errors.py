"""Exceptions of the memory, and the translation of operating-system and SQLite errors into them.

SQLite hides the system's error: "disk I/O error" may be a full disk, a read-only one or a file system without locks.
If SQLite's error code does not identify the cause, `storage_errors` writes a few bytes to a file beside the database,
to get the error of the operating system.
"""

import errno
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # EFBIG: the limit set by RLIMIT_FSIZE
NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE})
_SHORT = NONE_LEFT | {errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS}
NO_LOCKS_HELP = "this file system has no file locks, which the memory needs: put data_dir on a local disk"
NO_WAL_HELP = (
    "this file system cannot share memory between processes, which the memory needs: put data_dir on a local disk"
)
_HELP = {
    errno.EROFS: "the file system is mounted read-only: mount it writable, or choose another data_dir",
    errno.EACCES: "permission denied: the data folder must belong to the user who runs this",
    errno.EPERM: "not permitted: the data folder must belong to the user who runs this",
    errno.ENOENT: "it is missing: was the folder removed, or its disk unmounted?",
}
_PROBE = bytes(64 * 1024)  # SQLite adds at most 32 KiB to one of its files at once
_LOCK_CODES = frozenset({
    sqlite3.SQLITE_IOERR_LOCK, sqlite3.SQLITE_IOERR_UNLOCK, sqlite3.SQLITE_IOERR_RDLOCK,
    sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK, sqlite3.SQLITE_IOERR_SHMLOCK,
})  # fmt: skip
_SHM_CODES = frozenset({sqlite3.SQLITE_IOERR_SHMMAP, sqlite3.SQLITE_IOERR_SHMOPEN})
_READ_CODES = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_FSTAT})


class StorageError(OSError):
    """A disk or database operation failed. Nothing was changed, and the store stays usable."""

    def __str__(self) -> str:
        return str(self.strerror or super().__str__())  # without the "[Errno 28]" prefix


class StorageFull(StorageError):
    """No disk space or quota is left. The operation can be repeated once there is space."""


class StorageBusy(StorageError):
    """Another process uses this data folder."""


class OutOfResources(StorageError):
    """The system is short of file descriptors or memory. Nothing was changed: repeat the same call."""


class JournalDamaged(StorageError):
    """The journal is not a readable database. The next start rebuilds it from the segment files."""


class TimeNotRising(ValueError):
    """The frame is not newer than the camera's newest frame. It was not stored."""


class FrameGone(KeyError):
    """The frame is not stored: unknown, evicted, erased, or damaged on disk."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "frame gone"  # without the quotes of KeyError


class RecordDamaged(ValueError):
    """Stored bytes do not match their checksum, length or frame id."""


class OtherEncoder(RecordDamaged):
    """The vectors are intact, but another network computed them. The frame must be encoded again."""


class Health:
    """The current problems, by component or file, as sentences for an operator. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._problems: dict[str, str] = {}

    def failed(self, part: str, problem: str) -> None:
        """Record the current problem of `part` (a component or file). It replaces an earlier one of the same part."""
        with self._lock:
            self._problems[part] = problem

    def works(self, part: str) -> None:
        """Remove the problem of `part`, if it has one."""
        if self._problems:  # without the lock in the usual case
            with self._lock:
                self._problems.pop(part, None)

    @property
    def problem(self) -> str | None:
        """The two oldest problems and the number of further ones, in one sentence; None without problems."""
        with self._lock:
            found = list(dict.fromkeys(self._problems.values()))
        more = f"; and {len(found) - 2} more" if len(found) > 2 else ""
        return "; ".join(found[:2]) + more if found else None


@contextmanager
def out_of_memory(what: str) -> Iterator[None]:
    """Context manager: raise a MemoryError in the block as OutOfResources. `what`: the operation, for the message."""
    try:
        yield
    except MemoryError as error:
        raise OutOfResources(errno.ENOMEM, f"cannot {what}: out of memory; it will be retried") from error


def storage_error(error: OSError, what: str) -> StorageError:
    """Return a StorageError for an operating-system error. Its message names the cause and what to do.

    what: the operation that failed, for the message.
    """
    if isinstance(error, StorageError):
        return error
    if error.errno in FULL:
        return StorageFull(error.errno, f"{what}: no space left; free some, and recording resumes by itself")
    if error.errno in _SHORT:
        return OutOfResources(error.errno, f"{what}: {error.strerror}; it will be retried")
    return StorageError(error.errno, f"{what}: {_HELP.get(error.errno or 0, error.strerror or error)}")


@contextmanager
def storage_errors(
    path: Path, what: str, *, damage_help: str = "a restart rebuilds it from the segments"
) -> Iterator[None]:
    """Context manager: translate sqlite3 errors about the database at `path`. `what`: the operation, for the message.

    They are raised as StorageFull, OutOfResources, JournalDamaged (whose message ends with `damage_help`) or
    StorageError.
    """
    try:
        with out_of_memory(what):
            yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # a bug in this program, not a state of the disk
    except sqlite3.Error as error:
        raise _explained(error, path, what, damage_help) from error


def _explained(error: sqlite3.Error, path: Path, what: str, damage_help: str) -> StorageError:
    code = getattr(error, "sqlite_errorcode", 0) or 0  # errors of the Python module itself have no code
    primary, said = code & 0xFF, f"{path.name}: cannot {what}"
    if code == sqlite3.SQLITE_FULL:
        return storage_error(OSError(errno.ENOSPC, ""), said)
    if code == sqlite3.SQLITE_IOERR_NOMEM:
        return OutOfResources(errno.ENOMEM, f"{said}: out of memory; it will be retried")
    if primary in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return JournalDamaged(f"{path} is damaged ({error}): {damage_help}")
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        help_ = f"either another program has {path.name} open (close it), or {NO_LOCKS_HELP}"
        return StorageError(f"{said}: the database is locked; {help_}")
    if primary == sqlite3.SQLITE_READONLY:
        return _probe(path, said) or StorageError(
            f"{said}: {path} is read-only: it must belong to you, and be writable"
        )
    if primary == sqlite3.SQLITE_CANTOPEN:
        return _probe(path, said) or StorageError(f"{said}: {error}")
    if primary == sqlite3.SQLITE_IOERR and code not in _READ_CODES:
        found = _probe(path, said)
        if found is None and code in _LOCK_CODES:
            found = StorageError(f"{said}: {NO_LOCKS_HELP} ({error.sqlite_errorname})")
        if found is None and code in _SHM_CODES:
            found = StorageError(f"{said}: {NO_WAL_HELP} ({error.sqlite_errorname})")
        return found or StorageError(f"{said}: {error} ({error.sqlite_errorname})")
    return StorageError(f"{said}: {error}")


def _probe(path: Path, said: str) -> StorageError | None:
    """Find out why SQLite failed: write a file, then open the database.

    Return the error of the first that fails, or None.

    said: SQLite's message, which the error quotes.
    """
    try:
        sizes = [each.stat().st_size for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")) if each.exists()]
        with tempfile.TemporaryFile(dir=path.parent) as file:
            os.pwrite(file.fileno(), _PROBE, max(sizes, default=0))  # there, to detect size limits as well
        if path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in FULL or error.errno in NONE_LEFT:
            return storage_error(error, said)
        named = error.filename if isinstance(error.filename, str | os.PathLike) else path.parent
        return storage_error(error, f"{said}, {named}")
    return None


def make_private(path: Path) -> None:
    """Create the database file with mode 0600, readable by its owner only. SQLite's other files get the same mode."""
    with suppress(OSError):  # opening the database reports the cause
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
