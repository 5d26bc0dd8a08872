"""The answerer for `kind: none`: there is no language model, so nobody looks at pictures or writes words.

Questions are answered from the relevance of the frames alone, as far as that goes (`agent.ask.strategies`).
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Never

import numpy as np
from numpy.typing import NDArray

from agent.ask.answerer import Context, Looked, Tally, Task, ToolUse
from agent.ask.keyframes import Chosen
from agent.ask.question import Question
from agent.errors import NoAnswer
from agent.runtime.stopwatch import Stopwatch
from memory.window import Window
from model.config import JudgeManner

NO_MODEL = (
    "There is no language model (answerer: kind none). Without one, whether, when, how often and how long something was "
    "seen can be answered, and when first and last."
)


class Nobody:
    """Answers nothing by itself; see `Answerer` for the methods."""

    model_name = "none"
    reads_conversations = False
    needs_patches = False
    max_keyframes: int | None = None
    pictures_per_look = 0
    judge_manner: JudgeManner = "instruct"
    problem: str | None = None
    capabilities: None = None
    concurrency = 1
    tool_use = ToolUse()
    complete: None = None

    def tasks(self) -> Iterable[Task]:
        return ()

    async def check(self, cameras: Iterable[str]) -> None:
        """Accept all cameras, as nothing is sent to another machine."""

    async def prepare(self, window: Window, chosen: Sequence[Chosen], question: Question, watch: Stopwatch) -> Context:
        raise NoAnswer(NO_MODEL)

    def stream(self, question: Question, context: Context) -> AsyncGenerator[str, None]:
        raise NoAnswer(NO_MODEL)

    async def look(self, window: Window, rows: NDArray[np.int64], question: Question, tally: Tally) -> Looked:
        raise NoAnswer(NO_MODEL)

    async def converse(self, *_: object) -> Never:
        raise NoAnswer(NO_MODEL)

    async def pointed(self, window: Window, rows: NDArray[np.int64], text: str, *, again: bool) -> None:
        """Return None: nobody says where in a picture a thing is."""

    def no_words(self) -> Never:
        raise NoAnswer(NO_MODEL)
