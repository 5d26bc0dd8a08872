"""Answering: who may ask, in which order and for how long; the events of each answer, which `agent.ask.local` makes.

One question at a time has the language lane. Overload policy: questions beyond the limit are refused at once (`Busy`), nothing
queues without bound. Leaving `ask` early stops between two tokens and frees everything.

Does not know HTTP, tokens or the clock's time of day.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from agent.ask.local import Making
from agent.ask.prepared import Begun
from agent.ask.question import Answer, Event, Finished, Piece, Question, collect
from agent.ask.remote import RemoteAnswerer
from agent.ask.remote_text import is_visible
from agent.errors import AnswerTimeout, Busy, ModelFailed, NoAnswer, Problem, QuestionTooLong, StorageFailed
from agent.metrics import Metrics
from agent.runtime.lanes import Lane, Priority, TooManyWaiting, Turns
from agent.runtime.stopwatch import Stopwatch
from agent.runtime.supervisor import is_cancelling, words_of
from agent.settings.settings import AnsweringSettings
from agent.untrusted.plain import PlainText
from memory.store import MemoryStore

if TYPE_CHECKING:
    from model.clip_encoder import ClipEncoder
    from model.video_model import VideoModel

log = logging.getLogger(__name__)

NO_WORDS = "(The model found no words: ask again, in other words or with more tokens.)"
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
        self.making = Making(
            store, model, vision=vision, language=language, settings=settings, zone_of=zone_of, remote=remote
        )
        self._settings = settings
        self._metrics = metrics
        self._remote = remote  # None: the checkpoint's own language model answers
        self._typical_s = _FIRST_GUESS_S

    @asynccontextmanager
    async def ask(self, question: Question) -> AsyncIterator[AsyncIterator[Event]]:
        """Admit the question, or raise the Problem that keeps it out; inside, iterate over the answer's events."""
        try:
            self.making.check_length(question.text)
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

    async def _admit(self, question: Question, stack: AsyncExitStack) -> None:
        try:
            await stack.enter_async_context(self.turns.place())
        except TooManyWaiting:
            raise Busy(self._typical_s) from None
        await self.making.window(question)  # an empty window is refused before a stream begins
        if self._remote is not None:
            await self._remote.check(question.cameras)

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
                    begun = await self.making.begin(question, watch)
                yield begun.seen
                async with aclosing(self._speak(question, begun, watch, deadline)) as events:
                    async for event in events:
                        yield event
        except TimeoutError:
            raise AnswerTimeout(f"The answer took longer than {self._settings.timeout_s:g} s.") from None
        except PromptTooLongError as error:
            raise QuestionTooLong(str(error), param="messages") from None
        except (Problem, GeneratorExit):
            raise
        except (Exception, asyncio.CancelledError) as error:  # whatever it was, whoever asked must hear of it
            if isinstance(error, asyncio.CancelledError) and is_cancelling():
                raise
            log.exception("answer failed")
            raise _failed(error) from error

    async def _speak(
        self, question: Question, begun: Begun, watch: Stopwatch, deadline: float
    ) -> AsyncGenerator[Event, None]:
        num_pieces, has_spoken, text = 0, False, PlainText()
        async with aclosing(begun.pieces) as pieces:
            while True:
                with watch.stage("generate" if num_pieces else "first_token"):
                    async with asyncio.timeout_at(deadline):
                        piece = await anext(pieces, None)
                if piece is None:
                    break
                num_pieces += 1
                piece = text.feed(piece)
                has_spoken = has_spoken or is_visible(piece)
                if piece:
                    yield Piece(piece)
        if not has_spoken and self._remote is not None:  # escape sequences alone: other silences have failed before
            raise NoAnswer("The server that answers gave no text that can be read.")
        if not has_spoken:
            yield Piece(NO_WORDS)
        if begun.little is not None:
            yield Piece(f"\n\n({begun.little}.)")
        if question.priority is Priority.QUESTION:
            self._time(watch)
        yield _finished(begun, watch, num_pieces)

    def _time(self, watch: Stopwatch) -> None:
        self._typical_s += 0.3 * (watch.total_ms() / 1000 - self._typical_s)
        for stage, milliseconds in watch.timings_ms.items():
            self._metrics.stage_seconds.labels(stage=stage).observe(milliseconds / 1000)


def _failed(error: BaseException) -> Problem:
    """What the asker is told of a failure that nobody foresaw."""
    if isinstance(error, OSError):
        return StorageFailed(f"What is remembered cannot be read at the moment ({words_of(error)}); ask again.")
    if isinstance(error, RuntimeError | ValueError | MemoryError):  # what torch raises, out of memory included
        return ModelFailed(f"The model failed: {type(error).__name__}. The server's log says more.")
    return ModelFailed(f"The answer failed: {type(error).__name__}. The server's log says more.")


def _finished(begun: Begun, watch: Stopwatch, num_pieces: int) -> Finished:
    timings_ms = {**watch.timings_ms, "total": watch.total_ms()}
    tally = begun.tally
    return Finished(
        finish_reason=tally.finish_reason,
        notes=(*(() if begun.little is None else (begun.little,)), *begun.notes, *tally.notes),
        timings_ms={stage: round(milliseconds, 3) for stage, milliseconds in timings_ms.items()},
        prompt_tokens=tally.prompt_tokens,
        completion_tokens=num_pieces if tally.completion_tokens is None else tally.completion_tokens,
    )
