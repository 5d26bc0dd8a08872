"""Answer questions: find the frames a question is about, choose keyframes, and let the answerer put them into words.

A question searches a window: an immutable view of the stored frames (`memory.window`). So frames that arrive during an
answer do not affect it. Leaving `ask` early stops the model between two tokens.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

from agent.ask.answerer import Answerer, Tally
from agent.ask.checks import checked
from agent.ask.coverage import background_of, coverage_notes, coverage_of
from agent.ask.followup import continued
from agent.ask.inquiry import Budget, Inquiry, visible
from agent.ask.keyframes import Chooser, Selection
from agent.ask.question import Answer, Event, Evidence, Finished, Piece, Question, Searched, Seen, Step, collect
from agent.ask.queue import Queue
from agent.ask.scope import (
    Scope,
    check_not_empty,
    other_windows,
    scope_notes,
    scope_of,
    short_history,
    understood,
    whole_stretch,
    window_of,
)
from agent.ask.strategies import ABOUT_NOW, Strategies
from agent.ask.tool_loop import ToolLoop, ToolsFailed
from agent.ask.tools import Tools
from agent.ask.understanding import REFUSALS, Understanding, refusal
from agent.errors import AnswererAway, AnswerTimeout, ModelFailed, NoAnswer, Problem, QuestionTooLong, StorageFailed
from agent.metrics import Metrics
from agent.reading.own import own_reader
from agent.reading.types import Known, Reading
from agent.runtime import pools
from agent.runtime.lanes import Lane, Priority
from agent.runtime.stopwatch import Stopwatch
from agent.runtime.supervisor import is_cancelling, words_of
from agent.settings.settings import AnsweringSettings
from agent.times import repeated_hour
from memory.store import MemoryStore
from memory.window import Window
from model.select import Keyframes

if TYPE_CHECKING:
    from model.clip_encoder import ClipEncoder
    from model.features import TextFeatures
    from model.video_model import VideoModel

log = logging.getLogger(__name__)

MAX_QUESTION_CHARS = 2000  # a page of text; the built-in checkpoint's language model reads less
ONE_AT_A_TIME = "this model reads one question at a time; what was said before it was not read"
CUT = "the answer was cut off at its limit of tokens (answering.max_new_tokens)"
QUERY_CUT = "the question is longer than the text encoder reads; frames were chosen by its beginning"


class Answering:
    """Answers questions from memory."""

    def __init__(
        self,
        store: MemoryStore,
        model: "VideoModel | ClipEncoder",
        answerer: Answerer[Any],
        *,
        language: Lane,
        settings: AnsweringSettings,
        metrics: Metrics,
        zone_of: Callable[[str], str],
        known: Callable[[], Known],
    ) -> None:
        """known: returns the time, and what is known of every camera. It blocks."""
        self.answerer = answerer
        self.queue = Queue(settings.max_questions, lambda: answerer.concurrency)
        self._store = store
        self._chooser = Chooser(model, language)
        self._defaults = model.info.defaults
        self._settings = settings
        self._metrics = metrics
        self._zone_of = zone_of
        self._strategies = Strategies(self._chooser, answerer, settings, self._defaults, zone_of)
        self.tools = Tools(store, self._chooser, answerer, Selection.of(self._defaults, settings))
        self._tool_loop = ToolLoop(self.tools, answerer, zone_of)
        self._known = known
        self.understanding = Understanding(answerer, settings, own_reader(), monotonic)

    @asynccontextmanager
    async def ask(self, question: Question) -> AsyncIterator[AsyncIterator[Event]]:
        """Context manager: admit a user's question and yield an iterator over the events of its answer.

        Raises a Problem on entry if the question is refused: too long, no frames, a full queue, or an answerer that
        cannot answer.
        """
        with self._counted():
            self.check_length(question.text)
            async with self.queue.place():
                known = await pools.questions(self._known)
                question = await self.understand(question, known)
                if _reading(question).kind in REFUSALS:
                    async with aclosing(self._refused(question)) as events:
                        yield events
                    return
                await pools.questions(
                    check_not_empty, self._store, scope_of(self._store, question, 0), known, _words(question)
                )
                await self._check(question)
                async with aclosing(self._answer(question, known)) as events:
                    yield events

    async def answer(self, question: Question) -> Answer:
        """Wait for the complete answer and return it."""
        async with self.ask(question) as events:
            return await collect(events)

    async def judge(self, question: Question) -> Answer:
        """Return the answer to a question that an alert rule asks. Raises Problem.

        It does not count against the limit on users' waiting questions.
        """
        await self.answerer.check(question.cameras)
        async with aclosing(self._answer(question)) as events:
            return await collect(events)

    async def _answer(self, question: Question, known: Known | None = None) -> AsyncGenerator[Event, None]:
        """Yield the events of the answer. known: as of when the question came; None: coverage is not asked for."""
        watch = Stopwatch()
        deadline = asyncio.get_running_loop().time() + self._settings.timeout_s
        with self._failures_as_problems():
            async with self.queue.turn(question, watch, deadline):
                async with asyncio.timeout_at(deadline):
                    with watch.stage("window"):
                        scope = await self.scope(question)
                        window = await self.window(scope)
                    searched = None if known is None else await self._searched(question, scope, window, known)
                    if searched is not None and known is not None:
                        question = replace(question, background=background_of(searched, known.now, self._zone_of))
                    inquiry = await self._inquiry(question, window, known, watch)
                    short = await self._short_history(window, question)
                if searched is not None:
                    yield searched
                num_pieces = 0
                evidence: tuple[Evidence, ...] = ()
                async with (
                    aclosing(self._events(inquiry, scope)) as events,
                    aclosing(visible(events, watch, deadline, self.answerer)) as shown,
                ):
                    async for event in shown:
                        if isinstance(event, Seen):
                            evidence = event.evidence
                        if not isinstance(event, str):
                            yield event
                            continue
                        num_pieces += 1
                        if event:
                            yield Piece(event)
                if short is not None:
                    yield Piece(f"\n\n({short}.)")
                notes = (
                    *self._notes(scope, inquiry, evidence),
                    *(coverage_notes(searched, known.now, self._zone_of) if searched and known else ()),
                    *inquiry.notes,
                )
                finished = _finished(inquiry.tally, (*([short] if short else []), *notes), watch, num_pieces)
                yield replace(finished, searched=searched, reading=question.reading)
            self._time(question, watch)

    async def _events(self, inquiry: Inquiry, scope: Scope) -> AsyncGenerator[str | Step | Seen, None]:
        """Yield the answer: by tools that the model calls, if it may and comes to an answer, else by the strategies."""
        question, reading = inquiry.question, inquiry.reading
        if self._may_call_tools(question, reading, scope):
            found = self._tool_loop.events(question, scope, inquiry.tally, inquiry.now)
            try:
                async with aclosing(checked(found, reading, question, None, self._zone_of)) as events:
                    async for event in events:
                        yield event
                return
            except (ToolsFailed, NoAnswer) as failed:
                inquiry.notes.append(f"answered without tools: {failed}")
        async with aclosing(self._strategies.events(inquiry)) as events:
            async for event in events:
                yield event

    def _may_call_tools(self, question: Question, reading: Reading, scope: Scope) -> bool:
        mode = self.answerer.tool_use.mode
        if mode == "off" or question.priority is not Priority.QUESTION or scope.is_now or reading.kind in ABOUT_NOW:
            return False
        return mode == "on" or not self._strategies.is_composed(question, reading)

    async def _check(self, question: Question) -> None:
        """Raise a Problem if the answerer cannot answer about these cameras, and the question needs it."""
        try:
            await self.answerer.check(question.cameras)
        except AnswererAway:
            if not self._strategies.answers_alone(question, _reading(question)):
                raise

    async def understand(self, question: Question, known: Known) -> Question:
        """Return the question with what its words say: cameras, times, what is asked about what. Raises UnclearScope."""
        read = await pools.questions(understood, question, known, self._settings.parts_of_day.ranges())
        read = await pools.questions(continued, self._store, read, question)
        read = read if read.reading is not None else await self.understanding.read(read, known)
        return read if _reading(read).kind == "compare" else whole_stretch(read)

    async def read(self, question: Question) -> Question:
        """Return the question with what it asks. The cameras and times in its words are left out of account."""
        return await self.understanding.read(question, await pools.questions(self._known))

    async def _refused(self, question: Question) -> AsyncGenerator[Event, None]:
        """Yield the events of the answer to a question that was not understood. No frame is searched."""
        searched = Searched(question.cameras, question.after, question.before, _words(question), ())
        for event in (searched, Seen((), 0, 0.0, 0.0), Piece(refusal(_reading(question)))):
            yield event
        finished = _finished(Tally(), self._conversation_notes(question), Stopwatch(), 1)
        yield replace(finished, searched=searched, reading=question.reading)

    async def scope(self, question: Question) -> Scope:
        """Return the cameras, times and place to search for this question."""
        now_frames = self._settings.now_frames if self._is_about_now(question) else 0
        return await pools.questions(scope_of, self._store, question, now_frames)

    async def window(self, scope: Scope) -> Window:
        """Return the frames of these cameras, times and place as an immutable view (window).

        Raises NoFrames, or NotEncodedYet if none is encoded yet.
        """
        return await pools.questions(window_of, self._store, scope)

    def search_texts(self, question: Question) -> tuple[str, ...]:
        """Return the texts by which the frames of this question are searched."""
        return self._strategies.search_texts(question, _reading(question))

    async def embed(self, text: str) -> "TextFeatures":
        """Return the text's embedding, which is compared with those of frames. Raises QuestionTooLong."""
        self.check_length(text)
        return await self._chooser.embed(text)

    async def select(self, window: Window, query: "TextFeatures", question: Question) -> Keyframes:
        """Return the keyframes of the window for an embedded text. question: its settings say how they are chosen."""
        return await self._chooser.select(window, query, self._selection(question))

    def check_length(self, text: str) -> None:
        """Raise QuestionTooLong if the text is longer than MAX_QUESTION_CHARS."""
        if len(text) > MAX_QUESTION_CHARS:
            message = f"The question has {len(text)} characters; at most {MAX_QUESTION_CHARS} are taken."
            raise QuestionTooLong(message, param="messages")

    async def _inquiry(self, question: Question, window: Window, known: Known | None, watch: Stopwatch) -> Inquiry:
        inquiry = Inquiry(
            question,
            _reading(question),
            window,
            self._selection(question),
            known.now if known else float(window.times.max()),
            Budget.of(self._settings),
            watch=watch,
        )
        if inquiry.reading.kind == "compare":
            inquiry.others, empty = await pools.questions(
                other_windows, self._store, question, inquiry.now, self._zone_of
            )
            inquiry.notes += empty
        return inquiry

    def _selection(self, question: Question) -> Selection:
        """Return how keyframes are chosen. None is reserved for the newest frames unless the question is about now."""
        is_now = question.priority is not Priority.QUESTION or _reading(question).kind in ABOUT_NOW
        return Selection.of(
            self._defaults,
            self._settings,
            num_keyframes=question.num_keyframes,
            recent=question.recent if question.recent is not None or is_now else 0,
            rule=question.selection,
            most=self.answerer.max_keyframes,
        )

    def _is_about_now(self, question: Question) -> bool:
        """Return whether to search only the newest frames, as the question is about the present.

        False for alert rules, if the asker gave a place or an end time, and if the question may refer to earlier
        messages.
        """
        if question.priority is not Priority.QUESTION or question.before is not None or question.within is not None:
            return False
        return _reading(question).kind == "present" and not (question.earlier and self.answerer.reads_conversations)

    async def _searched(self, question: Question, scope: Scope, window: Window, known: Known) -> Searched:
        """Return which cameras and times the answer searched, and what memory holds of them."""
        after = float(window.times.min()) if scope.is_now else question.after
        coverage = await pools.questions(coverage_of, self._store, window, after, question.before, known.now)
        return Searched(question.cameras, after, question.before, _words(question), coverage)

    async def _short_history(self, window: Window, question: Question) -> str | None:
        if question.priority is not Priority.QUESTION:
            return None
        return await pools.questions(short_history, self._store, window)

    def _conversation_notes(self, question: Question) -> tuple[str, ...]:
        return (ONE_AT_A_TIME,) if question.earlier and not self.answerer.reads_conversations else ()

    def _notes(self, scope: Scope, inquiry: Inquiry, evidence: Iterable[Evidence]) -> Iterator[str]:
        """Yield notes for the asker on how the frames were searched, such as a question that had to be cut."""
        yield from self._conversation_notes(inquiry.question)
        if any(each.query.truncated for each in inquiry.chosen):
            yield QUERY_CUT
        if inquiry.tally.finish_reason == "length":
            yield CUT
        yield from scope_notes(scope, inquiry.window, self._zone_of)
        for note in filter(None, (repeated_hour([each.time], self._zone_of(each.camera)) for each in evidence)):
            yield note
            break

    # --- what goes wrong ---

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Context manager: count the question in the metrics when it ends.

        The count is kept by outcome: "answered", "cancelled", or the code of the error.
        """
        reason = "cancelled"
        try:
            yield
            reason = "answered"
        except Problem as problem:
            reason = problem.code or "error"
            raise
        finally:
            self._metrics.questions.labels(reason=reason).inc()

    @contextmanager
    def _failures_as_problems(self) -> Iterator[None]:
        """Context manager: raise every failure in the block as a Problem with a message for the asker."""
        try:
            yield
        except TimeoutError:
            raise AnswerTimeout(f"The answer took longer than {self._settings.timeout_s:g} s.") from None
        except (Problem, GeneratorExit):
            raise
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelling():
                raise
            log.exception("answer failed")
            raise _failed(error) from error

    def _time(self, question: Question, watch: Stopwatch) -> None:
        if question.priority is Priority.QUESTION:
            for stage, milliseconds in watch.timings_ms.items():
                self._metrics.stage_seconds.labels(stage=stage).observe(milliseconds / 1000)


def _reading(question: Question) -> Reading:
    """Return what a question asks; a rule's question, which nobody reads, is put to the model as it is."""
    return question.reading or Reading("describe")


def _words(question: Question) -> tuple[str, ...]:
    return question.words.words if question.words else ()


def _failed(error: BaseException) -> Problem:
    """Return the Problem to report for an unexpected exception."""
    if isinstance(error, OSError):
        return StorageFailed(f"What is remembered cannot be read at the moment ({words_of(error)}); ask again.")
    if isinstance(error, RuntimeError | ValueError | MemoryError):  # torch raises these, also when out of memory
        return ModelFailed(f"The model failed: {type(error).__name__}. The server's log says more.")
    return ModelFailed(f"The answer failed: {type(error).__name__}. The server's log says more.")


def _finished(tally: Tally, notes: Iterable[str], watch: Stopwatch, num_pieces: int) -> Finished:
    timings_ms = {**watch.timings_ms, "total": watch.total_ms()}
    return Finished(
        finish_reason=tally.finish_reason,
        notes=tuple(dict.fromkeys((*notes, *tally.notes))),
        timings_ms={stage: round(milliseconds, 3) for stage, milliseconds in timings_ms.items()},
        prompt_tokens=tally.prompt_tokens,
        completion_tokens=num_pieces if tally.completion_tokens is None else tally.completion_tokens,
    )
