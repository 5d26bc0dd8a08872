"""Segments: up to `capacity` consecutive frames of one camera, in two files on disk and in arrays in memory.

A frame gets a slot (a position in the arrays) when it is appended. It is encoded later: its vectors (embedding and
summary) and patch features are written into the slot once, and then the frame is marked as encoded. Readers copy the
marks, and read only what was marked, so nothing that a reader uses is ever written again. Patch features are kept for
the newest frames only, those of hot segments; the other segments are cold.

A full segment is sealed when all its frames are encoded: its embeddings move into a FAISS index. The first `floor`
slots of a segment are evicted.

A million frames are 4,000 segments, and searching each takes 30 microseconds. So sealed cold segments are joined into
blocks of 16, whose rows share one index. A window that covers all frames of a block searches the block as a whole.

Thread safety: the store's lock guards marks and counts; only the thread that attaches vectors writes into the arrays.
"""

import errno
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.codec import StoredVectors, decode, place_of, scale_of, unpack_frame
from memory.errors import FrameGone, Health, OutOfResources, RecordDamaged, StorageError, out_of_memory
from memory.files import read_record, segment_paths
from memory.ranking import Index, build_index, chunks, index_rows
from memory.records import Bool, Float16, Float32, Float64, Int64

SUM_UNIT = 2.0**-36
"""Sums of embeddings are rounded to integer multiples of this. So their total does not depend on the order of adding."""
BLOCK_SEGMENTS = 16
"""With 256 frames a segment and D = 512, a block holds 4 MiB of embeddings, copied in 1-2 ms."""
_VECTOR_ARRAYS = ("halves", "scales", "norms", "summaries")
_BLOCK_ARRAYS = (*_VECTOR_ARRAYS, "frame_ids", "times")
_SLOT_ARRAYS = (*_BLOCK_ARRAYS, "offsets", "lengths", "encoded", "abandoned", "gone", "present")


@dataclass(frozen=True, slots=True)
class Shared:
    """Objects that all segments of a store share: the lock for marks and counts, and the current problems."""

    lock: AbstractContextManager[object] = field(default_factory=threading.Lock)
    health: Health = field(default_factory=Health)


class Segment:
    """Up to `capacity` consecutive frames of one camera. A frame's slot is its position in the segment's arrays.

    `segment_id` is the id of the first frame; the files are named after it.
    """

    def __init__(
        self, segment_id: int, camera: str, folder: Path, *, capacity: int, embedding_dim: int, summary_dim: int,
        shared: Shared | None = None,
    ) -> None:  # fmt: skip
        self.shared = shared or Shared()
        self.segment_id = segment_id
        self.camera = camera
        self.frames_path, self.vectors_path = segment_paths(folder, segment_id)
        self.capacity = capacity
        self.count = 0
        self.floor = 0  # evicted slots at the start
        self.closed = False  # no more frames are appended
        self.hot = True  # patch features are kept
        self.evicted = False  # a window may still use it, but its files may be removed at any time
        self.unread: int | None = None  # slot of the last unreadable picture, which `maintain` reads again
        self.bytes = 0  # counted for the camera's limit: frame records, and room for vector records
        self.frames_end = 0  # committed ends of the two files
        self.vectors_end = 0
        self.frame_ids: Int64 = np.zeros(capacity, np.int64)
        self.times: Float64 = np.zeros(capacity, np.float64)
        self.offsets: Int64 = np.zeros(capacity, np.int64)
        self.lengths: Int64 = np.zeros(capacity, np.int64)
        self.metadata: list[str] = []
        self.encoded: Bool = np.zeros(capacity, np.bool_)
        self.abandoned: Bool = np.zeros(capacity, np.bool_)  # cannot be encoded: never pending
        self.gone: Bool = np.zeros(capacity, np.bool_)  # damaged or erased
        self.present: Bool = np.zeros(capacity, np.bool_)  # patches are in memory
        self.num_encoded = 0  # true values in `encoded`
        self.num_gone = 0  # true values in `gone`
        self.halves: Float16 = np.zeros((capacity, embedding_dim), np.float16)
        self.scales: Float32 = np.ones(capacity, np.float32)
        self.norms: Float32 = np.zeros(capacity, np.float32)
        self.summaries: Float16 = np.zeros((capacity, summary_dim), np.float16)
        self.patches: npt.NDArray[Any] | None = None  # (capacity, M, C)
        self.scalars: Float32 | None = None  # (capacity, M, S)
        self.index: Index | None = None  # FAISS index, once sealed: its own, or that of its block
        self.index_start = 0  # position of the segment's first row in the index
        self.block: Block | None = None
        self._sum: tuple[tuple[int, int, int], Int64, int] | None = None
        self._places: Float64 = np.zeros((0, 2))

    def add(self, frame_id: int, time: float, metadata: str, offset: int, length: int) -> int:
        """Add a frame whose row is committed, in the next free slot. Return the slot."""
        slot = self.count
        self.frame_ids[slot], self.times[slot] = frame_id, time
        self.offsets[slot], self.lengths[slot] = offset, length
        self.metadata.append(metadata)
        self.frames_end = max(self.frames_end, offset + length)
        self.count += 1
        return slot

    def slot_of(self, frame_id: int) -> int | None:
        """Return the slot of a frame (its position in the segment), None if it is not stored here any more."""
        slot = int(np.searchsorted(self.frame_ids[: self.count], frame_id))
        held = self.floor <= slot < self.count and self.frame_ids[slot] == frame_id and not self.gone[slot]
        return slot if held else None

    def live(self) -> slice:
        """Return, as a slice, the positions in the segment ("slots") of the frames that are not evicted."""
        return slice(self.floor, self.count)

    def put_vectors(self, vectors: Mapping[int, StoredVectors]) -> None:
        """Write vectors (embedding and summary of a frame) into the arrays, at the positions ("slots") of their frames.

        Readers see them after `mark_encoded`.
        """
        slots = list(vectors)
        for slot, stored in vectors.items():
            self.halves[slot], self.norms[slot], self.summaries[slot] = stored.half, stored.norm, stored.summary
        self.scales[slots] = scale_of(self.halves[slots])  # in one call, as there are many at a start

    def mark_encoded(self, slot: int) -> None:
        self.encoded[slot] = True
        self.num_encoded += 1

    def seal_if_complete(self) -> None:
        """Seal the segment if it is full and all its frames are encoded: move the embeddings into a FAISS index.

        Then `halves` is a view of the index, so that the embeddings are in memory once; earlier views keep the old
        array. A segment with a frame that cannot be encoded is never sealed. It is searched without an index.
        """
        if self.index is not None or not self.closed or self.num_encoded != self.count:
            return
        try:
            index = build_index(self.halves[: self.count])
        except MemoryError:
            return  # searched without an index until `maintain` tries again
        self.index, self.halves = index, index_rows(index)
        with suppress(MemoryError):
            self.embedding_sum()  # computed and cached now, as a window needs those of all segments

    def place(self, slot: int) -> tuple["Segment", int]:
        """Return this segment and `slot`, a frame's position in it.

        For a block, the method of the same name returns one of its segments.
        """
        return self, slot

    def put_patches(
        self, slot: int, patches: npt.NDArray[Any], scalars: Float32, dtype: np.dtype[Any]
    ) -> npt.NDArray[Any]:
        """Write a frame's patch features and their scalars into the arrays, at its position `slot`.

        Return the array of patch features, which is allocated on first use and which the caller passes to
        `mark_present`.
        """
        all_patches, all_scalars = self.patches, self.scalars  # `cool` may drop them meanwhile
        if all_patches is None or all_scalars is None:
            # zeros: the system provides pages when first touched, and absent rows read as zero
            self.patches = all_patches = np.zeros((self.capacity, *patches.shape), dtype)
            self.scalars = all_scalars = np.zeros((self.capacity, *scalars.shape), np.float32)
        all_patches[slot], all_scalars[slot] = patches, scalars
        return all_patches

    def mark_present(self, slot: int, patches: npt.NDArray[Any]) -> None:
        """Let readers use the patch features at position `slot`, which were written to the array `patches`.

        Does nothing if `cool` has dropped that array since.
        """
        if not self.hot:
            self.patches = self.scalars = None  # `put_patches` allocated them after `cool`
        elif self.patches is patches:
            self.present[slot] = True

    def cool(self) -> None:
        """Make the segment cold: drop its patch features. Windows that use them keep their arrays."""
        self.hot = False
        self.patches = self.scalars = None
        self.present = np.zeros(self.capacity, np.bool_)

    def embedding_sum(self) -> tuple[Int64, int]:
        """Return the sum (D,) of the stored unit embeddings in multiples of SUM_UNIT, and their number.

        The sum is exactly the same after a restart.
        """
        key = (self.floor, self.num_encoded, self.num_gone)
        if self._sum is None or self._sum[0] != key:
            rows = np.flatnonzero(self.encoded[self.live()] & ~self.gone[self.live()]) + self.floor
            total = np.zeros(self.halves.shape[1])
            for chunk in chunks(len(rows)):
                total += decode(self.halves[rows[chunk]], self.scales[rows[chunk]]).sum(axis=0, dtype=np.float64)
            self._sum = key, np.rint(total / SUM_UNIT).astype(np.int64), len(rows)
        return self._sum[1], self._sum[2]

    def places(self) -> Float64:
        """Return the coordinates x and y in the frames' metadata, (count, 2); NaN for frames without. Parsed once."""
        places = self._places  # read once: another thread may be doing the same
        missing = self.metadata[len(places) : self.count]
        if missing:
            places = self._places = np.concatenate([places, [place_of(text) for text in missing]])
        return places

    def counts(self) -> tuple[int, int, int]:
        """Return three numbers of frames: stored, encoded, and with patch features in memory."""
        if not self.floor and not self.num_gone:  # the usual case; a camera has thousands of segments
            return self.count, self.num_encoded, int(self.present.sum()) if self.hot else 0
        held = ~self.gone[self.live()]
        encoded, present = self.encoded[self.live()] & held, self.present[self.live()] & held
        return int(held.sum()), int(encoded.sum()), int(present.sum())

    def without(self, erased: Bool) -> "Segment":
        """Return a copy of the segment without the frames marked in `erased` (count,). It is closed to new frames.

        It has the same id and files, and the records keep their positions in them. Slots 0-5 with floor 2, of which 1
        and 3 are erased: the copy has slots 0-3 (formerly 0 2 4 5) and floor 1.
        """
        kept = np.flatnonzero(~erased)
        other = Segment(
            self.segment_id, self.camera, self.frames_path.parent, capacity=len(kept),
            embedding_dim=self.halves.shape[1], summary_dim=self.summaries.shape[1], shared=self.shared,
        )  # fmt: skip
        for name in _SLOT_ARRAYS:
            getattr(other, name)[:] = getattr(self, name)[kept]
        if self.patches is not None and self.scalars is not None:
            other.patches, other.scalars = self.patches[kept], self.scalars[kept]
        other.metadata = [self.metadata[slot] for slot in kept]
        other.count, other.num_encoded, other.num_gone = len(kept), int(other.encoded.sum()), int(other.gone.sum())
        other.floor, other.hot, other.closed = int((~erased[: self.floor]).sum()), self.hot, True
        other.frames_end, other.vectors_end = int((other.offsets + other.lengths).max()), self.vectors_end
        # zeros use disk space just as records do, and room for vectors is counted from the start
        other.bytes = self.bytes - (self.frames_end - other.frames_end)
        other.seal_if_complete()
        return other

    def content(self) -> list[npt.NDArray[Any]]:
        """Return all arrays that were computed from the pictures, to be overwritten. Keep `index` alive meanwhile."""
        return [a for a in (self.halves, self.norms, self.summaries, self.patches, self.scalars) if a is not None]

    def lose(self, slots: Int64) -> None:
        """Mark the frames in these slots as erased, so that no window can read their pictures or metadata any more."""
        self.gone[slots] = True
        self.num_gone = int(self.gone.sum())
        self._is_readable()
        for slot in slots:
            self.metadata[slot] = ""
        self._places = np.zeros((0, 2))

    def read_jpeg(self, slot: int) -> bytes:
        """Return the stored JPEG. Do not call under the store's lock, which this method takes.

        Raises FrameGone if the picture was erased or is damaged; a damaged frame is dropped for good. Raises
        StorageError or OutOfResources if the picture cannot be read at the moment; a later call may succeed.
        """
        frame_id = int(self.frame_ids[slot])
        if self.gone[slot]:
            raise FrameGone(f"frame {frame_id} was erased, or found damaged and dropped")
        try:
            with out_of_memory("read a picture"):
                record = read_record(self.frames_path, int(self.offsets[slot]), int(self.lengths[slot]))
                jpeg = unpack_frame(record, frame_id).jpeg
        except RecordDamaged as error:
            with self.shared.lock:
                self.gone[slot] = True
                self.num_gone = int(self.gone.sum())
            self._is_readable(slot)
            raise FrameGone(f"frame {frame_id} is damaged on disk and was dropped: {error}") from error
        except OutOfResources:
            raise  # not a problem of the disk
        except StorageError as error:
            if self.evicted and error.errno == errno.ENOENT:
                raise FrameGone(f"frame {frame_id} was forgotten") from error
            if not self.evicted:  # nobody would ever clear the problem of an evicted segment
                self.unread = slot
                self.shared.health.failed(str(self.frames_path), f"pictures cannot be read: {error.strerror or error}")
            raise
        self._is_readable(slot)
        return jpeg

    def _is_readable(self, slot: int | None = None) -> None:
        """Forget the reported problem that a picture of this segment cannot be read at the moment.

        slot: position of a picture that was read, or found damaged; only a problem with that one is forgotten. None:
        any.
        """
        if slot is None or self.unread == slot:
            self.unread = None
            self.shared.health.works(str(self.frames_path))


class Block:
    """Sealed cold segments whose embeddings lie in one search index. Arrays (count, ...) have the frames' order.

    Segments of 4 frames, two per block: segments [1 2 3 4] and [5 6 7 8] become one block of 8 rows, whose row 6 is
    slot 2 of the second segment. Limits, files and marks stay with the segments, whose arrays become views of the
    block's arrays. Once a frame is evicted or erased, the block is not whole any more, and its segments are searched
    one by one.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        """Copy the rows of the segments into common arrays. Call `adopt` to make the segments use the copy."""
        self.segments = tuple(segments)
        self.starts: Int64 = np.cumsum([0, *(s.count for s in segments[:-1])])
        self.count = self.capacity = sum(s.count for s in segments)
        self.index = build_index(np.concatenate([s.halves[: s.count] for s in segments]))
        self.halves: Float16 = index_rows(self.index)
        self.scales: Float32 = self._joined("scales")
        self.norms: Float32 = self._joined("norms")
        self.summaries: Float16 = self._joined("summaries")
        self.frame_ids: Int64 = self._joined("frame_ids")
        self.times: Float64 = self._joined("times")
        sums = [s.embedding_sum() for s in segments]
        self._sum = np.sum([total for total, _ in sums], axis=0), sum(num for _, num in sums)

    def _joined(self, name: str) -> Any:
        return np.concatenate([getattr(s, name)[: s.count] for s in self.segments])

    def adopt(self) -> None:
        """Make the segments' arrays views of this block's arrays. The block must be whole.

        Views that were taken before keep the old arrays.
        """
        for segment, start in zip(self.segments, self.starts.tolist(), strict=True):
            for name in _BLOCK_ARRAYS:
                setattr(segment, name, getattr(self, name)[start : start + segment.count])
            segment.index, segment.index_start, segment.block = self.index, start, self

    def dissolve(self) -> None:
        """Undo the joining, so that the segments are searched one by one again.

        Their arrays stay views of the block's arrays, so no memory is freed.
        """
        for segment in self.segments:
            segment.block = None

    @property
    def whole(self) -> bool:
        """True while no frame of the block was evicted, erased or found damaged."""
        return not any(s.floor or s.num_gone for s in self.segments)

    def place(self, slot: int) -> tuple[Segment, int]:
        """Return the segment, and the slot in it, of the block's row `slot`."""
        number = int(np.searchsorted(self.starts, slot, side="right")) - 1
        return self.segments[number], slot - int(self.starts[number])

    def embedding_sum(self) -> tuple[Int64, int]:
        """Return the sum and number of the embeddings (see `Segment.embedding_sum`). Valid while the block is whole."""
        return self._sum


def next_run(segments: Sequence[Segment]) -> list[Segment]:
    """Return the oldest BLOCK_SEGMENTS consecutive segments that can be joined into a block, or [] if there are none.

    segments: the camera's, oldest first. A segment with a frame that cannot be encoded never becomes part of a block.
    """
    run: list[Segment] = []
    for segment in segments:
        if segment.hot:
            break
        joins = segment.block is None and segment.index is not None and not (segment.floor or segment.num_gone)
        run = [*run, segment] if joins else []
        if len(run) == BLOCK_SEGMENTS:
            return run
    return []
