"""The segments of one camera, oldest first, and what its limits make it forget. Pure: no files, no clock, no lock.

Forgetting has two steps. The oldest frames are forgotten one by one (`floor` of the oldest segment rises), so that the
caps on frames and age are exact. Their segment leaves whole, once all of it is forgotten or its bytes are needed.

Worked example, segment_frames 4, frames 6, with frames 1..7 appended:
    segment 1 = [1 2 3 4], segment 5 = [5 6 7];  remembered: 2..7, floor of segment 1 is 1.
    Frame 10 forgets frame 4, the last of segment 1: that segment is returned by `trim` and its files go.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import takewhile

import numpy as np

from memory.blocks import Block, next_run
from memory.limits import Limits
from memory.records import CameraStats, Float64, Int64
from memory.segments import SUM_UNIT, Segment

_SEGMENT_BYTES = 256 * 2**20  # scanned in one piece when something is wrong


class CameraLog:
    """See the module. The store appends segments and takes what `trim` returns off the disk."""

    def __init__(self, camera: str, limits: Limits, patch_bytes: int) -> None:
        """patch_bytes: what one frame's patches and scalars take in memory."""
        self.camera = camera
        self.limits = limits
        self._hot_frames = min(limits.hot_frames, limits.hot_bytes // max(1, patch_bytes))
        self.segments: list[Segment] = []
        # running totals: the cost of an append must not grow with what is held
        self._num_slots = 0  # not forgotten, damaged ones included
        self.num_bytes = 0

    @property
    def newest_time(self) -> float | None:
        return None if not self.segments else float(self.segments[-1].times[self.segments[-1].count - 1])

    @property
    def num_frames(self) -> int:
        """Not forgotten, damaged ones included."""
        return self._num_slots

    @property
    def oldest_time(self) -> float | None:
        return None if not self.segments else float(self.segments[0].times[self.segments[0].floor])

    def open_segment(self) -> Segment | None:
        """The segment that takes the next frame, if there is one with room."""
        return None if not self.segments or self.segments[-1].closed else self.segments[-1]

    def grown(self, segment: Segment, num_frames: int, num_bytes: int) -> None:
        """Accounts for frames that were added to `segment`, the newest one, and closes it if it is full."""
        segment.bytes += num_bytes
        self.num_bytes += num_bytes
        self._num_slots += num_frames
        self._close_if_full(segment)
        self._cool()

    def _close_if_full(self, segment: Segment) -> None:
        """Closes at its number of frames, or early when big frames would make the byte cap too coarse."""
        if segment.count >= segment.capacity or segment.bytes >= min(_SEGMENT_BYTES, self.limits.bytes // 8):
            segment.closed = True
            segment.seal_if_complete()

    def trim(self, *, newest: float | None = None, incoming_frames: int = 0, incoming_bytes: int = 0) -> list[Segment]:
        """Forgets what exceeds the limits once `incoming` has arrived; returns the segments that leave, oldest first.

        newest: time to measure age from; None leaves age alone.
        """
        excess = self._num_slots + incoming_frames - self.limits.frames
        cutoff = -np.inf if newest is None or self.limits.age_s is None else newest - self.limits.age_s
        leaving: list[Segment] = []
        while self.segments:
            oldest = self.segments[0]
            too_old = int(np.searchsorted(oldest.times[: oldest.count], cutoff))
            floor = min(oldest.count, max(oldest.floor + max(0, excess), too_old))
            if floor < oldest.count and self.num_bytes + incoming_bytes <= self.limits.bytes:
                self._num_slots -= floor - oldest.floor
                oldest.floor = floor
                break
            excess -= oldest.count - oldest.floor
            leaving.append(self.give_segment())
        return leaving

    def give(self, num_frames: int) -> list[Segment]:
        """Forgets the oldest `num_frames`, at most those of its oldest segment; returns that if it leaves."""
        oldest = self.segments[0]
        if oldest.floor + num_frames >= oldest.count:
            return [self.give_segment()]
        oldest.floor += num_frames
        self._num_slots -= num_frames
        return []

    def give_segment(self) -> Segment:
        """Forgets its oldest segment."""
        oldest = self._pop_oldest()
        self._num_slots -= oldest.count - oldest.floor
        self.num_bytes -= oldest.bytes
        return oldest

    def give_to_full_disk(self) -> list[Segment]:
        """The oldest of four segments or more, if this camera holds at least three quarters of what its caps allow.

        A camera at its cap must go on recording on a full disk, where the newest frame needs the place of the oldest;
        forgetting single frames frees nothing. A disk filled by others, though, does not eat up the history.
        """
        cap = self.limits
        if len(self.segments) < 4 or (self._num_slots < 0.75 * cap.frames and self.num_bytes < 0.75 * cap.bytes):
            return []
        return [self.give_segment()]

    def _pop_oldest(self) -> Segment:
        oldest = self.segments.pop(0)
        if oldest.block is not None:
            oldest.block.dissolve()  # a block holds its segments, and a segment that is held keeps its files
        return oldest

    def _cool(self) -> None:
        """Drops patches of segments that lie wholly behind the newest `hot_frames`."""
        newer = 0
        for segment in reversed(self.segments):
            if not segment.hot:
                break  # and so is everything older
            if newer >= self._hot_frames:
                segment.cool()
            newer += segment.count

    def replace(self, segment: Segment, other: Segment | None) -> None:
        """`other`, or nothing, stands for `segment` from now on."""
        if segment.block is not None:
            segment.block.dissolve()
        place = self.segments.index(segment)
        self.segments[place : place + 1] = [] if other is None else [other]
        for each, sign in ((segment, -1), (other, 1)):
            if each is not None:
                self._num_slots += sign * (each.count - each.floor)
                self.num_bytes += sign * each.bytes

    def find(self, frame_id: int) -> tuple[Segment, int] | None:
        """The segment and slot of a remembered frame."""
        place = bisect_right(self.segments, frame_id, key=lambda s: s.segment_id) - 1
        if place < 0:
            return None
        slot = self.segments[place].slot_of(frame_id)
        return None if slot is None else (self.segments[place], slot)

    def between(self, lower: float, upper: float) -> Iterator[tuple[Segment | Block, int, int]]:
        """Segments with the range [lo, hi) of remembered slots where lower <= time <= upper; empty ranges left out.

        Where all of a whole block is wanted, the block comes instead of its segments.
        """
        number = bisect_left(self.segments, lower, key=lambda s: s.times[s.count - 1])
        while number < len(self.segments) and self.segments[number].times[0] <= upper:
            segment = self.segments[number]
            block: Block | None = segment.block
            if block is not None and _begins(block, segment) and lower <= block.times[0] and block.times[-1] <= upper:
                yield block, 0, block.count
                number += len(block.segments)
                continue
            times = segment.times[: segment.count]
            lo = max(segment.floor, int(np.searchsorted(times, lower, side="left")))
            hi = int(np.searchsorted(times, upper, side="right"))
            if lo < hi:
                yield segment, lo, hi
            number += 1

    def next_run(self) -> list[Segment]:
        """Segments that can become a block, if there are enough."""
        return next_run(self.segments)

    def pending(self, *, newest_first: bool = False) -> Iterator[Int64]:
        """Rising ids of frames without vectors, one array a segment, oldest (newest) segment first."""
        for s in reversed(self.segments) if newest_first else self.segments:
            if s.num_encoded == s.count:
                continue
            live = s.live()
            yield s.frame_ids[live][~(s.encoded[live] | s.abandoned[live] | s.gone[live])]

    def pending_patches(self, *, newest_first: bool = True) -> Iterator[Int64]:
        """Rising ids of encoded frames of hot segments that have no patches here, one array a segment, newest (oldest)
        segment first."""
        if not self._hot_frames:
            return
        hot = takewhile(lambda s: s.hot, reversed(self.segments))  # everything older is cold
        for s in hot if newest_first else reversed(list(hot)):
            live = s.live()
            yield s.frame_ids[live][s.encoded[live] & ~(s.present[live] | s.abandoned[live] | s.gone[live])]

    def background(self, embedding_dim: int) -> Float64:
        """(D,) mean unit embedding of all encoded frames remembered; zeros if there are none."""
        total, num = np.zeros(embedding_dim, np.int64), 0
        for held, _, _ in self.between(-np.inf, np.inf):
            part, part_num = held.embedding_sum()
            total, num = total + part, num + part_num
        return total * SUM_UNIT / max(1, num)

    def stats(self) -> CameraStats:
        frames = encoded = hot = archive = 0
        for s in self.segments:
            num_held, num_encoded, num_present = s.counts()
            frames, encoded, hot = frames + num_held, encoded + num_encoded, hot + num_present
            archive += 0 if s.hot else num_held
        return CameraStats(frames, encoded, hot, archive, self.num_bytes, self.oldest_time, self.newest_time)


def _begins(block: Block, segment: Segment) -> bool:
    """Whether all of a whole block lies from this segment on."""
    return block.segments[0] is segment and block.whole
