"""Answers in steps (`agent.ask.reader`): whether and when each thing came, what the frames of these times say, and how often.

In: the plan, what each of its things is looked for in, and a way to ask. Out: the pieces of the answer, each as soon as it is
known. Knows no model.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.ask.pictures import whereabouts
from agent.ask.prepared import SOME_FOREIGN, Prepared, clocks_of
from agent.ask.reader import Plan, means_no, means_yes, named_row
from agent.times import format_clock, format_day, format_time
from memory.window import Window
from model.familiarity import CANNOT_TELL
from model.visit_search import Visit, VisitSearch

Ask = Callable[[str], Awaitable[str]]
ZoneOf = Callable[[str], str]
SideAt = Callable[[Prepared, int], Awaitable[str]]
LONG_VISIT_S = 60.0
GAVE_UP = {"first time": "before it", "last time": "after it"}


async def speak_in_steps(
    plan: Plan, parts: Sequence[Prepared], asker_of: Callable[[Prepared], Ask], side_at: SideAt, zone_of: ZoneOf
) -> AsyncGenerator[str, None]:
    """ "The red car came at 14:03:22", ", the dog came at 13:58:10", ": after."

    `asker_of`: puts several questions, in turn, to the language model about the pictures of one part; `side_at`: on which side
    of the picture a thing was around a row of one part. A thing that never came ends the answer, and so does one whose time
    it cannot tell.
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
        row = named_row(words, clocks_of(part, zone_of), part.context.keyframes)
        if plan.kind == "ever":
            yield _sentence(plan.ever_came(None if row is None else _at(part.window, row, zone_of)))
            return
        if row is None:  # words about something else would be taken for the answer
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
    """An answer, the rows it rests on (of each visit the first frame and the one that was seen to show it; of no visit those
    that were looked at in vain), and what the asker should know."""

    text: str
    rows: NDArray[np.int64]
    notes: tuple[str, ...] = ()
    found: bool = False  # there were visits


@dataclass(frozen=True, slots=True)
class Look:
    """What one frame shows."""

    shows_it: bool
    is_foreign: bool = False  # a picture of a world that the model was not trained on


async def count_visits(
    plan: Plan, window: Window, search: VisitSearch, look: Callable[[int], Awaitable[Look | None]], zone_of: ZoneOf
) -> Counted:
    """`search` over the window's frames, for their number or the first or last of them; `look`: what one of them shows, None
    if nobody can say. Where most of what a camera shows is foreign to the model, the answer says so."""
    looks: dict[int, Look] = {}
    while (row := search.next_row()) is not None:
        if (seen := await look(row)) is None:
            search.skip(row)
        else:
            looks[row] = seen
            search.tell(row, seen.shows_it)
    visits = _asked_about(plan, window, search.visits())
    told = {
        row
        for visit in visits
        for row in (
            visit.first,
            visit.best,
            *([visit.last] if _is_long(window, visit) or plan.kind == "last time" else []),
        )
    }
    rows = np.array(sorted(told or looks), np.int64)
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


async def pieces_of(text: str) -> AsyncGenerator[str, None]:
    """A text that is known already."""
    yield text


def _asked_about(plan: Plan, window: Window, visits: Sequence[Visit]) -> list[Visit]:
    """In time order, all of them, or the one that the question is about."""
    if plan.kind == "last time":
        return sorted(visits, key=lambda visit: float(window.times[visit.last]))[-1:]
    ordered = sorted(visits, key=lambda visit: float(window.times[visit.first]))
    return ordered[:1] if plan.kind == "first time" else ordered


def _at(window: Window, row: int, zone_of: ZoneOf) -> str:
    """When, and of several cameras by which."""
    return _with_camera(window, row, _time_of(window, row, zone_of))


def _with_camera(window: Window, row: int, words: str) -> str:
    return f"{words} (camera {window.cameras[int(window.camera_index[row])]})" if len(window.cameras) > 1 else words


def _span_of(window: Window, visit: Visit, zone_of: ZoneOf) -> str:
    """When a visit began; of a long one until when, too; of several cameras which saw it."""
    told = _time_of(window, visit.first, zone_of)
    if _is_long(window, visit):
        told += f" to {_time_of(window, visit.last, zone_of)}"
    return _with_camera(window, visit.first, told)


def _is_long(window: Window, visit: Visit) -> bool:
    return bool(window.times[visit.last] - window.times[visit.first] >= LONG_VISIT_S)


def _time_of(window: Window, row: int, zone_of: ZoneOf) -> str:
    """The clock alone, with the date where the window has several."""
    zone = zone_of(window.cameras[int(window.camera_index[row])])
    days = {format_day(float(moment), zone) for moment in (window.times.min(), window.times.max())}
    return (format_clock if len(days) == 1 else format_time)(float(window.times[row]), zone)


async def _place_of(plan: Plan, part: Prepared, row: int, side_at: SideAt) -> str:
    """What was sent with the frame of where that was; its camera where nothing was, or where that is asked; or the side of the
    picture, if that is asked, or "where?" of a camera that sent nothing."""
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
