"""What is known of a question before the first word of its answer, and what the asker should know of how it is made.

Knows no model.
"""

from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.ask.question import Evidence, Seen
from agent.ask.remote import Pictures, Tally
from agent.times import format_clock, format_time, repeated_hour
from memory.window import Window
from model.pointing import Box, boxes_of

if TYPE_CHECKING:
    from model.features import TextFeatures, VisualContext

ONE_AT_A_TIME = "this model reads one question at a time; what was said before it was not read"
SOME_FOREIGN = "some of these cameras show what this model was not trained on; nothing said of them is reliable"
_KINDS = ("relevant", "recent", "filling")  # what tells most first


@dataclass(frozen=True, slots=True)
class Prepared:
    """One question with what it is asked of. An answer in steps has several."""

    window: Window
    context: "VisualContext | Pictures"
    little: str | None  # said in the answer itself
    notes: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        """Visual tokens that the language model reads; a server counts for itself."""
        return 0 if isinstance(self.context, Pictures) else self.context.num_tokens


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer before its first word: what it rests on, and its pieces to come."""

    seen: Seen
    pieces: AsyncGenerator[str, None]
    tally: Tally  # filled in by then
    little: str | None
    notes: tuple[str, ...]


def group_sizes(window: Window) -> list[int]:
    """Rows of each camera, in the order in which they lie."""
    return [int(n) for n in np.bincount(window.camera_index, minlength=len(window.cameras))]


def clocks_of(prepared: Prepared, zone_of: Callable[[str], str]) -> list[str]:
    """Local time of day of each keyframe, as its camera's clock shows it: "17:04:05", which is all that models have learnt."""
    window = prepared.window
    zones = [zone_of(camera) for camera in window.cameras]
    return [
        format_clock(float(window.times[row]), zones[int(window.camera_index[row])])[:8]
        for row in prepared.context.keyframes.rows
    ]


def seen_of_all(parts: Iterable[Seen]) -> Seen:
    """What several steps rest on: every frame once, as the step has it that it tells most."""
    parts = list(parts)
    best: dict[int, Evidence] = {}
    for each in (each for part in parts for each in part.evidence):
        other = best.get(each.frame_id)
        if other is None or (_KINDS.index(each.kind), -each.score) < (_KINDS.index(other.kind), -other.score):
            best[each.frame_id] = each
    cameras = list(dict.fromkeys(each.camera for each in best.values()))
    return Seen(
        tuple(sorted(best.values(), key=lambda each: (cameras.index(each.camera), each.time))),
        max(part.num_frames for part in parts),
        min(part.oldest for part in parts),
        max(part.newest for part in parts),
    )


def boxes_of_keyframes(prepared: Prepared) -> dict[int, tuple[Box, ...]]:
    """By row: around what the question names; nothing in pictures that the model was not trained on."""
    context = prepared.context
    if isinstance(context, Pictures) or context.presence is None:
        return {}
    rows = context.keyframes.rows
    cameras = prepared.window.camera_index[rows]
    foreign = [camera for camera, is_so in zip(np.unique(cameras), context.foreign_groups, strict=False) if is_so]
    known = np.flatnonzero(~np.isin(cameras, foreign))
    return {int(rows[place]): boxes_of(context.presence[place]) for place in known}


def steps_note(asked: Iterable[str]) -> str:
    """For an answer in steps: what was asked instead."""
    return f"answered in steps: {' '.join(asked)} (answering.in_steps)"


def now_note(window: Window, zone_of: Callable[[str], str]) -> str:
    """For a question about now: from when on frames were looked at, and which cameras had none."""
    first = int(np.argmin(window.times))
    begins = format_time(float(window.times[first]), zone_of(window.cameras[int(window.camera_index[first])]))
    silent = [name for name, size in zip(window.cameras, group_sizes(window), strict=True) if size == 0]
    without = f"; cameras without a frame of now: {', '.join(silent)}" if silent else ""
    return f"the question is about now: only frames from {begins} on were looked at (answering.now_frames){without}"


def window_notes(window: Window, query: "TextFeatures") -> tuple[str, ...]:
    """What the asker should know about how frames were found."""
    notes = []
    if query.truncated:
        notes.append("the question is longer than the text encoder reads; frames were chosen by its beginning")
    if window.unencoded:
        notes.append(f"frames of this window that are not yet encoded, and had no part: {window.unencoded}")
    return tuple(notes)


def clock_notes(window: Window, rows: Iterable[int], zone_of: Callable[[str], str]) -> tuple[str, ...]:
    """A note for the first of these frames whose local time the clocks showed twice: a model may tell it without its zone."""
    for row in rows:
        zone = zone_of(window.cameras[int(window.camera_index[row])])
        if (note := repeated_hour([float(window.times[row])], zone)) is not None:
            return (note,)
    return ()


def context_notes(context: "VisualContext | Pictures") -> tuple[str, ...]:
    """What the asker should know about how the answer was made of them."""
    notes = []
    if isinstance(context, Pictures):
        notes.append(f"the answer rests on {len(context.shown)} pictures alone")
        if context.num_left_out:
            notes.append(f"{context.num_left_out} keyframes were left out: all pictures together would exceed 4 MiB")
        return tuple(notes)
    if any(context.foreign_groups) and not context.is_foreign:
        notes.append(SOME_FOREIGN)
    if context.num_summary_frames:
        notes.append(f"frames that contributed their summary only: {context.num_summary_frames}")
    if context.num_left_out:
        notes.append(f"frames that took part in choosing the keyframes and in nothing else: {context.num_left_out}")
    if context.num_shared_tokens:
        notes.append(f"tokens that stand for runs of several frames: {context.num_shared_tokens}")
    return tuple(notes)
