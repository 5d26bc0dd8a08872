"""Find when a thing was in view: rank the window by relevance, and let the answerer look at the frames that decide.

The result is visits, stretches of time with the thing in view (`model.visit_search`). Where nobody can look, visits are
those stretches whose relevance stands clearly above the camera's others (`model.visits`). A row is a frame's number in
its window.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agent.ask.answerer import Answerer, Looked, Tally
from agent.ask.inquiry import Budget
from agent.ask.keyframes import Chooser, every_frame, frames_per_camera
from agent.ask.question import Question, Step
from agent.ask.sentences import (
    ever_question,
    means_no,
    means_yes,
    read_which,
    shows_question,
    which_question,
)
from agent.runtime import pools
from agent.runtime.stopwatch import Stopwatch
from agent.settings.settings import AnsweringSettings
from memory.window import Window
from model.select import Keyframes, Kind
from model.visit_search import End, Visit, VisitSearch
from model.visits import Visit as Peak
from model.visits import clear_visits, find_visits

if TYPE_CHECKING:
    from model.config import JudgeManner
    from model.features import TextFeatures

MOST_UNANSWERED = 4  # pictures of which the model says neither yes nor no, before it is asked no more
TOKENS_A_PICTURE, TOKENS_BESIDES = 8, 24  # of an answer to which pictures show a thing: "12: yes", and some prose


@dataclass(slots=True)
class Found:
    """What was found of one thing: its visits, in row order.

    relevance: the stretches in which the frames' relevance stands out, looked at or not. shows: for each row that was
    looked at whether it shows the thing. looked: False if nobody could look. at_least: there may be more visits, as the
    budget was used up. foreign: which share of the cameras looked at shows pictures unlike the training data, from 0 to 1.
    """

    thing: str
    only: End | None
    query: "TextFeatures"
    scores: NDArray[np.float32]
    relevance: tuple[Peak, ...]
    visits: list[Visit] = field(default_factory=list)
    shows: dict[int, bool] = field(default_factory=dict)
    looked: bool = True
    at_least: bool = False
    foreign: float = 0.0

    def keyframes(self, rows: Sequence[int]) -> Keyframes:
        """Return these rows as evidence."""
        chosen = np.array(sorted(set(rows)), np.int64)
        kind: Kind = "relevant"
        return Keyframes(chosen, (kind,) * len(chosen), self.scores[chosen], self.relevance)


@dataclass(frozen=True, slots=True)
class _Look:
    """What all calls of one search have in common. foreign: counts the foreign pictures of each camera."""

    window: Window
    thing: str
    question: Question
    budget: Budget
    tally: Tally
    foreign: Counter[int] = field(default_factory=Counter)


class Finder:
    """Finds things in windows, with the eyes of one answerer."""

    def __init__(
        self, chooser: Chooser, answerer: Answerer[Any], settings: AnsweringSettings, wording: "JudgeManner"
    ) -> None:
        """wording: that of the text encoder: "question" if it was trained on the questions of the drawn world."""
        self._chooser = chooser
        self._answerer = answerer
        self._settings = settings
        self._wording = wording

    def phrase(self, thing: str) -> str:
        """Return the text by which frames with this thing are searched: for most encoders the thing itself."""
        return ever_question(thing) if self._wording == "question" else thing

    async def rank(self, window: Window, thing: str, only: End | None, watch: Stopwatch) -> Found:
        """Return the visits that stand out by relevance alone; nobody has looked at them."""
        with watch.stage("embed"):
            query = await self._chooser.embed(self.phrase(thing))
        with watch.stage("select"):
            scores = (await self._chooser.select(window, query, every_frame)).scores
            sizes = frames_per_camera(window)
            peaks = await pools.questions(find_visits, scores, window.times, sizes)
        clear = [each for _, same in groupby(peaks, lambda peak: peak.camera) for each in clear_visits(list(same))]
        visits = [Visit(peak.start, peak.end, peak.peak) for peak in sorted(clear, key=lambda peak: peak.start)]
        return Found(thing, only, query, scores, tuple(peaks), _only(window, visits, only), looked=False, at_least=True)

    async def look(
        self, window: Window, found: Found, question: Question, budget: Budget, tally: Tally, watch: Stopwatch
    ) -> AsyncGenerator[Step, None]:
        """Let the answerer look at frames until the visits of `found` are known or the budget is spent, and set them.

        Yields a step after every few pictures. question: who asks, about which cameras. Raises a Problem.
        """
        search = await pools.questions(
            VisitSearch,
            window.times,
            found.scores,
            frames_per_camera(window),
            only=found.only,
            most=budget.pictures - budget.num_pictures,
        )
        look, unanswered = _Look(window, found.thing, question, budget, tally), 0
        found.looked, found.at_least = True, False
        room = (self._settings.max_new_tokens - TOKENS_BESIDES) // TOKENS_A_PICTURE
        while rows := search.next_rows(max(1, min(room, self._answerer.pictures_per_look))):
            rows = rows[: budget.pictures_now(len(rows))]
            if not rows:
                found.at_least = True
                break
            with watch.stage("look"):
                shows = await self._shows(look, rows)
            for row, shown in zip(rows, shows, strict=True):
                if shown is None:
                    unanswered += 1
                    search.skip(row)
                else:
                    found.shows[row] = shown
                    search.tell(row, shown)
            if not found.shows and unanswered >= MOST_UNANSWERED:
                break
            if self._answerer.pictures_per_look > 1:
                yield Step(
                    f"looked at {len(found.shows)} pictures for {found.thing}: {sum(found.shows.values())} show it"
                )
        if not found.shows:  # the answers were neither yes nor no, or no picture could be read
            found.looked, found.at_least = False, True
            yield Step(f"the model told of no picture whether it shows {found.thing}: relevance alone is left")
            return
        found.visits = _only(window, search.visits(), found.only)
        found.at_least |= search.gave_up
        found.foreign = self._foreign_share(window, found, look.foreign)

    async def _shows(self, look: "_Look", rows: Sequence[int]) -> list[bool | None]:
        """Return for each row whether it shows the thing; None where the picture or the answer cannot be read.

        All rows are in one call; those that it leaves open follow one by one.
        """
        said: dict[int, bool | None] = {}
        if len(rows) > 1 and not look.budget.one_by_one:
            times = look.window.times
            ordered = sorted(rows, key=lambda row: (float(times[row]), row))  # the order in which they are shown
            looked = await self._ask(look, ordered, which_question(look.thing, len(rows)))
            if len(looked.rows) == len(rows):
                said = dict(zip(ordered, read_which(looked.text, len(rows)), strict=True))
                look.budget.one_by_one = all(each is None for each in said.values())
        alone = ever_question if self._answerer.judge_manner == "question" else shows_question
        for row in rows:
            if said.get(row) is None and look.budget.pictures_now(1):
                looked = await self._ask(look, [row], alone(look.thing))
                said[row] = self._verdict(looked.text) if len(looked.rows) else None
        return [said.get(row) for row in rows]

    def _verdict(self, text: str) -> bool | None:
        """Return what an answer about one picture says. None: a server's model said neither yes nor no."""
        if means_yes(text):
            return True
        return False if means_no(text) or self._answerer.judge_manner == "question" else None

    async def _ask(self, look: "_Look", rows: Sequence[int], text: str) -> Looked:
        limit = TOKENS_BESIDES + TOKENS_A_PICTURE * len(rows)
        asked = replace(look.question, text=text, words=None, earlier=(), max_new_tokens=limit, temperature=0.0)
        look.budget.spend(len(rows))
        spent = Tally()  # what is noted about each call alone is no note about the answer
        looked = await self._answerer.look(look.window, np.array(rows, np.int64), asked, spent)
        look.tally.prompt_tokens += spent.prompt_tokens
        if looked.is_foreign:
            look.foreign.update(int(look.window.camera_index[row]) for row in looked.rows)
        return looked

    @staticmethod
    def _foreign_share(window: Window, found: Found, foreign: Counter[int]) -> float:
        looked_at = Counter(int(window.camera_index[row]) for row in found.shows)
        return sum(2 * foreign[camera] > looked_at[camera] for camera in looked_at) / max(1, len(looked_at))


def _only(window: Window, visits: Sequence[Visit], only: End | None) -> list[Visit]:
    """Return the visits that are asked about: all by time of their first frame, or only the first or last one."""
    if only == "last":
        return sorted(visits, key=lambda visit: float(window.times[visit.last]))[-1:]
    ordered = sorted(visits, key=lambda visit: float(window.times[visit.first]))
    return ordered[:1] if only == "first" else ordered
