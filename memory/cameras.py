"""The logs of all cameras, and the limits on all cameras together. Used under the store's lock unless noted.

When a limit of the folder is exceeded, the oldest segment (a file of consecutive frames) is evicted, whichever camera
it belongs to. An exception protects cameras that hold at most half of their fair share, which is the limit divided by
the number of cameras with frames. So a busy camera cannot push out everything that a quiet camera recorded.

A limit of 100 frames, cameras a (80 frames, oldest at 10:00), b (15, oldest at 09:00) and c (5): the fair share is 33.
b and c hold at most 16 (half of it), so they keep their frames, and the oldest segment of a is evicted.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memory.camera_log import CameraLog
from memory.errors import FrameGone, StorageError, storage_error
from memory.limits import FolderLimits, Limits, check_camera_name
from memory.segments import Block, Segment, Shared, next_run


class CameraLogs:
    """The log of each camera, created when the camera first appears."""

    def __init__(
        self, folder: Path, sizes: tuple[int, int], patch_bytes: int, *, limits: Limits,
        camera_limits: Mapping[str, Limits], folder_limits: FolderLimits, shared: Shared,
    ) -> None:  # fmt: skip
        """folder: holds the segment files of all cameras. sizes: (D, C), the widths of embeddings and summaries.

        patch_bytes: the bytes of memory for one frame's patch features.
        """
        self._folder = folder
        self._sizes = sizes
        self._patch_bytes = patch_bytes
        self._limits = limits
        self._camera_limits = dict(camera_limits)
        self._folder_limits = folder_limits
        self._shared = shared
        self._logs: dict[str, CameraLog] = {}

    def __iter__(self) -> Iterator[CameraLog]:
        return iter(list(self._logs.values()))

    def get(self, camera: str) -> CameraLog | None:
        """Return the camera's log, or None if it has none yet. Raises ValueError for an invalid name."""
        return self._logs.get(check_camera_name(camera))

    def of(self, camera: str) -> CameraLog:
        """Return the camera's log, the list of its frames. Create it if there is none yet."""
        log = self._logs.get(camera)
        if log is None:
            log = self._logs[camera] = CameraLog(camera, self._limits_of(camera), self._patch_bytes)
        return log

    def _limits_of(self, camera: str) -> Limits:
        """Return the camera's limits, no larger than the folder's."""
        own, folder = self._camera_limits.get(camera, self._limits), self._folder_limits
        frames, num_bytes = folder.frames or own.frames, folder.bytes or own.bytes
        return replace(own, frames=min(own.frames, frames), bytes=min(own.bytes, num_bytes))

    def make_room(self, frames: int = 0, num_bytes: int = 0) -> list[Segment]:
        """Evict old frames, so that the folder's limits are kept when so many frames and bytes are added.

        Return the segments (files of consecutive frames) without remaining frames, which are removed from their logs.
        """
        return make_room(self, self._folder_limits, incoming_frames=frames, incoming_bytes=num_bytes)

    def give_to_full_disk(self, log: CameraLog) -> list[Segment]:
        """Evict the oldest segment (file of consecutive frames) because the disk is full. Return it in a list.

        log: of the camera that could not record. The list is empty if nothing is evicted.

        A segment is evicted only if this camera or the whole folder uses at least three quarters of one of its limits,
        so that recording goes on. (Evicting single frames would free no space.) If less is used, something else filled
        the disk, and the history is kept.
        """
        own, folder = log.limits, self._folder_limits
        if len(log.segments) >= 4 and (log.num_frames >= 0.75 * own.frames or log.num_bytes >= 0.75 * own.bytes):
            return [log.give_segment()]
        held = [each for each in self if len(each.segments) > 1]
        for cap, use in ((folder.bytes, _bytes), (folder.frames, _frames)):
            if held and cap is not None and sum(map(use, held)) >= 0.75 * cap:
                return [giver(held, cap, use).give_segment()]
        return []

    def new_segment(self, camera: str, segment_id: int, count: int) -> Segment:
        """Return a new, empty segment (for consecutive frames of a camera) with room for at least `count` of them.

        Creates no files.
        """
        return Segment(
            segment_id, camera, self._folder / camera, capacity=max(count, self._limits_of(camera).segment_frames),
            embedding_dim=self._sizes[0], summary_dim=self._sizes[1], shared=self._shared,
        )  # fmt: skip

    def start_segment(self, camera: str, frame_id: int) -> Segment:
        """Return a new, empty segment, and create the folder for its files. Raises StorageError."""
        segment = self.new_segment(camera, frame_id, 0)
        try:
            segment.frames_path.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise storage_error(error, f"cannot make a folder for camera {camera}") from error
        return segment

    def segments(self) -> Iterator[Segment]:
        return (segment for log in self._logs.values() for segment in log.segments)

    def find(self, frame_id: int) -> tuple[Segment, int] | None:
        """Return the segment and slot (position in the segment) of a stored frame, or None."""
        return next((found for log in self._logs.values() if (found := log.find(frame_id)) is not None), None)

    def held(self, frame_id: int) -> tuple[Segment, int]:
        """Return the segment and slot (position in the segment) of a stored frame.

        Raises FrameGone if it is not stored.
        """
        found = self.find(frame_id)
        if found is None:
            raise FrameGone(f"frame {frame_id} is not remembered")
        return found

    def join_blocks(self, log: CameraLog) -> None:
        """Join complete segments (runs of frames) into blocks, whose rows share one search index.

        Segments with patch features in memory are left out. Takes the store's lock itself, but releases it while it
        copies.
        """
        with self._shared.lock:
            for segment in log.segments:
                segment.seal_if_complete()  # again: an earlier try may have run out of memory
        while True:
            with self._shared.lock:
                run = next_run(log.segments)
            if not run:
                return
            block = Block(run)
            with self._shared.lock:
                if next_run(log.segments) != run:  # evicted or erased meanwhile: the next call leaves it out
                    return
                block.adopt()

    def retry_unread(self) -> None:
        """Read pictures again that could not be read, and clear the reported problem of those that now can be.

        Otherwise the problem would be reported until somebody asks for the same picture. Takes the store's lock itself.
        """
        with self._shared.lock:
            unread = [(segment, segment.unread) for segment in self.segments() if segment.unread is not None]
        for segment, slot in unread:
            try:
                segment.read_jpeg(slot)
            except FrameGone:
                continue
            except StorageError:
                return  # until the next call: each try may take seconds on a failing disk

    def between(self, camera: str, lower: float, upper: float) -> list[tuple[Segment | Block, int, int]]:
        """Return (segment, lo, hi) for each segment with frames of lower <= time <= upper: its slots [lo, hi).

        A slot is a frame's position in its segment. The list is empty for an unknown camera.
        """
        log = self.get(camera)
        return [] if log is None else list(log.between(lower, upper))


def make_room(
    logs: Iterable[CameraLog], limits: FolderLimits, *, incoming_frames: int = 0, incoming_bytes: int = 0
) -> list[Segment]:
    """Evict segments that would exceed the limits after `incoming` frames and bytes are added. Return them."""
    leaving: list[Segment] = []
    held = [log for log in logs if log.segments]
    while held and limits.frames is not None:
        excess = sum(log.num_frames for log in held) + incoming_frames - limits.frames
        if excess <= 0:
            break
        log = giver(held, limits.frames, _frames)
        above = math.ceil(log.num_frames - _protected(held, limits.frames))
        leaving += log.give(min(excess, above))
        held = [log for log in held if log.segments]
    while held and limits.bytes is not None and sum(log.num_bytes for log in held) + incoming_bytes > limits.bytes:
        leaving.append(giver(held, limits.bytes, _bytes).give_segment())
        held = [log for log in held if log.segments]
    return leaving


def giver(held: list[CameraLog], cap: int, use: Callable[[CameraLog], int]) -> CameraLog:
    """Return the log of the camera that must give up its oldest frames, so that a limit on all cameras is kept.

    It is the one with the oldest segment (file of consecutive frames) among the cameras above half of their fair share,
    which is the limit divided by the number of cameras. held: the cameras with frames. cap: the limit. use: returns how
    much of it a camera uses.
    """
    able = [log for log in held if use(log) > _protected(held, cap)] or [max(held, key=use)]
    return min(able, key=lambda log: log.segments[0].times[log.segments[0].count - 1])


def _protected(held: list[CameraLog], cap: int) -> float:
    return cap / len(held) / 2


def _frames(log: CameraLog) -> int:
    return log.num_frames


def _bytes(log: CameraLog) -> int:
    return log.num_bytes


def first_ids(limit: int, cameras: Iterable[Iterator[npt.NDArray[np.int64]]], *, newest_first: bool) -> list[int]:
    """Return the lowest `limit` ids, rising; with `newest_first`, the highest ones, falling.

    cameras: for each camera, an iterator over arrays of rising ids; the arrays come in the wanted order. No more arrays
    are consumed than needed.
    """
    merged = heapq.merge(*(_flattened(arrays, newest_first) for arrays in cameras), reverse=newest_first)
    return list(islice(merged, max(0, limit)))


def _flattened(arrays: Iterator[npt.NDArray[np.int64]], newest_first: bool) -> Iterator[int]:
    for ids in arrays:
        yield from (ids[::-1] if newest_first else ids).tolist()
