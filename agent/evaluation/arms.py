"""Ask one history the way the product does, or with one thing changed: the arms of an ablation.

Questions use the product's own code: `agent.ask.keyframes` chooses, `agent.ask.local` merges and answers.
"""

import asyncio
import copy
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache

import numpy as np

from agent.ask.keyframes import Chooser, Selection
from agent.ask.local import LocalAnswerer
from agent.ask.question import Question
from agent.ask.reader import Plan, verdict_of
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
    """An answer. rows: its keyframes. num_tokens: visual tokens the model read. total_ms: time until the last word."""

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
        """times (N,) unix seconds. zones: for each frame the zone in its metadata."""
        self.model = model
        self.window = ArrayWindow(features, times, zones)

    def latest(self, count: int) -> "Asker":
        """The newest frames alone, as if there were no memory."""
        newest = self.window.part(slice(-count, None))
        return Asker(self.model, newest.features, newest.times, newest.zones)

    def as_of(self, row: int) -> "Asker":
        """The same frames rotated so that `row` is the newest, at the same times: N is the same at every moment."""
        whole = self.window
        features, zones = ([*kept[row + 1 :], *kept[: row + 1]] for kept in (whole.features, whole.zones))
        return Asker(self.model, features, whole.times, zones)

    def plan(self, text: str) -> Plan | None:
        """The steps in which the product answers this question. Questions about a zone need histories that have zones."""
        plan = self._answerer(self.model).plan(Question(text, (CAMERA,)))
        return None if plan is not None and plan.kind == "zone" and not any(self.window.zones) else plan

    def ask(self, text: str, arm: Selection, model: VideoModel | None = None, *, in_steps: bool = False) -> Answer:
        """The product's answer, without sampling. model: the same weights with another way to merge."""
        return asyncio.run(self.answer(text, arm, model, in_steps=in_steps))

    def ask_in_steps(self, text: str, arm: Selection) -> str:
        """The result alone of the answer in steps: "before", "hall", "two", "yes"."""
        return verdict_of(self.ask(text, arm, in_steps=True).text)

    async def answer(
        self, text: str, arm: Selection, model: VideoModel | None = None, *, in_steps: bool = False
    ) -> Answer:
        """`ask` for callers with an event loop."""
        began, watch = time.perf_counter(), Stopwatch()
        question = Question(text, (CAMERA,))
        answerer = self._answerer(model or self.model, in_steps=in_steps)
        chooser = Chooser(model or self.model, _lane("language"))
        chosen = await chooser.choose(self.window, answerer.search(question), arm, watch)
        context = await answerer.prepare(self.window, chosen, question, watch)
        async with aclosing(answerer.stream(question, context)) as pieces:
            words = "".join([piece async for piece in pieces]).strip()
        rows = np.array([each.frame_id for each in context.seen.evidence], np.int64)
        return Answer(words, rows, context.tally.prompt_tokens, 1000 * (time.perf_counter() - began))

    def _answerer(self, model: VideoModel, *, in_steps: bool = True) -> LocalAnswerer:
        return LocalAnswerer(
            model,
            vision=_lane("vision"),
            language=_lane("language"),
            settings=AnsweringSettings(max_new_tokens=ANSWER_TOKENS, in_steps=in_steps),
            zone_of=lambda camera: "UTC",
            frame_at=self.window.frame_at,
        )


@cache
def _lane(name: str) -> Lane:
    return Lane(name)


def merging_otherwise(
    model: VideoModel, *, composer: Composer | None = None, temperature: float | None = None
) -> VideoModel:
    """The same weights with another way to merge frames. Nothing is copied."""
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
