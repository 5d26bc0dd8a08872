"""The logs of all cameras, made as cameras appear, and the segments they are made of. Under the store's lock.

Knows each camera's limits and where its files lie; the rows of the journal are the store's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from memory.blocks import Block
from memory.camera_log import CameraLog
from memory.errors import FrameGone
from memory.limits import Limits, check_camera_name
from memory.segment_file import storage_error, sync_folder
from memory.segments import Segment, Shared
from memory.sharing import FolderLimits, give_to_full_disk, make_room


class CameraLogs:
    """See the module."""

    def __init__(
        self,
        folder: Path,
        sizes: tuple[int, int],
        patch_bytes: int,
        *,
        limits: Limits,
        camera_limits: Mapping[str, Limits],
        folder_limits: FolderLimits,
        sync: bool,
        shared: Shared,
    ) -> None:
        """folder: of all segments; sizes: (D, C); patch_bytes: of one frame in memory; sync: wait for the medium."""
        self._folder = folder
        self._sizes = sizes
        self._patch_bytes = patch_bytes
        self._limits = limits
        self._camera_limits = dict(camera_limits)
        self._folder_limits = folder_limits
        self._sync = sync
        self._shared = shared
        self._logs: dict[str, CameraLog] = {}

    def __iter__(self) -> Iterator[CameraLog]:
        return iter(list(self._logs.values()))

    def get(self, camera: str) -> CameraLog | None:
        """ValueError for what cannot be a name."""
        return self._logs.get(check_camera_name(camera))

    def of(self, camera: str) -> CameraLog:
        """The log of this camera, made now if it is the first time."""
        log = self._logs.get(camera)
        if log is None:
            log = self._logs[camera] = CameraLog(camera, self._limits_of(camera), self._patch_bytes)
        return log

    def _limits_of(self, camera: str) -> Limits:
        """Its own, and no more than the folder's."""
        own, folder = self._camera_limits.get(camera, self._limits), self._folder_limits
        frames, num_bytes = folder.frames or own.frames, folder.bytes or own.bytes
        return replace(own, frames=min(own.frames, frames), bytes=min(own.bytes, num_bytes))

    def make_room(self, frames: int = 0, num_bytes: int = 0) -> list[Segment]:
        """What leaves so that so much more keeps to the folder's caps."""
        return make_room(self, self._folder_limits, incoming_frames=frames, incoming_bytes=num_bytes)

    def give_to_full_disk(self, log: CameraLog) -> list[Segment]:
        """What leaves so that a camera at its caps, or a folder at its own, goes on recording on a full disk."""
        return log.give_to_full_disk() or give_to_full_disk(self, self._folder_limits)

    def new_segment(self, camera: str, segment_id: int, count: int) -> Segment:
        """For `count` frames at least; no file is made."""
        return Segment(
            segment_id, camera, self._folder / camera, capacity=max(count, self._limits_of(camera).segment_frames),
            embedding_dim=self._sizes[0], summary_dim=self._sizes[1], shared=self._shared,
        )  # fmt: skip

    def start_segment(self, camera: str, frame_id: int) -> Segment:
        """An empty one, and the folder for its files. StorageError."""
        segment = self.new_segment(camera, frame_id, 0)
        try:
            segment.frames_path.parent.mkdir(mode=0o700, exist_ok=True)
            if self._sync:
                sync_folder(segment.frames_path.parent.parent)
        except OSError as error:
            raise storage_error(error, f"cannot make a folder for camera {camera}") from error
        return segment

    def segments(self) -> Iterator[Segment]:
        return (segment for log in self._logs.values() for segment in log.segments)

    def find(self, frame_id: int) -> tuple[Segment, int] | None:
        """The segment and slot of a remembered frame."""
        for log in self._logs.values():
            found = log.find(frame_id)
            if found is not None:
                return found
        return None

    def between(self, camera: str, lower: float, upper: float) -> list[tuple[Segment | Block, int, int]]:
        """As `CameraLog.between`; nothing of a camera that is not remembered."""
        log = self.get(camera)
        return [] if log is None else list(log.between(lower, upper))

    def held(self, frame_id: int) -> tuple[Segment, int]:
        """As `find`; FrameGone if it is not remembered."""
        found = self.find(frame_id)
        if found is None:
            raise FrameGone(f"frame {frame_id} is not remembered")
        return found
