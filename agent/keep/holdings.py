"""Summarise what a memory holds, for `GET /v1/memory` and `vilamp memory`. Pure functions."""

from collections.abc import Mapping
from typing import Any

from agent.keep.caps import Machine, camera_caps, folder_caps
from agent.keep.reach import reach_words, reaches
from agent.settings.settings import Settings
from memory.records import CameraStats

DAY_S = 86_400.0


def memory_summary(
    stats: Mapping[str, CameraStats], settings: Settings, machine: Machine, free_bytes: int
) -> dict[str, Any]:
    """Return the whole memory's summary as JSON types: the body of `GET /v1/memory`.

    stats: what is stored, by camera. free_bytes: free space of the data folder's disk.
    """
    cameras = [holdings(name, each, settings, machine) for name, each in stats.items()]
    will = reaches(cameras, settings, machine, free_bytes)
    listed = []
    for each in cameras:
        name, reach = each["camera"], will[each["camera"]]
        words = reach_words(name, each["oldest"], reach, settings.camera(name).timezone)
        listed.append({**each, "will_reach_s": round(reach.will_s), "reach_limit": reach.limit, "reach": words})
    folder = {**folder_holdings(cameras, settings, machine), "free_bytes": free_bytes}
    return {"object": "memory", "folder": folder, "data": listed}


def holdings(camera: str, stats: CameraStats, settings: Settings, machine: Machine) -> dict[str, Any]:
    """Return the summary of one camera as JSON types.

    Rates per day are averages over its whole history. `cap` is the limit that is used most, and `cap_use` how much of
    it is used, 0 to 1.
    """
    caps = camera_caps(settings, camera, machine)
    span_s = 0.0 if stats.oldest is None or stats.newest is None else stats.newest - stats.oldest
    per_day = DAY_S / span_s if stats.frames > 1 and span_s > 0 else None
    use = {"frames": stats.frames / caps.frames, "bytes": stats.bytes / caps.bytes}
    if caps.keep_s is not None:
        use["age"] = span_s / caps.keep_s
    return {
        "camera": camera,
        "frames": stats.frames,
        "encoded": stats.encoded,
        "hot": stats.hot,
        "archive": stats.archive,
        "bytes": stats.bytes,
        "oldest": stats.oldest,
        "newest": stats.newest,
        "frames_per_day": None if per_day is None else round(stats.frames * per_day, 1),
        "bytes_per_day": None if per_day is None else round(stats.bytes * per_day),
        "cap_use": round(max(use.values()), 4),
        "cap": max(use, key=lambda name: use[name]),
    }


def folder_holdings(cameras: list[dict[str, Any]], settings: Settings, machine: Machine) -> dict[str, Any]:
    """Return the sums over all cameras and the limits of the data folder. cameras: their summaries from `holdings`."""
    frames, held_bytes = (sum(each[name] for each in cameras) for name in ("frames", "bytes"))
    caps = folder_caps(settings, machine)
    return {
        "frames": frames,
        "bytes": held_bytes,
        "max_frames": caps.frames,
        "max_bytes": caps.bytes,
        "keep_s": caps.keep_s,
    }
