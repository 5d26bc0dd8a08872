"""Answer on this machine, with the checkpoint's own language model.

The model reads the keyframes at full resolution, and all other frames merged into few tokens. Some questions are
answered in steps: the model is asked several short questions (`agent.ask.strategies`). All work of the model runs in
two lanes, `vision` and `language`: threads that run one call at a time, in order of priority (`agent.runtime.lanes`).
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from agent.ask.answerer import Context, Looked, Tally, Task
from agent.ask.keyframes import Chosen, Search, every_frame, frames_per_camera, relevant, seen, seen_in_all
from agent.ask.pictures import decoded
from agent.ask.question import Question
from agent.ask.reader import VISITS, Plan, means_yes, plan_of
from agent.ask.strategies import SOME_FOREIGN, Ask, Counted, Look, Part, count_visits, speak_in_steps
from agent.errors import NoAnswer, QuestionTooLong
from agent.runtime import pools
from agent.runtime.lanes import Lane, Priority
from agent.runtime.stopwatch import Stopwatch
from agent.settings.settings import AnsweringSettings
from memory.window import Window
from model.config import JudgeManner
from model.features import FrameFeatures, TextFeatures, VisualContext
from model.generate import Decoding
from model.pointing import AROUND_ROWS, Box, boxes_of, side_during_stay
from model.select import Keyframes
from model.video_model import PromptTooLongError, VideoModel
from model.visit_search import VisitSearch

STEP_TOKENS = 24  # limit for the model's answer to one short question
NO_WORDS = "(The model found no words: ask again, in other words or with more tokens.)"


@dataclass(frozen=True, slots=True)
class LocalContext(Context):
    """What is prepared before the first token of an answer.

    plan: the short questions ("steps") to ask; None: the question is put to the model unchanged.

    parts: the pictures for each step. counted: the text of the whole answer, if it was found by searching for visits
    (stretches of time in which the thing was in view).
    """

    plan: Plan | None
    parts: tuple[Part, ...] = ()
    counted: str = ""


class LocalAnswerer:
    """Answers questions with a checkpoint that has a language model; see `Answerer` for the methods."""

    reads_conversations = False
    needs_patches = True
    max_keyframes: int | None = None
    pictures_per_look = 1
    problem: str | None = None

    def __init__(
        self,
        model: VideoModel,
        *,
        vision: Lane,
        language: Lane,
        settings: AnsweringSettings,
        zone_of: Callable[[str], str],
        frame_at: Callable[[str, float], Window],
    ) -> None:
        """zone_of: returns the time zone of a camera.

        frame_at: returns a window with the one frame of a camera at a time; it has no frames if that one is gone. It
        blocks.
        """
        self._model = model
        self._vision = vision
        self._language = language
        self._settings = settings
        self._zone_of = zone_of
        self._frame_at = frame_at

    @property
    def model_name(self) -> str:
        return self._model.info.name

    @property
    def judge_manner(self) -> JudgeManner:
        return self._model.config.live.judge

    @property
    def concurrency(self) -> int:
        return 1

    @property
    def calls_tools(self) -> Literal["off"]:
        return "off"

    async def converse(self, *_: object) -> NoReturn:
        """Raise NoAnswer: the checkpoint's language model calls no tools."""
        raise NoAnswer("The model on this machine calls no tools.")

    @property
    def complete(self) -> None:
        return None

    @property
    def capabilities(self) -> None:
        return None

    def tasks(self) -> Iterable[Task]:
        return ()

    async def check(self, cameras: Iterable[str]) -> None:
        """Accept all cameras, as nothing is sent to another machine."""

    def no_words(self) -> str:
        return NO_WORDS

    def search(self, question: Question) -> Search:
        plan = self.plan(question)
        if plan is None:
            return Search((question.core,))
        return Search(plan.evers, every_frame=True) if plan.kind in VISITS else Search(plan.whens)

    def plan(self, question: Question) -> Plan | None:
        """Return the steps in which a user's question is answered, or None if it is put to the model unchanged."""
        reads_times = self._model.info.defaults.timestamps
        if not (self._settings.in_steps and reads_times and question.priority is Priority.QUESTION):
            return None
        plan = plan_of(question.core)
        points = self._model.config.live.pointing is not None
        return None if plan is not None and plan.kind in ("where", "side") and not points else plan

    async def prepare(
        self, window: Window, chosen: Sequence[Chosen], question: Question, watch: Stopwatch
    ) -> LocalContext:
        plan = self.plan(question)
        if plan is not None and plan.kind in VISITS:
            return await self._search(plan, window, chosen[0], watch)
        parts = [await self._merge(window, each, watch) for each in chosen]
        notes = [note for part in parts for note in _notes(part.visual)]
        return LocalContext(
            seen_in_all([seen(window, part.keyframes, _boxes(part)) for part in parts]),
            (*([] if plan is None else [_steps_note(plan.whens)]), *notes),
            Tally(prompt_tokens=sum(part.visual.num_tokens for part in parts)),
            plan,
            tuple(parts),
        )

    def stream(self, question: Question, context: LocalContext) -> AsyncGenerator[str, None]:
        plan, parts, tally = context.plan, context.parts, context.tally
        if plan is None:
            limit = min(question.max_new_tokens or self._settings.max_new_tokens, self._settings.max_new_tokens)
            return self._say(question.core, parts[0], limit, tally, temperature=question.temperature)
        if plan.kind in VISITS:
            pieces = _one_piece(context.counted)
        else:
            side_at = partial(self.side_at, plan.whens[0])
            pieces = speak_in_steps(plan, parts, self._asker_of, side_at, self._zone_of)
        return self._cut(pieces, question.max_new_tokens, tally)

    # --- pictures ---

    async def _merge(self, window: Window, chosen: Chosen, watch: Stopwatch) -> Part:
        """Return the window's frames as input of the language model: keyframes at full resolution, others merged."""
        with watch.stage("reencode"):
            keyframes, overrides = await self._reencode(window, chosen.keyframes)
        with watch.stage("merge"):
            sizes = frames_per_camera(window)
            visual = await self._language.run(
                self._model.build_context, window, keyframes, chosen.query, overrides=overrides, group_sizes=sizes
            )
        return Part(window, visual)

    async def _reencode(self, window: Window, keyframes: Keyframes) -> tuple[Keyframes, dict[int, FrameFeatures]]:
        """Encode again the keyframes whose patch features are no longer in memory, from their JPEGs.

        Return the usable keyframes, and the new features by row. A keyframe is left out if it has no patch features and
        its JPEG is damaged or erased.
        """
        missing = await pools.questions(without_patches, window, keyframes.rows)
        if not missing:
            return keyframes, {}
        images = await pools.questions(decoded, window, missing)
        features = await self._vision.run(self._model.encode, list(images.values())) if images else []
        readable = [place for place, row in enumerate(keyframes.rows) if int(row) in images or int(row) not in missing]
        return keyframes.at(readable), dict(zip(images, features, strict=True))

    async def look(self, window: Window, rows: NDArray[np.int64], question: Question, tally: Tally) -> Looked:
        """Ask the model about one frame alone; see `Answerer.look`.

        A single picture does not show whether a camera's pictures are foreign, so the model is asked in any case.
        """
        [row] = rows
        frame = await pools.questions(self._frame_at, *_camera_and_time(window, int(row)))
        if not frame.num_frames:  # forgotten in the meantime
            return Looked("", rows[:0])
        query = await self._language.run(self._model.embed_text, question.text)
        part = await self._merge(frame, Chosen(query, every_frame(frame, query.unit)), Stopwatch())
        if not len(part.keyframes.rows):  # damaged
            return Looked("", rows[:0])
        tally.prompt_tokens += part.visual.num_tokens
        limit = min(question.max_new_tokens or STEP_TOKENS, self._settings.max_new_tokens)
        spoken = Tally()
        async with aclosing(self._say(question.text, part.as_familiar(), limit, spoken)) as pieces:
            text = "".join([piece async for piece in pieces]).strip()
        tally.completion_tokens = (tally.completion_tokens or 0) + (spoken.completion_tokens or 0)
        return Looked(text, rows, part.visual.is_foreign)

    # --- visits ---

    async def _search(self, plan: Plan, window: Window, chosen: Chosen, watch: Stopwatch) -> LocalContext:
        """Find an answer by searching for visits, stretches of time in which the thing was in view, and return it.

        The model is asked about single frames, the most relevant first, whether they show the thing. The search uses
        its answers to find where visits begin and end.
        """
        tally, scores = Tally(), chosen.keyframes.scores
        [ever] = plan.evers

        async def look(row: int) -> Look | None:
            frame = await pools.questions(self._frame_at, *_camera_and_time(window, row))
            if not frame.num_frames:  # forgotten in the meantime
                return None
            alone = Chosen(chosen.query, relevant(np.zeros(1, np.int64), scores[[row]]))
            part = await self._merge(frame, alone, watch)
            if not len(part.keyframes.rows):  # damaged
                return None
            tally.prompt_tokens += part.visual.num_tokens
            with watch.stage("look"):
                # `count_visits` decides over all pictures whether they are foreign, as one alone cannot show it
                answer = await self._asker_of(part.as_familiar())(ever)
            return Look(means_yes(answer), part.visual.is_foreign)

        with watch.stage("select"):
            sizes, gap_s = frames_per_camera(window), self._settings.visit_gap_s
            search = await pools.questions(VisitSearch, window.times, scores, sizes, gap_s=gap_s, only=plan.end)
        counted = await count_visits(plan, window, search, look, self._zone_of)
        keyframes = relevant(counted.rows, scores[counted.rows])
        looks = f"{_steps_note(plan.evers)}: {search.num_looks} frames were looked at one by one"
        return LocalContext(
            seen(window, keyframes, await self._boxes_of_visits(window, counted, chosen.query)),
            (looks, *counted.notes),
            tally,
            plan,
            counted=counted.text,
        )

    async def _boxes_of_visits(
        self, window: Window, counted: Counted, query: TextFeatures
    ) -> dict[int, tuple[Box, ...]]:
        """Return the boxes in which the picture shows the thing, by row of the window; {} without visits.

        Rows are those of the visits, the stretches of time with the thing in view.
        """
        if not counted.found:
            return {}
        presence = self._model.merger.presence
        found = await self._language.run(presence, window, counted.rows, query.merge_query)
        return {} if found is None else _boxes_by_row(counted.rows, found)

    # --- words ---

    async def side_at(self, text: str, part: Part, row: int) -> str:
        """Return on which side of the picture the thing was around this row; "" if the patch features do not show it.

        text: the question that names the thing.
        """
        window = part.window
        query = await self._language.run(self._model.embed_text, text)
        same = np.flatnonzero(window.camera_index == window.camera_index[row])
        place = int(np.searchsorted(same, row))
        rows = same[max(0, place - AROUND_ROWS) : place + AROUND_ROWS + 1]
        frames, overrides = await self._reencode(window, relevant(rows, np.zeros(len(rows), np.float32)))
        if not len(frames.rows):
            return ""
        presence = self._model.merger.presence
        presences = await self._language.run(presence, window, frames.rows, query.merge_query, overrides)
        if presences is None:
            return ""
        place = int(np.searchsorted(frames.rows, row))
        return side_during_stay(presences, place, window.times[frames.rows], self._settings.visit_gap_s)

    def _asker_of(self, part: Part) -> Ask:
        """Return a function that asks the model questions about these pictures, with greedy decoding.

        The pictures are processed only once for all questions.
        """
        reading = self._model.reading()

        async def ask(text: str) -> str:
            async with aclosing(self._say(text, part, STEP_TOKENS, Tally(), reading=reading)) as pieces:
                return "".join([piece async for piece in pieces]).strip()

        return ask

    async def _say(
        self,
        text: str,
        part: Part,
        limit: int,
        tally: Tally,
        *,
        temperature: float = 0.0,
        reading: Decoding | None = None,
    ) -> AsyncGenerator[str, None]:
        """Yield the model's answer, token by token. Raises QuestionTooLong if the prompt exceeds the model's context.

        limit: of tokens. tally: gets the number of tokens and the finish reason.
        """
        timestamps = part.clocks(self._zone_of) if self._model.info.defaults.timestamps else None
        pieces = self._language.pull(
            lambda: self._model.stream(
                text,
                part.visual,
                timestamps=timestamps,
                max_new_tokens=limit,
                temperature=temperature,
                reading=reading,
            )
        )
        num_pieces = 0
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    num_pieces += 1
                    yield piece
        except PromptTooLongError as error:
            raise QuestionTooLong(str(error), param="messages") from None
        if num_pieces >= limit:
            tally.finish_reason = "length"
        # an incomplete character at the end is one more piece, but no token
        tally.completion_tokens = min(num_pieces, limit)

    async def _cut(
        self, pieces: AsyncGenerator[str, None], limit: int | None, tally: Tally
    ) -> AsyncGenerator[str, None]:
        """Yield the pieces of a composed answer, up to the asker's token limit (None: no limit).

        A composed answer is put together from fixed sentences, not written by the model. So the configured limit does
        not apply: it bounds the model's work.
        """
        tokenizer = self._model.tokenizer
        tally.completion_tokens = 0
        async with aclosing(pieces):
            async for piece in pieces:
                tokens = tokenizer.encode(piece)
                if limit is not None and tally.completion_tokens + len(tokens) > limit:
                    tally.finish_reason = "length"
                    yield tokenizer.decode(tokens[: limit - tally.completion_tokens])
                    tally.completion_tokens = limit
                    return
                tally.completion_tokens += len(tokens)
                yield piece


def _camera_and_time(window: Window, row: int) -> tuple[str, float]:
    return window.cameras[int(window.camera_index[row])], float(window.times[row])


async def _one_piece(text: str) -> AsyncGenerator[str, None]:
    yield text


def without_patches(window: Window, rows: NDArray[np.int64]) -> list[int]:
    """Return those of the window's rows whose patch features (embeddings of parts of the picture) are not in memory.

    Blocks.
    """
    return [int(row) for row in rows if not window.read(int(row), int(row) + 1).present[0]]


def _steps_note(asked: Iterable[str]) -> str:
    return f"answered in steps: {' '.join(asked)} (answering.in_steps)"


def _boxes(part: Part) -> dict[int, tuple[Box, ...]]:
    """Return the boxes in which each keyframe shows what was asked about, by row.

    Cameras whose pictures are unlike the training pictures get none.
    """
    visual, rows = part.visual, part.keyframes.rows
    if visual.presence is None:
        return {}
    cameras = part.window.camera_index[rows]
    foreign = [camera for camera, is_so in zip(np.unique(cameras), visual.foreign_groups, strict=False) if is_so]
    known = np.flatnonzero(~np.isin(cameras, foreign))
    return _boxes_by_row(rows[known], visual.presence[known])


def _boxes_by_row(rows: NDArray[np.int64], presences: NDArray[np.float32]) -> dict[int, tuple[Box, ...]]:
    return {int(row): boxes_of(each) for row, each in zip(rows, presences, strict=True)}


def _notes(visual: VisualContext) -> Iterable[str]:
    """Yield notes for the asker on how the frames were merged into tokens."""
    if any(visual.foreign_groups) and not visual.is_foreign:
        yield SOME_FOREIGN
    if visual.num_summary_frames:
        yield f"frames that contributed their summary only: {visual.num_summary_frames}"
    if visual.num_left_out:
        yield f"frames that took part in choosing the keyframes and in nothing else: {visual.num_left_out}"
    if visual.num_shared_tokens:
        yield f"tokens that stand for runs of several frames: {visual.num_shared_tokens}"
