"""One question, answered in one of several ways: the product's, and those it is compared with.

In: a model, the features of a history with its clock, and an `Arm`, which says how keyframes are chosen. Out: the answer with
what it cost. How other frames are merged is the model's (`merging_otherwise`). This file scores nothing.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal

import numpy as np

from agent.ask.reader import VISITS, Plan, means_no, means_yes, named_row, number_word, plan_of, verdict_of
from model.config import Composer, Fill, Redundancy
from model.features import Defaults, FrameFeatures, VisualContext
from model.history import ArrayHistory
from model.merge import Merger
from model.places import newest_rows
from model.pointing import AROUND_ROWS, side_during_stay
from model.select import ArrayCandidates, Keyframes, Kind, select_keyframes
from model.video_model import VideoModel
from model.visit_search import VisitSearch

Selection = Literal["dks", "top_k", "uniform"]
NEVER = 2.0  # no cosine is above it: nothing is redundant
ANSWER_TOKENS = 24


@dataclass(frozen=True)
class Arm:
    """How keyframes are chosen. "top_k" is DKS without its redundancy rule, "uniform" looks at no question; in all of them
    `recent` of the places go to the newest frames, so that arms differ in one thing."""

    selection: Selection = "dks"
    num_keyframes: int = 32
    tau: float = 0.85
    floor: float = -1.0
    recent: int = 0
    fill: Fill = "gaps"
    redundancy: Redundancy = "raw"
    background_floor: float = 0.1

    @classmethod
    def product(cls, defaults: Defaults) -> "Arm":
        """What the product does with this checkpoint."""
        return cls(
            "dks",
            defaults.num_keyframes,
            defaults.tau,
            defaults.floor,
            defaults.recent,
            defaults.fill,
            defaults.redundancy,
            defaults.background_floor,
        )


@dataclass(frozen=True)
class Answer:
    """Words, keyframes, the visual tokens that the language model read, and milliseconds from the question to the last word."""

    text: str
    keyframes: Keyframes
    num_tokens: int
    total_ms: float


class Asker:
    """One history, asked any number of times. times (N,) unix seconds; zones: what was sent of the place of each frame."""

    def __init__(
        self,
        model: VideoModel,
        features: Sequence[FrameFeatures],
        times: np.ndarray,
        zones: Sequence[str | None] | None = None,
    ) -> None:
        if len(features) != len(times):
            raise ValueError(f"{len(features)} frames, {len(times)} times")
        self.model, self.features, self.times = model, list(features), times
        self.zones = [None] * len(times) if zones is None else list(zones)
        self.history = ArrayHistory(self.features)

    @cached_property
    def embeddings(self) -> np.ndarray:
        """(N, D) float32 unit vectors."""
        return self.history.unit_embeddings()

    def latest(self, count: int) -> "Asker":
        """The newest frames alone, as if there were no memory."""
        return Asker(self.model, self.features[-count:], self.times[-count:], self.zones[-count:])

    def as_of(self, row: int) -> "Asker":
        """The same frames turned round so that `row` is the newest, on the clock as it was: N is the same at every moment."""
        features, zones = ([*kept[row + 1 :], *kept[: row + 1]] for kept in (self.features, self.zones))
        return Asker(self.model, features, self.times, zones)

    def choose(self, arm: Arm, query: np.ndarray) -> Keyframes:
        """query (D,) unit."""
        candidates = ArrayCandidates(self.embeddings, query)
        if arm.selection == "uniform":
            rows, kinds = uniform_rows(len(self.times), arm.num_keyframes, arm.recent)
            return Keyframes(rows, kinds, candidates.scores(rows))
        relative = arm.redundancy == "background"
        return select_keyframes(
            candidates,
            num_keyframes=arm.num_keyframes,
            tau=NEVER if arm.selection == "top_k" else arm.tau,
            floor=arm.floor,
            recent=arm.recent,
            fill=arm.fill,
            background=self.embeddings.mean(0, keepdims=True) if relative else None,
            background_floor=arm.background_floor,
        )

    def ask(self, text: str, arm: Arm, model: VideoModel | None = None) -> Answer:
        """The product's path for one question, greedy. `model`: the same weights, merging otherwise."""
        model = model or self.model
        began = time.perf_counter()
        context, clocks = self._context(text, arm, model)
        words = "".join(model.stream(text, context, timestamps=clocks, max_new_tokens=ANSWER_TOKENS)).strip()
        return Answer(words, context.keyframes, context.num_tokens, 1000 * (time.perf_counter() - began))

    def ask_in_steps(self, plan: Plan, arm: Arm) -> str:
        """The product's path for a question that is answered in steps, and its verdict alone: "before", "hall", "two", "yes"."""
        if plan.kind in VISITS:
            return self._told_by_visits(plan)
        model, rows = self.model, []
        for number, (ever, when) in enumerate(zip(plan.evers, plan.whens, strict=True)):
            context, clocks = self._context(when, arm, model)
            reading = model.reading()
            said = [
                "".join(model.stream(text, context, timestamps=clocks, max_new_tokens=ANSWER_TOKENS, reading=reading))
                for text in ((ever,) if plan.kind == "ever" else (ever, when))
            ]
            if plan.kind == "ever":
                return said[0]
            row = named_row(said[1], clocks or (), context.keyframes)
            if means_no(said[0]) or row is None:
                return plan.never_came(number)
            rows.append(row)
        if plan.is_order:
            return plan.verdict(self.times[rows].tolist())
        zone = self.zones[rows[0]]
        asks_side = plan.kind == "side" or (plan.kind == "where" and not zone)
        told = self._side(plan.whens[0], rows[0]) if asks_side else zone
        return verdict_of(f"{plan.came(0, '')}: {told or ''}")

    def _side(self, when: str, row: int) -> str:
        around = np.arange(max(0, row - AROUND_ROWS), min(len(self.times), row + AROUND_ROWS + 1))
        presences = self.model.merger.presence(self.history, around, self.model.embed_text(when).merge_query)
        if presences is None:
            return ""
        return side_during_stay(presences, int(np.searchsorted(around, row)), self.times[around])

    def _told_by_visits(self, plan: Plan) -> str:
        query = self.model.embed_text(plan.evers[0])
        scores = np.asarray(self.embeddings @ query.unit)
        search = VisitSearch(self.times, scores, only=plan.end)
        while (row := search.next_row()) is not None:
            frame = Keyframes(np.zeros(1, np.int64), ("relevant",), scores[[row]])
            context = self.model.build_context(ArrayHistory([self.features[row]]), frame, query)
            context = replace(context, foreign_groups=())  # a single picture is judged less surely than many
            words = "".join(
                self.model.stream(plan.evers[0], context, timestamps=[self._clock(row)], max_new_tokens=ANSWER_TOKENS)
            )
            search.tell(row, means_yes(words))
        visits = search.visits()
        if plan.kind == "count":
            return number_word(len(visits))
        if not visits:
            return plan.never_came(0)
        return self._clock(visits[0].first if plan.kind == "first time" else visits[-1].last)

    def _clock(self, row: int) -> str:
        return f"{datetime.fromtimestamp(self.times[row], UTC):%H:%M:%S}"

    def plan(self, text: str) -> Plan | None:
        """The steps in which the product answers this; a place is told where places were sent, times by models that read them,
        a side of the picture by those that point."""
        plan = plan_of(text) if self.model.info.defaults.timestamps else None
        if plan is None or (plan.kind == "zone" and not any(self.zones)):
            return None
        return plan if plan.kind not in ("where", "side") or self.model.config.live.pointing else None

    def _context(self, text: str, arm: Arm, model: VideoModel) -> tuple[VisualContext, list[str] | None]:
        """(what the language model is shown, the clock times before its keyframes)."""
        query = model.embed_text(text)
        context = model.build_context(self.history, self.choose(arm, query.unit), query)
        if not model.info.defaults.timestamps:
            return context, None
        return context, [self._clock(row) for row in context.keyframes.rows]


def merging_otherwise(
    model: VideoModel, *, composer: Composer | None = None, temperature: float | None = None
) -> VideoModel:
    """The same weights and features with another way to merge frames; nothing is copied."""
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


def uniform_rows(num_frames: int, num_keyframes: int, recent: int) -> tuple[np.ndarray, tuple[Kind, ...]]:
    """(rows rising, kinds): the newest `recent`, and the middles of equal parts of the rest.

    12 frames, 5 places, 2 recent: 10 and 11, and the middles 1, 5, 8 of three parts of 0..9.
    """
    newest = newest_rows([num_frames], min(recent, num_keyframes))
    rest, places = num_frames - len(newest), num_keyframes - len(newest)
    spread = np.unique(((np.arange(places) + 0.5) * rest / max(places, 1)).astype(np.int64)) if rest else newest[:0]
    kinds: list[Kind] = ["filling" for _ in spread]
    kinds += ["recent" for _ in newest]
    return np.concatenate((spread, newest)), tuple(kinds)
