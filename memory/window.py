"""An immutable view of the stored frames, made for one question.

Rows are the encoded frames of the chosen cameras inside [after, before], grouped by camera in the order asked, by
rising time inside each group. The frames lie in segments: consecutive frames of a camera, in arrays and files of their
own. A block joins several segments under one search index. A window stays valid while frames arrive and are evicted, as
it holds references to its segments. Their rows are never written again, and their files are kept as long as a window
holds them. A window needs no lock.

Segments of 4 frames; camera "a" has frames 1 2 3 5 | 8 9, camera "b" 4 6 7; frame 9 is not encoded:
    window(["b", "a"]):  row       0 1 2   3 4 5 6   7
                         frame_id  4 6 7   1 2 3 5   8        unencoded = 1
    three parts with first rows 0, 3, 7;  spans() = (0,3) (3,7) (7,8): `read` inside one span copies nothing.

Row numbers are valid in their own window only; frame ids identify frames everywhere.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.camera_log import CameraLog
from memory.codec import decode, load_metadata
from memory.ranking import Index, chunks, rank_all, rank_top
from memory.records import Bool, Float16, Float32, Float64, FrameRecord, Int32, Int64, PatchBlock
from memory.segments import Block, Segment

Held = tuple[Segment | Block, int, int]
"""Slots [lo, hi) of a segment or block, from `CameraLog.between`. Their contents can be read without a lock."""


@dataclass(frozen=True, slots=True)
class Within:
    """A circle that selects frames by the coordinates x and y in their metadata. Frames without them are not selected.

    x, y: the centre.
    """

    x: float
    y: float
    radius_m: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.x) and math.isfinite(self.y) and math.isfinite(self.radius_m)):
            raise ValueError("within: x, y and radius_m must be finite numbers")
        if not self.radius_m > 0:
            raise ValueError(f"within: radius_m must be above 0, not {self.radius_m:g}")

    def near(self, places: Float64) -> Bool:
        """Return whether each of the points (n, 2) is inside the circle. NaN is outside."""
        inside: Bool = np.hypot(places[:, 0] - self.x, places[:, 1] - self.y) <= self.radius_m
        return inside


def time_range(after: float | None, before: float | None) -> tuple[float, float]:
    """Return the bounds as numbers, with infinity for None. Raises ValueError for NaN."""
    lower, upper = -math.inf if after is None else after, math.inf if before is None else before
    if math.isnan(lower) or math.isnan(upper):
        raise ValueError("after and before must be numbers")
    return lower, upper


def lower_bounds(after: float | Sequence[float] | None, count: int) -> list[float]:
    """Return the lower bound for each of `count` cameras, minus infinity for None.

    Raises ValueError for NaN, and if there are several bounds but not `count`.
    """
    each = after if isinstance(after, Sequence) else [after] * count
    if len(each) != count:
        raise ValueError(f"{count} cameras, but {len(each)} times")
    return [time_range(one, None)[0] for one in each]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The rows of a window that lie in one segment or block: its `slots`, as the rows from `first_row` on.

    It holds the arrays that the segment had when the window was made, as the segment may replace them later.
    """

    segment: Segment | Block
    camera_index: int
    first_row: int
    num_rows: int
    slots: slice | Int64  # a slice if the rows are consecutive
    index: Index | None
    index_start: int
    unit_halves: Float16  # (capacity, D)
    unit_scales: Float32  # (capacity,)
    patches: npt.NDArray[Any] | None  # (capacity, M, C)
    scalars: Float32 | None  # (capacity, M, S)
    present: Bool  # (num_rows,), copied

    def halves(self) -> Float16:
        return self.unit_halves[self.slots]

    def scales(self) -> Float32:
        return self.unit_scales[self.slots]


def parts_of(
    logs: Sequence[CameraLog | None], lowers: Sequence[float], upper: float, where: Within | None
) -> tuple[list[Part], int]:
    """Return the parts of a window over these cameras, in their order, and the number of frames not encoded yet.

    lowers: the lower bound of each camera. Used under the store's lock.
    """
    parts: list[Part] = []
    num_rows = num_unencoded = 0
    for number, (log, lower) in enumerate(zip(logs, lowers, strict=True)):
        for held, lo, hi, wanted in _filtered(log, lower, upper, where) if log else ():
            part, missing = _snapshot(held, number, num_rows, lo, hi, wanted)
            num_unencoded += missing
            if part is not None:
                parts.append(part)
                num_rows += part.num_rows
    return parts, num_unencoded


def _filtered(
    log: CameraLog, lower: float, upper: float, where: Within | None
) -> Iterator[tuple[Segment | Block, int, int, Bool | None]]:
    for held, lo, hi in log.between(lower, upper):
        if where is None:
            yield held, lo, hi, None
        elif isinstance(held, Block):
            for segment in held.segments:
                yield segment, 0, segment.count, where.near(segment.places())
        else:
            yield held, lo, hi, where.near(held.places()[lo:hi])


def _snapshot(
    held: Segment | Block, camera_index: int, first_row: int, lo: int, hi: int, wanted: Bool | None = None
) -> tuple[Part | None, int]:
    """Return a part with the encoded frames in the slots [lo, hi), and the number of frames there that are not encoded.

    The part is None if no frame is encoded. wanted (hi - lo,): which slots to include; None for all, as for every
    block.
    """
    if isinstance(held, Block):  # all of it is encoded and none of it has patches
        part = Part(
            held, camera_index, first_row, hi - lo, slice(lo, hi), held.index, lo,
            held.halves, held.scales, None, None, np.zeros(hi - lo, np.bool_),
        )  # fmt: skip
        return part, 0
    segment = held
    kept = ~segment.gone[lo:hi] if wanted is None else wanted & ~segment.gone[lo:hi]
    encoded = segment.encoded[lo:hi] & kept
    num_rows = int(encoded.sum())
    num_unencoded = int(kept.sum()) - num_rows
    if num_rows == 0:
        return None, num_unencoded
    chosen = np.flatnonzero(encoded) + lo
    start, stop = int(chosen[0]), int(chosen[-1]) + 1
    whole = stop - start == num_rows
    slots = slice(start, stop) if whole else chosen
    part = Part(
        segment, camera_index, first_row, num_rows, slots,
        segment.index if whole else None, segment.index_start + start,
        segment.halves, segment.scales, segment.patches, segment.scalars, segment.present[slots].copy(),
    )  # fmt: skip
    return part, num_unencoded


def records_of(held: Iterable[Held], camera: str) -> Iterator[FrameRecord]:
    """Yield records of the frames in these slots, encoded or not, by rising time. Needs no lock."""
    for part, lo, hi in held:
        for slot in range(lo, hi):
            segment, own = part.place(slot)
            text = segment.metadata[own]  # before `gone`: an erasure sets that first
            if not segment.gone[own]:
                yield FrameRecord(int(segment.frame_ids[own]), camera, float(segment.times[own]), load_metadata(text))


def read_places(held: Iterable[Held]) -> None:
    """Parse the coordinates x and y in the metadata of these segments' frames, which keep the result.

    Call it before taking the lock, so that `parts_of` need not parse them under it.
    """
    for part, _, _ in held:
        for segment in part.segments if isinstance(part, Block) else (part,):
            segment.places()


class Window:
    """Stored frames as rows, made by `MemoryStore.window`.

    num_frames N; frame_ids (N,) int64; times (N,) float64 unix seconds; camera_index (N,) int32, positions in
    `cameras`; unencoded: the number of stored frames in the range that have no row, as they are not encoded yet.
    """

    def __init__(
        self, cameras: tuple[str, ...], parts: Sequence[Part], *, unencoded: int, background: Float32,
        patch_shape: tuple[int, int], patch_dtype: npt.DTypeLike, num_scalars: int,
    ) -> None:  # fmt: skip
        self.cameras = cameras
        self.unencoded = unencoded
        self._parts = tuple(parts)
        self._background = background
        self._patch_shape = patch_shape
        self._scalar_shape = (patch_shape[0], num_scalars)
        self._patch_dtype = np.dtype(patch_dtype)
        self._first_rows: Int64 = np.array([part.first_row for part in parts], np.int64)
        self.num_frames = parts[-1].first_row + parts[-1].num_rows if parts else 0
        self.frame_ids: Int64 = _joined([p.segment.frame_ids[p.slots] for p in parts], np.int64)
        self.times: Float64 = _joined([p.segment.times[p.slots] for p in parts], np.float64)
        self.camera_index: Int32 = _joined([np.full(p.num_rows, p.camera_index) for p in parts], np.int32)
        self._ranking: tuple[bytes, Int64, Float32] | None = None  # result for the last query that ranked all rows

    def top(self, query: Float32, k: int) -> tuple[Int64, Float32]:
        """Return the k rows (int64) with the highest scores for `query` (D,), a float32 unit vector, and these scores.

        A score (float32) is a cosine similarity. The result is exactly the beginning of a full sort by falling score,
        where the lower of rows with equal scores comes first. It has N rows if N < k. A k above N / 8 ranks all rows,
        and keeps the ranking for further calls with the same query. Raises ValueError for an invalid query or k.
        """
        query = np.ascontiguousarray(query, np.float32)
        if query.shape != self._background.shape[1:] or not np.isfinite(query).all():
            raise ValueError(f"query must be ({self._background.shape[1]},) finite numbers, not {query.shape}")
        if k < 0:
            raise ValueError(f"k must not be negative, not {k}")
        if k == 0 or self.num_frames == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        key = query.tobytes()
        ranking = self._ranking
        if ranking is None or ranking[0] != key:
            if k * 8 <= self.num_frames:
                return rank_top(self._parts, query, k)
            ranking = self._ranking = (key, *rank_all(self._parts, query))
        return ranking[1][:k].copy(), ranking[2][:k].copy()

    def stored_rows(self, start: int = 0) -> Iterator[tuple[npt.NDArray[np.floating], Float32]]:
        """Yield the embeddings of the rows from `start` on, in order, as they are stored.

        Each piece is (n, D) float16, with the factors (n,) that make its rows unit vectors. Views where rows are
        consecutive; do not write to them.
        """
        for part, lo, hi in self._pieces(start, self.num_frames):
            slots = _sub(part.slots, lo, hi)
            yield part.unit_halves[slots], part.unit_scales[slots]

    def embeddings(self, rows: npt.ArrayLike) -> Float32:
        """Return copies of the unit embeddings (n, D) of the n given rows. Fastest for consecutive rows."""
        wanted = self._checked(rows)
        unit: Float32 = np.empty((len(wanted), self._background.shape[1]), np.float32)
        if _consecutive(wanted):
            for part, lo, hi in self._pieces(int(wanted[0]), int(wanted[-1]) + 1):
                for chunk in chunks(hi - lo):
                    slots = _sub(part.slots, lo + chunk.start, lo + chunk.stop)
                    start = part.first_row + lo + chunk.start - int(wanted[0])
                    halves, scales = part.unit_halves[slots], part.unit_scales[slots]
                    decode(halves, scales, unit[start : start + len(scales)])
            return unit
        gathered: Float16 = np.empty(unit.shape, np.float16)
        scales_of_all: Float32 = np.empty(len(wanted), np.float32)
        for part, slots, places in self._places(wanted):
            gathered[places], scales_of_all[places] = part.unit_halves[slots], part.unit_scales[slots]
        for chunk in chunks(len(wanted)):
            decode(gathered[chunk], scales_of_all[chunk], unit[chunk])
        return unit

    def norms(self, rows: npt.ArrayLike) -> Float32:
        """Return the lengths (n,) of the embeddings before they were normalised."""
        wanted = self._checked(rows)
        gathered: Float32 = np.empty(len(wanted), np.float32)
        for part, slots, places in self._places(wanted):
            gathered[places] = part.segment.norms[slots]
        return gathered

    def background(self) -> Float32:
        """Return each camera's mean unit embedding, (num_cameras, D).

        The mean is over all frames of the camera that were stored when the window was made, inside the window or not.
        """
        return self._background

    def spans(self) -> tuple[tuple[int, int], ...]:
        """Return consecutive row ranges (start, stop) that cover all rows. Inside each, `read` copies no data."""
        return tuple((p.first_row, p.first_row + p.num_rows) for p in self._parts)

    def read(self, start: int, stop: int) -> PatchBlock:
        """Return the patch features of the rows [start, stop).

        They are views if the rows lie in consecutive slots of one part (see `spans`), else copies.

        `present` is False for rows whose patch features are not in memory: those of older frames, and those that were
        not computed again since a restart.
        """
        pieces = [_patches(part, lo, hi, self) for part, lo, hi in self._pieces(start, stop)]
        if len(pieces) == 1:
            return pieces[0]
        return PatchBlock(
            _joined([p.patches for p in pieces], self._patch_dtype, self._patch_shape),
            _joined([p.scalars for p in pieces], np.float32, self._scalar_shape),
            _joined([p.present for p in pieces], np.bool_),
        )

    def summaries(self, start: int, stop: int) -> Float32:
        """Return the frames' summaries (n, C) of the rows [start, stop), as they were stored in float16.

        A summary describes a frame by one vector that does not depend on a question.
        """
        pieces = [p.segment.summaries[_sub(p.slots, lo, hi)] for p, lo, hi in self._pieces(start, stop)]
        return _joined(pieces, np.float32, (self._patch_shape[1],))

    def present(self) -> Bool:
        """Return a (N,) mask of the rows whose patch features are in memory."""
        return _joined([p.present for p in self._parts], np.bool_)

    def jpeg(self, row: int) -> bytes:
        """Return the stored JPEG of a row, even if the frame was evicted since the window was made.

        Raises FrameGone if it was erased or is damaged, StorageError if it cannot be read at the moment.
        """
        segment, slot = self._place(row)
        return segment.read_jpeg(slot)

    def metadata(self, row: int) -> dict[str, Any]:
        segment, slot = self._place(row)
        return load_metadata(segment.metadata[slot])

    def _place(self, row: int) -> tuple[Segment, int]:
        """Return the segment that holds the row, and the row's position ("slot") in it."""
        if not 0 <= row < self.num_frames:
            raise IndexError(f"row {row} of {self.num_frames}")
        part = self._parts[int(np.searchsorted(self._first_rows, row, side="right")) - 1]
        return part.segment.place(int(_slots_of(part, np.array([row - part.first_row]))[0]))

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[Part, int, int]]:
        """Yield (part, lo, hi) for each part with rows of [start, stop): its rows [lo, hi), counted from its start."""
        if not 0 <= start <= stop <= self.num_frames:
            raise IndexError(f"rows {start} to {stop} of {self.num_frames}")
        first = max(0, int(np.searchsorted(self._first_rows, start, side="right")) - 1)
        for part in self._parts[first:]:
            if part.first_row >= stop:
                return
            lo, hi = max(start - part.first_row, 0), min(stop - part.first_row, part.num_rows)
            if lo < hi:
                yield part, lo, hi

    def _checked(self, rows: npt.ArrayLike) -> Int64:
        wanted = np.asarray(rows, np.int64).reshape(-1)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= self.num_frames):
            raise IndexError(f"rows must lie in [0, {self.num_frames})")
        return wanted

    def _places(self, wanted: Int64) -> Iterator[tuple[Part, Int64, Int64]]:
        """Yield each part of the window that has some of the wanted rows, with where these rows are.

        The arrays are the rows' slots (positions in the part's segment) and their positions in `wanted`.
        """
        order = np.argsort(wanted, kind="stable")
        numbers = np.searchsorted(self._first_rows, wanted[order], side="right") - 1
        edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(order)]
        for start, stop in pairwise(edges):
            if start < stop:
                part, places = self._parts[int(numbers[start])], order[start:stop]
                yield part, _slots_of(part, wanted[places] - part.first_row), places


def _consecutive(rows: Int64) -> bool:
    return len(rows) > 0 and int(rows[-1] - rows[0]) + 1 == len(rows) and bool((np.diff(rows) == 1).all())


def _slots_of(part: Part, offsets: Int64) -> Int64:
    """Return the positions in its segment ("slots") of rows, given as offsets from the part's first row."""
    return offsets + part.slots.start if isinstance(part.slots, slice) else part.slots[offsets]


def _sub(slots: slice | Int64, lo: int, hi: int) -> slice | Int64:
    return slice(slots.start + lo, slots.start + hi) if isinstance(slots, slice) else slots[lo:hi]


def _patches(part: Part, lo: int, hi: int, window: Window) -> PatchBlock:
    if part.patches is None or part.scalars is None:
        return PatchBlock(
            np.zeros((hi - lo, *window._patch_shape), window._patch_dtype),
            np.zeros((hi - lo, *window._scalar_shape), np.float32),
            np.zeros(hi - lo, np.bool_),
        )
    slots = _sub(part.slots, lo, hi)
    return PatchBlock(part.patches[slots], part.scalars[slots], part.present[lo:hi])


def _joined(pieces: Sequence[npt.NDArray[Any]], dtype: npt.DTypeLike, shape: tuple[int, ...] = ()) -> npt.NDArray[Any]:
    if not pieces:
        return np.zeros((0, *shape), dtype)
    return np.concatenate(pieces).astype(dtype, copy=False)
