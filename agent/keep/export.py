"""Export a period of one camera as a video, with a log that identifies each frame. Blocking.

The video shows the stored pictures at their true times, with nothing drawn into them. The log is a JSON file that lists
for every frame its id, capture time, metadata, and the SHA-256 of the stored JPEG. Works with a running agent, and with
a data folder without one.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from agent.ingest.jpeg import decode_jpeg
from agent.times import format_time
from memory.errors import FrameGone
from memory.records import FrameRecord
from streaming.clip import CODEC, TICKS_PER_S, ClipWriter

FORMAT = "vilamp-export-1"
MAX_FRAMES = 20_000


class NothingToExport(Exception):
    """No frame of the period can be exported."""


class TooManyFrames(Exception):
    """The period has more frames than MAX_FRAMES."""


class Frames(Protocol):
    """Where frames are read from: a memory, or an agent."""

    def records(self, camera: str, after: float | None, before: float | None, *, limit: int) -> list[FrameRecord]:
        """Return the first `limit` frames in [after, before] in time order, encoded or not."""

    def jpeg(self, frame_id: int) -> bytes:
        """Return the JPEG as stored. Raises FrameGone."""


def export(
    frames: Frames,
    camera: str,
    after: float | None,
    before: float | None,
    *,
    zone: str,
    now: float,
    video: Path,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Write the video to `video`, and return the log as JSON types. Raises NothingToExport, TooManyFrames, OSError.

    after, before, now: unix seconds. zone: the time zone of local times in the log. cancelled: called before each frame; when
    it returns True, the video ends there. Frames that are deleted, damaged or unreadable are listed under `missing`.
    """
    records = frames.records(camera, after, before, limit=MAX_FRAMES + 1)
    if len(records) > MAX_FRAMES:
        raise TooManyFrames(f"one clip has at most {MAX_FRAMES} frames, and here are more: ask for a shorter window")
    shown: list[dict[str, Any]] = []
    missing: list[dict[str, Any]] = []
    with ClipWriter(video) as writer:
        for record in records:
            if cancelled():
                break
            try:
                jpeg = frames.jpeg(record.frame_id)
                image = decode_jpeg(jpeg)
            except (
                FrameGone,
                OSError,
            ) as error:  # StorageError is an OSError, and so is a picture that does not decode
                missing.append({"frame_id": record.frame_id, "time": record.time, "reason": str(error)})
            else:
                video_time_s = writer.add(image, record.time)
                shown.append(_entry(record, jpeg, video_time_s, zone))
    if not shown:
        video.unlink(missing_ok=True)
        raise NothingToExport("nothing is remembered in that window")
    return {
        "format": FORMAT,
        "camera": camera,
        "after": after,
        "before": before,
        "timezone": zone,
        "exported": now,
        "exported_local": format_time(now, zone),
        "video": {
            "codec": CODEC,
            "width": writer.width,
            "height": writer.height,
            "ticks_per_s": TICKS_PER_S,
            "first_frame_time": shown[0]["time"],
            "bytes": video.stat().st_size,
            "sha256": _sha256_of(video),
        },
        "frames": shown,
        "missing": missing,
    }


def _entry(record: FrameRecord, jpeg: bytes, video_time_s: float, zone: str) -> dict[str, Any]:
    return {
        "frame_id": record.frame_id,
        "time": record.time,
        "local_time": format_time(record.time, zone),
        "video_time_s": round(video_time_s, 6),
        "metadata": record.metadata,
        "jpeg_bytes": len(jpeg),
        "jpeg_sha256": hashlib.sha256(jpeg).hexdigest(),
    }


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def log_text(log: dict[str, Any]) -> str:
    """Return the text of the log's file: the log as JSON."""
    return json.dumps(log, indent=1, ensure_ascii=False) + "\n"
