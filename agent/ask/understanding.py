"""Understand what a question asks, and put it in the words of a model that knows only some.

A server's language model reads the question if the settings say so and the server can; our own reader reads it
otherwise, and whenever the server fails.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agent.ask.answerer import Answerer
from agent.ask.question import Question
from agent.reading.own import OwnReader as OwnReader
from agent.reading.own import own_reader
from agent.reading.plain import in_plain_words
from agent.reading.server import ServerReader
from agent.reading.types import Known, Reading, ReadingFailed
from agent.runtime import pools
from agent.settings.settings import AnsweringSettings

READING_TIMEOUT_S = 5.0  # of one reading by a server
REFUSALS = ("unclear", "out of scope")
NOT_ALONE = "it refers to a question before it, and there is none"


class Understanding:
    """Reads users' questions for one answerer."""

    def __init__(
        self, answerer: Answerer[Any], settings: AnsweringSettings, own: OwnReader, running_s: Callable[[], float]
    ) -> None:
        """running_s: returns monotonic seconds."""
        self._answerer, self._own = answerer, own
        complete = answerer.complete if settings.reading == "server" else None
        server = complete and ServerReader(complete, timeout_s=READING_TIMEOUT_S, running_s=running_s)
        self._server = server or None

    @property
    def degraded(self) -> str:
        """Why questions are read worse than they should; "": they are not."""
        return self._own.degraded

    async def read(self, question: Question, known: Known) -> Question:
        """Return the question with its reading, in words that the answerer knows."""
        reading = await self._reading(question, replace(known, earlier=question.said))
        in_conversation = bool(question.earlier) and self._answerer.reads_conversations
        if reading.kind == "follow-up" and not in_conversation:
            reading = replace(reading, kind="unclear", offers=reading.offers or self._own.usual_offers)
        if self._answerer.judge_manner != "question":
            return replace(question, reading=reading)
        return await pools.questions(plainly, question, reading, self._own)

    async def _reading(self, question: Question, known: Known) -> Reading:
        if self._server is not None:
            try:
                return await self._server.read(question.core, known)
            except ReadingFailed:
                pass
        reading = await self._own.read(question.core, known)
        if question.core == question.text or reading.kind not in (*REFUSALS, "follow-up"):
            return reading
        whole = await self._own.read(question.text, known)  # "what is at the gate?" is nothing without its place
        return reading if whole.kind in REFUSALS else whole


def plainly(question: Question, reading: Reading, own: OwnReader) -> Question:
    """Return the question with its reading, in the words that the built-in model was trained on. Blocks."""
    if reading.kind in REFUSALS:
        return replace(question, reading=reading)
    plain, text = in_plain_words(reading, own.things.drawn)
    if not text:
        return replace(question, reading=plain)
    words = question.words and replace(question.words, rest=text)  # `core`, which the model is asked, is that
    return replace(question, reading=plain, text=text, words=words)


def understood_alone(text: str, camera: str) -> Question:
    """Return a question as an agent with the built-in model understands it. Blocks."""
    own = own_reader()
    return plainly(Question(text, (camera,)), own.read_now(text), own)


def refusal(reading: Reading) -> str:
    """Return the answer to a question that was not understood: what was not, and what would be."""
    if reading.kind == "out of scope":
        said = "I did not understand this as a question about what the cameras saw."
    elif reading.things:
        said = f'I did not understand what you ask about "{" and ".join(reading.things)}".'
    else:
        said = "I did not understand what you ask."
    offers = "".join(f"\n- {offer}" for offer in reading.offers)
    return f"{said} You could ask:{offers}" if offers else said


def reading_json(reading: Reading | None) -> dict[str, Any]:
    """Return the field `reading` of an answer, as JSON types. It is null where nobody read the question."""
    if reading is None:
        return {"reading": None}
    said = {"kind": reading.kind, "things": list(reading.things), "certainty": round(reading.certainty, 3)}
    return {"reading": {**said, "reader": reading.reader, "offers": list(reading.offers)}}
