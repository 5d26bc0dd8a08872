"""The nouns of answering: what is asked, and what comes back piece by piece."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

from agent.runtime.lanes import Priority
from memory.window import Within

EvidenceKind = Literal["relevant", "recent", "filling"]
FinishReason = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class Said:
    """Something said earlier in the conversation."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """One question about some cameras' pasts; times in unix seconds, None: unbounded."""

    text: str
    cameras: tuple[str, ...]
    after: float | None = None
    before: float | None = None
    max_new_tokens: int | None = None  # None: the configured number
    temperature: float = 0.0
    within: Within | None = None  # only frames near a place
    earlier: tuple[Said, ...] = ()  # oldest first; only a server that reads conversations is given it
    num_keyframes: int | None = None  # None: the configured numbers
    recent: int | None = None
    priority: Priority = Priority.QUESTION
    may_think: bool = False  # a server's model gets room to think, also where it has not been seen to


@dataclass(frozen=True, slots=True)
class Evidence:
    """A keyframe: a frame whose patches the language model saw whole."""

    frame_id: int
    camera: str
    time: float  # unix seconds
    score: float  # cosine with the question
    kind: EvidenceKind
    metadata: dict[str, Any] = field(default_factory=dict)  # pose and whatever else came with the frame
    # around what the question names: left, top, right, bottom as shares of the picture; empty where nothing is pointed at
    boxes: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """Comes first: what the answer is going to rest on."""

    evidence: tuple[Evidence, ...]  # rising time within each camera
    num_frames: int
    oldest: float
    newest: float


@dataclass(frozen=True, slots=True)
class Piece:
    """Some more text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Comes last."""

    finish_reason: FinishReason
    notes: tuple[str, ...]  # what the asker should know about this answer
    timings_ms: dict[str, float]  # per stage, in order
    prompt_tokens: int
    completion_tokens: int


Event = Seen | Piece | Finished


@dataclass(slots=True)
class Answer:
    """All events of one answer, folded together."""

    seen: Seen
    finished: Finished
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


async def collect(events: AsyncIterator[Event]) -> Answer:
    """Fold all events of one answer into it."""
    seen: Seen | None = None
    finished: Finished | None = None
    pieces: list[str] = []
    async for event in events:
        match event:
            case Seen():
                seen = event
            case Piece(text):
                pieces.append(text)
            case Finished():
                finished = event
    if seen is None or finished is None:
        raise ValueError("these are not the events of a whole answer")
    return Answer(seen, finished, pieces)
