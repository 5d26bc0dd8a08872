"""Read one reply of the server that answers: turn its event stream into text, or raise NoAnswer with the reason.

A model may write its reasoning ("thoughts") before the answer; it is removed (`agent.ask.remote_text`). A reply without
visible text is an error.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import httpx

from agent.ask.answerer import Tally
from agent.ask.remote_prompt import Shown
from agent.ask.remote_text import HELD_CHARS, Speech
from agent.ask.remote_wire import Call, Delta, Misunderstood, lines, read_chunk, read_line
from agent.errors import NoAnswer
from streaming.redact import redact_text

CHARS_PER_TOKEN = 32  # far above any tokenizer's mean: a server that ignores max_tokens is cut off here
_MAX_REFUSAL_CHARS = 200
MAX_CALLS = 8  # calls of tools in one reply
MAX_ARGUMENTS_CHARS = 4000
_MAX_BODY_CHARS = 1 << 20  # of a reply in one JSON body


class UsedForThinking(NoAnswer):
    """The model spent its whole token limit on reasoning. With a higher limit it may answer."""


@dataclass(slots=True)
class RemoteTally(Tally):
    """Why a server's answer ended, its token counts, and what was sent.

    has_begun: text of the answer has arrived, though it may still be held back. calls: the tools that the model calls.
    """

    calls: list[Call] = field(default_factory=list)
    has_begun: bool = False
    shown: list[Shown] = field(default_factory=list)

    def add_call(self, part: Call) -> None:
        """Add a part of a call to the call that it belongs to."""
        for place, call in enumerate(self.calls):
            if call.number == part.number and (not part.id or part.id == call.id):
                arguments = (call.arguments + part.arguments)[:MAX_ARGUMENTS_CHARS]
                self.calls[place] = replace(call, name=call.name or part.name, arguments=arguments)
                return
        if len(self.calls) < MAX_CALLS:
            self.calls.append(replace(part, arguments=part.arguments[:MAX_ARGUMENTS_CHARS]))


@dataclass(slots=True)
class Manner:
    """What earlier replies have shown about how the server's model writes its reasoning.

    thinks: it writes reasoning before the answer. aloud: it marks only the end of the reasoning, not its beginning.
    """

    thinks: bool = False
    aloud: bool = False
    is_known: bool = False  # it has answered in full

    def speech(self, *, may_think: bool) -> Speech:
        """Return the parser for the next reply, set up for this model."""
        held_chars = float("inf") if may_think else 0 if self.is_known else HELD_CHARS
        return Speech(held_chars=held_chars, aloud=self.aloud)

    def learn(self, speech: Speech) -> None:
        """Update what is known about how the model marks its reasoning, from a reply that has been parsed."""
        self.thinks |= speech.thought
        self.aloud |= speech.aloud


@dataclass(frozen=True, slots=True)
class Room:
    """The token limit of a reply: the sum of a limit for the answer and one for the reasoning before it."""

    answer: int
    thoughts: int
    may_think: bool  # it may be thinking without a mark

    @property
    def tokens(self) -> int:
        """The limit for answer and reasoning together."""
        return self.answer + self.thoughts


async def pieces_of(
    response: httpx.Response, tally: RemoteTally, room: Room, manner: Manner, *, has_tools: bool = False
) -> AsyncGenerator[str, None]:
    """Yield the answer's text in pieces. has_tools: the request offered tools, so a reply may call them instead.

    Raises NoAnswer if the answer has no visible text, httpx.RemoteProtocolError if the stream breaks off.
    """
    speech = manner.speech(may_think=room.may_think)
    refusal, num_shown, max_shown = "", 0, room.answer * CHARS_PER_TOKEN
    num_tokens = 0
    try:
        async with aclosing(_steps(response, tally, room.tokens * CHARS_PER_TOKEN)) as steps:
            async for step in steps:
                refusal = (refusal + step.refusal)[:_MAX_REFUSAL_CHARS]
                speech.thought |= step.thought
                num_tokens += bool(step.text)
                for call in step.calls:
                    tally.add_call(call)
                piece = speech.hear(step.text)[: max_shown - num_shown]
                tally.has_begun |= speech.has_begun
                num_shown += len(piece)
                if piece:
                    yield piece
                if num_shown >= max_shown:
                    tally.finish_reason = "length"
                    return
        if piece := speech.end(was_cut=tally.finish_reason == "length")[: max_shown - num_shown]:
            num_shown += len(piece)
            yield piece
        # some servers do not send thoughts at all
        speech.thought |= tally.finish_reason == "length" and not num_tokens
        manner.is_known |= tally.finish_reason == "stop"
        tally.completion_tokens = num_tokens if tally.completion_tokens is None else tally.completion_tokens
    finally:
        manner.learn(speech)
    if has_tools and tally.calls and not refusal:
        return
    if not num_shown or refusal:
        raise _silence(tally, speech, room, refusal)
    if tally.finish_reason == "content_filter":
        tally.notes.append("the server's content filter cut this answer short")


async def _steps(response: httpx.Response, tally: RemoteTally, max_chars: int) -> AsyncGenerator[Delta, None]:
    """Yield the parsed lines of the event stream, up to `max_chars` of text. One JSON body counts as one line.

    Token counts and the finish reason are stored in `tally`.
    """
    heard, ended, num_chars, body = False, False, 0, ""
    async with aclosing(lines(response)) as received:
        async for line in received:
            step = read_line(line)
            if step is None:
                body += "" if heard or len(body) > _MAX_BODY_CHARS else line
                continue
            heard = True
            if step.done:
                return
            if step.finish_reason is not None:
                tally.finish_reason, ended = step.finish_reason, True
            tally.prompt_tokens = step.prompt_tokens or tally.prompt_tokens
            tally.completion_tokens = step.completion_tokens or tally.completion_tokens
            num_chars += len(step.text)
            yield replace(step, text=step.text[:max_chars]) if num_chars > max_chars else step
            if num_chars > max_chars:
                tally.finish_reason = "length"
                return
    if not heard and body.lstrip().startswith("{"):
        whole = read_chunk(body)
        tally.finish_reason = whole.finish_reason or "stop"
        tally.prompt_tokens = whole.prompt_tokens or 0
        tally.completion_tokens = whole.completion_tokens
        yield replace(whole, text=whole.text[:max_chars])
        return
    if not heard:
        raise Misunderstood("it sent no event stream")
    if not ended:
        raise httpx.RemoteProtocolError("it stopped in the middle of the answer")


def _silence(tally: RemoteTally, speech: Speech, room: Room, refusal: str) -> NoAnswer:
    """Return the exception NoAnswer to raise for a reply without an answer; its message says why and what to do."""
    if refusal:
        return NoAnswer(f"The server that answers refuses: {redact_text(' '.join(refusal.split()))}")
    if tally.finish_reason == "content_filter":
        return NoAnswer("The content filter of the server that answers withheld its answer: ask in other words.")
    if speech.thought and tally.finish_reason == "length":
        said = f"The server's model used all its {room.tokens} tokens for thinking and gave no answer"
        return UsedForThinking(f"{said}: raise answerer.thinking_tokens, or switch its thinking off at the server.")
    if speech.thought:
        return NoAnswer("The server's model thought, and then gave no answer: ask again, or in other words.")
    if tally.calls:
        return NoAnswer("The server's model called a tool instead of answering: switch tools off at the server.")
    advice = "ask again; if it stays so, see the server's log, and whether its chat template is that of the model."
    return NoAnswer(f"The server that answers gave no text that can be read: {advice}")
