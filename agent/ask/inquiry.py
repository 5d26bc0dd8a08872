"""One question while it is answered: what it asks, of which frames, what may be spent on it, what is known, what is shown."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from agent.ask.answerer import Answerer, Tally
from agent.ask.keyframes import Chosen, Selection
from agent.ask.question import Question, Seen, Step
from agent.ask.remote_text import is_visible
from agent.reading.types import Reading
from agent.runtime.stopwatch import Stopwatch
from agent.settings.settings import AnsweringSettings
from agent.untrusted.plain import PlainText
from memory.window import Window


@dataclass(slots=True)
class Budget:
    """What is left of the calls, pictures and seconds that one question may spend on looking."""

    calls: int
    pictures: int
    until: float  # a time of the event loop's clock
    num_calls: int = 0
    num_pictures: int = 0
    one_by_one: bool = False  # the answerer does not say of several pictures at once which show a thing

    @classmethod
    def of(cls, settings: AnsweringSettings) -> "Budget":
        """Return the whole budget of a question that begins now. Needs a running event loop."""
        until = asyncio.get_running_loop().time() + settings.max_look_s
        return cls(settings.max_calls, settings.max_pictures, until)

    def pictures_now(self, most: int) -> int:
        """Return how many pictures the next call may have, at most `most`; 0: nothing is left."""
        if self.num_calls >= self.calls or asyncio.get_running_loop().time() >= self.until:
            return 0
        return min(most, self.pictures - self.num_pictures)

    def spend(self, num_pictures: int) -> None:
        """Count a call with so many pictures."""
        self.num_calls += 1
        self.num_pictures += num_pictures


@dataclass(slots=True)
class Inquiry:
    """A question while it is answered.

    window: the frames that it is about; others: further stretches of time to compare with.
    selection: how keyframes are chosen. now: unix seconds. The strategies add to `tally`, `notes` (what the asker should
    know) and `chosen` (keyframes chosen by a text).
    """

    question: Question
    reading: Reading
    window: Window
    selection: Selection
    now: float
    budget: Budget
    others: tuple[Window, ...] = ()
    watch: Stopwatch = field(default_factory=Stopwatch)
    tally: Tally = field(default_factory=Tally)
    notes: list[str] = field(default_factory=list)
    chosen: list[Chosen] = field(default_factory=list)


async def visible(
    pieces: AsyncGenerator[str | Step | Seen, None], watch: Stopwatch, deadline: float, answerer: Answerer[Any]
) -> AsyncGenerator[str | Step | Seen, None]:
    """Yield the pieces without terminal escape sequences, and time them. Raises TimeoutError at `deadline`.

    If no piece has visible text, the answerer's `no_words` follows.
    """
    text, has_spoken, stage = PlainText(), False, ""
    while True:
        with watch.stage(stage) if stage else nullcontext():  # what precedes the evidence has stages of its own
            async with asyncio.timeout_at(deadline):
                piece = await anext(pieces, None)
        if piece is None:
            break
        if not isinstance(piece, str):
            stage = stage or "first_token"
            yield piece
            continue
        stage, piece = "generate", text.feed(piece)
        has_spoken = has_spoken or is_visible(piece)
        yield piece
    if not has_spoken:
        yield answerer.no_words()
