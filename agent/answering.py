"""Answering: embed the question, take a window, select keyframes, merge the rest, stream the words.

The window is immutable, so frames keep arriving while an answer is made. Model work runs in the lanes; one question at
a time has the language lane. Overload policy: questions beyond the limit are refused at once (`Busy`), nothing queues
without bound. Leaving `ask` early stops between two tokens and frees everything.

Does not know HTTP, tokens or the clock's time of day.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.config import AnsweringSettings
from agent.keyframes import newest_from, pictures_of, seen, some_of, without_patches
from agent.lanes import Lane, Priority, TooManyWaiting, Turns
from agent.metrics import Metrics
from agent.prepared import ONE_AT_A_TIME, Prepared, clocks_of, group_sizes, notes_of, now_note, seen_of_all
from agent.problems import AnswerTimeout, Busy, ModelFailed, NoFrames, NotEncodedYet, Problem, QuestionTooLong
from agent.question import Answer, Event, Finished, Piece, Question, collect
from agent.remote import Pictures, RemoteAnswerer, Tally
from agent.stepwise import Ask, speak_in_steps
from agent.stopwatch import Stopwatch
from agent.times import format_span
from memory.store import MemoryStore
from memory.window import Window
from model.about_now import about_now
from model.select import Keyframes, QueryCandidates, select_keyframes
from model.steps import Plan, plan_of

if TYPE_CHECKING:
    from model.clip_encoder import ClipEncoder
    from model.config import JudgeManner
    from model.features import FrameFeatures, TextFeatures, VisualContext
    from model.generate import Decoding
    from model.video_model import VideoModel

log = logging.getLogger(__name__)

ALMOST_EMPTY_S = 60.0  # below this span of video an answer says how little there is
_FIRST_GUESS_S = 5.0  # how long an answer takes, before one has been timed


class Answering:
    """Answers questions from memory with the model."""

    def __init__(
        self,
        store: MemoryStore,
        model: "VideoModel | ClipEncoder",
        *,
        vision: Lane,
        language: Lane,
        settings: AnsweringSettings,
        metrics: Metrics,
        zone_of: Callable[[str], str],
        remote: RemoteAnswerer | None = None,
    ) -> None:
        self.turns = Turns(settings.max_questions)
        self._store = store
        self._model = model
        self._vision = vision
        self._language = language
        self._settings = settings
        self._metrics = metrics
        self._zone_of = zone_of
        self._remote = remote  # None: the checkpoint's own language model answers
        self._typical_s = _FIRST_GUESS_S

    @asynccontextmanager
    async def ask(self, question: Question) -> AsyncIterator[AsyncIterator[Event]]:
        """Admit the question, or raise the Problem that keeps it out; inside, iterate over the answer's events."""
        try:
            self._check_length(question.text)
            async with AsyncExitStack() as stack:
                await self._admit(question, stack)
                yield await stack.enter_async_context(aclosing(self._answer(question)))
        except Problem as problem:
            self._metrics.questions.labels(reason=problem.code or "error").inc()
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self._metrics.questions.labels(reason="cancelled").inc()
            raise
        self._metrics.questions.labels(reason="answered").inc()

    async def answer(self, question: Question) -> Answer:
        """The whole answer at once."""
        async with self.ask(question) as events:
            return await collect(events)

    async def judge(self, question: Question) -> Answer:
        """The answer to a machine's question: it takes no place of a person's, `question.priority` says who goes before it,
        and the text is the model's alone. Raises Problem."""
        if self._remote is not None:
            await self._remote.check(question.cameras)
        async with aclosing(self._answer(question)) as events:
            return await collect(events)

    @property
    def judge_manner(self) -> "JudgeManner":
        """How a condition is to be put to whoever answers."""
        return "instruct" if self._remote is not None else self._speaker().config.live.judge

    async def embed(self, text: str) -> "TextFeatures":
        """The question as the model reads it. Raises QuestionTooLong."""
        self._check_length(text)
        return await self._language.run(self._model.embed_text, text)

    async def choose(
        self, window: Window, query: "TextFeatures", *, num_keyframes: int | None = None, recent: int | None = None
    ) -> Keyframes:
        """The frames of this window that an answer would see in full; None: as many as are configured."""
        return await self._language.run(self._select, window, query, num_keyframes, recent)

    async def looked_at(self, question: Question, window: Window) -> Window:
        """Of the question's whole window what an answer looks at: `window` itself, or its newest frames."""
        if not self._is_about_now(question):
            return window
        newest = await asyncio.to_thread(self._newest, window)
        return newest if newest.num_frames else window  # erased in between

    def _newest(self, window: Window) -> Window:
        return self._store.window(window.cameras, newest_from(window, self._settings.now_frames))

    def _check_length(self, text: str) -> None:
        limit = self._settings.max_question_chars
        if len(text) > limit:
            message = f"The question has {len(text)} characters; at most {limit} are taken."
            raise QuestionTooLong(message, param="messages")

    async def _admit(self, question: Question, stack: AsyncExitStack) -> None:
        try:
            await stack.enter_async_context(self.turns.place())
        except TooManyWaiting:
            raise Busy(self._typical_s) from None
        await self._window(question)  # an empty window is refused before a stream begins
        if self._remote is not None:
            await self._remote.check(question.cameras)

    async def _window(self, question: Question) -> Window:
        window = await asyncio.to_thread(
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

    async def _answer(self, question: Question) -> AsyncGenerator[Event, None]:
        from model.video_model import PromptTooLongError  # torch is imported only where a model has been loaded

        watch = Stopwatch()
        deadline = asyncio.get_running_loop().time() + self._settings.timeout_s
        try:
            async with AsyncExitStack() as stack:
                with watch.stage("queue"):
                    async with asyncio.timeout_at(deadline):
                        await stack.enter_async_context(self.turns.turn(question.priority))
                async with asyncio.timeout_at(deadline):
                    parts = [await self._prepare(part, watch) for part in self._parts(question)]
                yield seen_of_all([seen(part.window, part.context.keyframes) for part in parts])
                async with aclosing(self._speak(question, parts, watch, deadline)) as events:
                    async for event in events:
                        yield event
        except TimeoutError:
            raise AnswerTimeout(f"The answer took longer than {self._settings.timeout_s:g} s.") from None
        except PromptTooLongError as error:
            raise QuestionTooLong(str(error), param="messages") from None
        except (RuntimeError, ValueError) as error:  # what torch raises, out of memory included
            log.exception("answer failed")
            raise ModelFailed(f"The model failed: {type(error).__name__}. The server's log says more.") from error

    def plan(self, question: Question) -> Plan | None:
        """The steps in which this is answered, by a model of ours that names times of frames; None: it is asked as it is."""
        by_a_person = question.priority is Priority.QUESTION
        if not (self._settings.in_steps and by_a_person and self._remote is None and self._tells_times()):
            return None
        return plan_of(question.text)

    def sought(self, question: Question) -> tuple[str, ...]:
        """What frames are chosen by: the question; a follow-up ("and what colour was it?") after the question before it; or
        the questions of its steps."""
        if plan := self.plan(question):
            return plan.whens
        before = [said.text for said in question.earlier if said.role == "user"]
        return (f"{before[-1]} {question.text}" if before and self._remote is not None else question.text,)

    def _parts(self, question: Question) -> list[Question]:
        plan = self.plan(question)
        return [question] if plan is None else [replace(question, text=when) for when in plan.whens]

    async def _prepare(self, question: Question, watch: Stopwatch) -> Prepared:
        """Everything before the first word, left to right."""
        with watch.stage("embed"):
            query = await self.embed(self.sought(question)[0])
        with watch.stage("window"):
            whole = await self._window(question)
            window = await self.looked_at(question, whole)
        with watch.stage("select"):
            keyframes = await self.choose(window, query, num_keyframes=question.num_keyframes, recent=question.recent)
        context = await (self._show if self._remote else self._merge)(window, keyframes, query, watch)
        asked_by_a_person = question.priority is Priority.QUESTION
        little = await asyncio.to_thread(self._little_history, question, window) if asked_by_a_person else None
        alone = (ONE_AT_A_TIME,) if question.earlier and self._remote is None else ()
        now = (now_note(window, self._zone_of),) if window is not whole else ()
        notes = (*alone, *now, *notes_of(window, query, context))
        return Prepared(window, context, little, notes)

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

    def _select(
        self, window: Window, query: "TextFeatures", num_keyframes: int | None, recent: int | None
    ) -> Keyframes:
        chosen, defaults = self._settings, self._model.info.defaults
        relative = (chosen.redundancy or defaults.redundancy) == "background"
        num_keyframes = num_keyframes or chosen.num_keyframes or defaults.num_keyframes
        if recent is None:
            recent = defaults.recent if chosen.recent is None else chosen.recent
        if self._remote is not None and num_keyframes > self._remote.settings.max_images:
            num_keyframes = self._remote.settings.max_images
            recent = min(recent, num_keyframes // 2)  # few pictures, and still room for what was asked about
        return select_keyframes(
            QueryCandidates(window, query.unit),
            num_keyframes=num_keyframes,
            tau=defaults.tau if chosen.tau is None else chosen.tau,
            floor=defaults.floor,
            recent=recent,
            fill=defaults.fill,
            background=window.background() if relative else None,
            background_floor=defaults.background_floor,
            group_sizes=group_sizes(window),
            min_per_group=chosen.min_per_camera,
        )

    async def _reencode(self, window: Window, keyframes: Keyframes) -> tuple[Keyframes, dict[int, "FrameFeatures"]]:
        """Features of those keyframes whose patches are no longer held, from their JPEGs, by row.

        Keyframes whose JPEG has been damaged since are left out.
        """
        missing = await asyncio.to_thread(without_patches, window, keyframes.rows)
        if not missing:
            return keyframes, {}
        images = await asyncio.to_thread(pictures_of, window, missing)
        features = await self._vision.run(self._model.encode, list(images.values())) if images else []
        readable = [place for place, row in enumerate(keyframes.rows) if int(row) in images or int(row) not in missing]
        return some_of(keyframes, readable), dict(zip(images, features, strict=True))

    async def _show(self, window: Window, keyframes: Keyframes, query: "TextFeatures", watch: Stopwatch) -> Pictures:
        """The keyframes as pictures, for a server that looks at them itself."""
        if self._remote is None:
            raise RuntimeError("no server is configured")
        with watch.stage("pictures"):
            pictures = await asyncio.to_thread(self._remote.pictures, window, keyframes)
        if not pictures.shown:
            raise NoFrames("The pictures chosen for this question can no longer be read.")
        return pictures

    async def _speak(
        self, question: Question, parts: Sequence[Prepared], watch: Stopwatch, deadline: float
    ) -> AsyncGenerator[Event, None]:
        tally = Tally()
        num_pieces = 0
        async with aclosing(self._pieces(question, parts, tally)) as pieces:
            while True:
                with watch.stage("generate" if num_pieces else "first_token"):
                    async with asyncio.timeout_at(deadline):
                        piece = await anext(pieces, None)
                if piece is None:
                    break
                num_pieces += 1
                if piece:
                    yield Piece(piece)
        if parts[0].little is not None:
            yield Piece(f"\n\n({parts[0].little}.)")
        if question.priority is Priority.QUESTION:
            self._time(watch)
        yield self._finished(question, parts, watch, tally, num_pieces)

    def _pieces(self, question: Question, parts: Sequence[Prepared], tally: Tally) -> AsyncGenerator[str, None]:
        limit = min(question.max_new_tokens or self._settings.max_new_tokens, self._settings.max_new_tokens)
        context = parts[0].context
        if isinstance(context, Pictures):
            if self._remote is None:
                raise RuntimeError("no server is configured")
            return self._remote.stream(question, context, tally, limit=limit)
        tally.prompt_tokens = sum(part.num_tokens for part in parts)
        plan = self.plan(question)
        if plan is None:
            return self._say(question, parts[0], limit, tally)

        def asker_of(part: Prepared) -> Ask:
            reading = self._speaker().reading()

            async def ask(text: str) -> str:
                async with aclosing(self._say(replace(question, text=text), part, limit, tally, reading)) as pieces:
                    return "".join([piece async for piece in pieces]).strip()

            return ask

        return speak_in_steps(plan, parts, asker_of, self._zone_of)

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
        tally.completion_tokens = (tally.completion_tokens or 0) + min(num_pieces, limit)

    def _tells_times(self) -> bool:
        return self._model.info.defaults.timestamps

    def _time(self, watch: Stopwatch) -> None:
        self._typical_s += 0.3 * (watch.total_ms() / 1000 - self._typical_s)
        for stage, milliseconds in watch.timings_ms.items():
            self._metrics.stage_seconds.labels(stage=stage).observe(milliseconds / 1000)

    def _finished(
        self, question: Question, parts: Sequence[Prepared], watch: Stopwatch, tally: Tally, num_pieces: int
    ) -> Finished:
        timings_ms = {**watch.timings_ms, "total": watch.total_ms()}
        first = () if parts[0].little is None else (parts[0].little,)
        if plan := self.plan(question):
            first = (*first, f"answered in steps: {' '.join(plan.whens)} (answering.in_steps)")
        return Finished(
            finish_reason=tally.finish_reason,
            notes=tuple(dict.fromkeys((*first, *(note for part in parts for note in part.notes)))),
            timings_ms={stage: round(milliseconds, 3) for stage, milliseconds in timings_ms.items()},
            prompt_tokens=tally.prompt_tokens,
            completion_tokens=num_pieces if tally.completion_tokens is None else tally.completion_tokens,
        )

    def _little_history(self, question: Question, window: Window) -> str | None:
        """Words for an almost empty history: the window is short because nothing older is remembered."""
        oldest, newest = float(window.times.min()), float(window.times.max())
        if newest - oldest >= ALMOST_EMPTY_S:
            return None
        known = [stats.oldest for stats in map(self._store.stats, question.cameras) if stats.oldest is not None]
        if known and min(known) < oldest:
            return None  # the asker chose a short window
        return f"{format_span(newest - oldest)} of video so far"
