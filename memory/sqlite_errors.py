"""What SQLite's errors mean, in words: the cause, and what to do about it.

SQLite keeps the system's own error to itself: "disk I/O error" may be a full disk, a read-only one, a file system without
locks or a cable. `storage_errors` therefore looks at the code, and where that does not tell, asks the file system the
same thing again: it writes a few bytes beside the database.
"""

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from memory.descriptors import NONE_LEFT
from memory.errors import JournalDamaged, OutOfResources, StorageError
from memory.segment_file import FULL, NO_LOCKS_HELP, storage_error

NO_WAL_HELP = (
    "this file system cannot share memory between processes, which the memory needs: put data_dir on a local disk"
)
_DAMAGE_HELP = "a restart rebuilds it from the segments"
_PROBE = bytes(64 * 1024)  # the most that SQLite adds to one of its files at once is 32 KiB
_LOCK_CODES = frozenset(
    {
        sqlite3.SQLITE_IOERR_LOCK,
        sqlite3.SQLITE_IOERR_UNLOCK,
        sqlite3.SQLITE_IOERR_RDLOCK,
        sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK,
        sqlite3.SQLITE_IOERR_SHMLOCK,
    }
)
_SHM_CODES = frozenset({sqlite3.SQLITE_IOERR_SHMMAP, sqlite3.SQLITE_IOERR_SHMOPEN})
_READ_CODES = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_FSTAT})


def make_private(path: Path) -> None:
    """Makes the file of a new database its owner's alone; SQLite gives the files beside it the same mode."""
    with suppress(OSError):  # what is wrong, opening the database will tell
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


@contextmanager
def storage_errors(path: Path, what: str, *, damage_help: str = _DAMAGE_HELP) -> Iterator[None]:
    """sqlite3's errors about the database at `path` as this package's own; `what` was tried.

    StorageFull; OutOfResources, when nothing is wrong with the disk; JournalDamaged; StorageError for the rest.
    """
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # a bug here, not a state of the disk
    except MemoryError as error:
        raise OutOfResources(errno.ENOMEM, f"cannot {what}: out of memory; it is tried again") from error
    except sqlite3.Error as error:
        raise _explained(error, path, what, damage_help) from error


def _explained(error: sqlite3.Error, path: Path, what: str, damage_help: str) -> StorageError:
    code = getattr(error, "sqlite_errorcode", 0) or 0  # what Python itself raises, as for a closed database, has none
    primary, said = code & 0xFF, f"{path.name}: cannot {what}"
    if code == sqlite3.SQLITE_FULL:
        return storage_error(OSError(errno.ENOSPC, ""), said)
    if code == sqlite3.SQLITE_IOERR_NOMEM:
        return OutOfResources(errno.ENOMEM, f"{said}: out of memory; it is tried again")
    if primary in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return JournalDamaged(f"{path} is damaged ({error}): {damage_help}")
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        help_ = f"either another program has {path.name} open (close it), or {NO_LOCKS_HELP}"
        return StorageError(f"{said}: the database is locked; {help_}")
    if primary == sqlite3.SQLITE_READONLY:
        return probe(path, said) or StorageError(f"{said}: {path} is read-only: it must belong to you, and be writable")
    if primary == sqlite3.SQLITE_CANTOPEN:
        return probe(path, said) or StorageError(f"{said}: {error}")
    if primary == sqlite3.SQLITE_IOERR and code not in _READ_CODES:
        found = probe(path, said)
        if found is None and code in _LOCK_CODES:
            found = StorageError(f"{said}: {NO_LOCKS_HELP} ({error.sqlite_errorname})")
        if found is None and code in _SHM_CODES:
            found = StorageError(f"{said}: {NO_WAL_HELP} ({error.sqlite_errorname})")
        return found or StorageError(f"{said}: {error} ({error.sqlite_errorname})")
    return StorageError(f"{said}: {error}")


def probe(path: Path, said: str) -> StorageError | None:
    """What the system says when a file beside the database is written, and the database opened; None: nothing wrong.

    The file is written where the longest file of the database ends, so that limits on the size of files show too.
    """
    try:
        sizes = [each.stat().st_size for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")) if each.exists()]
        with tempfile.TemporaryFile(dir=path.parent) as file:
            os.pwrite(file.fileno(), _PROBE, max(sizes, default=0))
        if path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in FULL or error.errno in NONE_LEFT:
            return storage_error(error, said)
        named = error.filename if isinstance(error.filename, str | os.PathLike) else path.parent
        return storage_error(error, f"{said}, {named}")
    return None
