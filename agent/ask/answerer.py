"""What an answerer is: the protocol that the checkpoint's language model and a remote server implement.

The strategies (`agent.ask.strategies`) and `agent.ask.answer` use it and do not depend on which of them answers.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from agent.ask.keyframes import Chosen
from agent.ask.question import FinishReason, Question, Seen, Step
from agent.runtime.stopwatch import Stopwatch
from agent.runtime.supervisor import Work
from memory.window import Window

if TYPE_CHECKING:
    from agent.ask.remote_prompt import Json, Message
    from agent.ask.remote_wire import Call
    from agent.reading.server import Complete
    from model.config import JudgeManner


@dataclass(slots=True)
class Tally:
    """Why an answer ended, its token counts and its notes. The answerer fills it in while it streams."""

    finish_reason: FinishReason = "stop"
    prompt_tokens: int = 0
    completion_tokens: int | None = None  # None: unknown
    notes: list[str] = field(default_factory=list)  # known only at the end

    def add(self, other: "Tally") -> None:
        """Add the token counts and notes of a part of the answer."""
        self.notes += (note for note in other.notes if note not in self.notes)
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens = (self.completion_tokens or 0) + (other.completion_tokens or 0)


@dataclass(frozen=True, slots=True)
class Context:
    """What an answerer has prepared before its first token. seen: the frames that the answer rests on."""

    seen: Seen
    notes: tuple[str, ...]
    tally: Tally


@dataclass(frozen=True, slots=True)
class Looked:
    """What an answerer said of some frames.

    rows: those of the frames asked about that it was shown; the others can no longer be read. is_foreign: the pictures
    are unlike those that the model was trained on, so that what it says is a guess.
    """

    text: str
    rows: NDArray[np.int64]
    is_foreign: bool = False


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Whether a model may call tools: for no question, for open ones or for all; and how far."""

    mode: Literal["off", "auto", "on"] = "off"
    rounds: int = 0
    pictures: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Replied:
    """A model's reply to messages: its text, and the tools that it calls."""

    text: str
    calls: "tuple[Call, ...]" = ()


C = TypeVar("C", bound=Context)
Task = tuple[str, Work]


class Answerer(Protocol[C]):
    """Answers a question in words from the chosen keyframes: the checkpoint's language model, or a remote server."""

    @property
    def model_name(self) -> str:
        """The model that answers, as `/v1/models` and alert events name it."""

    @property
    def reads_conversations(self) -> bool:
        """Whether the answerer reads the earlier messages of a conversation."""

    @property
    def needs_patches(self) -> bool:
        """Whether the memory must keep the patch features of new frames for this answerer."""

    @property
    def max_keyframes(self) -> int | None:
        """The largest number of keyframes that the answerer accepts. None: no limit."""

    @property
    def pictures_per_look(self) -> int:
        """How many pictures one call of `look` takes; 0: the answerer cannot look at pictures."""

    @property
    def concurrency(self) -> int:
        """How many questions may be answered at the same time."""

    @property
    def judge_manner(self) -> "JudgeManner":
        """How the question is phrased when an alert rule asks whether its condition is true."""

    @property
    def problem(self) -> str | None:
        """A sentence that says why the answerer cannot answer at the moment. None: no problem is known."""

    @property
    def capabilities(self) -> dict[str, Any] | None:
        """What a server that answers was found to be able to do, as JSON types. None: unknown, or no server."""

    @property
    def complete(self) -> "Complete | None":
        """Sends a text without pictures to the language model and returns its answer. None: it cannot read such texts."""

    def tasks(self) -> Iterable[Task]:
        """Return the answerer's background tasks with their names. They run as long as the agent runs."""

    async def check(self, cameras: Iterable[str]) -> None:
        """Raise a Problem if this answerer is not allowed to answer about these cameras, or cannot at the moment."""

    async def prepare(self, window: Window, chosen: Sequence[Chosen], question: Question, watch: Stopwatch) -> C:
        """Do all work that precedes the first token. chosen: the keyframes for one text."""

    def stream(self, question: Question, context: C) -> AsyncGenerator[str | Step | Seen, None]:
        """Return a generator of the answer's pieces of text, with the steps before them. Closing it stops the model.

        It yields Seen if the evidence is no longer that of `context`.
        """

    async def look(self, window: Window, rows: NDArray[np.int64], question: Question, tally: Tally) -> Looked:
        """Return what is to say to `question.text` about these rows of the window alone.

        rows: at most `pictures_per_look`. tally: the token counts are added to it. Raises a Problem.
        """

    @property
    def tool_use(self) -> ToolUse:
        """Whether, and how far, the model may look through the memory by calling tools."""

    async def converse(
        self, messages: "Sequence[Message]", tools: "Sequence[Json]", question: Question, tally: Tally
    ) -> Replied:
        """Return the model's reply to messages without pictures. tools: what it may call.

        tally: the token counts are added to it. Raises a Problem.
        """

    async def pointed(
        self, window: Window, rows: NDArray[np.int64], text: str, *, again: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Return where in the picture these rows show what `text` is about; None if the answerer cannot point.

        The result is the rows and, for each, the probability of each of M patches to show it, (n, M). again: encode
        pictures again whose patch features are no longer in memory; rows that cannot be read are left out.
        """

    def no_words(self) -> str:
        """Return the text to send if the answer has no visible text. Raises NoAnswer if that counts as an error."""
