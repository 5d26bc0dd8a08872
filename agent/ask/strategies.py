"""Compose an answer from several short questions to the language model: in steps, or from visits.

In steps, the model is asked whether and when each thing of the question came. A visit is a stretch of time in which a
thing was in view; questions about counts and about the first or last time are answered by finding visits. The plan
(`agent.ask.reader`) says what to ask. Callers pass in the functions that ask the model.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agent.ask.pictures import whereabouts
from agent.ask.reader import Plan, means_no, means_yes, named_row
from agent.times import format_clock, format_day, format_time
from memory.window import Window
from model.familiarity import CANNOT_TELL
from model.select import Keyframes
from model.visit_search import Visit, VisitSearch

if TYPE_CHECKING:
    from model.features import VisualContext

Ask = Callable[[str], Awaitable[str]]  # a question -> the model's answer, from pictures that are fixed beforehand
ZoneOf = Callable[[str], str]
SideAt = Callable[["Part", int], Awaitable[str]]

LONG_VISIT_S = 60.0  # for visits of at least this length, the answer names the end as well as the beginning
SOME_FOREIGN = "some of these cameras show what this model was not trained on; nothing said of them is reliable"
GAVE_UP = {"first time": "before it", "last time": "after it"}


@dataclass(frozen=True, slots=True)
class Part:
    """The frames that the language model is shown for one step.

    visual: the tokens of the window's frames, with keyframes at full resolution and the others merged.
    """

    window: Window
    visual: "VisualContext"

    @property
    def keyframes(self) -> Keyframes:
        return self.visual.keyframes

    def as_familiar(self) -> "Part":
        """Return a copy in which no picture is marked as foreign, that is, as unlike the model's training pictures."""
        return replace(self, visual=replace(self.visual, foreign_groups=()))

    def clocks(self, zone_of: ZoneOf) -> list[str]:
        """Return the local time of each keyframe in the form that models are trained on: "17:04:05"."""
        zones = [zone_of(camera) for camera in self.window.cameras]
        cameras, times = self.window.camera_index, self.window.times
        return [format_clock(float(times[row]), zones[int(cameras[row])])[:8] for row in self.keyframes.rows]


async def speak_in_steps(
    plan: Plan, parts: Sequence[Part], asker_of: Callable[[Part], Ask], side_at: SideAt, zone_of: ZoneOf
) -> AsyncGenerator[str, None]:
    """Yield the pieces of an answer that is composed from several short questions to the model.

    For example: "The red car came at 14:03:22", ", the dog came at 13:58:10", ": after.".

    The answer ends early at a thing that never came or whose time is not known.

    parts: the pictures for each thing of the plan. asker_of: returns a function that asks the model about the pictures
    of a part. side_at: returns on which side of the picture the thing is.
    """
    times: list[float] = []
    for number, part in enumerate(parts):
        ask = asker_of(part)
        ever = await ask(plan.evers[number])
        if means_no(ever):
            never = plan.never_came(number)
            yield f"No, {never}." if plan.kind == "ever" else f"{'. ' if times else ''}{_sentence(never)}"
            return
        if plan.kind == "ever" and not means_yes(ever):
            yield ever
            return
        words = await ask(plan.whens[number])
        row = named_row(words, part.clocks(zone_of), part.keyframes)
        if plan.kind == "ever":
            yield _sentence(plan.ever_came(None if row is None else _at(part.window, row, zone_of)))
            return
        if row is None:  # the model named no time that it was shown: do not pass its words off as the answer
            yield f"{'. ' if times else ''}{words if words == CANNOT_TELL else _sentence(plan.untold(number))}"
            return
        step = plan.came(number, _time_of(part.window, row, zone_of))
        yield f", {step}" if times else _capital(step)
        times.append(float(part.window.times[row]))
        if not plan.is_order:
            yield f": {await _place_of(plan, part, row, side_at)}."
            return
    yield f": {plan.verdict(times)}."


@dataclass(frozen=True, slots=True)
class Counted:
    """An answer found by searching for visits, the stretches of time with the thing in view.

    rows: the window rows of the frames to cite as evidence.

    These are the first and the most relevant frame of each visit, and the last one if the answer names its time. If
    there was no visit, they are all frames that the model was asked about.
    """

    text: str
    rows: NDArray[np.int64]
    notes: tuple[str, ...] = ()
    found: bool = False  # whether there were visits


@dataclass(frozen=True, slots=True)
class Look:
    """The model's answer about a single frame: whether it shows the thing that the question is about."""

    shows_it: bool
    is_foreign: bool = False  # the picture is unlike those that the model was trained on


async def count_visits(
    plan: Plan, window: Window, search: VisitSearch, look: Callable[[int], Awaitable[Look | None]], zone_of: ZoneOf
) -> Counted:
    """Search for visits (times with the thing in view), and return an answer: how many, or when the first or last was.

    look: asks the model about the frame of a row; returns None if the frame can no longer be read. If, for every
    camera, most of the frames asked about are foreign (unlike the training pictures), the answer is that the model
    cannot tell.
    """
    looks: dict[int, Look] = {}
    while (row := search.next_row()) is not None:
        if (seen := await look(row)) is None:
            search.skip(row)
        else:
            looks[row] = seen
            search.tell(row, seen.shows_it)
    visits = _asked_about(plan, window, search.visits())
    rows = np.array(sorted({row for visit in visits for row in _proof(plan, window, visit)} or looks), np.int64)
    foreign = Counter(int(window.camera_index[row]) for row, seen in looks.items() if seen.is_foreign)
    looked_at = Counter(int(window.camera_index[row]) for row in looks)
    num_foreign = sum(2 * foreign[camera] > looked_at[camera] for camera in looked_at)
    if num_foreign and num_foreign == len(looked_at):
        return Counted(CANNOT_TELL, rows)
    if plan.kind == "count":
        times = [_span_of(window, visit, zone_of) for visit in visits]
        text = plan.count(times, at_least=search.gave_up)
    elif visits:
        [visit] = visits
        text = plan.seen_at(_at(window, visit.first if plan.kind == "first time" else visit.last, zone_of))
    else:
        text = _capital(plan.never_came(0))
    notes = [SOME_FOREIGN] if num_foreign else []
    if search.gave_up and plan.kind != "count":
        notes.append(f"after {search.num_looks} frames the search was given up: there may be one {GAVE_UP[plan.kind]}")
    return Counted(f"{text}.", rows, tuple(notes), bool(visits))


def _proof(plan: Plan, window: Window, visit: Visit) -> list[int]:
    """Return the rows of the window to cite as evidence of a visit (a stretch of time with the thing in view).

    These are its first and best frame, and its last one if the answer names its time.
    """
    names_end = _is_long(window, visit) or plan.kind == "last time"
    return [visit.first, visit.best, *([visit.last] if names_end else [])]


def _asked_about(plan: Plan, window: Window, visits: Sequence[Visit]) -> list[Visit]:
    """Return the visits that the question is about, by time: the first one, the last one, or all.

    A visit is a stretch of time with the thing in view.
    """
    if plan.kind == "last time":
        return sorted(visits, key=lambda visit: float(window.times[visit.last]))[-1:]
    ordered = sorted(visits, key=lambda visit: float(window.times[visit.first]))
    return ordered[:1] if plan.kind == "first time" else ordered


def _at(window: Window, row: int, zone_of: ZoneOf) -> str:
    """Return the local time of the frame in this row of the window.

    The camera is named, too, if the question is about several.
    """
    return _with_camera(window, row, _time_of(window, row, zone_of))


def _with_camera(window: Window, row: int, words: str) -> str:
    return f"{words} (camera {window.cameras[int(window.camera_index[row])]})" if len(window.cameras) > 1 else words


def _span_of(window: Window, visit: Visit, zone_of: ZoneOf) -> str:
    """Return the local time at which the visit began; for a long visit, also the time at which it ended.

    The camera is named if the question is about several.

    A visit is a stretch of time in which the thing was in view.
    """
    span = _time_of(window, visit.first, zone_of)
    if _is_long(window, visit):
        span += f" to {_time_of(window, visit.last, zone_of)}"
    return _with_camera(window, visit.first, span)


def _is_long(window: Window, visit: Visit) -> bool:
    return bool(window.times[visit.last] - window.times[visit.first] >= LONG_VISIT_S)


def _time_of(window: Window, row: int, zone_of: ZoneOf) -> str:
    """Return the local time of the frame in this row, with the date if the window covers several days."""
    zone = zone_of(window.cameras[int(window.camera_index[row])])
    days = {format_day(float(moment), zone) for moment in (window.times.min(), window.times.max())}
    return (format_clock if len(days) == 1 else format_time)(float(window.times[row]), zone)


async def _place_of(plan: Plan, part: Part, row: int, side_at: SideAt) -> str:
    """Return where the thing was seen: the camera, the place in the frame's metadata, or the side of the picture.

    row: the frame that shows it.
    """
    window = part.window
    camera = window.cameras[int(window.camera_index[row])]
    if plan.kind == "camera":
        return f"camera {camera}"
    place = "" if plan.kind == "side" else whereabouts(window.metadata(row))
    if not place and plan.kind in ("side", "where"):
        place = await side_at(part, row) or "I cannot tell on which side of the picture"
    return _with_camera(window, row, place) if place else f"camera {camera}, which sent nothing of where it was"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _sentence(words: str) -> str:
    return f"{_capital(words)}."
