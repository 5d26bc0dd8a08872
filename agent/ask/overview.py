"""Answer what happened: show the answerer one picture of each episode, in as many calls as it takes, and join what it says.

An episode is a stretch of time in which a camera showed something unusual (`model.episodes`), whatever it is.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.ask.answerer import Answerer
from agent.ask.inquiry import Inquiry
from agent.ask.keyframes import Chooser, Chosen, every_frame, frames_per_camera, seen, uniform_rows
from agent.ask.question import Seen, Step
from agent.ask.sentences import capital, joined
from agent.ask.tools import episodes_of
from agent.ask.visit_words import VisitWords
from agent.runtime import pools
from agent.settings.settings import AnsweringSettings
from memory.window import Window
from model.episodes import most_different
from model.familiarity import CANNOT_TELL
from model.select import Keyframes, Kind
from model.visits import Visit

LOOK_AROUND = "what can you see right now?"  # in the words that the built-in model was trained on
NOTES_TOKENS = 160  # of what is said about one call's pictures
MOST_COMPARED = 8192  # frames that are compared to find those that differ; of longer histories every n-th
NOTHING = ("", "nothing", "nothing.")
PART = (
    "These pictures are part {number} of {count} of what is remembered, in order of time. Note in a few short lines, each "
    'with its time and camera, what they show that matters for this question: "{question}"'
)
WHOLE = (
    "{question}\n\nAll pictures were looked at in {count} parts. The notes made of them, in order of time, are:\n{notes}\n\n"
    "Answer the question from these notes and the pictures shown here."
)


class Overview:
    """Answers questions about everything that was seen."""

    def __init__(
        self, chooser: Chooser, answerer: Answerer[Any], settings: AnsweringSettings, zone_of: Callable[[str], str]
    ) -> None:
        self._chooser = chooser
        self._answerer = answerer
        self._settings = settings
        self._zone_of = zone_of

    async def events(self, inquiry: Inquiry) -> AsyncGenerator[str | Step | Seen, None]:
        """Yield the evidence, the steps and the text. Raises a Problem."""
        window = inquiry.window
        with inquiry.watch.stage("select"):
            episodes = await pools.questions(episodes_of, window)
            most = min(self._settings.overview_pictures, inquiry.budget.pictures)
            rows, kinds = await pools.questions(spread, window, episodes, most, self._answerer.pictures_per_look)
            query = await self._chooser.embed(inquiry.question.core)
            scores = (await self._chooser.select(window, query, every_frame)).scores
        keyframes = Keyframes(rows, kinds, scores[rows], tuple(episodes))
        inquiry.chosen = [Chosen(query, keyframes)]
        inquiry.notes.append(
            f"{len(episodes)} stretches of time in which something changed; {len(rows)} pictures of them"
        )
        yield seen(window, keyframes)
        if self._answerer.judge_manner == "question":
            pieces = self._listed(inquiry, keyframes)
        elif len(rows) <= (self._answerer.max_keyframes or len(rows)):
            pieces = self._said(inquiry, inquiry.question.text, keyframes)
        else:
            pieces = self._in_parts(inquiry, keyframes)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def _listed(self, inquiry: Inquiry, keyframes: Keyframes) -> AsyncGenerator[str | Step | Seen, None]:
        """Yield what each picture shows, for a model that can name things but cannot sum up."""
        words, told, foreign = VisitWords(inquiry.window, self._zone_of), [], 0
        asked = replace(inquiry.question, text=LOOK_AROUND, words=None, earlier=(), max_new_tokens=None)
        before = ""
        rows = [int(row) for row, kind in zip(keyframes.rows, keyframes.kinds, strict=True) if kind == "relevant"]
        rows = rows or keyframes.rows.tolist()
        for row in sorted(rows, key=lambda row: float(inquiry.window.times[row])):
            if not inquiry.budget.pictures_now(1):
                break
            inquiry.budget.spend(1)
            looked = await self._answerer.look(inquiry.window, np.array([row]), asked, inquiry.tally)
            foreign += looked.is_foreign
            said = looked.text.strip().rstrip(".")
            if said.lower() not in NOTHING and said != before:
                told.append(f"{said} at {words.at(row)}")
            before = said
        if 2 * foreign > len(rows):
            yield CANNOT_TELL
        else:
            yield capital(f"{joined(told)}.") if told else "Nothing that I know came."

    async def _said(self, inquiry: Inquiry, text: str, keyframes: Keyframes) -> AsyncGenerator[str | Step | Seen, None]:
        """Yield the answerer's words about these frames."""
        question = replace(inquiry.question, text=text, words=None)
        chosen = replace(inquiry.chosen[0], keyframes=keyframes)
        context = await self._answerer.prepare(inquiry.window, [chosen], question, inquiry.watch)
        before, inquiry.tally = inquiry.tally, context.tally
        inquiry.tally.prompt_tokens += before.prompt_tokens
        async with aclosing(self._answerer.stream(question, context)) as pieces:
            async for piece in pieces:
                yield piece

    async def _in_parts(self, inquiry: Inquiry, keyframes: Keyframes) -> AsyncGenerator[str | Step | Seen, None]:
        """Yield one answer from the notes on several calls, each about neighbouring pictures."""
        size = self._answerer.pictures_per_look
        by_time = keyframes.rows[np.argsort(inquiry.window.times[keyframes.rows], kind="stable")]
        parts = [by_time[start : start + size] for start in range(0, len(by_time), size)]
        notes: list[str] = []
        for number, rows in enumerate(parts, 1):
            if not inquiry.budget.pictures_now(len(rows)):
                inquiry.notes.append(f"only {number - 1} of {len(parts)} parts were looked at (answering.max_calls)")
                break
            yield Step(f"looking at part {number} of {len(parts)}: {len(rows)} pictures")
            text = PART.format(number=number, count=len(parts), question=inquiry.question.text)
            asked = replace(inquiry.question, text=text, words=None, earlier=(), max_new_tokens=NOTES_TOKENS)
            inquiry.budget.spend(len(rows))
            looked = await self._answerer.look(inquiry.window, rows, asked, inquiry.tally)
            notes.append(looked.text.strip())
        strongest = np.sort(np.argsort(-_prominences(keyframes), kind="stable")[:size])
        text = WHOLE.format(question=inquiry.question.text, count=len(parts), notes="\n".join(notes))
        async with aclosing(self._said(inquiry, text, keyframes.at(strongest.tolist()))) as pieces:
            async for piece in pieces:
                yield piece


def spread(
    window: Window, episodes: Sequence[Visit], most: int, least: int
) -> tuple[NDArray[np.int64], tuple[Kind, ...]]:
    """Return at most `most` rows that show the episodes, rising, and the kind of each. Blocks.

    The cameras take turns, each with its strongest episode next; an episode is shown by its most unusual frame. Then
    follow the frames that differ most from these and from what is usual. If there are fewer than `least`, frames at
    equal distances are added.
    """
    by_camera: dict[int, list[Visit]] = {}
    for episode in sorted(episodes, key=lambda each: -each.strength):
        by_camera.setdefault(episode.camera, []).append(episode)
    turns = [each.peak for turn in zip_longest(*by_camera.values()) for each in turn if each is not None]
    every = 1 + window.num_frames // MOST_COMPARED
    compared = np.unique(np.concatenate([np.arange(0, window.num_frames, every), np.array(turns[:most], np.int64)]))
    known = np.searchsorted(compared, np.array(turns[:most], np.int64)).tolist()
    differing = most_different(window.embeddings(compared), window.camera_index[compared], known, most)
    chosen: dict[int, Kind] = {int(compared[place]): "relevant" for place in differing}
    first = 0
    sizes = frames_per_camera(window)
    places = max(0, min(least, most) - len(chosen)) // max(1, sum(size > 0 for size in sizes))
    for size in sizes:
        for row in uniform_rows(size, min(size, places), 0)[0].tolist():
            chosen.setdefault(first + row, "filling")
        first += size
    rows = np.array(sorted(chosen), np.int64)
    return rows, tuple(chosen[int(row)] for row in rows)


def _prominences(keyframes: Keyframes) -> NDArray[np.float64]:
    strength = {visit.peak: visit.strength for visit in keyframes.visits}
    return np.array([strength.get(int(row), 0.0) for row in keyframes.rows])
