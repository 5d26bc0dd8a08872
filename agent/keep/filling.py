"""Estimate from each camera's growth whether the disk will be full before the limits of the memory are reached. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agent.keep.caps import Machine, camera_caps, folder_caps
from agent.settings.settings import Settings
from agent.times import format_span

DAY_S = 86_400.0
HORIZON_S = 7 * DAY_S
"""A disk that will be full later than this causes no warning."""
LEAST_SPAN_S = 600.0
"""A camera with a shorter history is left out of the estimate."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How fast the stored data of one camera grows, and how many more bytes it may use."""

    camera: str
    bytes_per_s: float
    room_bytes: float  # bytes that it may still grow before one of its own limits is reached


def full_in_s(growths: Sequence[Growth], free_bytes: float, folder_room_bytes: float | None) -> float | None:
    """Return the seconds until the disk is full; None if the limits of the memory are reached before.

    Each camera grows at its own rate until it has used its `room_bytes`. All together may grow by `folder_room_bytes`
    (None: no limit). Example: 100 bytes are free. Camera a grows by 10 bytes a second and may grow by 50; b grows by 5
    a second and may grow by 1000. After 5 s, 25 bytes are left, which b fills in 5 s more: the disk is full in 10 s.

    growths: how fast each camera's stored data grows.
    """
    left = free_bytes
    if folder_room_bytes is not None and folder_room_bytes <= left:
        return None
    growing = sorted((g for g in growths if g.bytes_per_s > 0 and g.room_bytes > 0), key=lambda g: _lasts_s(g))
    passed = 0.0
    for number, growth in enumerate(growing):
        rate, step = sum(g.bytes_per_s for g in growing[number:]), _lasts_s(growth) - passed
        if rate * step >= left:
            return passed + max(0.0, left) / rate
        left, passed = left - rate * step, passed + step
    return None


def _lasts_s(growth: Growth) -> float:
    return growth.room_bytes / growth.bytes_per_s


def growth_of(held: dict[str, Any], settings: Settings, machine: Machine) -> Growth | None:
    """Return how fast a camera's stored data grows and how much more it may; None if its history is too short.

    held: the summary of the camera, as `holdings` returns it.
    """
    if held["bytes_per_day"] is None or held["newest"] - held["oldest"] < LEAST_SPAN_S:
        return None
    caps = camera_caps(settings, held["camera"], machine)
    per_s, frame_bytes = held["bytes_per_day"] / DAY_S, held["bytes"] / held["frames"]
    most: list[float] = [caps.bytes, caps.frames * frame_bytes]
    most += [] if caps.keep_s is None else [caps.keep_s * per_s]
    return Growth(held["camera"], per_s, min(most) - held["bytes"])


def filling_problem(
    cameras: Sequence[dict[str, Any]], settings: Settings, machine: Machine, free_bytes: float
) -> str | None:
    """Return advice for the operator if the disk will be full within HORIZON_S, before the memory's limits are reached.

    None: it will not. cameras: the summary of each camera, as `holdings` returns it.
    """
    growths = [growth for each in cameras if (growth := growth_of(each, settings, machine)) is not None]
    held = sum(each["bytes"] for each in cameras)
    seconds = full_in_s(growths, free_bytes, folder_caps(settings, machine).bytes - held)
    if seconds is None or seconds > HORIZON_S:
        return None
    fastest = max(growths, key=lambda growth: growth.bytes_per_s).camera
    most = max(1, int(held + 0.8 * free_bytes) >> 20)
    return (
        f"the disk will be full in {format_span(seconds)}, before the limits of the memory are reached: set memory.max_bytes "
        f"to at most {most}MiB, lower cameras.{fastest}.max_bytes or keep, or free space"
    )
