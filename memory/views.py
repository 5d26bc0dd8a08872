"""Which frames a view holds: those of some cameras, inside some time, maybe near some place.

Pure; under the store's lock where nothing else is said.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from memory.args import load_metadata
from memory.blocks import Block
from memory.camera_log import CameraLog
from memory.records import Bool, Float64, FrameRecord
from memory.segments import Segment
from memory.window import Part, snapshot

Held = tuple[Segment | Block, int, int]
"""Slots [lo, hi) of a segment or block, as `CameraLog.between` gives them; what they show stays readable without a lock."""


@dataclass(frozen=True, slots=True)
class Within:
    """Frames whose metadata has numbers x and y at most `radius_m` from here; a frame without them is not near."""

    x: float
    y: float
    radius_m: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.x) and math.isfinite(self.y) and math.isfinite(self.radius_m)):
            raise ValueError("within: x, y and radius_m must be finite numbers")
        if not self.radius_m > 0:
            raise ValueError(f"within: radius_m must be above 0, not {self.radius_m:g}")

    def near(self, places: Float64) -> Bool:
        """(n, 2) x, y -> (n,); NaN is near nothing."""
        inside: Bool = np.hypot(places[:, 0] - self.x, places[:, 1] - self.y) <= self.radius_m
        return inside


def bounds(after: float | None, before: float | None) -> tuple[float, float]:
    """After and before as numbers; ValueError for NaN."""
    lower, upper = -math.inf if after is None else after, math.inf if before is None else before
    if math.isnan(lower) or math.isnan(upper):
        raise ValueError("after and before must be numbers")
    return lower, upper


def begins(after: float | Sequence[float] | None, count: int) -> list[float]:
    """The lower bounds of `count` cameras, from one for all or one for each; ValueError for NaN or another number of them."""
    each = after if isinstance(after, Sequence) else [after] * count
    if len(each) != count:
        raise ValueError(f"{count} cameras, but {len(each)} times")
    return [bounds(one, None)[0] for one in each]


def parts_of(
    logs: Sequence[CameraLog | None], lowers: Sequence[float], upper: float, where: Within | None
) -> tuple[list[Part], int]:
    """The parts of a window over these cameras, in their order, and how many frames of it are not encoded."""
    parts: list[Part] = []
    num_rows = num_unencoded = 0
    for number, (log, lower) in enumerate(zip(logs, lowers, strict=True)):
        for held, lo, hi, wanted in _pieces(log, lower, upper, where) if log else ():
            part, missing = snapshot(held, number, num_rows, lo, hi, wanted)
            num_unencoded += missing
            if part is not None:
                parts.append(part)
                num_rows += part.num_rows
    return parts, num_unencoded


def records_of(held: Iterable[Held], camera: str) -> Iterator[FrameRecord]:
    """The frames of these parts of a log, encoded or not, by rising time. Needs no lock."""
    for part, lo, hi in held:
        for slot in range(lo, hi):
            segment, own = part.place(slot)
            text = segment.metadata[own]  # read first: what is erased is marked gone before it is emptied
            if not segment.gone[own]:
                yield FrameRecord(int(segment.frame_ids[own]), camera, float(segment.times[own]), load_metadata(text))


def read_places(held: Iterable[Held]) -> None:
    """Makes the places of these parts known, so that a `Within` need not parse them under the lock. Needs none."""
    for part, _, _ in held:
        for segment in part.segments if isinstance(part, Block) else (part,):
            segment.places()


def _pieces(
    log: CameraLog, lower: float, upper: float, where: Within | None
) -> Iterator[tuple[Segment | Block, int, int, Bool | None]]:
    for held, lo, hi in log.between(lower, upper):
        if where is None:
            yield held, lo, hi, None
        elif isinstance(held, Block):
            for segment in held.segments:
                yield segment, 0, segment.count, where.near(segment.places())
        else:
            yield held, lo, hi, where.near(held.places()[lo:hi])
