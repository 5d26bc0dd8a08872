"""Settings of keeping and hiding: caps of the whole memory, and privacy masks of a camera."""

import math
from typing import Annotated

from pydantic import AfterValidator, ByteSize, Field

from agent.settings.types import Part

Point = tuple[float, float]
MIN_AREA = 1e-6  # of the picture: less is a line or a mistake


def check_polygon(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """`points` itself, when it is a polygon inside the picture. Raises ValueError with what to do."""
    if not 3 <= len(points) <= 100:
        raise ValueError(f"a mask is a polygon of 3 to 100 points [x, y], not of {len(points)}")
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y) and 0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(
                f"[{x:g}, {y:g}] is outside the picture: x and y go from 0 (left, top) to 1 (right, bottom), not in pixels"
            )
    if area(points) < MIN_AREA:
        raise ValueError("the points of a mask must span an area: these lie on one line")
    return points


def area(points: tuple[Point, ...]) -> float:
    """Of a polygon, by the shoelace formula: the unit square has 1."""
    following = (*points[1:], points[0])
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(points, following, strict=True))) / 2


Polygon = Annotated[tuple[Point, ...], AfterValidator(check_polygon)]


class MemorySettings(Part):
    """Caps of all cameras together; each camera has its own besides."""

    max_frames: int | None = Field(
        default=None, ge=1, description="frames remembered of all cameras together; null: no such limit"
    )
    max_bytes: ByteSize | None = Field(
        default=None, ge=2**20, description="bytes remembered of all cameras together, as 200GiB; null: no such limit"
    )
    max_age_s: float | None = Field(
        default=None, gt=0, description="seconds remembered, of any camera; null: no such limit"
    )
