"""Read or erase a memory folder without a running agent.

A `MemoryStore` must be opened with a model's sizes, and drops vectors that another model made. `OfflineMemory` needs no
model and does not change vectors. It holds the folder's lock while it is open, so that no agent can use the folder.
"""

import math
import os
from pathlib import Path

from memory.codec import load_metadata, unpack_frame
from memory.erasure import begin, finish_erasures
from memory.errors import FrameGone, RecordDamaged, StorageError
from memory.files import SpareSpace, file_size, lock_folder, read_record, segment_paths
from memory.journal import Journal
from memory.limits import check_camera_name
from memory.records import CameraStats, FrameRecord


class OfflineMemory:
    """The memory folder of an agent that is not running. Use as a context manager; leaving it unlocks the folder.

    Raises StorageBusy if an agent uses the folder, StorageError if it holds no memory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        path = self._folder / "journal.sqlite"
        if file_size(path) == 0:
            raise StorageError(f"there is no memory in {folder}")
        self._owner = lock_folder(self._folder)
        self._spare = SpareSpace(self._folder)
        try:
            self._journal = self._spare.lend(lambda: Journal(path))
            finish_erasures(self._journal, self._folder / "segments")
            self._rows = {row.frame_id: row for row, sound in self._journal.rows() if sound}
        except BaseException:
            os.close(self._owner)
            raise

    def __enter__(self) -> "OfflineMemory":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._spare.keep()
        self._journal.close()
        os.close(self._owner)

    def cameras(self) -> list[str]:
        """Return the names of the cameras with frames, sorted."""
        return sorted({row.camera for row in self._rows.values()})

    def stats(self, camera: str) -> CameraStats:
        """Return what is stored of a camera, as `MemoryStore.stats` does. No patch features count as in memory."""
        rows = [row for row in self._rows.values() if row.camera == camera]
        if not rows:
            return CameraStats()
        files = (self._folder / "segments" / camera).glob("*.*")
        times = [row.time for row in rows]
        return CameraStats(
            frames=len(rows), encoded=sum(row.vector_offset is not None for row in rows),
            bytes=sum(map(file_size, files)), oldest=min(times), newest=max(times),
        )  # fmt: skip

    def records(
        self, camera: str, after: float | None = None, before: float | None = None, *, limit: int = 2**31
    ) -> list[FrameRecord]:
        """Return the first `limit` frames with after <= time <= before, by rising time."""
        lower, upper = -math.inf if after is None else after, math.inf if before is None else before
        found = [row for row in self._rows.values() if row.camera == camera and lower <= row.time <= upper]
        return [FrameRecord(row.frame_id, row.camera, row.time, load_metadata(row.metadata)) for row in found[:limit]]

    def jpeg(self, frame_id: int) -> bytes:
        """Return the stored JPEG of a frame. Raises FrameGone if the frame is not stored or its picture is damaged."""
        row = self._rows.get(frame_id)
        if row is None:
            raise FrameGone(f"frame {frame_id} is not remembered")
        path, _ = segment_paths(self._folder / "segments" / row.camera, row.segment)
        try:
            return unpack_frame(read_record(path, row.offset, row.length), frame_id).jpeg
        except RecordDamaged as error:
            raise FrameGone(f"frame {frame_id} is damaged on disk: {error}") from error

    def erase(self, camera: str, after: float, before: float) -> int:
        """Erase the frames with after <= time <= before for good, and return their number. Raises StorageError."""
        erasure = begin(self._journal, self._spare, check_camera_name(camera), after, before)
        self._rows = {i: row for i, row in self._rows.items() if not erasure.covers(row.camera, row.time)}
        finish_erasures(self._journal, self._folder / "segments")
        return erasure.num_frames
