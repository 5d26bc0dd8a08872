"""The frame store: frames in, windows out.

    append                        store a frame: write its picture, commit its row, return its id (ingest thread)
    attach                        add its vectors and patches once it is encoded; any order     (vision lane)
    window                        an immutable view for a question                              (any thread)
    maintain, expire, stats, ...                                                                (any thread)

A frame is pending until its vectors (embedding and summary) are attached. It is hot while it is among the newest frames
of its camera, whose patch features are kept in memory.

`append` and `attach` may have to wait for each other's write, which is short, and for an erasure. Readers never wait
for either. `journal.py` describes what survives a crash, `recovery.py` what happens at a start.
"""

import math
import os
import threading
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.cameras import CameraLogs, first_ids
from memory.codec import encoder_tag, load_metadata, metadata_text, pack_vectors, unpack_vectors, vector_record_size
from memory.erasure import Erasing
from memory.errors import Health, StorageError, out_of_memory, storage_error
from memory.eviction import Eviction
from memory.files import RESERVE, SpareSpace, lock_folder, replaced, sync_segments
from memory.limits import FolderLimits, Limits, check_camera_name
from memory.ranking import prepare
from memory.records import CameraStats, Float32, Float64, FrameRecord, Json, StoreStatus
from memory.recovery import Layout, open_and_recover, release_freed
from memory.redating import put_in_order, redate
from memory.segments import Segment, Shared
from memory.window import Part, Window, Within, lower_bounds, parts_of, read_places, records_of, time_range
from memory.writer import Writer


class MemoryStore:
    """Stores the frames of all cameras in one folder, which only one process can open at a time."""

    def __init__(
        self, folder: Path, *, embedding_dim: int, limits: Limits, patch_shape: tuple[int, int],
        patch_dtype: npt.DTypeLike = "float16", num_scalars: int = 3, encoder: str = "",
        camera_limits: Mapping[str, Limits] | None = None, folder_limits: FolderLimits | None = None,
    ) -> None:  # fmt: skip
        """Open or create the folder.

        embedding_dim: D. patch_shape: (M, C), the number and width of a frame's patch features. num_scalars: S, the
        number of scalars stored with each patch. encoder: name of the network that makes the vectors; frames with
        vectors of another network become pending again. camera_limits: replace `limits` for single cameras.
        folder_limits: limits on all cameras together, see `cameras.py`.

        Raises StorageBusy, StorageFull or StorageError if the folder cannot be opened.
        """
        self._folder = Path(folder)
        self._sizes = (embedding_dim, patch_shape[1])
        self._patch_shape = patch_shape
        self._scalar_shape = (patch_shape[0], num_scalars)
        self._patch_dtype = np.dtype(patch_dtype)
        self._tag = encoder_tag(encoder)
        self._attaching = threading.Lock()  # allows one `attach` at a time; acquired before the other two
        self._rows = threading.Lock()  # guards the journal and the files; acquired before `_lock`
        self._lock = threading.Lock()  # guards the logs: all marks and counts of segments
        self._health = Health()
        patch_bytes = patch_shape[0] * (patch_shape[1] * self._patch_dtype.itemsize + 4 * num_scalars)
        self._logs = CameraLogs(
            self._folder / "segments", self._sizes, patch_bytes, limits=limits, camera_limits=camera_limits or {},
            folder_limits=folder_limits or FolderLimits(), shared=Shared(self._lock, self._health),
        )  # fmt: skip
        self._open()

    def _open(self) -> None:
        prepare()
        RESERVE.fill()
        segments = self._folder / "segments"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            segments.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise storage_error(error, f"cannot open {self._folder}") from error
        self._owner = lock_folder(self._folder)  # -1 after `close`
        layout = Layout(segments, self._logs.new_segment, self._sizes, self._tag)
        self._spare = SpareSpace(self._folder)
        path = self._folder / "journal.sqlite"
        try:
            self._journal, found = self._spare.lend(lambda: open_and_recover(path, layout))
        except BaseException:
            os.close(self._owner)
            raise
        self._files = {"lock": os.fstat(self._owner), path.name: path.stat()}
        self._recovered = found
        if found.problems:
            more = f"; and {len(found.problems) - 1} more" if len(found.problems) > 1 else ""
            self._health.failed("start", f"at start: {found.problems[-1]}{more}")
        if found.erasure_problem is not None:
            self._health.failed("erasing", found.erasure_problem)
        self._eviction = Eviction(self._journal)
        self._writer = Writer(self._journal, self._logs, self._eviction, vector_record_size(*self._sizes))
        self._erasing = Erasing(self._journal, segments, self._eviction, self._lock, self._logs.get, self._spare)
        while found.segments:  # popped, as a reference to a segment keeps its files
            self._adopt(*found.segments.popitem())
        release_freed()
        self._eviction.evict(self._logs.make_room())
        self._eviction.unlink_freed()
        self._spare.keep()

    def _adopt(self, camera: str, segments: list[Segment]) -> None:
        """Add a camera's recovered segments to its log, and apply the present limits to them."""
        log = self._logs.of(camera)
        for segment in segments:
            segment.closed = segment.closed or segment is not segments[-1]
            segment.seal_if_complete()
            log.segments.append(segment)
            room = vector_record_size(*self._sizes) * (segment.count - segment.num_encoded)
            log.grown(segment, segment.count, segment.frames_end + segment.vectors_end + room)
        put_in_order(log, self._journal, "uncertain")
        self._eviction.evict(log.trim())  # not by age, as there is no clock here
        self._logs.join_blocks(log)

    def append(
        self, camera: str, time: float, jpeg: bytes, metadata: Mapping[str, Json] | None = None,
        *, age_from: float = math.inf,
    ) -> int:  # fmt: skip
        """Store a frame and return its id. It is committed on return. Ids rise over all cameras and never repeat.

        time: capture time in unix seconds. It must be later than that of the camera's newest frame, else TimeNotRising
        is raised. age_from: the time from which the ages of old frames are measured, if it is earlier than `time`.

        Raises ValueError for an invalid name, time or metadata, or a frame larger than the limit on bytes. Raises
        StorageFull without disk space, and OutOfResources without memory or file descriptors; then nothing is stored,
        and the call can be repeated.
        """
        check_camera_name(camera)
        if not math.isfinite(time):
            raise ValueError(f"time must be finite, not {time}")
        text = metadata_text(metadata)
        with out_of_memory("remember a frame"), self._rows, self._lock:
            if self._owner < 0:
                raise StorageError("this memory is closed")
            return self._writer.append(self._logs.of(camera), float(time), bytes(jpeg), text, age_from)

    def attach(
        self, frame_id: int, *, embedding: Float32, summary: Float32, patches: npt.NDArray[Any] | None = None,
        scalars: Float32 | None = None,
    ) -> bool:  # fmt: skip
        """Add a frame's vectors and patch features. Return False if the frame is not stored any more.

        embedding (D,), not normalised; summary (C,); patches (M, C) with scalars (M, S), or neither. If the frame has
        vectors already, only the patch features are added, so that attaching them again changes no score. Patch
        features are kept only if the frame is hot, that is, among the newest frames of its camera. On a full disk, the
        vectors are kept in memory only and must be computed again after a restart. Raises ValueError for wrong shapes
        or numbers that are not finite, OutOfResources as `append` does.
        """
        _check_shape("embedding", embedding, self._sizes[:1])
        _check_shape("summary", summary, self._sizes[1:])
        if patches is not None or scalars is not None:
            _check_shape("patches", patches, self._patch_shape)
            _check_shape("scalars", scalars, self._scalar_shape)
        with out_of_memory("keep a frame's vectors"), self._attaching:
            with self._lock:
                found = self._logs.find(frame_id)
            if found is None:
                return False
            segment, slot = found
            if not segment.encoded[slot]:
                record = pack_vectors(frame_id, np.asarray(embedding, np.float32), np.asarray(summary), self._tag)
                segment.put_vectors({slot: unpack_vectors(record, self._sizes, self._tag)})
                with self._rows, self._lock:
                    if self._logs.find(frame_id) is None:
                        return False
                    if self._owner >= 0:  # or it was closed meanwhile, and the files may be another process's
                        self._writer.write_vectors(segment, frame_id, record)
                    segment.mark_encoded(slot)
                    segment.seal_if_complete()
            if patches is not None and scalars is not None and segment.hot and not segment.present[slot]:
                written = segment.put_patches(slot, patches, scalars, self._patch_dtype)
                with self._lock:
                    segment.mark_present(slot, written)
            return True

    def abandon(self, frame_id: int) -> None:
        """Mark a frame as impossible to encode, such as one with an invalid picture.

        Until the next start, it does not count as pending any more.
        """
        with self._lock:
            found = self._logs.find(frame_id)
            if found is not None:
                found[0].abandoned[found[1]] = True

    def pending(self, limit: int) -> list[int]:
        """Return the ids of at most `limit` frames that are not encoded yet, of all cameras, oldest first."""
        with self._lock:
            return first_ids(limit, (log.pending() for log in self._logs), newest_first=False)

    def pending_patches(self, limit: int) -> list[int]:
        """Return the ids of at most `limit` encoded frames whose patch features must be computed again, newest first.

        After a restart, these are all hot frames (the newest of each camera), as patch features are not stored on disk.
        """
        with self._lock:
            return first_ids(limit, (log.pending_patches() for log in self._logs), newest_first=True)

    def jpeg(self, frame_id: int) -> bytes:
        """Return the stored JPEG of a frame.

        Raises FrameGone (a KeyError) if the frame is not stored or its picture is damaged, StorageError if the picture
        cannot be read at the moment.
        """
        with self._lock:
            segment, slot = self._logs.held(frame_id)
        return segment.read_jpeg(slot)

    def record(self, frame_id: int) -> FrameRecord:
        """Return a frame's time, camera and metadata. Raises FrameGone if it is not stored."""
        with self._lock:
            segment, slot = self._logs.held(frame_id)
            metadata = load_metadata(segment.metadata[slot])
            return FrameRecord(frame_id, segment.camera, float(segment.times[slot]), metadata)

    def window(
        self, cameras: Sequence[str], after: float | Sequence[float] | None = None, before: float | None = None,
        where: Within | None = None,
    ) -> Window:  # fmt: skip
        """Return the encoded frames of these cameras with after <= time <= before, near `where`, as an immutable view.

        after: one bound for all cameras, or one for each. Cameras without frames contribute no rows. Raises ValueError
        for an invalid or repeated name, for NaN, and if there are several bounds but not one for each camera.
        """
        parts, unencoded, background = self._parts(cameras, after, before, where)
        return Window(
            tuple(cameras), parts, unencoded=unencoded, background=background,
            patch_shape=self._patch_shape, patch_dtype=self._patch_dtype, num_scalars=self._scalar_shape[1],
        )  # fmt: skip

    def count(
        self, cameras: Sequence[str], after: float | Sequence[float] | None = None, before: float | None = None,
        where: Within | None = None,
    ) -> tuple[int, int]:  # fmt: skip
        """Return how many rows the same `window` would have, and how many of its frames are not encoded yet."""
        parts, unencoded, _ = self._parts(cameras, after, before, where)
        return sum(part.num_rows for part in parts), unencoded

    def newest_times(self, camera: str, count: int) -> Float64:
        """Return the times of the camera's newest `count` encoded frames, rising."""
        with self._lock:
            log = self._logs.get(camera)
            return log.newest_times(count) if log else np.zeros(0)

    def _parts(
        self, cameras: Sequence[str], after: float | Sequence[float] | None, before: float | None, where: Within | None
    ) -> tuple[list[Part], int, Float32]:
        """Return the parts of a window, the number of frames not encoded, and each camera's mean embedding.

        The mean embeddings have the shape (num_cameras, D).
        """
        if len(set(cameras)) != len(cameras):
            raise ValueError(f"cameras must differ: {list(cameras)}")
        lowers, upper = lower_bounds(after, len(cameras)), time_range(None, before)[1]
        if where is not None:
            from_each = zip(cameras, lowers, strict=True)
            with self._lock:
                held = [each for camera, lower in from_each for each in self._logs.between(camera, lower, upper)]
            read_places(held)
        background = np.zeros((len(cameras), self._sizes[0]), np.float32)
        with self._lock:
            logs = [self._logs.get(camera) for camera in cameras]
            for number, log in enumerate(logs):
                if log is not None:
                    background[number] = log.background(self._sizes[0])
            parts, unencoded = parts_of(logs, lowers, upper, where)
        return parts, unencoded, background

    def records(
        self, camera: str, after: float | None = None, before: float | None = None, *, limit: int = 2**31
    ) -> list[FrameRecord]:
        """Return the first `limit` frames with after <= time <= before, encoded or not, by rising time."""
        with self._lock:
            held = self._logs.between(camera, *time_range(after, before))
        return list(islice(records_of(held, camera), max(0, limit)))

    def cameras(self) -> list[str]:
        """Return the names of the cameras with frames, sorted."""
        with self._lock:
            return sorted(log.camera for log in self._logs if log.segments)

    def stats(self, camera: str) -> CameraStats:
        """Return statistics of what is stored of a camera; all are zero for an unknown camera."""
        with self._lock:
            log = self._logs.get(camera)
            return log.stats() if log else CameraStats()

    @property
    def problem(self) -> str | None:
        """The current problems in one sentence for an operator, None without problems. Thread-safe."""
        return self._health.problem

    def status(self) -> StoreStatus:
        """Return counters of what has happened since the store was opened."""
        with self._lock:
            found = self._recovered
            gone = self._eviction.num_damaged + sum(s.num_gone for s in self._logs.segments())
            return StoreStatus(
                full=self._writer.full, appended=self._writer.num_appended, refused_full=self._writer.num_refused,
                evicted=self._eviction.num_evicted, erased=self._erasing.num_erased,
                frames_damaged=found.frames_damaged + gone, vectors_damaged=found.vectors_damaged,
                vectors_not_durable=self._writer.num_not_durable, journal_rebuilt=found.journal_rebuilt,
            )  # fmt: skip

    def erase(self, camera: str, after: float, before: float) -> int:
        """Erase a camera's frames with after <= time <= before, from memory and disk, for good. Return their number.

        Appends have to wait meanwhile; making and reading windows does not. Raises StorageError, whose message says
        whether the erasure will be completed later.
        """
        lower, upper = time_range(float(after), float(before))
        with out_of_memory("erase"), self._attaching, self._rows:
            if self._owner < 0:
                raise StorageError("this memory is closed")
            return self._erasing.erase(camera, lower, upper)

    def redate(self, camera: str, first_time: float, shift_s: float, clock: str) -> int:
        """Move a camera's frames from `first_time` on by `shift_s`, after a clock was wrong (`redating.py`).

        Return the number of moved frames. clock: written into their metadata as the value of "clock". Frames before
        `first_time` are moved, too, if the order of frames requires it. Raises StorageError if the change cannot be
        written; then no frame has moved.
        """
        with self._rows, self._lock:
            log = self._logs.get(camera)
            if self._owner < 0 or log is None:
                return 0
            return redate(log, self._journal, first_time, shift_s, clock)

    def expire(self, now: float) -> None:
        """Evict frames that are older than the age limits at the time `now` (unix seconds).

        `append` does this for cameras that send frames; this method also does it for the others.
        """
        with self._rows, self._lock:
            for log in self._logs if self._owner >= 0 else ():
                self._eviction.evict(log.trim(newest=now))

    def maintain(self) -> None:
        """Remove files of evicted segments, sync written files to disk, and checkpoint the store's SQLite database.

        A checkpoint moves what is in SQLite's write-ahead log into the database file. Call it every few seconds from a
        thread: this limits how many frames a power cut can lose, and the size of that log, so that no append has to
        wait for a checkpoint. After a StorageError, the next call tries again.
        """
        with out_of_memory("tidy up"):
            self._maintain()

    def _maintain(self) -> None:
        self._eviction.unlink_freed()
        RESERVE.fill()
        with self._attaching, self._rows:  # `_attaching`, as `finish` may replace segments
            if self._owner < 0:
                return
            if (problem := replaced(self._folder, self._files)) is not None:
                self._health.failed("folder", problem)
            else:
                self._health.works("folder")
            with self._lock:
                self._eviction.retry()
                self._eviction.purge_damaged(self._logs.segments())
            self._erasing.finish()
            self._health.works("erasing")
            self._spare.keep()
            written = self._writer.take_written()
        self._sync_files(written)
        self._journal.checkpoint()
        for log in self._logs:
            self._logs.join_blocks(log)
        self._logs.retry_unread()

    def _sync_files(self, written: set[Path]) -> None:
        try:
            sync_segments(written)
        except BaseException as error:
            with self._rows:
                self._writer.written |= written
            if isinstance(error, OSError):
                raise storage_error(error, "cannot sync") from error
            raise

    def close(self) -> None:
        """Close the store. Idempotent. Windows that were made before stay readable."""
        with self._attaching, self._rows, self._lock:
            if self._owner < 0:
                return
            try:
                self._eviction.retry()
                self._eviction.unlink_freed()
            finally:
                self._journal.close()
                os.close(self._owner)
                self._owner = -1

    def __enter__(self) -> "MemoryStore":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _check_shape(name: str, array: npt.NDArray[Any] | None, shape: tuple[int, ...]) -> None:
    found = None if array is None else np.shape(array)
    if found != shape:
        raise ValueError(f"{name} must have shape {shape}, not {found}")
