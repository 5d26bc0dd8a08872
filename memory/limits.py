"""How much may be stored, per camera and in total, and which camera names are valid."""

import math
import re
from dataclasses import dataclass

_CAMERA = re.compile(r"[a-z0-9_-]{1,64}")


def check_camera_name(camera: str) -> str:
    """Return the name if it matches `[a-z0-9_-]{1,64}`, as it becomes a folder name. Raises ValueError otherwise."""
    if not _CAMERA.fullmatch(camera):
        raise ValueError(f"camera name {camera[:80]!r}: use 1 to 64 of a-z, 0-9, '_' and '-'")
    return camera


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on what is stored of one camera. Each append enforces them by evicting the oldest frames."""

    frames: int = 10_000
    """Frames stored, exactly."""
    bytes: int = 20 * 2**30
    """Bytes of pictures, metadata and vectors on disk. Whole segments leave, so usage may be lower, never higher, but
    for files that a window still reads or that wait for the next `MemoryStore.maintain`."""
    age_s: float | None = None
    """Largest age behind the newest frame, between capture times: a replayed recording ages like a live camera.
    `MemoryStore.expire` measures from the wall clock as well."""
    hot_frames: int = 10_000
    """Newest frames whose patches stay in memory, up to one segment more."""
    hot_bytes: int = 20 * 2**30
    """Bytes of patches in memory, up to one segment more."""
    segment_frames: int = 256
    """Frames per segment, the unit in which disk space is freed."""

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


@dataclass(frozen=True, slots=True)
class FolderLimits:
    """Limits on what is stored of all cameras together. None: no limit."""

    frames: int | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("frames", "bytes"):
            cap = getattr(self, name)
            if cap is not None and cap < 1:
                raise ValueError(f"folder limits: {name} must be at least 1, not {cap}")
