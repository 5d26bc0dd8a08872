"""File operations of the memory: read and write whole records, and keep file descriptors and disk space in reserve.

A record is stored once the journal has committed its row. Until then the committed end of its file does not change, and
the next write overwrites what an interrupted write left behind. Files are closed between calls, so the number of
cameras does not affect the number of open files. RecordDamaged is raised only if the bytes were read and are wrong,
never for an error of the operating system.
"""

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from memory.errors import NO_LOCKS_HELP, NONE_LEFT, RecordDamaged, StorageBusy, StorageError, StorageFull, storage_error

T = TypeVar("T")

RESERVED = 8
"""Descriptors in reserve. An append uses one or two; one is never given away, as the others are copied from it."""
SPARE_BYTES = 1 << 20
_LEAST_SPARE_BYTES = 64 << 10
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})


class Reserve:
    """Spare file descriptors, so that a process that has reached its limit can still store frames. Thread-safe.

    They keep /dev/null open. If opening a file fails because no descriptor is left, a spare one is closed and the file
    is opened again. When that file is closed, its descriptor is atomically reopened as /dev/null, so that no other
    thread can get it in between.
    """

    def __init__(self, size: int = RESERVED) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._spare: list[int] = []

    def fill(self) -> None:
        """Open missing spare descriptors, as many as the system allows."""
        with self._lock, suppress(OSError):
            while len(self._spare) < self._size:
                self._spare.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """Open a file as `os.open` does. If the process has no descriptor left, use a spare one."""
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
        """Close a file. If a spare descriptor is missing, keep this one as a spare."""
        with self._lock:
            if self._spare and len(self._spare) < self._size:
                os.dup2(self._spare[0], fd, inheritable=False)
                self._spare.append(fd)
                return
        os.close(fd)


RESERVE = Reserve()


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """Context manager: open a file, with a spare descriptor if necessary, and yield its descriptor.

    New files get mode 0600. Raises OSError.
    """
    fd = RESERVE.open(path, flags)
    try:
        yield fd
    finally:
        RESERVE.close(fd)


class SpareSpace:
    """A file of zeros that reserves disk space. On a full disk it is removed, to make room to record an erasure."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "spare"

    def keep(self) -> None:
        """Create the file if it is missing, smaller if the disk is nearly full. Errors are ignored."""
        try:
            if self._path.exists():
                return
            size = min(SPARE_BYTES, shutil.disk_usage(self._path.parent).free // 8)
            if size < _LEAST_SPARE_BYTES:
                return
            with opened(self._path, os.O_RDWR | os.O_CREAT) as fd:
                os.posix_fallocate(fd, 0, size)
        except OSError:
            self.release()

    def release(self) -> bool:
        """Remove the file, so that its space can be used. Return whether there was one. Errors are ignored."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def lend(self, function: Callable[[], T]) -> T:
        """Call `function` and return its result.

        If it raises StorageFull, free the reserved space and call it once more.
        """
        try:
            return function()
        except StorageFull:
            if not self.release():
                raise
        return function()


def lock_folder(folder: Path) -> int:
    """Lock the folder for this process. Return a file descriptor; closing it unlocks the folder.

    Raises StorageBusy if another process holds the lock, StorageFull or StorageError if it cannot be taken.
    """
    try:
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise storage_error(error, f"cannot open {folder}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise StorageBusy(f"{folder} is in use by another process") from error
        if error.errno in _NO_LOCKS:
            raise StorageError(error.errno, f"cannot lock {folder}: {NO_LOCKS_HELP}") from error
        raise storage_error(error, f"cannot lock {folder}") from error
    return fd


def replaced(folder: Path, files: Mapping[str, os.stat_result]) -> str | None:
    """Return a sentence for an operator if files of the folder were replaced since they were opened, else None.

    files: for each name, the `os.fstat` of the open file.
    """
    try:
        same = all(os.path.samestat((folder / name).stat(), opened_as) for name, opened_as in files.items())
    except FileNotFoundError:
        same = False
    except OSError as error:
        return f"{folder} cannot be accessed: {error.strerror}"
    if same:
        return None
    return f"{folder} was removed or replaced while in use: frames stored from now on will be lost; restart"


def segment_paths(folder: Path, segment_id: int) -> tuple[Path, Path]:
    """Return the paths of a segment's two files: frame records and vector records. `folder`: the camera's."""
    return folder / f"{segment_id:012d}.frames", folder / f"{segment_id:012d}.vectors"


def write_record(path: Path, end: int, record: bytes) -> None:
    """Write the record at offset `end`, the committed end of the file. If it fails, the file is cut back to `end`.

    Raises StorageFull, StorageError.
    """
    try:
        with opened(path, os.O_RDWR | os.O_CREAT) as fd:
            try:
                view, offset = memoryview(record), end
                while view:
                    written = os.pwrite(fd, view, offset)
                    view, offset = view[written:], offset + written
            except OSError:
                with suppress(OSError):  # not necessary: what lies behind the committed end is ignored
                    os.ftruncate(fd, end)
                raise
    except OSError as error:
        raise storage_error(error, f"cannot write {path.name}") from error


def read_record(path: Path, offset: int, length: int) -> bytes:
    """Return `length` bytes at `offset`. Raises RecordDamaged if the file is too short, StorageError if unreadable."""
    try:
        with opened(path, os.O_RDONLY) as fd:
            record = read_all(fd, offset, length)
            size = os.fstat(fd).st_size
    except OSError as error:
        raise storage_error(error, f"cannot read {path.name}") from error
    if len(record) != length:
        if size >= offset + length:
            raise StorageError(f"cannot read {path.name}: the file system gave {len(record)} of {length} bytes")
        raise RecordDamaged(f"{path.name}: {len(record)} of {length} bytes at {offset}")
    return record


def read_file(path: Path, start: int = 0) -> bytes:
    """Return the bytes of the file from `start` on, b"" if there is no file. Raises StorageError."""
    try:
        with opened(path, os.O_RDONLY) as fd:
            return read_all(fd, start, max(0, os.fstat(fd).st_size - start))
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise storage_error(error, f"cannot read {path.name}") from error


def read_all(fd: int, offset: int, length: int) -> bytes:
    """Read `length` bytes from `offset` on and return them; fewer if the file ends before. Raises OSError."""
    pieces: list[bytes] = []
    while length > 0 and (piece := os.pread(fd, length, offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def file_size(path: Path) -> int:
    """Return the size in bytes, 0 if there is no file. Raises StorageError."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise storage_error(error, f"cannot access {path.name}") from error


def cut_to(path: Path, end: int) -> None:
    """Truncate the file to `end`, its committed end. Errors are ignored, as the next write overwrites the rest."""
    with suppress(OSError):
        if path.stat().st_size > end:
            os.truncate(path, end)


def sync_file(path: Path) -> None:
    """Wait until the file's bytes are on the disk (fsync). A missing file is not an error."""
    with suppress(FileNotFoundError), opened(path, os.O_RDONLY) as fd:
        os.fdatasync(fd)


def sync_segments(paths: Iterable[Path]) -> None:
    """Wait until the contents of these segment files and their directory entries are on the disk."""
    folders: set[Path] = set()
    for path in paths:
        sync_file(path)
        folders.update(path.parents[:2])
    for folder in folders:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Wait until the folder's directory entries are on the disk, so that new files survive a power cut."""
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


def unlink_files(*paths: str) -> None:
    """Delete the given files. Errors are ignored, as the next start removes the remaining ones."""
    for path in paths:
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - strings, as finalizers call this
