"""How far back the memory of each camera reaches, and will reach once one of its limits is used up. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.keep.caps import Machine, camera_caps, folder_caps
from agent.settings.settings import Settings
from agent.times import format_span, load_zone, local_moment

DAY_S = 86_400.0
LEAST_SPAN_S = 600.0
"""A camera with a shorter history is expected to grow as configured, not as it did."""
FRAME_BYTES = 100_000
"""Assumed size of a frame on disk while nothing is stored: a 1280 x 720 JPEG with its vectors."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How far back one camera's memory will reach, in seconds, and the setting or share that limits it."""

    will_s: float
    limit: str


@dataclass(frozen=True, slots=True)
class _Growth:
    """How fast one camera's memory grows."""

    frames_per_s: float
    bytes_per_s: float


def reaches(
    held: Sequence[Mapping[str, Any]], settings: Settings, machine: Machine, free_bytes: float
) -> dict[str, Reach]:
    """Return the reach of each enabled or remembered camera, by name.

    held: the summary of each remembered camera, as `holdings` returns it. free_bytes: free space of the data folder's
    disk.
    """
    known = {str(each["camera"]): each for each in held}
    names = dict.fromkeys([*known, *(name for name, each in settings.cameras.items() if each.enabled)])
    grows = {name: _growth(known.get(name), settings.camera(name).rate_hz) for name in names}
    all_frames = sum(each.frames_per_s for each in grows.values())
    all_bytes = sum(each.bytes_per_s for each in grows.values())
    if not grows:
        return {}
    together = folder_caps(settings, machine)
    shared = {"free disk space": (free_bytes + sum(float(each["bytes"]) for each in held)) / all_bytes}
    _limit(shared, together.bytes_name, together.bytes / all_bytes)
    _limit(shared, together.frames_name, together.frames / all_frames)
    found = {}
    for name, growth in grows.items():
        caps, limits = camera_caps(settings, name, machine), dict(shared)
        _limit(limits, caps.bytes_name, caps.bytes / growth.bytes_per_s)
        _limit(limits, caps.frames_name, caps.frames / growth.frames_per_s)
        if caps.keep_s is not None:
            _limit(limits, "keep", caps.keep_s)
        found[name] = _nearest(limits)
    return found


def _limit(limits: dict[str, float], name: str, seconds: float) -> None:
    limits[name] = min(seconds, limits.get(name, seconds))


def _nearest(limits: Mapping[str, float]) -> Reach:
    limit = min(limits, key=lambda name: limits[name])
    return Reach(limits[limit], limit)


def _growth(held: Mapping[str, Any] | None, rate_hz: float) -> _Growth:
    if held is None or not held["frames"]:
        return _Growth(rate_hz, rate_hz * FRAME_BYTES)
    frame_bytes = float(held["bytes"]) / held["frames"]
    if held["frames_per_day"] and held["newest"] - held["oldest"] >= LEAST_SPAN_S:
        rate_hz = held["frames_per_day"] / DAY_S
    return _Growth(rate_hz, rate_hz * frame_bytes)


def reach_words(camera: str, oldest: float | None, reach: Reach, zone: str) -> str:
    """Return one sentence part: "gate reaches back to Mon 2026-11-30 14:02, will reach 7 d (keep)".

    oldest: unix seconds of the oldest stored frame; None: nothing is stored.
    """
    will = f"will reach {format_span(reach.will_s)} ({reach.limit})"
    if oldest is None:
        return f"{camera} remembers nothing yet, {will}"
    return f"{camera} reaches back to {local_moment(oldest, load_zone(zone)):%a %Y-%m-%d %H:%M}, {will}"
