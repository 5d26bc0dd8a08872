"""An answer in steps (`model.steps`): when did each thing come, and what do the frames of these times tell together? How often?

In: the plan, what each of its things is looked for in, and a way to ask. Out: the pieces of the answer, each as soon as it is
known. Knows no model.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.prepared import Prepared, clocks_of, group_sizes
from agent.times import format_clock, format_day, format_time
from agent.whereabouts import whereabouts
from memory.window import Window
from model.familiarity import CANNOT_TELL
from model.steps import Plan, means_no, named_row
from model.visits import Visit, VisitSearch

Ask = Callable[[str], Awaitable[str]]
ZoneOf = Callable[[str], str]
LONG_VISIT_S = 60.0


async def speak_in_steps(
    plan: Plan, parts: Sequence[Prepared], asker_of: Callable[[Prepared], Ask], zone_of: ZoneOf
) -> AsyncGenerator[str, None]:
    """ "The red car came at 14:03:22", ", the dog came at 13:58:10", ": after."

    `asker_of`: puts several questions, in turn, to the language model about the pictures of one part. A thing that never came
    ends the answer, and so do words without a time: they are said as they are.
    """
    times: list[float] = []
    for number, part in enumerate(parts):
        ask = asker_of(part)
        if means_no(await ask(plan.evers[number])):
            yield f"{'. ' if times else ''}{_sentence(plan.never_came(number))}"
            return
        words = await ask(plan.whens[number])
        row = named_row(words, clocks_of(part, zone_of), part.context.keyframes)
        if row is None:
            yield f"{'. ' if times else ''}{words}"
            return
        step = plan.came(number, _time_of(part.window, row, zone_of))
        yield f", {step}" if times else _capital(step)
        times.append(float(part.window.times[row]))
        if not plan.is_order:
            yield f": {_place_of(plan, part.window, row)}."
            return
    yield f": {plan.verdict(times)}."


@dataclass(frozen=True, slots=True)
class Counted:
    """An answer, and the rows it rests on: a frame of each visit, or of no visit those that were looked at in vain."""

    text: str
    rows: NDArray[np.int64]
    num_looks: int


@dataclass(frozen=True, slots=True)
class Look:
    """What one frame shows."""

    shows_it: bool
    is_foreign: bool = False  # a picture of a world that the model was not trained on


async def count_visits(
    plan: Plan, window: Window, scores: NDArray[np.float32], look: Callable[[int], Awaitable[Look]], zone_of: ZoneOf
) -> Counted:
    """scores (N,) of the window's frames. Where most of what it looks at is foreign to the model, the answer says so."""
    search = VisitSearch(window.times, scores, group_sizes(window))
    looked: list[int] = []
    num_foreign = 0
    while (row := search.next_row()) is not None:
        seen = await look(row)
        looked.append(row)
        num_foreign += seen.is_foreign
        search.tell(row, seen.shows_it)
    visits = sorted(search.visits(), key=lambda visit: float(window.times[visit.first]))
    rows = np.sort(np.array([visit.best for visit in visits] or looked, np.int64))
    if num_foreign > len(looked) / 2:
        return Counted(CANNOT_TELL, rows, len(looked))
    times = [_span_of(window, visit, zone_of) for visit in visits]
    return Counted(f"{plan.count(times, at_least=search.gave_up)}.", rows, len(looked))


async def pieces_of(text: str) -> AsyncGenerator[str, None]:
    """A text that is known already."""
    yield text


def _span_of(window: Window, visit: Visit, zone_of: ZoneOf) -> str:
    """When a visit began; of a long one until when, too; of several cameras which saw it."""
    told = _time_of(window, visit.first, zone_of)
    if window.times[visit.last] - window.times[visit.first] >= LONG_VISIT_S:
        told += f" to {_time_of(window, visit.last, zone_of)}"
    camera = window.cameras[int(window.camera_index[visit.first])]
    return f"{told} (camera {camera})" if len(window.cameras) > 1 else told


def _time_of(window: Window, row: int, zone_of: ZoneOf) -> str:
    """The clock alone, with the date where the window has several."""
    zone = zone_of(window.cameras[int(window.camera_index[row])])
    days = {format_day(float(moment), zone) for moment in (window.times.min(), window.times.max())}
    return (format_clock if len(days) == 1 else format_time)(float(window.times[row]), zone)


def _place_of(plan: Plan, window: Window, row: int) -> str:
    """What was sent with the frame of where that was; its camera where nothing was, or where that is asked."""
    camera = window.cameras[int(window.camera_index[row])]
    place = whereabouts(window.metadata(row))
    if plan.kind == "camera":
        return f"camera {camera}"
    if not place:
        return f"camera {camera}, which sent nothing of where it was"
    return f"{place} (camera {camera})" if len(window.cameras) > 1 else place


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _sentence(words: str) -> str:
    return f"{_capital(words)}."
