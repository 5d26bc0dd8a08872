"""Erase the frames of a time range from memory and disk, so that no file keeps a byte of them.

    1. One synced commit deletes the rows and records the erasure, which will be completed from here on.
    2. The segments in memory are replaced by ones without the frames: no new window and no read returns them.
    3. Bytes that no row names are overwritten with zeros in place and synced; files without rows are removed.
    4. The journal is scrubbed (`Journal.scrub`), and the record of the erasure is deleted.

Erasing frees space, so it must work on a full disk. There step 1 only records the erasure, in space kept in reserve
(`SpareSpace`), and step 3 first removes the files that are erased as a whole, then deletes the rows in small steps.

A process that dies before 1 has erased nothing. After it, the next start or `maintain` goes on with 3. Kept frames do
not move, so readers of them notice nothing. The erased bytes inside a kept file stay zeros until its segment leaves.
Earlier windows keep the numbers they hold, but reading an erased picture raises FrameGone; once the last of them is
gone, the arrays are overwritten. Copies that a file system or a disk keeps of old blocks are out of reach.
Not thread-safe: the store holds its locks of attaching and of rows.
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
    """Runs erasures over one journal and one folder of segments, and counts the erased frames."""

    def __init__(
        self, journal: Journal, folder: Path, eviction: Eviction, lock: AbstractContextManager[object],
        log_of: Callable[[str], CameraLog | None], spare: SpareSpace,
    ) -> None:  # fmt: skip
        """lock: of the logs, taken for step 2 alone, so that questions do not wait for the disk."""
        self._log_of = log_of
        self._spare = spare
        self._forgotten: set[int] = set()  # erasures past step 2
        self._journal = journal
        self._eviction = eviction
        self._folder = folder
        self._lock = lock
        self.num_erased = 0

    def erase(self, camera: str, lower: float, upper: float) -> int:
        """Erase frames with lower <= time <= upper. Return how many.

        Raises StorageError if it did not begin, or began and will be completed by `finish`; the message says which.
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
        """Complete the erasures that have begun. After a StorageError, the next call goes on.

        An erasure may have begun although its call failed, so step 2 is done here for every one that lacks it.
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
    """Do step 1; on a full disk, without deleting the rows."""
    try:
        return journal.begin_erasure(camera, lower, upper, evicted_before)
    except StorageFull:
        spare.release()
        journal.empty_wal()
        return journal.begin_erasure(camera, lower, upper, delete_rows=False)


def finish_erasures(journal: Journal, folder: Path) -> None:
    """Do steps 3 and 4 of every erasure that has begun. folder: of all segments."""
    begun = journal.erasures()
    for erasure in begun:
        try:
            journal.delete_erased(erasure)  # rows are left only after a full disk
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
    """Zero what no row names in these segments of a camera's folder, and remove all files there without rows."""
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
    """Return the ranges of the intact vector records at these offsets. Others go: their frames are encoded again."""
    wanted = [offset for offset in offsets if offset is not None]
    data = path.read_bytes() if wanted and path.exists() else b""
    sizes = [(offset, sound_vectors_at(data, offset)) for offset in wanted]
    return [(offset, offset + size) for offset, size in sizes if size]


def forget_between(log: CameraLog, lower: float, upper: float) -> int:
    """Replace the camera's segments that hold frames of the range, or evicted ones, by segments without them.

    Evicted frames go, too: with rows erased behind them, a restart could otherwise bring them back. Returns how many.
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
        weakref.finalize(segment, _wipe, segment.content(), segment.index)  # windows may still compute with it
        log.replace(segment, other)
        segment.evicted = True
        segment.lose(np.flatnonzero(erased))
    return num_evicted


def _wipe(arrays: list[npt.NDArray[Any]], owner: Any) -> None:
    """Zero the arrays. owner: holds the memory of some of them, so it must live until then."""
    for array in arrays:
        array.fill(0)
