"""The frames of one camera in memory, and their eviction by the camera's limits.

Frames are kept in segments: up to some hundred consecutive frames that share two files (`memory.segments`). Frames are
evicted singly, so that the limits on frames and age are exact: the `floor` of the oldest segment, its number of evicted
frames, is raised. The segment is removed once all its frames are evicted, or as a whole when the limit on bytes is
exceeded. This module touches no files, reads no clock and takes no lock.

Segments of 4 frames, a cap of 6 frames, with frames 1..7 appended:
    segment 1 = [1 2 3 4], segment 5 = [5 6 7]: frames 2..7 are stored, and the floor of segment 1 is 1.
    Frame 10 evicts frame 4, the last of segment 1: `trim` returns that segment, and its files can be removed.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import takewhile

import numpy as np

from memory.limits import Limits
from memory.records import CameraStats, Float64, Int64
from memory.segments import SUM_UNIT, Block, Segment

_SEGMENT_BYTES = 256 * 2**20  # recovery reads a segment file at once


class CameraLog:
    """One camera's segments, oldest first. The caller appends frames, and deletes the files of evicted segments."""

    def __init__(self, camera: str, limits: Limits, patch_bytes: int) -> None:
        """patch_bytes: the bytes of memory for one frame's patch features and their scalars."""
        self.camera = camera
        self.limits = limits
        self._hot_frames = min(limits.hot_frames, limits.hot_bytes // max(1, patch_bytes))
        self.segments: list[Segment] = []
        # running totals: without them, the cost of an append would grow with the history
        self.num_frames = 0  # frames that are not evicted, damaged ones included
        self.num_bytes = 0

    @property
    def newest_time(self) -> float | None:
        return None if not self.segments else float(self.segments[-1].times[self.segments[-1].count - 1])

    @property
    def oldest_time(self) -> float | None:
        return None if not self.segments else float(self.segments[0].times[self.segments[0].floor])

    def open_segment(self) -> Segment | None:
        """Return the segment to which the next frame is appended, or None if a new one is needed."""
        return None if not self.segments or self.segments[-1].closed else self.segments[-1]

    def grown(self, segment: Segment, num_frames: int, num_bytes: int) -> None:
        """Update the counts after frames were added to `segment`, the newest run of consecutive frames.

        Closes the segment if it is full. Patch features are kept for a camera's newest frames only (the hot window);
        those of older frames are dropped here.
        """
        segment.bytes += num_bytes
        self.num_bytes += num_bytes
        self.num_frames += num_frames
        # closed early if its frames are large, as limits on bytes evict whole segments
        if segment.count >= segment.capacity or segment.bytes >= min(_SEGMENT_BYTES, self.limits.bytes // 8):
            segment.closed = True
            segment.seal_if_complete()
        newer = 0
        for each in reversed(self.segments):
            if not each.hot:
                break  # everything older is cold, too
            if newer >= self._hot_frames:
                each.cool()
            newer += each.count

    def trim(self, *, newest: float | None = None, incoming_frames: int = 0, incoming_bytes: int = 0) -> list[Segment]:
        """Evict the oldest frames, so that the limits are kept when `incoming_frames` and `incoming_bytes` are added.

        Return the segments without remaining frames, which are removed from the log, oldest first. newest: the time
        from which ages are measured; None ignores the age limit.
        """
        excess = self.num_frames + incoming_frames - self.limits.frames
        cutoff = -np.inf if newest is None or self.limits.age_s is None else newest - self.limits.age_s
        leaving: list[Segment] = []
        while self.segments:
            oldest = self.segments[0]
            too_old = int(np.searchsorted(oldest.times[: oldest.count], cutoff))
            floor = min(oldest.count, max(oldest.floor + max(0, excess), too_old))
            if floor < oldest.count and self.num_bytes + incoming_bytes <= self.limits.bytes:
                self.num_frames -= floor - oldest.floor
                oldest.floor = floor
                break
            excess -= oldest.count - oldest.floor
            leaving.append(self.give_segment())
        return leaving

    def give(self, num_frames: int) -> list[Segment]:
        """Evict (delete) up to `num_frames` frames of the oldest segment, a run of consecutive frames.

        Return a list with that segment if it has no frames left and was removed from the log, else an empty list.
        """
        oldest = self.segments[0]
        if oldest.floor + num_frames >= oldest.count:
            return [self.give_segment()]
        oldest.floor += num_frames
        self.num_frames -= num_frames
        return []

    def give_segment(self) -> Segment:
        """Remove the oldest segment from the log with all its frames, and return it."""
        oldest = self.segments.pop(0)
        if oldest.block is not None:
            oldest.block.dissolve()  # otherwise the block would keep a reference to the segment, and so its files
        self.num_frames -= oldest.count - oldest.floor
        self.num_bytes -= oldest.bytes
        return oldest

    def replace(self, segment: Segment, other: Segment | None) -> None:
        """Replace `segment` by `other` in the log, or remove it if `other` is None."""
        if segment.block is not None:
            segment.block.dissolve()
        place = self.segments.index(segment)
        self.segments[place : place + 1] = [] if other is None else [other]
        for each, sign in ((segment, -1), (other, 1)):
            if each is not None:
                self.num_frames += sign * (each.count - each.floor)
                self.num_bytes += sign * each.bytes

    def find(self, frame_id: int) -> tuple[Segment, int] | None:
        """Return the segment and slot (position in the segment) of a stored frame, or None."""
        place = bisect_right(self.segments, frame_id, key=lambda s: s.segment_id) - 1
        if place < 0:
            return None
        slot = self.segments[place].slot_of(frame_id)
        return None if slot is None else (self.segments[place], slot)

    def between(self, lower: float, upper: float) -> Iterator[tuple[Segment | Block, int, int]]:
        """Yield (segment, lo, hi) for each segment with frames of lower <= time <= upper, which are its slots [lo, hi).

        If all segments of a block (segments with a common index) lie inside the range, the block is yielded instead.
        """
        number = bisect_left(self.segments, lower, key=lambda s: s.times[s.count - 1])
        while number < len(self.segments) and self.segments[number].times[0] <= upper:
            segment = self.segments[number]
            block = segment.block
            if (
                block is not None and block.segments[0] is segment and block.whole
                and lower <= block.times[0] and block.times[-1] <= upper
            ):  # fmt: skip
                yield block, 0, block.count
                number += len(block.segments)
                continue
            times = segment.times[: segment.count]
            lo = max(segment.floor, int(np.searchsorted(times, lower, side="left")))
            hi = int(np.searchsorted(times, upper, side="right"))
            if lo < hi:
                yield segment, lo, hi
            number += 1

    def newest_times(self, count: int) -> Float64:
        """Return the times of the newest `count` encoded frames, rising."""
        found: list[Float64] = []
        for segment in reversed(self.segments):
            if (missing := count - sum(map(len, found))) <= 0:
                break
            held = segment.live()
            found.append(segment.times[held][segment.encoded[held] & ~segment.gone[held]][-missing:])
        return np.concatenate([np.zeros(0), *reversed(found)])

    def pending(self) -> Iterator[Int64]:
        """Yield arrays of rising ids, one per segment: the frames that are not encoded yet."""
        for s in self.segments:
            if s.num_encoded < s.count:
                live = s.live()
                yield s.frame_ids[live][~(s.encoded[live] | s.abandoned[live] | s.gone[live])]

    def pending_patches(self) -> Iterator[Int64]:
        """Yield arrays of rising ids, one per segment, newest segment first: encoded frames that lack patch features.

        Only frames of the hot window count, the newest ones, for which patch features are kept in memory.
        """
        if not self._hot_frames:
            return
        for s in takewhile(lambda s: s.hot, reversed(self.segments)):  # everything older is cold
            live = s.live()
            yield s.frame_ids[live][s.encoded[live] & ~(s.present[live] | s.abandoned[live] | s.gone[live])]

    def background(self, embedding_dim: int) -> Float64:
        """Return the (D,) mean unit embedding of all stored encoded frames, zeros if there are none."""
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
