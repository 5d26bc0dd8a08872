"""Ask questions about one recorded history as the product does, or with one thing changed.

Each variant is called an arm, as in an experiment: another rule for choosing keyframes, or another way to merge frames.
Questions use the product's own code: `agent.ask.keyframes` chooses keyframes, `agent.ask.local` merges and answers.
"""

import asyncio
import copy
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache

import numpy as np

from agent.ask.checks import DoesNotFit
from agent.ask.inquiry import Budget, Inquiry
from agent.ask.keyframes import Chooser, Selection
from agent.ask.local import LocalAnswerer
from agent.ask.question import Evidence, Question, Seen
from agent.ask.sentences import verdict_of
from agent.ask.strategies import Strategies
from agent.ask.understanding import REFUSALS, refusal, understood_alone
from agent.evaluation.window import CAMERA, ArrayWindow
from agent.runtime.lanes import Lane
from agent.runtime.stopwatch import Stopwatch
from agent.settings.settings import AnsweringSettings
from model.config import Composer
from model.features import FrameFeatures
from model.merge import Merger
from model.video_model import VideoModel

ANSWER_TOKENS = 24


@dataclass(frozen=True)
class Answer:
    """An answer. rows: its keyframes. num_tokens: the visual tokens in the prompt. total_ms: time to the last token."""

    text: str
    rows: np.ndarray
    num_tokens: int
    total_ms: float


class Asker:
    """Asks questions about one history."""

    def __init__(
        self,
        model: VideoModel,
        features: Sequence[FrameFeatures],
        times: np.ndarray,
        zones: Sequence[str | None] | None = None,
    ) -> None:
        """times (N,) unix seconds. zones: for each frame the name of the place in its metadata, if any."""
        self.model = model
        self.window = ArrayWindow(features, times, zones)

    def latest(self, count: int) -> "Asker":
        """Return an Asker over the newest `count` frames only, as if there were no memory."""
        newest = self.window.part(slice(-count, None))
        return Asker(self.model, newest.features, newest.times, newest.zones)

    def as_of(self, row: int) -> "Asker":
        """Return an Asker over a history of the same length in which frame `row` is the newest.

        The frames after `row` are moved to the beginning, and the times of the history are assigned to the frames in
        their new order. So every moment is asked about with the same number of frames.
        """
        whole = self.window
        features, zones = ([*kept[row + 1 :], *kept[: row + 1]] for kept in (whole.features, whole.zones))
        return Asker(self.model, features, whole.times, zones)

    def is_composed(self, text: str) -> bool:
        """Return whether the running agent composes the answer to the question `text` from visits.

        Otherwise it puts the question to the model unchanged. False also for a question about a room if the history has
        none.
        """
        question = self.understood(text)
        assert question.reading is not None
        reading = question.reading
        if reading.place == "room" and not any(self.window.zones):
            return False
        return self._strategies(self.model).is_composed(question, reading)

    @staticmethod
    def understood(text: str) -> Question:
        """Return the question as the running agent understands it."""
        return understood_alone(text, CAMERA)

    def ask(self, text: str, arm: Selection, model: VideoModel | None = None, *, in_steps: bool = False) -> Answer:
        """Return the answer that the running agent would give, with greedy decoding. arm: how keyframes are chosen.

        model: the same weights with another way to merge frames (see `merging_otherwise`). in_steps: answer in several
        short questions where the agent does.
        """
        return asyncio.run(self.answer(text, arm, model, in_steps=in_steps))

    def ask_in_steps(self, text: str, arm: Selection) -> str:
        """Ask in several short questions ("steps"), as the running agent does.

        Return only the result in the answer: "before", "hall", "two", "yes".

        arm: how keyframes are chosen.
        """
        return verdict_of(self.ask(text, arm, in_steps=True).text)

    async def answer(
        self, text: str, arm: Selection, model: VideoModel | None = None, *, in_steps: bool = False
    ) -> Answer:
        """Return the answer that the running agent would give, like `ask`, for callers in an event loop."""
        began, watch = time.perf_counter(), Stopwatch()
        question = self.understood(text)
        assert question.reading is not None
        if question.reading.kind in REFUSALS:
            return Answer(refusal(question.reading), np.zeros(0, np.int64), 0, 1000 * (time.perf_counter() - began))
        strategies = self._strategies(model or self.model, in_steps=in_steps)
        budget = Budget.of(AnsweringSettings())
        now = float(self.window.times[-1])
        inquiry = Inquiry(question, question.reading, self.window, arm, now, budget, watch=watch)
        words: list[str] = []
        evidence: tuple[Evidence, ...] = ()
        try:
            async with aclosing(strategies.events(inquiry)) as events:
                async for event in events:
                    if isinstance(event, str):
                        words.append(event)
                    elif isinstance(event, Seen):
                        evidence = event.evidence
        except DoesNotFit as refused:  # the agent shows this message in place of the model's words
            words = [refused.message]
        rows = np.array([each.frame_id for each in evidence], np.int64)
        return Answer("".join(words).strip(), rows, inquiry.tally.prompt_tokens, 1000 * (time.perf_counter() - began))

    def _strategies(self, model: VideoModel, *, in_steps: bool = True) -> Strategies:
        settings = AnsweringSettings(max_new_tokens=ANSWER_TOKENS, in_steps=in_steps)
        answerer = LocalAnswerer(
            model,
            vision=_lane("vision"),
            language=_lane("language"),
            settings=settings,
            zone_of=lambda camera: "UTC",
            frame_at=self.window.frame_at,
        )
        chooser = Chooser(model, _lane("language"))
        return Strategies(chooser, answerer, settings, model.info.defaults, lambda camera: "UTC")


@cache
def _lane(name: str) -> Lane:
    return Lane(name)


def merging_otherwise(
    model: VideoModel, *, composer: Composer | None = None, temperature: float | None = None
) -> VideoModel:
    """Return a model with the same weights (not copied) that merges frames in another way.

    composer: makes the tokens of merged frames. temperature: of the merging weights. None: as in `model`.
    """
    live, other = model.config.live, copy.copy(model)
    other.merger = Merger(
        model.network,
        composer=composer or model.config.composer,
        patch_features=live.patch_features,
        merge_lambda=live.merge_lambda,
        merge_alpha=live.merge_alpha,
        temperature=temperature,
        pointing=live.pointing,
    )
    return other
