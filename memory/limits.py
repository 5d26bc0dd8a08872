"""How much a camera may keep, and the names that cameras may have.

Knows nothing of segments or files; `camera_log.py` enforces these numbers.
"""

import math
import re
from dataclasses import dataclass

_CAMERA = re.compile(r"[a-z0-9_-]{1,64}")


def check_camera_name(camera: str) -> str:
    """The name itself, if it is a slug `[a-z0-9_-]{1,64}` (it becomes a folder name); ValueError otherwise."""
    if not _CAMERA.fullmatch(camera):
        raise ValueError(f"camera name {camera[:80]!r}: use 1 to 64 of a-z, 0-9, '_' and '-'")
    return camera


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps of one camera, all enforced at every append, oldest out.

    frames: frames remembered (exact: never more).
    bytes: of pictures, metadata and vectors on disk (whole segments leave; never more remembered. Their files go when the
        last window lets go of them, with the next `MemoryStore.maintain`, or at once where the disk is full).
    age_s: a frame older than this before the newest one goes (None: no limit). Measured between capture times, so a
        replayed recording ages like a live camera; `MemoryStore.expire` applies a wall clock on top.
    hot_frames, hot_bytes: patches are held in memory for at most so many of the newest frames, up to one segment more.
    segment_frames: frames per segment, the unit in which disk space is given back.
    """

    frames: int = 10_000
    bytes: int = 20 * 2**30
    age_s: float | None = None
    hot_frames: int = 10_000
    hot_bytes: int = 20 * 2**30
    segment_frames: int = 256

    def __post_init__(self) -> None:
        for name in ("frames", "bytes", "segment_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"limits: {name} must be at least 1, not {getattr(self, name)}")
        for name in ("hot_frames", "hot_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"limits: {name} must not be negative, not {getattr(self, name)}")
        if self.age_s is not None and not (self.age_s > 0 and math.isfinite(self.age_s)):
            raise ValueError(f"limits: age_s must be positive and finite (or left out), not {self.age_s}")
        if self.segment_frames > 65_536:
            raise ValueError(f"limits: segment_frames must be at most 65536, not {self.segment_frames}")
