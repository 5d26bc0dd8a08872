"""The tools with which a question is answered: browse a scope, search it for a thing, look at frames. All only read.

The strategies (`agent.ask.strategies`) use them, and a server's model may call them itself. A frame is named by its
frame id, everywhere the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.ask.answerer import Answerer, Looked, Tally
from agent.ask.keyframes import Chooser, Selection, frames_per_camera, seen, visits_of
from agent.ask.question import Question, Seen, SeenVisit
from agent.ask.scope import Scope, window_of
from agent.runtime import pools
from memory.errors import FrameGone
from memory.store import MemoryStore
from memory.window import Window
from model.episodes import find_episodes
from model.visits import Visit


@dataclass(frozen=True, slots=True)
class Browsed:
    """What `browse` returns: the episodes by camera and time, and the number and times of the frames they come from.

    An episode is a stretch in which a camera showed something unusual; its `frame_id` is the most unusual frame.
    """

    episodes: tuple[SeenVisit, ...]
    num_frames: int
    oldest: float
    newest: float


class Tools:
    """Looks through the memory for one answerer. Every method builds its own window, and raises NoFrames if it is empty."""

    def __init__(self, store: MemoryStore, chooser: Chooser, answerer: Answerer[Any], selection: Selection) -> None:
        """selection: the rule by which `search` chooses frames."""
        self._store = store
        self._chooser = chooser
        self._answerer = answerer
        self._selection = selection

    async def browse(self, scope: Scope) -> Browsed:
        """Return the episodes of a scope, whatever they are about: at most 100, the strongest ones."""
        window = await pools.questions(window_of, self._store, scope)
        found = await pools.questions(episodes_of, window)
        return Browsed(
            visits_of(window, found), window.num_frames, float(window.times.min()), float(window.times.max())
        )

    async def search(self, phrase: str, scope: Scope, k: int) -> Seen:
        """Return the k frames that fit a phrase best, such as "person with a box", and the visits that they are from.

        The frames are chosen from visits by prominence, or by the paper's rule for a checkpoint that wants it.
        """
        window = await pools.questions(window_of, self._store, scope)
        query = await self._chooser.embed(phrase)
        select = replace(self._selection, num_keyframes=k, recent=0)
        return seen(window, await self._chooser.select(window, query, select))

    async def look(self, frame_ids: Sequence[int], question: Question, tally: Tally) -> tuple[Looked, ...]:
        """Return what the answerer says of these frames, in as many calls as they take, and of which each call was.

        question: its text is put to every call. Frames that are forgotten, erased or damaged are left out; without any
        that is left the result is (). Raises a Problem if the answerer cannot answer.
        """
        window, rows = await pools.questions(frames_window, self._store, frame_ids)
        size = self._answerer.pictures_per_look
        calls = [rows[start : start + size] for start in range(0, len(rows), size)]
        looked = [await self._answerer.look(window, each, question, tally) for each in calls]
        return tuple(each for each in looked if len(each.rows))


def episodes_of(window: Window) -> list[Visit]:
    """Return the window's episodes, by camera and time: stretches in which a camera showed something unusual. Blocks."""
    return find_episodes(window.embeddings, window.times, frames_per_camera(window))


def frames_window(store: MemoryStore, frame_ids: Iterable[int]) -> tuple[Window, NDArray[np.int64]]:
    """Return a window with these frames, and their rows in order of time. Frames that are gone are left out. Blocks."""
    records = []
    for frame_id in frame_ids:
        try:
            records.append(store.record(frame_id))
        except FrameGone:
            continue
    cameras = tuple(dict.fromkeys(record.camera for record in records))
    times = [record.time for record in records]
    window = store.window(cameras, min(times, default=0.0), max(times, default=0.0))
    rows = np.flatnonzero(np.isin(window.frame_ids, [record.frame_id for record in records]))
    return window, rows[np.argsort(window.times[rows], kind="stable")]
