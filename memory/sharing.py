"""Caps of the whole folder: which camera gives when all of them together exceed one. Pure: no files, no clock, no lock.

The oldest goes first, whosever it is, but never from a camera that holds at most half of its fair share (the cap divided
by the number of cameras with memory): one busy camera cannot push out all that a quiet one saw. So a camera keeps what
it has up to half its fair share, however long ago that was; above it, age alone decides.

Worked example, cap 100 frames, cameras a (80, oldest at 10:00), b (15, oldest at 09:00), c (5): the fair share is 33, so
b and c, with at most 16, keep what they have; a gives its oldest.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from memory.camera_log import CameraLog
from memory.segments import Segment


@dataclass(frozen=True, slots=True)
class FolderLimits:
    """Caps of all cameras together; None: no cap. bytes as in `Limits`."""

    frames: int | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("frames", "bytes"):
            cap = getattr(self, name)
            if cap is not None and cap < 1:
                raise ValueError(f"folder limits: {name} must be at least 1, not {cap}")


def make_room(
    logs: Iterable[CameraLog], limits: FolderLimits, *, incoming_frames: int = 0, incoming_bytes: int = 0
) -> list[Segment]:
    """Forgets what exceeds the caps once `incoming` has arrived; returns the segments that leave."""
    leaving: list[Segment] = []
    held = [log for log in logs if log.segments]
    while held and limits.frames is not None:
        excess = sum(log.num_frames for log in held) + incoming_frames - limits.frames
        if excess <= 0:
            break
        log = giver(held, limits.frames, lambda log: log.num_frames)
        above = math.ceil(log.num_frames - _spared(held, limits.frames))
        leaving += log.give(min(excess, above))
        held = [log for log in held if log.segments]
    while held and limits.bytes is not None and sum(log.num_bytes for log in held) + incoming_bytes > limits.bytes:
        leaving.append(giver(held, limits.bytes, lambda log: log.num_bytes).give_segment())
        held = [log for log in held if log.segments]
    return leaving


def give_to_full_disk(logs: Iterable[CameraLog], limits: FolderLimits) -> list[Segment]:
    """The oldest segment, if all cameras together hold at least three quarters of a cap: see `CameraLog`."""
    held = [log for log in logs if len(log.segments) > 1]
    frames, num_bytes = sum(log.num_frames for log in held), sum(log.num_bytes for log in held)
    if held and limits.bytes is not None and num_bytes >= 0.75 * limits.bytes:
        return [giver(held, limits.bytes, lambda log: log.num_bytes).give_segment()]
    if held and limits.frames is not None and frames >= 0.75 * limits.frames:
        return [giver(held, limits.frames, lambda log: log.num_frames).give_segment()]
    return []


def giver(held: list[CameraLog], cap: int, use: Callable[[CameraLog], int]) -> CameraLog:
    """The camera with the oldest segment among those that hold more than half of their fair share."""
    able = [log for log in held if use(log) > _spared(held, cap)] or [max(held, key=use)]
    return min(able, key=lambda log: log.segments[0].times[log.segments[0].count - 1])


def _spared(held: list[CameraLog], cap: int) -> float:
    return cap / len(held) / 2
