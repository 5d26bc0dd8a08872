"""How an answer is made: embed the question, take a window, select keyframes, merge the rest, and have words come.

The window is immutable, so frames keep arriving meanwhile. Model work runs in the lanes. Who may ask, and when, is the business
of `agent.ask.answer`.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from agent.ask.keyframes import choose, newest_from, pictures_of, relevance, seen, some_of, without_patches
from agent.ask.prepared import (
    ONE_AT_A_TIME,
    Begun,
    Prepared,
    boxes_of_keyframes,
    clock_notes,
    clocks_of,
    context_notes,
    group_sizes,
    now_note,
    seen_of_all,
    steps_note,
    window_notes,
)
from agent.ask.question import Question
from agent.ask.reader import VISITS, Plan, means_yes, plan_of
from agent.ask.remote import Pictures, RemoteAnswerer, Tally
from agent.ask.strategies import Ask, Counted, Look, count_visits, pieces_of, speak_in_steps
from agent.errors import NoFrames, NotEncodedYet, QuestionTooLong
from agent.runtime import pools
from agent.runtime.lanes import Lane, Priority
from agent.runtime.stopwatch import Stopwatch
from agent.settings.settings import AnsweringSettings
from agent.times import format_span
from memory.store import MemoryStore
from memory.window import Window
from model.about_now import about_now
from model.pointing import AROUND_ROWS, Box, boxes_of, side_during_stay
from model.select import Keyframes, Kind
from model.visit_search import VisitSearch

if TYPE_CHECKING:
    from model.clip_encoder import ClipEncoder
    from model.config import JudgeManner
    from model.features import FrameFeatures, TextFeatures, VisualContext
    from model.generate import Decoding
    from model.video_model import VideoModel

MAX_QUESTION_CHARS = 2000  # a page of text; the language model of the built-in checkpoint reads less
STEP_TOKENS = 24  # of the answer to one of our own questions
ALMOST_EMPTY_S = 60.0  # below this span of video an answer says how little there is


class Making:
    """Makes answers from memory with the model; `begin` has everything but the words."""

    def __init__(
        self,
        store: MemoryStore,
        model: "VideoModel | ClipEncoder",
        *,
        vision: Lane,
        language: Lane,
        settings: AnsweringSettings,
        zone_of: Callable[[str], str],
        remote: RemoteAnswerer | None = None,
    ) -> None:
        self._store = store
        self._model = model
        self._vision = vision
        self._language = language
        self._settings = settings
        self._zone_of = zone_of
        self._remote = remote  # None: the checkpoint's own language model answers

    @property
    def judge_manner(self) -> "JudgeManner":
        """How a condition is to be put to whoever answers."""
        return "instruct" if self._remote is not None else self._speaker().config.live.judge

    async def embed(self, text: str) -> "TextFeatures":
        """The question as the model reads it. Raises QuestionTooLong."""
        self.check_length(text)
        return await self._language.run(self._model.embed_text, text)

    async def choose(
        self, window: Window, query: "TextFeatures", *, num_keyframes: int | None = None, recent: int | None = None
    ) -> Keyframes:
        """The frames of this window that an answer would see in full; None: as many as are configured."""
        most = None if self._remote is None else self._remote.settings.max_images
        return await self._language.run(
            choose,
            window,
            query.unit,
            self._settings,
            self._model.info.defaults,
            num_keyframes=num_keyframes,
            recent=recent,
            most=most,
        )

    async def looked_at(self, question: Question, window: Window) -> Window:
        """Of the question's whole window what an answer looks at: `window` itself, or its newest frames."""
        if not self._is_about_now(question):
            return window
        newest = await pools.questions(self._newest, window)
        return newest if newest.num_frames else window  # erased in between

    def _newest(self, window: Window) -> Window:
        return self._store.window(window.cameras, newest_from(window, self._settings.now_frames))

    def check_length(self, text: str) -> None:
        """Raises QuestionTooLong."""
        if len(text) > MAX_QUESTION_CHARS:
            message = f"The question has {len(text)} characters; at most {MAX_QUESTION_CHARS} are taken."
            raise QuestionTooLong(message, param="messages")

    async def window(self, question: Question) -> Window:
        """All that is remembered of what the question is about. Raises NoFrames, NotEncodedYet."""
        window = await pools.questions(
            self._store.window, question.cameras, question.after, question.before, question.within
        )
        if window.num_frames == 0 and window.unencoded:
            raise NotEncodedYet(window.unencoded)
        if window.num_frames == 0:
            place = " near that place" if question.within else ""
            advice = (
                "widen after/before" + (", or radius_m" if question.within else "") + ", or wait for the camera to send"
            )
            raise NoFrames(f"Nothing is remembered in that window{place}: {advice}.")
        return window

    def plan(self, question: Question) -> Plan | None:
        """The steps in which this is answered, by a model of ours that names times of frames; None: it is asked as it is."""
        by_a_person = question.priority is Priority.QUESTION
        if not (self._settings.in_steps and by_a_person and self._remote is None and self._tells_times()):
            return None
        plan = plan_of(question.text)
        if plan is not None and plan.kind in ("where", "side") and self._speaker().config.live.pointing is None:
            return None
        return plan

    def sought(self, question: Question) -> tuple[str, ...]:
        """What frames are chosen by: the question; a follow-up ("and what colour was it?") after the question before it; or
        the questions of its steps."""
        if plan := self.plan(question):
            return plan.evers if plan.kind in VISITS else plan.whens
        before = [said.text for said in question.earlier if said.role == "user"]
        return (f"{before[-1]} {question.text}" if before and self._remote is not None else question.text,)

    async def begin(self, question: Question, watch: Stopwatch) -> Begun:
        """All but the words; of what visits tell these, too."""
        plan, tally = self.plan(question), Tally()
        if plan is not None and plan.kind in VISITS:
            return await self._search(question, plan, watch, tally)
        asked = [question] if plan is None else [replace(question, text=when) for when in plan.whens]
        parts = [await self._prepare(part, watch) for part in asked]
        notes = [note for part in parts for note in part.notes]
        return Begun(
            seen_of_all([seen(part.window, part.context.keyframes, boxes_of_keyframes(part)) for part in parts]),
            self._pieces(question, plan, parts, tally),
            tally,
            parts[0].little,
            tuple(dict.fromkeys([*([] if plan is None else [steps_note(plan.whens)]), *notes])),
        )

    async def _search(self, question: Question, plan: Plan, watch: Stopwatch, tally: Tally) -> Begun:
        """Frame by frame, the most relevant first."""
        [ever] = plan.evers
        with watch.stage("embed"):
            query = await self.embed(ever)
        with watch.stage("window"):
            window = await self.window(question)
        with watch.stage("select"):
            scores = await pools.questions(relevance, window, query.unit)

        async def look(row: int) -> Look | None:
            camera, time = window.cameras[int(window.camera_index[row])], float(window.times[row])
            frame = await pools.questions(self._store.window, (camera,), time, time)
            keyframes = Keyframes(np.arange(min(frame.num_frames, 1)), ("relevant",), scores[[row]])
            context = await self._merge(frame, keyframes, query, watch) if frame.num_frames else None
            if context is None or not len(context.keyframes.rows):  # forgotten in between, or damaged
                return None
            # a single picture is judged less surely than many: `count_visits` has the say
            part = Prepared(frame, replace(context, foreign_groups=()), None, ())
            tally.prompt_tokens += part.num_tokens
            with watch.stage("look"):
                return Look(means_yes(await self._asker_of(part)(ever)), context.is_foreign)

        gap_s = self._settings.visit_gap_s
        sizes = group_sizes(window)
        search = await pools.questions(VisitSearch, window.times, scores, sizes, gap_s=gap_s, only=plan.end)
        counted = await count_visits(plan, window, search, look, self._zone_of)
        rows = counted.rows
        kind: Kind = "relevant"
        note = f"{steps_note(plan.evers)}: {search.num_looks} frames were looked at one by one"
        return Begun(
            seen(window, Keyframes(rows, (kind,) * len(rows), scores[rows]), await self._boxes(window, counted, query)),
            self._cut(pieces_of(counted.text), question.max_new_tokens, tally),
            tally,
            await pools.questions(self._little_history, question, window),
            (note, *self._common_notes(question), *window_notes(window, query), *counted.notes),
        )

    async def _prepare(self, question: Question, watch: Stopwatch) -> Prepared:
        """Everything before the first word, left to right."""
        with watch.stage("embed"):
            query = await self.embed(self.sought(question)[0])
        with watch.stage("window"):
            whole = await self.window(question)
            window = await self.looked_at(question, whole)
        with watch.stage("select"):
            keyframes = await self.choose(window, query, num_keyframes=question.num_keyframes, recent=question.recent)
        context = await (self._show if self._remote else self._merge)(window, keyframes, query, watch)
        asked_by_a_person = question.priority is Priority.QUESTION
        little = await pools.questions(self._little_history, question, window) if asked_by_a_person else None
        now = (now_note(window, self._zone_of),) if window is not whole else ()
        notes = (
            *self._common_notes(question), *now, *window_notes(window, query), *context_notes(context),
            *clock_notes(window, context.keyframes.rows, self._zone_of),
        )  # fmt: skip
        return Prepared(window, context, little, notes)

    def _common_notes(self, question: Question) -> tuple[str, ...]:
        return (ONE_AT_A_TIME,) if question.earlier and self._remote is None else ()

    def _is_about_now(self, question: Question) -> bool:
        """Not where a window ends in the past or a place is named; where a conversation is read, words may mean what was said."""
        in_conversation = bool(question.earlier) and self._remote is not None
        elsewhere = question.before is not None or question.within is not None or in_conversation
        by_a_person = question.priority is Priority.QUESTION
        return self._settings.now_frames > 0 and by_a_person and not elsewhere and about_now(question.text)

    async def _merge(
        self, window: Window, keyframes: Keyframes, query: "TextFeatures", watch: Stopwatch
    ) -> "VisualContext":
        with watch.stage("reencode"):
            keyframes, overrides = await self._reencode(window, keyframes)
        with watch.stage("merge"):
            return await self._language.run(
                self._speaker().build_context,
                window,
                keyframes,
                query,
                overrides=overrides,
                group_sizes=group_sizes(window),
            )

    def _speaker(self) -> "VideoModel":
        """The checkpoint with its language model."""
        from model.video_model import VideoModel

        if not isinstance(self._model, VideoModel):
            raise RuntimeError("this checkpoint has no language model")
        return self._model

    async def _reencode(self, window: Window, keyframes: Keyframes) -> tuple[Keyframes, dict[int, "FrameFeatures"]]:
        """Features of those keyframes whose patches are no longer held, from their JPEGs, by row.

        Keyframes whose JPEG has been damaged since are left out.
        """
        missing = await pools.questions(without_patches, window, keyframes.rows)
        if not missing:
            return keyframes, {}
        images = await pools.questions(pictures_of, window, missing)
        features = await self._vision.run(self._model.encode, list(images.values())) if images else []
        readable = [place for place, row in enumerate(keyframes.rows) if int(row) in images or int(row) not in missing]
        return some_of(keyframes, readable), dict(zip(images, features, strict=True))

    async def _show(self, window: Window, keyframes: Keyframes, query: "TextFeatures", watch: Stopwatch) -> Pictures:
        """The keyframes as pictures, for a server that looks at them itself."""
        if self._remote is None:
            raise RuntimeError("no server is configured")
        with watch.stage("pictures"):
            pictures = await pools.questions(self._remote.pictures, window, keyframes)
        if not pictures.shown:
            raise NoFrames("The pictures chosen for this question can no longer be read.")
        return pictures

    def _pieces(
        self, question: Question, plan: Plan | None, parts: Sequence[Prepared], tally: Tally
    ) -> AsyncGenerator[str, None]:
        context = parts[0].context
        if isinstance(context, Pictures):
            if self._remote is None:
                raise RuntimeError("no server is configured")
            return self._remote.stream(question, context, tally, limit=self._limit(question))
        tally.prompt_tokens = sum(part.num_tokens for part in parts)
        if plan is None:
            return self._say(question, parts[0], self._limit(question), tally)
        sentences = speak_in_steps(plan, parts, self._asker_of, partial(self._side_at, plan.whens[0]), self._zone_of)
        return self._cut(sentences, question.max_new_tokens, tally)

    async def _boxes(self, window: Window, counted: Counted, query: "TextFeatures") -> dict[int, tuple[Box, ...]]:
        """Around what visits show; there is nothing to be pointed at where there were none."""
        presences = None
        if counted.found:
            presences = await self._language.run(
                self._speaker().merger.presence, window, counted.rows, query.merge_query
            )
        return (
            {}
            if presences is None
            else {int(row): boxes_of(each) for row, each in zip(counted.rows, presences, strict=True)}
        )

    async def _side_at(self, text: str, part: Prepared, row: int) -> str:
        """On which side of the picture the thing was around this row, as merging points; "" where nothing can be read."""
        window, query = part.window, await self.embed(text)
        same = np.flatnonzero(window.camera_index == window.camera_index[row])
        place = int(np.searchsorted(same, row))
        rows = same[max(0, place - AROUND_ROWS) : place + AROUND_ROWS + 1]
        kind: Kind = "relevant"
        frames = Keyframes(rows, (kind,) * len(rows), np.zeros(len(rows), np.float32))
        frames, overrides = await self._reencode(window, frames)
        if not len(frames.rows):
            return ""
        merger = self._speaker().merger
        presences = await self._language.run(merger.presence, window, frames.rows, query.merge_query, overrides)
        if presences is None:
            return ""
        place = int(np.searchsorted(frames.rows, row))
        return side_during_stay(presences, place, window.times[frames.rows], self._settings.visit_gap_s)

    def _asker_of(self, part: Prepared) -> Ask:
        """Puts several questions about the same pictures, which are read once; the likeliest answers, whatever the asker wants
        of the words that they come to."""
        reading = self._speaker().reading()

        async def ask(text: str) -> str:
            question = Question(text, part.window.cameras)
            async with aclosing(self._say(question, part, STEP_TOKENS, Tally(), reading)) as pieces:
                return "".join([piece async for piece in pieces]).strip()

        return ask

    async def _cut(
        self, pieces: AsyncGenerator[str, None], limit: int | None, tally: Tally
    ) -> AsyncGenerator[str, None]:
        """The pieces of a text of ours, up to as many tokens as the asker wants; they cost nothing, so no other limit holds."""
        tokenizer = self._speaker().tokenizer
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

    def _limit(self, question: Question) -> int:
        return min(question.max_new_tokens or self._settings.max_new_tokens, self._settings.max_new_tokens)

    async def _say(
        self, question: Question, part: Prepared, limit: int, tally: Tally, reading: "Decoding | None" = None
    ) -> AsyncGenerator[str, None]:
        """The checkpoint's own words, token by token."""
        speaker, context = self._speaker(), part.context
        if isinstance(context, Pictures):
            raise RuntimeError("pictures are for a server")
        timestamps = clocks_of(part, self._zone_of) if self._tells_times() else None
        pieces = self._language.pull(
            lambda: speaker.stream(
                question.text,
                context,
                timestamps=timestamps,
                max_new_tokens=limit,
                temperature=question.temperature,
                reading=reading,
            )
        )
        num_pieces = 0
        async with aclosing(pieces):
            async for piece in pieces:
                num_pieces += 1
                yield piece
        if num_pieces >= limit:
            tally.finish_reason = "length"
        # a last broken character is a piece of its own
        tally.completion_tokens = min(num_pieces, limit)

    def _tells_times(self) -> bool:
        return self._model.info.defaults.timestamps

    def _little_history(self, question: Question, window: Window) -> str | None:
        """Words for an almost empty history: the window is short because nothing older is remembered."""
        oldest, newest = float(window.times.min()), float(window.times.max())
        if newest - oldest >= ALMOST_EMPTY_S:
            return None
        known = [stats.oldest for stats in map(self._store.stats, question.cameras) if stats.oldest is not None]
        if known and min(known) < oldest:
            return None  # the asker chose a short window
        return f"{format_span(newest - oldest)} of video so far"
