"""Erasing a stretch of time: rows, records, vectors and what memory holds of them, so that no file has a byte left.

    1. one synced commit deletes the rows and records the erasure       from here on it will be completed
    2. the segments in memory are replaced by ones without the frames   no new window, no read gets them
    3. the files are swept: whatever no row names is overwritten with zeros in place, then synced; a file of which
       nothing is left is unlinked
    4. the journal is scrubbed (see `Journal.scrub`), and the record of the erasure goes

A full disk must not keep anybody from erasing, as that is what frees space. There step 1 records the erasure alone, into
space kept in reserve (`spare_space.py`); step 3 first unlinks the files of which all is erased, then deletes the rows in
small steps.

A process that dies before 1 has erased nothing; after it the next start (or `maintain`) goes on with 3. Nothing moves:
what is kept stays where it was, so a reader of other frames notices nothing. The bytes of an erased frame inside a kept
file are zeros until its segment leaves.

Windows made before go on with the numbers they hold, but their reads of erased pictures raise FrameGone; when the last
of them lets go, the arrays are overwritten. What a file system or a disk keeps of overwritten and unlinked blocks is
beyond this module. Not thread-safe: the store holds the locks of attaching and of rows and files.
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
from memory.errors import StorageError, StorageFull
from memory.forgetting import Forgetting
from memory.journal import Erasure, Journal
from memory.segment_file import file_size, segment_paths, storage_error, sync_folder, unlink_files
from memory.spare_space import SpareSpace

_ZEROS = bytes(2**20)
_RECORD_SUFFIXES = (".frames", ".vectors")


class Erasing:
    """What has been erased, and the steps above over one journal and one folder of segments."""

    def __init__(
        self, journal: Journal, folder: Path, forgetting: Forgetting, lock: AbstractContextManager[object],
        log_of: Callable[[str], CameraLog | None], spare: SpareSpace,
    ) -> None:  # fmt: skip
        """lock: of what memory holds, taken for step 2 alone, so that questions do not wait for the disk. log_of: of a
        camera, what memory holds."""
        self._log_of = log_of
        self._spare = spare
        self._forgotten: set[int] = set()  # erasures that have gone through step 2
        self._journal = journal
        self._forgetting = forgetting
        self._folder = folder
        self._lock = lock
        self.num_erased = 0

    def erase(self, camera: str, lower: float, upper: float) -> int:
        """Frames erased. StorageError: not begun, or begun and to be completed by `finish` (see the message)."""
        log = self._log_of(camera)
        oldest = None if log is None else log.oldest_time
        evicted_before = -math.inf if oldest is None else oldest
        erasure = begin(self._journal, self._spare, camera, lower, upper, evicted_before)
        self.num_erased += erasure.num_frames
        try:
            self.finish()
        except StorageError as error:
            raise StorageError(
                f"erased from the memory, not yet from the disk, which is tried again: {error}"
            ) from error
        return erasure.num_frames

    def finish(self) -> None:
        """Goes on with erasures that have begun. StorageError leaves them for the next time.

        One may have begun although its call failed: what memory holds of it goes first, whoever began it.
        """
        for erasure in self._journal.erasures():
            log = self._log_of(erasure.camera)
            if log is not None and erasure.number not in self._forgotten:
                with self._lock:
                    self._forgetting.num_evicted += forget_between(log, erasure.lower, erasure.upper)
            self._forgotten.add(erasure.number)
        finish_erasures(self._journal, self._folder)
        self._forgotten.clear()


def begin(
    journal: Journal, spare: SpareSpace, camera: str, lower: float, upper: float, evicted_before: float = -math.inf
) -> Erasure:
    """Step 1; on a full disk without the rows."""
    try:
        return journal.begin_erasure(camera, lower, upper, evicted_before)
    except StorageFull:
        spare.release()
        journal.empty_wal()
        return journal.note_erasure(camera, lower, upper)


def finish_erasures(journal: Journal, folder: Path) -> None:
    """Steps 3 and 4 of every erasure that has begun. folder: of all segments."""
    begun = journal.erasures()
    for erasure in begun:
        try:
            journal.delete_erased(erasure)  # nothing, but after a full disk
        except StorageFull:
            for segment in journal.wholly_erased(erasure):
                unlink_files(*map(str, segment_paths(folder / erasure.camera, segment)))
            journal.delete_erased(erasure)
        sweep(journal, folder / erasure.camera, erasure.segments)
    if begun:
        unlink_files(str(folder.parent / "journal.sqlite.damaged"))  # rows that nothing can take out of it
        journal.scrub()
    for erasure in begun:
        journal.end_erasure(erasure.number)


def sweep(journal: Journal, folder: Path, segments: Iterable[int]) -> None:
    """Zeroes what no row names in these segments of one camera's folder, and unlinks every file without rows."""
    if not folder.is_dir():
        return
    try:
        for segment in segments:
            places = journal.places(segment)
            frames_path, vectors_path = segment_paths(folder, segment)
            keep_only(frames_path, [(offset, offset + length) for offset, length, _ in places])
            keep_only(vectors_path, _vector_ranges(vectors_path, [offset for *_, offset in places]))
        for path in folder.iterdir():
            # files of evicted segments that a window still holds; their names are numbers
            if path.suffix in _RECORD_SUFFIXES and path.stem.isdecimal() and not journal.places(int(path.stem)):
                path.unlink(missing_ok=True)
        sync_folder(folder)
    except OSError as error:
        raise storage_error(error, f"cannot erase in {folder.name}") from error


def keep_only(path: Path, ranges: Sequence[tuple[int, int]]) -> None:
    """Zeroes all bytes of the file outside the (start, stop) `ranges`, in place; unlinks it if there are none.

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
    """Where the vector records at these offsets lie; one that is none is not kept (its frame is encoded again)."""
    wanted = [offset for offset in offsets if offset is not None]
    data = path.read_bytes() if wanted and path.exists() else b""
    sizes = [(offset, sound_vectors_at(data, offset)) for offset in wanted]
    return [(offset, offset + size) for offset, size in sizes if size]


def forget_between(log: CameraLog, lower: float, upper: float) -> int:
    """Replaces the segments of a camera that hold frames of the range, or evicted ones, by segments that do not.

    Returns how many evicted frames went: a smaller history must not bring them back at the next start.
    """
    num_evicted = 0
    for segment in list(log.segments):
        times = segment.times[: segment.count]
        erased = (times >= lower) & (times <= upper)
        num_evicted += int((~erased[: segment.floor]).sum())
        erased[: segment.floor] = True
        if not erased.any():
            continue
        other = None if erased.all() else segment.without(erased)
        weakref.finalize(segment, _wipe, segment.held(), segment.index)  # windows may still compute with it
        log.replace(segment, other)
        segment.evicted = True
        segment.lose(np.flatnonzero(erased))
    return num_evicted


def _wipe(arrays: list[npt.NDArray[Any]], owner: Any) -> None:
    """owner: whose memory some of them are, kept alive until here."""
    for array in arrays:
        array.fill(0)
