"""Append-only segment files: write a record behind the committed end, read one back. Only bytes and offsets here.

A record counts once its row is committed in the journal; until then the file's committed end does not move, and the
next write goes over whatever an interrupted one left behind. No file stays open between calls, so that a hundred
cameras hold no descriptors; when the process has none left, the reserve of `descriptors.py` serves.

An error of the system is never taken for damage: damaged is a record that was read and does not match, or a file that
really is too short for it.
"""

import errno
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from memory.descriptors import NONE_LEFT, opened
from memory.errors import OutOfResources, RecordDamaged, StorageBusy, StorageError, StorageFull

# EFBIG is what a quota by RLIMIT_FSIZE gives
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SHORT = NONE_LEFT | {errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS}
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
NO_LOCKS_HELP = "this file system has no file locks, which the memory needs: put data_dir on a local disk"
_HELP = {
    errno.EROFS: "the file system is mounted read-only: mount it writable, or choose another data_dir",
    errno.EACCES: "permission denied: the data folder must belong to the user who runs this",
    errno.EPERM: "not permitted: the data folder must belong to the user who runs this",
    errno.ENOENT: "it is missing: was the folder removed, or its disk unmounted?",
}


def lock_folder(folder: Path) -> int:
    """Descriptor of the folder's lock, held until it is closed or the process ends.

    StorageBusy if another process holds it; StorageFull or StorageError if it cannot be taken.
    """
    try:
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise storage_error(error, f"cannot open {folder}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise StorageBusy(f"{folder} is in use by another process") from error
    except OSError as error:
        os.close(fd)
        if error.errno in _NO_LOCKS:
            raise StorageError(error.errno, f"cannot lock {folder}: {NO_LOCKS_HELP}") from error
        raise storage_error(error, f"cannot lock {folder}") from error
    return fd


def segment_paths(folder: Path, segment_id: int) -> tuple[Path, Path]:
    """Files of a segment, for frame records and for vector records, in its camera's folder."""
    return folder / f"{segment_id:012d}.frames", folder / f"{segment_id:012d}.vectors"


def storage_error(error: OSError, what: str) -> StorageError:
    """The package's exception for an operating-system error, with its cause and what to do."""
    if isinstance(error, StorageError):
        return error
    if error.errno in FULL:
        return StorageFull(error.errno, f"{what}: no space left; free some, recording goes on by itself")
    if error.errno in _SHORT:
        return OutOfResources(error.errno, f"{what}: {error.strerror}; it is tried again")
    return StorageError(error.errno, f"{what}: {_HELP.get(error.errno or 0, error.strerror or error)}")


def write_record(path: Path, end: int, record: bytes, *, sync: bool) -> None:
    """Writes `record` at offset `end`, all of it or (truncated again) nothing. StorageFull, StorageError.

    sync: also wait until it is on the medium, so that a row never survives a power cut that its picture does not.
    """
    try:
        with opened(path, os.O_RDWR | os.O_CREAT) as fd:
            try:
                _write_all(fd, end, record)
                if sync:
                    os.fdatasync(fd)
                    if end == 0:
                        sync_folder(path.parent)
            except OSError:
                _truncate_quietly(fd, end)
                raise
    except OSError as error:
        raise storage_error(error, f"cannot write {path.name}") from error


def read_record(path: Path, offset: int, length: int) -> bytes:
    """Exactly `length` bytes at `offset`. RecordDamaged if the file does not have them, StorageError if the system does
    not give them."""
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


def read_all(fd: int, offset: int, length: int) -> bytes:
    """`length` bytes from `offset` on, fewer where the file ends. Raises OSError."""
    pieces: list[bytes] = []
    while length > 0 and (piece := os.pread(fd, length, offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def file_size(path: Path) -> int:
    """Bytes in the file, 0 if there is none. StorageError if the system does not say."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise storage_error(error, f"cannot look at {path.name}") from error


def cut_to(path: Path, end: int) -> None:
    """Takes off what was written behind the committed end by a process that died; never an error."""
    try:
        if path.stat().st_size > end:
            os.truncate(path, end)
    except OSError:
        pass  # the next write goes over it anyway


def sync_file(path: Path) -> None:
    """Waits until the file's bytes are on the medium; a file that is gone needs none."""
    try:
        with opened(path, os.O_RDONLY) as fd:
            os.fdatasync(fd)
    except FileNotFoundError:
        return


def sync_segments(paths: Iterable[Path]) -> None:
    """Waits until these files of cameras are on the medium, and their names."""
    folders: set[Path] = set()
    for path in paths:
        sync_file(path)
        folders.update(path.parents[:2])
    for folder in folders:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Makes new names in the folder survive a power cut."""
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


def unlink_files(*paths: str) -> None:
    """Removes what is there. What cannot be removed now is an orphan, removed at the next start."""
    for path in paths:
        try:
            os.unlink(path)  # noqa: PTH108 - plain strings: this runs in finalizers
        except OSError:
            continue


def _write_all(fd: int, offset: int, record: bytes) -> None:
    view = memoryview(record)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _truncate_quietly(fd: int, end: int) -> None:
    try:
        os.ftruncate(fd, end)
    except OSError:
        pass  # the committed end is what counts
