"""A segment: up to `capacity` consecutive frames of one camera, on disk as two files and in memory as arrays.

A frame has a slot from the moment it is appended; its vectors and patches are written into that slot once, later, and
only then marked. Readers take copies of the marks and views of the arrays, so nothing that a reader may use is ever
written again. A full segment whose frames are all encoded is sealed: its rows move into a FAISS index. Sealed segments
behind the hot window are put together into blocks (`blocks.py`).

`floor` slots at the start are logically evicted. Knows nothing of limits, rows of the journal or other segments.
Thread safety: the store's lock guards all marks and counts; array contents are written by the one attaching thread.
"""

import errno
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.args import place_of
from memory.codec import StoredVectors, unpack_frame
from memory.errors import FrameGone, OutOfResources, RecordDamaged, StorageError, out_of_memory
from memory.halves import decode, scale_of
from memory.health import Health
from memory.ranking import build_index, chunks, index_rows
from memory.records import Bool, Float16, Float32, Float64, Int64
from memory.segment_file import read_record, segment_paths

SUM_UNIT = 2.0**-36
"""Sums of embeddings are whole multiples of it: whole numbers give the same total however they are grouped."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all segments of one store have in common."""

    lock: AbstractContextManager[object] = field(default_factory=threading.Lock)  # of marks and counts
    health: Health = field(default_factory=Health)


class Segment:
    """See the module. `segment_id` is the id of its first frame and names the files."""

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
        self.floor = 0
        self.closed = False  # takes no more frames
        self.hot = True  # may hold patches
        self.unread: int | None = None  # slot of the picture that could not be read last; `maintain` tries it again
        self.evicted = False  # no longer the camera's, though a window may hold it: its files may go at any time
        self.bytes = 0  # what it costs against the cap: frame records and room for vector records
        self.frames_end = 0  # committed ends of the two files
        self.vectors_end = 0
        self.frame_ids: Int64 = np.zeros(capacity, np.int64)
        self.times: Float64 = np.zeros(capacity, np.float64)
        self.offsets: Int64 = np.zeros(capacity, np.int64)
        self.lengths: Int64 = np.zeros(capacity, np.int64)
        self.metadata: list[str] = []
        self.encoded: Bool = np.zeros(capacity, np.bool_)
        self.abandoned: Bool = np.zeros(capacity, np.bool_)  # cannot be encoded: never pending
        self.gone: Bool = np.zeros(capacity, np.bool_)  # damaged and dropped
        self.num_encoded = 0  # marks set in `encoded`
        self.num_gone = 0  # and in `gone`
        self.present: Bool = np.zeros(capacity, np.bool_)  # patches are here
        self.halves: Float16 = np.zeros((capacity, embedding_dim), np.float16)  # and scales: see halves.py
        self.scales: Float32 = np.ones(capacity, np.float32)
        self.norms: Float32 = np.zeros(capacity, np.float32)
        self.summaries: Float16 = np.zeros((capacity, summary_dim), np.float16)
        self.patches: npt.NDArray[Any] | None = None  # (capacity, M, C)
        self.scalars: Float32 | None = None  # (capacity, M, S)
        self.index: Any = None  # FAISS, once sealed; a block's once it is part of one
        self.index_start = 0  # its first row there
        self.block: Any = None  # memory.blocks.Block
        self._sum: tuple[tuple[int, int, int], Int64, int] | None = None
        self._places: Float64 = np.zeros((0, 2))

    def add(self, frame_id: int, time: float, metadata: str, offset: int, length: int) -> int:
        """Takes the next slot for a frame whose row is committed; returns the slot."""
        slot = self.count
        self.frame_ids[slot], self.times[slot] = frame_id, time
        self.offsets[slot], self.lengths[slot] = offset, length
        self.metadata.append(metadata)
        self.frames_end = max(self.frames_end, offset + length)
        self.count += 1
        return slot

    def slot_of(self, frame_id: int) -> int | None:
        """The slot of a frame that is still remembered."""
        slot = int(np.searchsorted(self.frame_ids[: self.count], frame_id))
        held = self.floor <= slot < self.count and self.frame_ids[slot] == frame_id and not self.gone[slot]
        return slot if held else None

    def live(self) -> slice:
        return slice(self.floor, self.count)

    def put_vectors(self, vectors: Mapping[int, StoredVectors]) -> None:
        """Writes these slots; `mark_encoded` makes them visible."""
        slots = list(vectors)
        for slot, stored in vectors.items():
            self.halves[slot], self.norms[slot], self.summaries[slot] = stored.half, stored.norm, stored.summary
        self.scales[slots] = scale_of(self.halves[slots])  # of many at once, as a start has many

    def mark_encoded(self, slot: int) -> None:
        self.encoded[slot] = True
        self.num_encoded += 1

    def seal_if_complete(self) -> None:
        """Moves the embeddings into a FAISS index once nothing can change any more.

        `halves` then is a view of the index's own storage, so the rows are held once; views taken earlier keep the old
        array. A segment with frames that cannot be encoded is never sealed and is ranked row by row instead.
        """
        if self.index is not None or not self.closed or self.num_encoded != self.count:
            return
        try:
            index = build_index(self.halves[: self.count])
        except MemoryError:
            return  # what is not sealed is ranked row by row; `maintain` tries again
        self.index, self.halves = index, index_rows(index)
        with suppress(MemoryError):
            self.embedding_sum()  # now, once, and not when a window waits for all of them

    def place(self, slot: int) -> tuple["Segment", int]:
        """What a block answers with the segment that holds the frame."""
        return self, slot

    def put_patches(
        self, slot: int, patches: npt.NDArray[Any], scalars: Float32, dtype: np.dtype[Any]
    ) -> npt.NDArray[Any]:
        """Writes the slot of the (lazily allocated) patch block; returns the block, for `mark_present`."""
        block, block_scalars = self.patches, self.scalars  # `cool` may drop them meanwhile
        if block is None or block_scalars is None:
            # zeros, not empty: pages are given by the system when first touched, and absent rows read as zero
            self.patches = block = np.zeros((self.capacity, *patches.shape), dtype)
            self.scalars = block_scalars = np.zeros((self.capacity, *scalars.shape), np.float32)
        block[slot], block_scalars[slot] = patches, scalars
        return block

    def mark_present(self, slot: int, block: npt.NDArray[Any]) -> None:
        """Makes patches visible, unless the segment was cooled while they were written."""
        if not self.hot:
            self.patches = self.scalars = None  # `cool` came first, and `put_patches` made them anew
        elif self.patches is block:
            self.present[slot] = True

    def cool(self) -> None:
        """Drops the patches; windows that hold the block keep it."""
        self.hot = False
        self.patches = self.scalars = None
        self.present = np.zeros(self.capacity, np.bool_)

    def embedding_sum(self) -> tuple[Int64, int]:
        """Sum (D,), in SUM_UNIT, and number of the unit embeddings held; a restart gives the same bits."""
        key = (self.floor, self.num_encoded, self.num_gone)
        if self._sum is None or self._sum[0] != key:
            rows = np.flatnonzero(self.encoded[self.live()] & ~self.gone[self.live()]) + self.floor
            total = np.zeros(self.halves.shape[1])
            for chunk in chunks(len(rows)):
                total += decode(self.halves[rows[chunk]], self.scales[rows[chunk]]).sum(axis=0, dtype=np.float64)
            self._sum = key, np.rint(total / SUM_UNIT).astype(np.int64), len(rows)
        return self._sum[1], self._sum[2]

    def places(self) -> Float64:
        """(count, 2) numbers x, y of the metadata, NaN where a frame has none. Parsed once."""
        places = self._places  # once: another thread may be reading them too
        missing = self.metadata[len(places) : self.count]
        if missing:
            places = self._places = np.concatenate([places, [place_of(text) for text in missing]])
        return places

    def counts(self) -> tuple[int, int, int]:
        """Frames that are held, of them encoded, and of them with patches here."""
        if not self.floor and not self.num_gone:  # nearly always; a camera has thousands of segments
            return self.count, self.num_encoded, int(self.present.sum()) if self.hot else 0
        held = ~self.gone[self.live()]
        encoded, present = self.encoded[self.live()] & held, self.present[self.live()] & held
        return int(held.sum()), int(encoded.sum()), int(present.sum())

    def without(self, erased: Bool) -> "Segment":
        """A closed segment of the slots that are not `erased` (count,): same id, same files, same places in them.

        Slots 0-5 with floor 2, erased 1 and 3: the new one has slots 0-3 (formerly 0 2 4 5) and floor 1.
        """
        kept = np.flatnonzero(~erased)
        embedding_dim, summary_dim = self.halves.shape[1], self.summaries.shape[1]
        other = Segment(
            self.segment_id, self.camera, self.frames_path.parent, capacity=len(kept),
            embedding_dim=embedding_dim, summary_dim=summary_dim, shared=self.shared,
        )  # fmt: skip
        for slot in kept:
            other.add(
                int(self.frame_ids[slot]), float(self.times[slot]), self.metadata[slot],
                int(self.offsets[slot]), int(self.lengths[slot]),
            )  # fmt: skip
        for name in ("encoded", "abandoned", "gone", "present", "halves", "scales", "norms", "summaries"):
            getattr(other, name)[:] = getattr(self, name)[kept]
        if self.patches is not None and self.scalars is not None:
            other.patches, other.scalars = self.patches[kept], self.scalars[kept]
        other.num_encoded, other.num_gone = int(other.encoded.sum()), int(other.gone.sum())
        other.floor, other.hot, other.closed = int((~erased[: self.floor]).sum()), self.hot, True
        other.vectors_end = self.vectors_end
        # zeros take room on disk as well as records; room for vectors is counted from the start
        other.bytes = self.bytes - (self.frames_end - other.frames_end)
        other.seal_if_complete()
        return other

    def held(self) -> list[npt.NDArray[Any]]:
        """Every array with something of what the frames show. `halves` is valid while `index` lives."""
        arrays: list[npt.NDArray[Any]] = [self.halves, self.norms, self.summaries]
        return [*arrays, *(array for array in (self.patches, self.scalars) if array is not None)]

    def lose(self, slots: Int64) -> None:
        """These frames are erased: no picture and no metadata of them is read any more, by no window either."""
        self.gone[slots] = True
        self.num_gone = int(self.gone.sum())
        self._readable()
        for slot in slots:
            self.metadata[slot] = ""
        self._places = np.zeros((0, 2))

    def read_jpeg(self, slot: int) -> bytes:
        """The stored picture. Not to be called under the store's lock.

        FrameGone if it is damaged; the frame is then marked gone for good. StorageError (OutOfResources) if it cannot be
        read now: nothing is marked, and a later call may succeed.
        """
        frame_id = int(self.frame_ids[slot])
        if self.gone[slot]:
            raise FrameGone(f"frame {frame_id} was erased, or found damaged and dropped")
        try:
            with out_of_memory("read a picture"):
                jpeg = self._read(slot, frame_id)
        except RecordDamaged as error:
            with self.shared.lock:
                self.gone[slot] = True
                self.num_gone = int(self.gone.sum())
            self._read_again(slot)
            raise FrameGone(f"frame {frame_id} is damaged on disk and was dropped: {error}") from error
        except OutOfResources:
            raise  # says nothing about the disk
        except StorageError as error:
            if self.evicted and error.errno == errno.ENOENT:
                raise FrameGone(f"frame {frame_id} was forgotten") from error
            if not self.evicted:  # of what is remembered no more, nobody would take it back
                self.unread = slot
                self.shared.health.failed(str(self.frames_path), f"pictures cannot be read: {error.strerror or error}")
            raise
        self._read_again(slot)
        return jpeg

    def _read_again(self, slot: int) -> None:
        if self.unread == slot:
            self._readable()

    def _readable(self) -> None:
        self.unread = None
        self.shared.health.works(str(self.frames_path))

    def _read(self, slot: int, frame_id: int) -> bytes:
        found = unpack_frame(read_record(self.frames_path, int(self.offsets[slot]), int(self.lengths[slot])))
        if found.frame_id != frame_id:
            raise RecordDamaged(f"the record is of frame {found.frame_id}")
        return found.jpeg
