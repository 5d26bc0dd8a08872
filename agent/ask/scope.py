"""The scope of a question: the cameras, times and place it is about. Each question builds one window, from its scope.

A window is an immutable view of stored frames. When a question is admitted, its frames are only counted: a question
without frames is refused before its stream begins. The window is built later, when the question's turn comes, so that
it includes frames that arrived while the question waited, and excludes those erased since.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.ask.coverage import NUM_TOLD, begins_note, nothing_searched, scope_json
from agent.ask.keyframes import frames_per_camera
from agent.ask.question import Question
from agent.errors import NoFrames, NotEncodedYet, UnclearScope
from agent.reading.scope import read_scope
from agent.reading.types import CameraNames, Known
from agent.settings.settings import Settings
from agent.times import PartsOfDay, format_short, format_span, format_stretch, format_time
from memory.store import MemoryStore
from memory.window import Window, Within

STALE_S = 60.0
RHYTHM_FRAMES = 16
ALMOST_EMPTY_S = 60.0  # with less video than this the answer says how much there is


@dataclass(frozen=True, slots=True)
class Scope:
    """The cameras, times (unix seconds; None: unbounded) and place of the frames to search."""

    cameras: tuple[str, ...]
    after: float | tuple[float, ...] | None = None  # for all cameras, or one for each
    before: float | None = None
    within: Within | None = None
    is_now: bool = False  # only the newest frames of each camera


def known_cameras(settings: Settings, store: MemoryStore, names: Iterable[str], now: float) -> Known:
    """Return the cameras of these names, with aliases, zones and what memory has of them, and the time. Blocks."""
    cameras = []
    for name in names:
        camera, stats = settings.camera(name), store.stats(name)
        cameras.append(CameraNames(name, camera.aliases, camera.timezone, stats.oldest, stats.newest))
    return Known(now, tuple(cameras))


def understood(question: Question, known: Known, parts: PartsOfDay) -> Question:
    """Return the question with the cameras and times that its words name; those that the asker set win.

    Raises UnclearScope if the words cannot be followed.
    """
    asked = [each for each in known.cameras if each.name in question.cameras]
    others = [each for each in known.cameras if each.name not in question.cameras]
    words = read_scope(question.text, replace(known, cameras=(*asked, *others), earlier=question.said), parts)
    if words.problem:
        raise UnclearScope(f"{words.problem}. Name one of them.", param="messages")
    after, before, used = question.after, question.before, words.words
    if after is None and before is None:
        after, before = words.after, words.before
    else:
        used = tuple(each for each in used if each not in words.time_words)
        words = replace(words, others=())
    if not question.cameras_by_default:
        used = tuple(each for each in used if each in words.time_words)
    cameras = words.cameras if question.cameras_by_default and words.cameras else question.cameras
    return replace(question, cameras=cameras, after=after, before=before, words=replace(words, words=used))


def whole_stretch(question: Question) -> Question:
    """Return the question with the stretches of time that its words name, "today or yesterday", as one from end to end."""
    words, after, before = question.words, question.after, question.before
    if words is None or not words.others:
        return question
    lows, highs = zip(*words.others, strict=True)
    return replace(
        question,
        after=None if after is None else min(after, *lows),
        before=None if before is None else max(before, *highs),
        words=replace(words, others=()),
    )


def other_windows(
    store: MemoryStore, question: Question, now: float, zone_of: Callable[[str], str]
) -> tuple[tuple[Window, ...], list[str]]:
    """Return the frames of each further stretch of time that the words name, and notes on those without any. Blocks."""
    windows, notes = [], []
    for after, before in question.words.others if question.words else ():
        window = store.window(question.cameras, after, before, question.within)
        if window.num_frames:
            windows.append(window)
            continue
        stretch = format_stretch(after, before, zone_of(question.cameras[0]), now)
        why = f"{window.unencoded} pictures are not yet encoded" if window.unencoded else "nothing was recorded"
        notes.append(f"{stretch} is left out of the comparison: {why}")
    return tuple(windows), notes


def scope_of(store: MemoryStore, question: Question, now_frames: int) -> Scope:
    """Return which frames a question is about: their cameras, times and place. Blocks.

    now_frames: search only so many of the newest frames of each camera; 0: all frames.
    """
    whole = Scope(question.cameras, question.after, question.before, question.within)
    if not now_frames:
        return whole
    count = max(now_frames, RHYTHM_FRAMES)
    times = [store.newest_times(camera, count) for camera in question.cameras]
    if question.after is not None:
        times = [each[each >= question.after] for each in times]
    if not any(map(len, times)):
        return whole  # which says why it is empty
    return Scope(question.cameras, tuple(now_begins(times, now_frames)), is_now=True)


def now_begins(times: list[NDArray[np.float64]], now_frames: int) -> list[float]:
    """Return, for each camera, the time of the first of its newest `now_frames` frames.

    The time is infinity for a camera that has stopped sending, so that none of its frames is searched.

    times: for each camera the times of its newest frames, rising. A camera counts as stopped if its last frame is older
    than that of another camera by more than a minute, and by more than three times the median interval of its frames.
    """
    latest, begins = max(float(each[-1]) for each in times if len(each)), []
    for each in times:
        usual_s = float(np.median(np.diff(each[-RHYTHM_FRAMES:]))) if len(each) > 1 else 0.0
        sends = len(each) > 0 and each[-1] >= latest - max(STALE_S, 3 * usual_s)
        begins.append(float(each[-min(now_frames, len(each))]) if sends else math.inf)
    return begins


def check_not_empty(store: MemoryStore, scope: Scope, known: Known, words: tuple[str, ...] = ()) -> None:
    """Raise NoFrames or NotEncodedYet if no encoded frame has the cameras, times and place of `scope`.

    Builds no window. Blocks.
    """
    encoded, unencoded = store.count(scope.cameras, scope.after, scope.before, scope.within)
    if not encoded:
        raise _nothing(scope, unencoded, known, words)


def window_of(store: MemoryStore, scope: Scope) -> Window:
    """Return the frames that the question is about as an immutable view (window).

    Raises NoFrames, or NotEncodedYet if none is encoded yet. Blocks.
    """
    window = store.window(scope.cameras, scope.after, scope.before, scope.within)
    if not window.num_frames:
        raise _nothing(scope, window.unencoded)
    return window


def _nothing(
    scope: Scope, unencoded: int, known: Known | None = None, words: tuple[str, ...] = ()
) -> NoFrames | NotEncodedYet:
    if unencoded:
        return NotEncodedYet(unencoded)
    place, radius = (" near that place", ", or radius_m") if scope.within else ("", "")
    told = "" if known is None else _why_nothing(scope, known)
    return NoFrames(
        f"Nothing is remembered in that window{place}{told}: widen after/before{radius}, "
        "or wait for the camera to send.",
        None
        if known is None
        else scope_json(nothing_searched(scope.cameras, _after(scope), scope.before, words, known)),
    )


def _after(scope: Scope) -> float | None:
    return min(scope.after) if isinstance(scope.after, tuple) else scope.after


def _why_nothing(scope: Scope, known: Known) -> str:
    """Return why memory has no frame of that window, such as " (memory of gate begins Mon 14:02)"; "" if unknown."""
    asked = [each for each in known.cameras if each.name in scope.cameras]
    after = _after(scope)
    if after is not None and after > known.now:
        zone = asked[0].zone if asked else "UTC"
        return f" (it begins {format_short(after, zone, known.now)}, in the future)"
    zones = {each.name: each.zone for each in asked}
    held = [each for each in asked if each.oldest is not None]
    late = [
        each for each in held if scope.before is not None and each.oldest is not None and each.oldest > scope.before
    ]
    told = [
        begins_note(each.name, each.oldest, known.now, zones.__getitem__) for each in late if each.oldest is not None
    ]
    ended = [each for each in held if after is not None and each.newest is not None and each.newest < after]
    told += [
        f"the newest picture of {each.name} is of {format_short(each.newest, each.zone, known.now)}"
        for each in ended
        if each.newest is not None
    ]
    told += [f"memory has no picture of {each.name}" for each in asked if each.oldest is None]
    return f" ({'; '.join(told[:NUM_TOLD])})" if told else ""


def scope_notes(scope: Scope, window: Window, zone_of: Callable[[str], str]) -> list[str]:
    """Return notes for the asker on which frames were searched, such as frames that are not encoded yet."""
    notes = []
    if scope.is_now:
        first = int(np.argmin(window.times))
        begins = format_time(float(window.times[first]), zone_of(window.cameras[int(window.camera_index[first])]))
        silent = [name for name, size in zip(window.cameras, frames_per_camera(window), strict=True) if size == 0]
        without = f"; cameras without a frame of now: {', '.join(silent)}" if silent else ""
        notes.append(
            f"the question is about now: only frames from {begins} on were looked at (answering.now_frames){without}"
        )
    if window.unencoded:
        notes.append(f"frames of this window that are not yet encoded, and had no part: {window.unencoded}")
    return notes


def short_history(store: MemoryStore, window: Window) -> str | None:
    """Return a note such as "12 s of video so far" if the window is short because the memory has nothing older.

    Returns None otherwise. Blocks.
    """
    oldest, newest = float(window.times.min()), float(window.times.max())
    if newest - oldest >= ALMOST_EMPTY_S:
        return None
    known = [stats.oldest for stats in map(store.stats, window.cameras) if stats.oldest is not None]
    if known and min(known) < oldest:
        return None  # the asker chose a short window
    return f"{format_span(newest - oldest)} of video so far"
