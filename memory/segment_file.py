"""Append-only segment files: write a record behind the committed end, read one back. Only bytes and offsets here.

A record counts once its row is committed in the journal; until then the file's committed end does not move, and the
next write goes over whatever an interrupted one left behind. No file stays open between calls, so that a hundred
cameras hold no descriptors.
"""

import errno
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from memory.errors import RecordDamaged, StorageBusy, StorageError, StorageFull

# EFBIG is what a quota by RLIMIT_FSIZE gives
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def lock_folder(folder: Path) -> int:
    """Descriptor of the folder's lock, held until it is closed or the process ends. StorageBusy, StorageFull."""
    try:
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise storage_error(error, f"cannot open {folder}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise StorageBusy(f"{folder} is in use by another process") from error
    return fd


def segment_paths(folder: Path, segment_id: int) -> tuple[Path, Path]:
    """Files of a segment, for frame records and for vector records, in its camera's folder."""
    return folder / f"{segment_id:012d}.frames", folder / f"{segment_id:012d}.vectors"


def storage_error(error: OSError, what: str) -> StorageError:
    """The package's exception for an operating-system error."""
    if error.errno in _FULL:
        return StorageFull(error.errno, f"{what}: no space left; free some, recording goes on by itself")
    return StorageError(error.errno, f"{what}: {error.strerror or error}")


def write_record(path: Path, end: int, record: bytes, *, sync: bool) -> None:
    """Writes `record` at offset `end`, all of it or (truncated again) nothing. StorageFull, StorageError.

    sync: also wait until it is on the medium, so that a row never survives a power cut that its picture does not.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise storage_error(error, f"cannot open {path.name}") from error
    try:
        _write_all(fd, end, record)
        if sync:
            os.fdatasync(fd)
            if end == 0:
                sync_folder(path.parent)
    except OSError as error:
        _truncate_quietly(fd, end)
        raise storage_error(error, f"cannot write {path.name}") from error
    finally:
        os.close(fd)


def read_record(path: Path, offset: int, length: int) -> bytes:
    """Exactly `length` bytes at `offset`. RecordDamaged if they are not there or the medium cannot give them."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            record = os.pread(fd, length, offset)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EIO):
            raise RecordDamaged(f"{path.name}: {error.strerror}") from error
        raise storage_error(error, f"cannot read {path.name}") from error
    if len(record) != length:
        raise RecordDamaged(f"{path.name}: {len(record)} of {length} bytes at {offset}")
    return record


def file_size(path: Path) -> int:
    """Bytes in the file, 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


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
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


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
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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
