"""The memory: frames in, windows out. The only class of this package that others make.

    append   one frame is remembered: picture written, row committed, id returned       (the ingest thread)
    attach   its vectors and patches, when the encoder gets to it; any order            (the vision lane)
    window   an immutable view for a question                                           (any thread)
    maintain, expire, stats, jpeg, ...                                                  (any thread)

`append` and `attach` may wait for each other for one small write, and for an erasure; what only reads waits for neither.
Durability: `journal.py`; a start: `recovery.py`. Knows no model, no clock and no event loop.
"""

import math
import os
import threading
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from memory.args import check_shapes, first_ids, load_metadata, metadata_text
from memory.blocks import Block
from memory.camera_log import CameraLog
from memory.codec import encoder_tag, frame_record_size, pack_frame, pack_vectors, record_crc, unpack_vectors
from memory.codec import vector_record_size as vector_size
from memory.descriptors import RESERVE
from memory.erasure import Erasing
from memory.errors import FrameGone, OutOfResources, StorageError, StorageFull, TimeNotRising, out_of_memory
from memory.forgetting import Forgetting
from memory.health import Health
from memory.journal import Row
from memory.limits import Limits, check_camera_name
from memory.logs import CameraLogs
from memory.ranking import prepare
from memory.records import CameraStats, Float32, FrameRecord, Json, StoreStatus
from memory.recovery import Layout, open_and_recover, release_freed
from memory.redating import put_in_order, redate
from memory.segment_file import cut_to, lock_folder, storage_error, sync_segments, write_record
from memory.segments import Segment, Shared
from memory.sharing import FolderLimits
from memory.spare_space import SpareSpace
from memory.views import Within, begins, bounds, parts_of, read_places, records_of
from memory.window import Window


class MemoryStore:
    """See the module. One process owns a folder; StorageBusy for a second one."""

    def __init__(
        self,
        folder: Path,
        *,
        embedding_dim: int,
        limits: Limits,
        patch_shape: tuple[int, int],
        patch_dtype: npt.DTypeLike = "float16",
        num_scalars: int = 3,
        encoder: str = "",
        synchronous: Literal["normal", "full"] = "normal",
        camera_limits: Mapping[str, Limits] | None = None,
        folder_limits: FolderLimits | None = None,
    ) -> None:
        """embedding_dim D, patch_shape (M, C), num_scalars S beside each patch. encoder: names the network; vectors of
        another one are not used but made again (their frames are pending). camera_limits: of single cameras, instead
        of `limits`. folder_limits: of all cameras together, see `sharing.py`.

        StorageBusy, StorageFull or StorageError if the folder cannot be opened.
        """
        self._folder = Path(folder)
        self._sizes = (embedding_dim, patch_shape[1])
        self._patch_shape = patch_shape
        self._scalar_shape = (patch_shape[0], num_scalars)
        self._patch_dtype = np.dtype(patch_dtype)
        self._tag = encoder_tag(encoder)
        self._sync = synchronous == "full"
        self._attaching = threading.Lock()  # one attach at a time; taken before the others
        self._rows = threading.Lock()  # the journal and the files; taken before `_lock`
        self._lock = threading.Lock()  # all marks and counts
        self._health = Health()
        num_patches, width = patch_shape
        self._logs = CameraLogs(
            self._folder / "segments", self._sizes, num_patches * (width * self._patch_dtype.itemsize + 4 * num_scalars),
            limits=limits, camera_limits=camera_limits or {}, folder_limits=folder_limits or FolderLimits(),
            sync=self._sync, shared=Shared(self._lock, self._health),
        )  # fmt: skip
        self._dirty: set[Path] = set()  # files written since the last `maintain`
        self._full = False
        self._appended = self._refused_full = self._vectors_not_durable = 0
        self._open(synchronous)

    def _open(self, synchronous: Literal["normal", "full"]) -> None:
        prepare()
        RESERVE.fill()
        segments = self._folder / "segments"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            segments.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise storage_error(error, f"cannot open {self._folder}") from error
        self._owner = lock_folder(self._folder)
        layout = Layout(segments, self._logs.new_segment, self._sizes, self._tag)
        self._spare = SpareSpace(self._folder)
        journal_path = self._folder / "journal.sqlite"
        try:
            self._journal, found = self._spare.lend(
                lambda: open_and_recover(journal_path, layout, synchronous=synchronous)
            )
        except BaseException:
            os.close(self._owner)
            raise
        self._journal_file = journal_path.stat()
        self._recovered = found
        if found.problems:
            more = f"; and {len(found.problems) - 1} more" if len(found.problems) > 1 else ""
            self._health.failed("start", f"at start: {found.problems[-1]}{more}")
        if found.erasure_problem is not None:
            self._health.failed("erasing", found.erasure_problem)
        self._forgetting = Forgetting(self._journal)
        self._erasing = Erasing(self._journal, segments, self._forgetting, self._lock, self._logs.get, self._spare)
        while found.segments:  # kept nowhere but in the logs: a segment that is held keeps its files
            self._adopt(*found.segments.popitem())
        release_freed()
        self._forgetting.forget(self._logs.make_room())
        self._forgetting.unlink_freed()
        self._spare.keep()

    def _adopt(self, camera: str, segments: list[Segment]) -> None:
        """Takes over what was recovered, under today's limits."""
        log = self._logs.of(camera)
        for segment in segments:
            segment.closed = segment.closed or segment is not segments[-1]
            segment.seal_if_complete()
            log.segments.append(segment)
            room = vector_size(*self._sizes) * (segment.count - segment.num_encoded)
            log.grown(segment, segment.count, segment.frames_end + segment.vectors_end + room)
        put_in_order(log, self._journal, "uncertain")
        self._forgetting.forget(log.trim())  # age is measured by a clock, and none is known here
        self._make_blocks(log)

    def append(
        self, camera: str, time: float, jpeg: bytes, metadata: Mapping[str, Json] | None = None,
        *, age_from: float = math.inf,
    ) -> int:  # fmt: skip
        """Remembers a frame; returns its frame_id, rising over all cameras, never given twice.

        time: capture, unix seconds, after every remembered frame of this camera. Committed when this returns.
        age_from: the age limit is measured from this time where it is before `time`.
        TimeNotRising; ValueError for a bad name, time, metadata, or a frame larger than the byte cap; StorageFull if
        there is no space (nothing is remembered, what was remembered stays usable, the next append tries again);
        OutOfResources if the system is short of memory or descriptors (nothing is remembered: make the same call again).
        """
        check_camera_name(camera)
        if not math.isfinite(time):
            raise ValueError(f"time must be finite, not {time}")
        text = metadata_text(metadata)
        with out_of_memory("remember a frame"), self._rows, self._lock:
            if self._owner < 0:
                raise StorageError("this memory is closed")
            log = self._logs.of(camera)
            while True:
                try:
                    frame_id = self._append(log, float(time), bytes(jpeg), text, age_from)
                except StorageFull:
                    self._full = True
                    if self._forgetting.unlink_freed():
                        continue
                    given_back = self._logs.give_to_full_disk(log)
                    if not given_back:
                        self._refused_full += 1
                        raise
                    self._forgetting.forget(given_back)
                    del given_back  # a segment that is held keeps its files
                    self._forgetting.unlink_freed()
                else:
                    self._full = False
                    self._appended += 1
                    return frame_id

    def _append(self, log: CameraLog, time: float, jpeg: bytes, text: str, age_from: float) -> int:
        newest = log.newest_time
        if newest is not None and time <= newest:
            raise TimeNotRising(f"camera {log.camera}: time {time!r} is not after {newest!r}")
        cost = frame_record_size(len(jpeg), len(text.encode())) + vector_size(*self._sizes)
        if cost > log.limits.bytes:
            raise ValueError(f"camera {log.camera}: a frame of {cost} bytes exceeds the cap of {log.limits.bytes}")
        # make room first: on a disk that is exactly full, forgetting the oldest is what lets recording go on
        self._forgetting.forget(log.trim(newest=min(time, age_from), incoming_frames=1, incoming_bytes=cost))
        self._forgetting.forget(self._logs.make_room(1, cost))
        frame_id = self._journal.next_id()
        record = pack_frame(frame_id, time, text, jpeg)
        segment = log.open_segment() or self._logs.start_segment(log.camera, frame_id)
        write_record(segment.frames_path, segment.frames_end, record, sync=self._sync)
        self._dirty.add(segment.frames_path)
        offset = segment.frames_end
        row = Row(frame_id, log.camera, segment.segment_id, time, text, offset, len(record), record_crc(record))
        try:
            self._journal.insert(row)
        except BaseException:
            cut_to(segment.frames_path, offset)  # refused is refused: a restart must not find it there
            raise
        if segment.count == 0:
            log.segments.append(segment)
        segment.add(frame_id, time, text, offset, len(record))
        log.grown(segment, 1, cost)
        return frame_id

    def attach(
        self,
        frame_id: int,
        *,
        embedding: Float32,
        summary: Float32,
        patches: npt.NDArray[Any] | None = None,
        scalars: Float32 | None = None,
    ) -> bool:
        """Gives a frame its vectors, once, and its patches while it is hot. False: it is not remembered any more.

        embedding (D,) as the encoder gives it; summary (C,); patches (M, C) and scalars (M, S), or neither. Vectors
        already attached are kept (a rebuild of patches changes no score). ValueError for wrong shapes or numbers
        that are not finite. OutOfResources as from `append`: make the same call again. A full disk is no error: the
        vectors live in memory then, and are made again at a restart.
        """
        check_shapes(embedding=(embedding, self._sizes[:1]), summary=(summary, self._sizes[1:]))
        if patches is not None or scalars is not None:
            check_shapes(patches=(patches, self._patch_shape), scalars=(scalars, self._scalar_shape))
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
                    self._keep_vectors(segment, frame_id, record)
                    segment.mark_encoded(slot)
                    segment.seal_if_complete()
            if patches is not None and scalars is not None and segment.hot and not segment.present[slot]:
                block = segment.put_patches(slot, patches, scalars, self._patch_dtype)
                with self._lock:
                    segment.mark_present(slot, block)
            return True

    def _keep_vectors(self, segment: Segment, frame_id: int, record: bytes) -> None:
        if self._owner < 0:  # closed under a lane that still works: the files may be another process's now
            return
        try:
            write_record(segment.vectors_path, segment.vectors_end, record, sync=self._sync)
            self._dirty.add(segment.vectors_path)
            try:
                self._journal.set_vectors(frame_id, segment.vectors_end, record_crc(record))
            except StorageFull:
                raise
            except StorageError:
                # whether the row names this place is unknown: nothing else may come here
                segment.vectors_end += len(record)
                raise
        except OutOfResources:
            raise  # the same call may succeed in a moment
        except StorageError:
            # the picture is the durable thing; what was computed from it can be computed again
            self._vectors_not_durable += 1
        else:
            segment.vectors_end += len(record)

    def abandon(self, frame_id: int) -> None:
        """This frame cannot be encoded (its picture does not decode): it is pending no longer, until the next start."""
        with self._lock:
            found = self._logs.find(frame_id)
            if found is not None:
                found[0].abandoned[found[1]] = True

    def pending(self, limit: int, *, newest_first: bool = False) -> list[int]:
        """Ids of at most `limit` frames not yet attached, of all cameras, oldest first by default."""
        with self._lock:
            each = (log.pending(newest_first=newest_first) for log in self._logs)
            return first_ids(limit, each, newest_first=newest_first)

    def pending_patches(self, limit: int, *, newest_first: bool = True) -> list[int]:
        """Ids of at most `limit` encoded hot frames without patches (after a restart): what a rebuild goes through."""
        with self._lock:
            each = (log.pending_patches(newest_first=newest_first) for log in self._logs)
            return first_ids(limit, each, newest_first=newest_first)

    def jpeg(self, frame_id: int) -> bytes:
        """The picture as it was appended. FrameGone (a KeyError) if it is not remembered or damaged, StorageError if it
        cannot be read now."""
        with self._lock:
            segment, slot = self._logs.held(frame_id)
        return segment.read_jpeg(slot)

    def record(self, frame_id: int) -> FrameRecord:
        """FrameGone if it is not remembered."""
        with self._lock:
            segment, slot = self._logs.held(frame_id)
            metadata = load_metadata(segment.metadata[slot])
            return FrameRecord(frame_id, segment.camera, float(segment.times[slot]), metadata)

    def window(
        self, cameras: Sequence[str], after: float | Sequence[float] | None = None, before: float | None = None,
        where: Within | None = None,
    ) -> Window:  # fmt: skip
        """Encoded frames of these cameras with after <= time <= before, and `where` they were, as an immutable view.

        after: one for all cameras, or one for each. A camera without memory contributes no rows. ValueError for a bad or
        repeated name, a NaN, or another number of bounds than cameras.
        """
        if len(set(cameras)) != len(cameras):
            raise ValueError(f"cameras must differ: {list(cameras)}")
        lowers, upper = begins(after, len(cameras)), bounds(None, before)[1]
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
        return Window(
            tuple(cameras), parts, unencoded=unencoded, background=background,
            patch_shape=self._patch_shape, patch_dtype=self._patch_dtype, num_scalars=self._scalar_shape[1],
        )  # fmt: skip

    def records(
        self, camera: str, after: float | None = None, before: float | None = None, *, limit: int = 2**31
    ) -> list[FrameRecord]:
        """The first `limit` frames with after <= time <= before, encoded or not, by rising time."""
        with self._lock:
            held = self._logs.between(camera, *bounds(after, before))
        return list(islice(records_of(held, camera), max(0, limit)))

    def cameras(self) -> list[str]:
        """Names of the cameras that are remembered, sorted."""
        with self._lock:
            return sorted(log.camera for log in self._logs if log.segments)

    def stats(self, camera: str) -> CameraStats:
        """All zero for a camera that is not remembered."""
        with self._lock:
            log = self._logs.get(camera)
            return log.stats() if log else CameraStats(0, 0, 0, 0, 0, None, None)

    @property
    def problem(self) -> str | None:
        """What does not work now, in words for an operator; None: nothing is known to be wrong. Any thread."""
        return self._health.problem

    def status(self) -> StoreStatus:
        with self._lock:
            found = self._recovered
            gone = self._forgetting.num_damaged + sum(s.num_gone for s in self._logs.segments())
            return StoreStatus(
                self._full, self._appended, self._refused_full, self._forgetting.num_evicted, self._erasing.num_erased,
                found.frames_damaged + gone, found.vectors_damaged, self._vectors_not_durable,
                found.journal_rebuilt,
            )  # fmt: skip

    def erase(self, camera: str, after: float, before: float) -> int:
        """Removes every frame of a camera with after <= time <= before, from memory and disk, for good: `erasure.py`.

        Returns how many. Appends wait, windows do not. StorageError, whose message says whether it will be completed.
        """
        lower, upper = bounds(float(after), float(before))
        with out_of_memory("erase"), self._attaching, self._rows:
            if self._owner < 0:
                raise StorageError("this memory is closed")
            return self._erasing.erase(camera, lower, upper)

    def redate(self, camera: str, first_time: float, shift_s: float, clock: str) -> int:
        """Moves the frames from `first_time` on by `shift_s`, as the clock that stamped them was wrong: `redating.py`.

        `clock` stands in their metadata from then on. Returns how many were moved: back, more than asked for where order
        demands it. StorageError: nothing was moved.
        """
        with self._rows, self._lock:
            log = self._logs.get(camera)
            if self._owner < 0 or log is None:
                return 0
            return redate(log, self._journal, first_time, shift_s, clock)

    def expire(self, now: float) -> None:
        """Applies the age limit to a wall clock (unix seconds), also for cameras that send nothing any more."""
        with self._rows, self._lock:
            for log in self._logs if self._owner >= 0 else ():
                self._forgetting.forget(log.trim(newest=now))

    def maintain(self) -> None:
        """Call every few seconds from a worker thread: removes files of what left, syncs what was written since.

        This bounds what a power cut can take (`synchronous="normal"`), and keeps the WAL short without an append ever
        waiting for a checkpoint. StorageError if the disk refuses; the next call tries again.
        """
        with out_of_memory("tidy up"):
            self._maintain()

    def _maintain(self) -> None:
        self._forgetting.unlink_freed()
        RESERVE.fill()
        # of attaching too: an erasure that began without its caller's knowledge replaces segments
        with self._attaching, self._rows:
            if self._owner < 0:
                return
            self._look_at_folder()
            with self._lock:
                self._forgetting.retry()
                self._forgetting.purge_damaged(self._logs.segments())
            self._erasing.finish()
            self._health.works("erasing")
            self._spare.keep()
            dirty, self._dirty = self._dirty, set()
        try:
            sync_segments(dirty)
        except BaseException as error:
            with self._rows:
                self._dirty |= dirty
            if isinstance(error, OSError):
                raise storage_error(error, "cannot sync") from error
            raise
        self._journal.checkpoint()
        for log in self._logs:
            self._make_blocks(log)
        self._read_unread()

    def _read_unread(self) -> None:
        """Tries again what could not be read, for `problem`: nobody else may ever look at that picture again."""
        with self._lock:
            unread = [(segment, segment.unread) for segment in self._logs.segments() if segment.unread is not None]
        for segment, slot in unread:
            try:
                segment.read_jpeg(slot)
            except FrameGone:
                continue
            except StorageError:
                return  # the next call tries again; on a disk that fails, each try may take seconds

    def _look_at_folder(self) -> None:
        """Whether the files we hold open are still those of the folder."""
        try:
            there = [(self._folder / name).stat() for name in ("lock", "journal.sqlite")]
            same = os.path.samestat(there[0], os.fstat(self._owner)) and os.path.samestat(there[1], self._journal_file)
        except FileNotFoundError:
            same = False
        except OSError as error:
            self._health.failed("folder", f"{self._folder} cannot be looked at: {error.strerror}")
            return
        if same:
            self._health.works("folder")
        else:
            self._health.failed(
                "folder",
                f"{self._folder} was removed or replaced while it is in use: what is remembered now will be lost; restart",
            )

    def _make_blocks(self, log: CameraLog) -> None:
        """Sealed segments behind the hot window join: `blocks.py`. The copying keeps nobody waiting."""
        with self._lock:
            for segment in log.segments:
                segment.seal_if_complete()  # one that found no memory for it before
        while True:
            with self._lock:
                run = log.next_run()
            if not run:
                return
            block = Block(run)
            with self._lock:
                if log.next_run() != run:  # something left or was erased meanwhile: the next call tries without it
                    return
                block.adopt()

    def close(self) -> None:
        """Ends this store; windows made before stay readable. Idempotent."""
        with self._attaching, self._rows, self._lock:
            if self._owner < 0:
                return
            try:
                self._forgetting.retry()
                self._forgetting.unlink_freed()
            finally:
                self._journal.close()
                os.close(self._owner)
                self._owner = -1

    def __enter__(self) -> "MemoryStore":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
