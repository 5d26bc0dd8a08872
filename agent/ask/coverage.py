"""What memory holds of the cameras and times that a question is about, and how that is told.

A gap is a stretch in which a camera should have sent frames and did not: longer than a minute, and than three times
its usual interval.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from agent.ask.question import Coverage, Searched
from agent.reading.types import Known
from agent.times import format_short, format_span, format_stretch, format_time
from memory.records import Float64
from memory.store import MemoryStore
from memory.window import Window

MIN_GAP_S = 60.0
INTERVALS = 3.0  # a gap is longer than so many of the camera's usual intervals between frames
MAX_GAPS = 10  # for each camera, the longest
MAX_LINES = 12  # cameras that a language model is told of
NUM_TOLD = 5  # cameras named in one note

ZoneOf = Callable[[str], str]


def coverage_of(
    store: MemoryStore, window: Window, after: float | None, before: float | None, now: float
) -> tuple[Coverage, ...]:
    """Return what memory holds of each camera of `window` between `after` and `before`. Blocks.

    after, before: unix seconds; None: since the camera's oldest frame, until `now`. A bound in the future counts as
    `now`.
    """
    return tuple(
        _of_camera(name, window.times[window.camera_index == number], store.stats(name).oldest, after, before, now)
        for number, name in enumerate(window.cameras)
    )


def _of_camera(
    name: str, times: Float64, begins: float | None, after: float | None, before: float | None, now: float
) -> Coverage:
    if not len(times):
        return Coverage(name, 0, 0.0, (), begins, None, None)
    oldest, newest = float(times[0]), float(times[-1])
    usual_s = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    first = oldest if after is None else min(after, oldest)
    last = max(newest, now if before is None else min(before, now))
    edges = np.concatenate([[first], times, [last]])
    lengths = np.diff(edges)
    is_gap = lengths > max(MIN_GAP_S, INTERVALS * usual_s)
    longest = np.flatnonzero(is_gap)[np.argsort(-lengths[is_gap], kind="stable")][:MAX_GAPS]
    gaps = tuple((float(edges[place]), float(edges[place + 1])) for place in sorted(longest))
    share = 1.0 - float(lengths[is_gap].sum()) / max(last - first, 1e-9)
    return Coverage(name, len(times), round(share, 4), gaps, begins, oldest, newest)


def coverage_notes(searched: Searched, now: float, zone_of: ZoneOf) -> Iterator[str]:
    """Yield notes for the asker on what was not recorded: cameras without frames, memory that begins late, gaps."""
    coverage, after = searched.coverage, searched.after
    if searched.words and (after or searched.before) and len({zone_of(name) for name in searched.cameras}) > 1:
        yield f"times in the question are local times of {searched.cameras[0]} ({zone_of(searched.cameras[0])})"
    silent = [each.camera for each in coverage if not each.frames]
    if silent and len(silent) < len(coverage):
        yield f"cameras without a frame of that time: {', '.join(silent[:NUM_TOLD])}{_more(silent)}"
    late = [each for each in coverage if after and each.begins is not None and each.begins > after]
    yield from (begins_note(each.camera, each.begins, now, zone_of) for each in late[:NUM_TOLD] if each.begins)
    if not after and searched.before is None:
        return  # no stretch of time was asked about, so nothing is missing from it
    for each in coverage[:NUM_TOLD]:
        inside = [gap for gap in each.gaps if each.begins is None or gap[1] > each.begins]
        if inside:
            start, end = max(inside, key=lambda gap: gap[1] - gap[0])
            zone = zone_of(each.camera)
            times = f"{format_short(start, zone, now)} to {format_short(end, zone, now)}"
            number = "a gap" if len(inside) == 1 else f"{len(inside)} gaps, the longest"
            yield f"{each.camera} has {number} from {times} ({format_span(end - start)})"


def background_of(searched: Searched, now: float, zone_of: ZoneOf) -> str:
    """Return what a language model is told before a question: the time, the cameras, and what memory covers."""
    zone = zone_of(searched.cameras[0]) if searched.cameras else "UTC"
    stretch = format_stretch(searched.after, searched.before, zone, now)
    lines = [f"It is now {format_time(now, zone)} ({zone}). The question is about {stretch}."]
    for each in searched.coverage[:MAX_LINES]:
        own = zone_of(each.camera)
        if each.oldest is None or each.newest is None:
            lines.append(f"Camera {each.camera} has no picture of that time.")
            continue
        times = f"from {format_time(each.oldest, own)} to {format_time(each.newest, own)}"
        lines.append(
            f"Camera {each.camera} ({own}): {each.frames} pictures {times}; {each.share:.0%} of the time recorded."
        )
    return "\n".join([*lines, *_more_lines(searched.coverage)])


def _more_lines(coverage: Sequence[Coverage]) -> list[str]:
    return [f"And {len(coverage) - MAX_LINES} more cameras."] if len(coverage) > MAX_LINES else []


def nothing_searched(
    cameras: tuple[str, ...], after: float | None, before: float | None, words: tuple[str, ...], known: Known
) -> Searched:
    """Return what was searched where memory holds nothing of it."""
    begins = {camera.name: camera.oldest for camera in known.cameras}
    empty = tuple(Coverage(name, 0, 0.0, (), begins.get(name), None, None) for name in cameras)
    return Searched(cameras, after, before, words, empty)


def scope_json(searched: Searched | None) -> dict[str, Any]:
    """Return the JSON fields `scope` and `coverage` of an answer; {} if they are not known."""
    if searched is None:
        return {}
    scope = asdict(searched)
    return {"coverage": scope.pop("coverage"), "scope": scope}


def begins_note(camera: str, begins: float, now: float, zone_of: ZoneOf) -> str:
    """Return a sentence such as "memory of gate begins Mon 14:02"."""
    return f"memory of {camera} begins {format_short(begins, zone_of(camera), now)}"


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - NUM_TOLD} more" if len(names) > NUM_TOLD else ""
