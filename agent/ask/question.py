"""The types of a question, and of the events of its answer: Steps, Seen, Pieces, and at last Finished."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agent.reading.types import Reading, ScopeWords
from agent.runtime.lanes import Priority
from memory.window import Within
from model.config import SelectionRule

EvidenceKind = Literal["relevant", "recent", "filling", "before"]  # before: cited by the answer before
FinishReason = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class Said:
    """One earlier message of the conversation."""

    role: Literal["user", "assistant"]
    text: str
    frames: tuple[int, ...] = ()  # ids of the frames that an answer cited


@dataclass(frozen=True, slots=True)
class Question:
    """A question about what some cameras saw between `after` and `before`, unix seconds (None: no bound).

    `Answering.understand` adds what the words say, and the cameras and times that they name.
    """

    text: str
    cameras: tuple[str, ...]
    after: float | None = None
    before: float | None = None
    max_new_tokens: int | None = None  # None: as configured
    temperature: float = 0.0
    within: Within | None = None  # only frames near a place
    earlier: tuple[Said, ...] = ()  # oldest first; only some answerers read it
    num_keyframes: int | None = None  # None: as configured
    recent: int | None = None  # how many of the keyframes are reserved for the newest frames
    selection: SelectionRule | None = None  # None: as configured
    priority: Priority = Priority.QUESTION
    schema: Mapping[str, Any] | None = None  # JSON schema of the answer, for servers that take one
    cameras_by_default: bool = False  # the asker named no cameras, so that the words may name them
    words: ScopeWords | None = None  # what the words say of cameras and times; None: not looked at
    reading: Reading | None = None  # what it asks; None: it has not been read
    background: str = ""  # what a language model is told before the question: the time, and what was searched
    may_think: bool = False  # add a remote model's token limit for reasoning, even if it has not been seen to reason

    @property
    def core(self) -> str:
        """The question without its words for cameras and times; all of it if nothing else is left."""
        return (self.words.rest if self.words else "") or self.text

    @property
    def said(self) -> tuple[tuple[str, str], ...]:
        """The earlier messages as a reader of questions takes them: (role, text), oldest first."""
        return tuple((each.role, each.text) for each in self.earlier)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A keyframe, that is, a frame that was chosen to answer the question."""

    frame_id: int
    camera: str
    time: float  # unix seconds
    score: float  # cosine similarity with the question
    kind: EvidenceKind
    metadata: dict[str, Any] = field(default_factory=dict)  # the pose and other data sent with the frame
    # where the frame shows what was asked about: left, top, right, bottom as shares of the picture
    boxes: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class SeenVisit:
    """A stretch of time in which a camera's frames were relevant to the question. Times in unix seconds.

    `prominence`: by how much relevance (cosine similarity) rose; `strength`: the prominence divided by the camera's
    noise level; `is_clear`: it is clearly stronger than the camera's other visits; `frame_id`: the most relevant frame.
    """

    camera: str
    start: float
    peak: float
    end: float
    prominence: float
    strength: float
    is_clear: bool
    frame_id: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """What memory holds of one camera in the searched stretch of time. Times in unix seconds; None: nothing is held.

    `share`: of the stretch, from 0 to 1, that was recorded; `gaps`: the longest stretches without frames, by time;
    `begins`: the oldest frame of the camera in the whole memory.
    """

    camera: str
    frames: int
    share: float
    gaps: tuple[tuple[float, float], ...]
    begins: float | None
    oldest: float | None
    newest: float | None


@dataclass(frozen=True, slots=True)
class Searched:
    """The cameras and times that an answer searched, the words that named them, and what memory holds of them.

    It is the first event of a user's answer. Times in unix seconds; None: no bound.
    """

    cameras: tuple[str, ...]
    after: float | None
    before: float | None
    words: tuple[str, ...] = ()
    coverage: tuple[Coverage, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """The evidence of an answer, and the number and time range of the frames searched. Precedes the first Piece.

    It is sent again, whole, if the evidence changes while the answer is made. The last one counts.
    """

    evidence: tuple[Evidence, ...]  # by camera, then by time
    num_frames: int
    oldest: float
    newest: float
    visits: tuple[SeenVisit, ...] = ()  # by camera and time; () if keyframes were not chosen by visits


@dataclass(frozen=True, slots=True)
class Step:
    """An event that says what is being done for the answer, such as "the server is loading its model". One line."""

    text: str


@dataclass(frozen=True, slots=True)
class Piece:
    """An event with the next piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of an answer: why it ended, notes for the asker, timings and token counts."""

    finish_reason: FinishReason
    notes: tuple[str, ...]  # what the asker should know about this answer
    timings_ms: dict[str, float]  # by stage, in the order in which the stages ended
    prompt_tokens: int
    completion_tokens: int
    searched: Searched | None = None  # for users' questions
    reading: Reading | None = None  # what the question was understood to ask; for users' questions


Event = Searched | Seen | Step | Piece | Finished


@dataclass(slots=True)
class Answer:
    """A whole answer, collected from its events."""

    seen: Seen
    finished: Finished
    pieces: list[str] = field(default_factory=list)
    steps: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "".join(self.pieces)


async def collect(events: AsyncIterator[Event]) -> Answer:
    """Read all events of an answer and return it. Raises ValueError if the first or the last event is missing."""
    seen: Seen | None = None
    finished: Finished | None = None
    pieces: list[str] = []
    steps: list[str] = []
    async for event in events:
        match event:
            case Seen():
                seen = event
            case Piece(text):
                pieces.append(text)
            case Step(text):
                steps.append(text)
            case Finished():
                finished = event
    if seen is None or finished is None:
        raise ValueError("these are not the events of a whole answer")
    return Answer(seen, finished, pieces, tuple(steps))
