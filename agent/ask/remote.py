"""Answer with an OpenAI-compatible server: send it the question and the keyframes with their times and places.

All pictures of a request together have at most MAX_IMAGE_BYTES; the least important ones beyond that are left out.
Closing the stream closes the request. `agent.ask.remote_client` sends the request and adapts it to the server,
`agent.ask.egress` decides where pictures may be sent.
"""

import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.ask.answerer import Context, Looked, Replied, Tally, Task, ToolUse
from agent.ask.egress import Egress, EgressRefused, HostUnknown, Resolver, checked_addresses, strictest
from agent.ask.followup import frames_before
from agent.ask.keyframes import Chosen, relevant, seen
from agent.ask.pictures import fitted, label, read_each
from agent.ask.probe import Probe
from agent.ask.question import Evidence, Question, Seen, Step
from agent.ask.remote_client import ChatClient, stays_here
from agent.ask.remote_prompt import MAX_IMAGE_BYTES, Json, Message, Prompt, Shown, question_messages
from agent.ask.remote_reply import RemoteTally
from agent.errors import AnswererAway, AnswererRefused, NoAnswer, NoFrames, Problem
from agent.reading.server import Complete
from agent.reading.types import ReadingFailed
from agent.runtime import pools
from agent.runtime.stopwatch import Stopwatch
from agent.settings.settings import AnswererSettings
from memory.window import Window
from model.config import JudgeManner
from model.select import Keyframes

SCHEMA_TOKENS = 64  # of a short answer in JSON, or in a word that a model puts into a sentence
SLOW_S = 3.0  # a longer wait is announced with its length
TOOL_TOKENS = 512  # of a call with its arguments
READING_TOKENS = 200  # of what a question asks, in JSON
_RANKS = {"relevant": 8.0, "recent": 4.0, "filling": 0.0}


@dataclass(frozen=True, slots=True)
class RemoteContext(Context):
    """The prepared answer, with the pictures to send in order of time."""

    tally: RemoteTally
    shown: tuple[Shown, ...]


class RemoteAnswerer:
    """Answers questions with the configured server; see `Answerer` for the methods."""

    reads_conversations = True
    needs_patches = False
    judge_manner: JudgeManner = "instruct"

    def __init__(
        self,
        settings: AnswererSettings,
        *,
        max_new_tokens: int,
        egress_of: Callable[[str], Egress],
        probe_egress: Egress,
        zone_of: Callable[[str], str],
        resolve: Resolver,
        frames_of: Callable[[Iterable[int]], tuple[Window, NDArray[np.int64]]],
        file: Path,
        now: Callable[[], float],
    ) -> None:
        """max_new_tokens: limit for any answer. egress_of: returns the rule where a camera's pictures may be sent.

        probe_egress: the rule for health checks, which carry no pictures. resolve: looks up host names.
        frames_of: returns a window with the frames of these ids, and their rows in order of time; it blocks.
        file: keeps what the server can do. now: returns unix seconds.
        """
        self.client = ChatClient(settings, resolve=resolve)
        self.model_name = self.client.model
        self._settings = settings
        self._max_new_tokens = max_new_tokens
        self._egress_of = egress_of
        self._zone_of = zone_of
        self._resolve = resolve
        self._frames_of = frames_of
        self._probe = Probe(self.client, settings, egress=probe_egress, file=file, now=now)

    @property
    def max_keyframes(self) -> int:
        return min(self._settings.max_images, self.client.traits.max_pictures or self._settings.max_images)

    @property
    def problem(self) -> str | None:
        return self._probe.problem

    @property
    def concurrency(self) -> int:
        found = self._probe.found
        return self._settings.concurrency or (1 if found is None else found.together)

    @property
    def capabilities(self) -> dict[str, Any] | None:
        return None if self._probe.found is None else self._probe.found.public()

    @property
    def complete(self) -> Complete | None:
        return None if self.client.traits.json_schema is False else self._complete

    async def _complete(self, system: str, text: str, schema: Mapping[str, Any], cameras: Sequence[str]) -> str:
        """Return the answer to a text that tells of these cameras, by a JSON schema. Raises ReadingFailed."""
        messages = (Message("system", (system,)), Message("user", (text,)))
        prompt = Prompt(messages, READING_TOKENS, schema=dict(schema))
        try:
            async with aclosing(self.client.stream(prompt, self._rule(cameras), RemoteTally())) as pieces:
                return "".join([piece async for piece in pieces if isinstance(piece, str)])
        except Problem as problem:
            raise ReadingFailed(problem.message) from problem

    def tasks(self) -> Iterable[Task]:
        return (("answerer", self._probe.run),)

    @property
    def pictures_per_look(self) -> int:
        return self.max_keyframes

    async def look(self, window: Window, rows: NDArray[np.int64], question: Question, tally: Tally) -> Looked:
        """Send these pictures in one request and return the whole answer; see `Answerer.look`."""
        keyframes, shown, _ = await pools.questions(
            self._pictures, window, relevant(rows, np.zeros(len(rows), np.float32)), self.max_keyframes
        )
        if len(rows) and not shown:
            return Looked("", keyframes.rows)
        context = RemoteContext(seen(window, keyframes), (), RemoteTally(), tuple(shown))
        asked = replace(question, earlier=())
        async with aclosing(self.stream(asked, context)) as pieces:
            text = "".join([piece async for piece in pieces if isinstance(piece, str)])
        sent = [each.frame_id for each in context.tally.shown]
        tally.add(context.tally)
        return Looked(text, keyframes.rows[np.isin(window.frame_ids[keyframes.rows], sent)])

    @property
    def tool_use(self) -> ToolUse:
        wanted = self._settings
        if wanted.tools == "off" or (wanted.tools == "auto" and self.client.traits.tools is not True):
            return ToolUse()
        return ToolUse(wanted.tools, wanted.tool_rounds, wanted.tool_pictures, wanted.tool_s)

    async def converse(
        self, messages: Sequence[Message], tools: Sequence[Json], question: Question, tally: Tally
    ) -> Replied:
        limit = max(self._max_new_tokens, TOOL_TOKENS) if tools else self._max_new_tokens
        prompt = Prompt(tuple(messages), limit, question.temperature, tools=tuple(tools))
        own = RemoteTally()
        try:
            async with aclosing(self.client.stream(prompt, self._rule(question.cameras), own)) as pieces:
                text = "".join([piece async for piece in pieces if isinstance(piece, str)])
        except AnswererRefused:
            if tools:
                self.client.traits.tools = False  # it was found to call tools, and does not any more
            raise
        tally.add(own)
        return Replied(text, tuple(own.calls))

    async def pointed(self, window: Window, rows: NDArray[np.int64], text: str, *, again: bool) -> None:
        """Return None: a server does not say where in a picture a thing is."""

    def no_words(self) -> str:
        raise NoAnswer("The server that answers gave no text that can be read.")

    async def check(self, cameras: Iterable[str]) -> None:
        """Raise PicturesStayHere if pictures of these cameras may not be sent to the server.

        Raises AnswererAway if the server's host name cannot be resolved.
        """
        url = self.client.url
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            await checked_addresses(url.host, port, self._rule(cameras), self._resolve)
        except EgressRefused as error:
            raise stays_here(error) from None
        except HostUnknown as error:
            raise AnswererAway(f"The server that answers cannot be reached: {error}.") from None

    async def prepare(
        self, window: Window, chosen: Sequence[Chosen], question: Question, watch: Stopwatch
    ) -> RemoteContext:
        with watch.stage("pictures"):
            before = await pools.questions(self._pictures_before, question)
            most = self.max_keyframes - len(before)
            keyframes, shown, num_left_out = await pools.questions(self._pictures, window, chosen[0].keyframes, most)
        if not shown:
            raise NoFrames("The pictures chosen for this question can no longer be read.")
        notes = []
        if num_left_out:
            notes.append(f"{num_left_out} keyframes were left out: more pictures do not fit into a request")
        now = seen(window, keyframes)
        again = [
            (picture, cited) for picture, cited in before if cited.frame_id not in {e.frame_id for e in now.evidence}
        ]
        if again:
            notes.append(f"{len(again)} pictures of the answer before were sent again")
        evidence = (*now.evidence, *(cited for _, cited in again))
        pictures = (*(picture for picture, _ in again), *shown)
        return RemoteContext(replace(now, evidence=evidence), tuple(notes), RemoteTally(), pictures)

    def _pictures_before(self, question: Question) -> list[tuple[Shown, Evidence]]:
        """Return the pictures of the answer before, if the question goes on from it, with their evidence. Blocks.

        At most half of the pictures of a request, spread over time; only of cameras that are asked about.
        """
        ids = frames_before(question)
        if not ids:
            return []
        window, rows = self._frames_of(ids)
        rows = rows[[window.cameras[int(window.camera_index[row])] in question.cameras for row in rows]]
        most = min(len(rows), max(1, self.max_keyframes // 2))
        spread = np.unique(np.linspace(0, len(rows) - 1, most).round().astype(np.int64)) if most else rows[:0]
        keyframes, shown, _ = self._pictures(window, relevant(rows[spread], np.zeros(len(spread), np.float32)), most)
        evidence = {each.frame_id: replace(each, kind="before") for each in seen(window, keyframes).evidence}
        marked = [replace(each, label=f"Shown with the answer before, {each.label}", importance=0.0) for each in shown]
        return [(each, evidence[each.frame_id]) for each in marked]

    def _pictures(self, window: Window, keyframes: Keyframes, most: int) -> tuple[Keyframes, list[Shown], int]:
        """Return the at most `most` keyframes to send, their pictures by time, and how many are left out. Blocks.

        All pictures together have at most MAX_IMAGE_BYTES. Keyframes whose picture is damaged or erased are not counted.
        """
        from model.features import best_keyframes  # imports torch, which the agent has loaded by now

        limits = self._settings
        fit = partial(fitted, max_width=limits.max_image_width, max_bytes=MAX_IMAGE_BYTES)
        jpegs = dict(read_each(window, keyframes.rows, fit))
        readable = keyframes.at([place for place, row in enumerate(keyframes.rows) if int(row) in jpegs])
        kept = best_keyframes(readable, most)
        while sum(len(jpegs[int(row)]) for row in kept.rows) > MAX_IMAGE_BYTES:
            kept = best_keyframes(kept, len(kept.rows) - 1)
        by_time = sorted(map(int, kept.rows), key=lambda row: (float(window.times[row]), row))
        kept_at = {int(row): place for place, row in enumerate(kept.rows)}
        shown = [
            Shown(
                label(window, row, self._zone_of),
                jpegs[row],
                int(window.frame_ids[row]),
                _importance(kept, kept_at[row]),
            )
            for row in by_time
        ]
        return kept, shown, len(readable.rows) - len(kept.rows)

    async def stream(self, question: Question, context: RemoteContext) -> AsyncGenerator[str | Step | Seen, None]:
        """Yield the answer's pieces of text. Raises AnswererAway, AnswererRefused, NoAnswer or PicturesStayHere."""
        tally, has_begun = context.tally, False
        limit = min(question.max_new_tokens or self._max_new_tokens, self._max_new_tokens)
        text, schema = question.text, None
        if question.schema is not None:
            limit = max(limit, SCHEMA_TOKENS)
            if self.client.traits.json_schema:
                schema = dict(question.schema)
                text = f"{text}\nAnswer with JSON that follows this schema: {json.dumps(schema)}"
        messages = question_messages(text, context.shown, question.earlier, question.background)
        prompt = Prompt(messages, limit, question.temperature, question.may_think, schema)
        yield Step(self._reads(len(context.shown)))
        async with aclosing(self.client.stream(prompt, self._rule(question.cameras), tally)) as pieces:
            async for piece in pieces:
                if isinstance(piece, str) and not has_begun:
                    has_begun = True
                    if len(tally.shown) < len(context.shown):
                        yield _sent_of(context.seen, tally.shown)
                yield piece
        tally.notes.append(f"the answer rests on {len(tally.shown)} pictures alone")

    def _reads(self, num_pictures: int) -> str:
        """Return what the asker waits for, with how long it should take if that was found out and is long."""
        found = self._probe.found
        seconds = 0.0 if found is None else found.expected_s(num_pictures)
        time = f", about {seconds:.0f} s" if seconds >= SLOW_S else ""
        return f"the server reads {'one picture' if num_pictures == 1 else f'{num_pictures} pictures'}{time}"

    def _rule(self, cameras: Iterable[str]) -> Egress:
        return strictest(map(self._egress_of, cameras))


def _importance(keyframes: Keyframes, place: int) -> float:
    """Return how long to keep a keyframe: relevant ones longest, by their score."""
    return _RANKS[keyframes.kinds[place]] + float(keyframes.scores[place])


def _sent_of(everything: Seen, shown: Sequence[Shown]) -> Seen:
    """Return the evidence without the frames whose pictures the server did not take."""
    sent = {each.frame_id for each in shown}
    return replace(everything, evidence=tuple(each for each in everything.evidence if each.frame_id in sent))
