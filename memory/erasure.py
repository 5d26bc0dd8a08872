"""Erase the frames of a time range from memory and disk, so that no file keeps a byte of them.

A segment is a run of consecutive frames of a camera, in two files; the journal is a database with one row for each
stored frame. Erasing has four steps:

    1. One commit, waited for until it is on disk, deletes the rows and records the erasure. From then on the erasure
       is certain to be completed, even after a crash.
    2. The segments in memory are replaced by ones without the frames: no new window and no read returns them.
    3. Bytes in files that belong to no row are overwritten with zeros in place; files without rows are removed.
    4. All traces are removed from the journal (`Journal.scrub`), and the record of the erasure is deleted.

Erasing frees space, so it must work on a full disk. There step 1 only records the erasure, in space kept in reserve
(`SpareSpace`). Step 3 first removes the files that are erased as a whole, then deletes the rows in small steps.

If the process dies before step 1 is complete, nothing is erased. If it dies later, the next start or `maintain`
continues with step 3. Frames that are kept do not move in their file, so readers are not disturbed. The zeros inside
such a file remain until its segment is evicted. Windows made before the erasure keep the arrays they hold, but reading
an erased picture raises FrameGone. When the last of these windows is freed, the arrays are overwritten. Copies of old
data that a file system or a disk keeps internally cannot be erased.

Not thread-safe: the caller holds the store's locks for attaching and for rows.
"""

import math
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.camera_log import CameraLog
from memory.codec import sound_vectors_at
from memory.errors import StorageError, StorageFull, storage_error
from memory.eviction import Eviction
from memory.files import SpareSpace, file_size, segment_paths, sync_folder, unlink_files
from memory.journal import Erasure, Journal
from memory.segments import Segment

_ZEROS = bytes(2**20)
_RECORD_SUFFIXES = (".frames", ".vectors")


class Erasing:
    """Performs erasures in one memory folder, and counts the erased frames."""

    def __init__(
        self, journal: Journal, folder: Path, eviction: Eviction, lock: AbstractContextManager[object],
        log_of: Callable[[str], CameraLog | None], spare: SpareSpace,
    ) -> None:  # fmt: skip
        """lock: guards the logs. Held only while frames are removed in memory, so that no question waits long."""
        self._log_of = log_of
        self._spare = spare
        self._forgotten: set[int] = set()  # erasures that have completed step 2
        self._journal = journal
        self._eviction = eviction
        self._folder = folder
        self._lock = lock
        self.num_erased = 0

    def erase(self, camera: str, lower: float, upper: float) -> int:
        """Erase frames with lower <= time <= upper. Return their number.

        Raises StorageError if the erasure failed to begin, or began and will be completed by `finish`. The message says
        which of the two.
        """
        log = self._log_of(camera)
        oldest = None if log is None else log.oldest_time
        evicted_before = -math.inf if oldest is None else oldest
        erasure = begin(self._journal, self._spare, camera, lower, upper, evicted_before)
        self.num_erased += erasure.num_frames
        try:
            self.finish()
        except StorageError as error:
            raise StorageError(f"erased from memory, but not yet from disk; it will be retried: {error}") from error
        return erasure.num_frames

    def finish(self) -> None:
        """Complete the erasures that have begun. After a StorageError, the next call continues.

        Frames that are still in memory are removed there, too, as an erasure may have begun although the call of
        `erase` failed.
        """
        for erasure in self._journal.erasures():
            log = self._log_of(erasure.camera)
            if log is not None and erasure.number not in self._forgotten:
                with self._lock:
                    self._eviction.num_evicted += forget_between(log, erasure.lower, erasure.upper)
            self._forgotten.add(erasure.number)
        finish_erasures(self._journal, self._folder)
        self._forgotten.clear()


def begin(
    journal: Journal, spare: SpareSpace, camera: str, lower: float, upper: float, evicted_before: float = -math.inf
) -> Erasure:
    """Record an erasure in the journal, delete the rows of the erased frames, and return the record.

    Both are one commit, which is on disk on return. On a full disk, the rows are not deleted yet.

    evicted_before: also delete rows older than this, as their frames were evicted.
    """
    try:
        return journal.begin_erasure(camera, lower, upper, evicted_before)
    except StorageFull:
        spare.release()
        journal.empty_wal()
        return journal.begin_erasure(camera, lower, upper, delete_rows=False)


def finish_erasures(journal: Journal, folder: Path) -> None:
    """Clean the files and the journal of all erased bytes, for every erasure that has begun, and delete its record.

    folder: holds the segment files of all cameras.
    """
    begun = journal.erasures()
    for erasure in begun:
        try:
            journal.delete_erased(erasure)  # only if the disk was full, rows are left
        except StorageFull:
            for segment in journal.wholly_erased(erasure):
                unlink_files(*map(str, segment_paths(folder / erasure.camera, segment)))
            journal.delete_erased(erasure)
        sweep(journal, folder / erasure.camera, erasure.segments)
    if begun:
        unlink_files(str(folder.parent / "journal.sqlite.damaged"))  # its rows cannot be deleted one by one
        journal.scrub()
    for erasure in begun:
        journal.end_erasure(erasure.number)


def sweep(journal: Journal, folder: Path, segments: Iterable[int]) -> None:
    """In the files of these segments, zero all bytes that belong to no row of the journal; remove files without rows.

    folder: the camera's.
    """
    if not folder.is_dir():
        return
    try:
        for segment in segments:
            places = journal.places(segment)
            frames_path, vectors_path = segment_paths(folder, segment)
            keep_only(frames_path, [(offset, offset + length) for offset, length, _ in places])
            keep_only(vectors_path, _vector_ranges(vectors_path, [offset for *_, offset in places]))
        for path in folder.iterdir():
            # includes files of evicted segments that a window still holds
            if path.suffix in _RECORD_SUFFIXES and path.stem.isdecimal() and not journal.places(int(path.stem)):
                path.unlink(missing_ok=True)
        sync_folder(folder)
    except OSError as error:
        raise storage_error(error, f"cannot erase in {folder.name}") from error


def keep_only(path: Path, ranges: Sequence[tuple[int, int]]) -> None:
    """Zero all bytes of the file outside the (start, stop) ranges, in place; remove the file if there are none.

    A file of 100 bytes, ranges (10, 30) and (50, 70): bytes 0-9 and 30-49 are zeroed, the file is cut to 70.
    """
    size = file_size(path)
    if size == 0 or not ranges:
        path.unlink(missing_ok=True)
        return
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        end = 0
        for start, stop in [*sorted(ranges), (size, size)]:
            for position in range(end, start, len(_ZEROS)):
                os.pwrite(fd, _ZEROS[: start - position], position)
            end = max(end, stop)
        os.fdatasync(fd)
        os.ftruncate(fd, min(size, max(stop for _, stop in ranges)))
        os.fdatasync(fd)
    finally:
        os.close(fd)


def _vector_ranges(path: Path, offsets: Sequence[int | None]) -> list[tuple[int, int]]:
    """Return the byte ranges of the intact vector records at these offsets.

    Damaged records are left out and so erased; their frames are encoded again.
    """
    wanted = [offset for offset in offsets if offset is not None]
    data = path.read_bytes() if wanted and path.exists() else b""
    sizes = [(offset, sound_vectors_at(data, offset)) for offset in wanted]
    return [(offset, offset + size) for offset, size in sizes if size]


def forget_between(log: CameraLog, lower: float, upper: float) -> int:
    """Replace, in memory, the camera's segments that hold frames of the time range by segments without these frames.

    Evicted frames are left out as well, as a restart could otherwise bring them back when rows behind them are erased.
    Return the number of evicted frames.
    """
    num_evicted = 0
    for segment in list(log.segments):
        times = segment.times[: segment.count]
        erased = (times >= lower) & (times <= upper)
        num_evicted += int((~erased[: segment.floor]).sum())
        erased[: segment.floor] = True
        if not erased.any():
            continue
        other: Segment | None = None if erased.all() else segment.without(erased)
        weakref.finalize(segment, _wipe, segment.content(), segment.index)  # windows may still use its arrays
        log.replace(segment, other)
        segment.evicted = True
        segment.lose(np.flatnonzero(erased))
    return num_evicted


def _wipe(arrays: list[npt.NDArray[Any]], owner: Any) -> None:
    """Overwrite the arrays with zeros.

    owner: owns the memory of some of the arrays; passing it keeps it alive until then.
    """
    for array in arrays:
        array.fill(0)
