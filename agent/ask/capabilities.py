"""What a server can do, found out by asking it about pictures of the agent's own: two plain colours with a digit each.

The result is kept in the data folder for the same server, model and settings, so that only the first start asks.
"""

import asyncio
import io
import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from agent.ask.egress import Egress
from agent.ask.question import Step
from agent.ask.remote_client import ChatClient
from agent.ask.remote_prompt import Json, Message, Prompt, Shown
from agent.ask.remote_reply import RemoteTally
from agent.ask.remote_traits import Traits
from agent.ask.remote_wire import parse
from agent.errors import AnswererAway, Problem
from agent.runtime.files import replace_private
from agent.settings.settings import AnswererSettings
from agent.untrusted.plain import plain_line

log = logging.getLogger(__name__)

VALID_S = 7 * 86_400.0  # a server may get another version or another context
OURS = (("orange", "8"), ("purple", "4"))  # colours and digits that a model without eyes would not name
MAX_TOKENS = 64
SLOW_S = 10.0  # for one picture: such a server is asked one thing at a time
IN_TIME = 0.8  # share of answerer.timeout_s that reading pictures may take
MOST_TOGETHER = 4
_DIGITS = "Which digit does each picture show, and on which colour? Answer in their order, such as: 1 white, 2 black."
_SCHEMA: Json = {
    "type": "object",
    "properties": {"larger": {"type": "integer", "enum": [4, 8]}},
    "required": ["larger"],
    "additionalProperties": False,
}
_TOOL: Json = {
    "type": "function",
    "function": {
        "name": "show_digit",
        "description": "Show a digit to the user.",
        "parameters": {"type": "object", "properties": {"digit": {"type": "integer"}}, "required": ["digit"]},
    },
}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What was found out about a server. found_at: unix seconds.

    problem: why it cannot answer questions about pictures; "": it can. pictures: how many one request takes, at most
    answerer.max_images. seconds_one, seconds_all: how long it takes for one picture and for `pictures`; None: it was
    not asked, or failed. together: how many requests at once are no slower than two in a row. refused: fields of a
    request that it does not take. warnings: what to change, in words.
    """

    base_url: str
    model: str
    max_images: int
    found_at: float
    problem: str = ""
    listed: bool | None = None
    sees: bool = False
    pictures: int = 1
    json_schema: bool = False
    tools: bool = False
    thinks: bool = False
    usage: bool = False
    limit_name: str = "max_tokens"
    refused: tuple[str, ...] = ()
    seconds_one: float | None = None
    seconds_all: float | None = None
    together: int = 1
    warnings: tuple[str, ...] = field(default=())

    def teach(self, traits: Traits) -> None:
        """Tell a client what was found out, so that its first request fits."""
        traits.tools, traits.json_schema = self.tools, self.json_schema
        traits.limit_name = "max_completion_tokens" if self.limit_name == "max_completion_tokens" else "max_tokens"
        traits.refused |= frozenset(self.refused)
        traits.manner.thinks |= self.thinks
        if self.pictures < self.max_images:
            traits.max_pictures = min(self.pictures, traits.max_pictures or self.pictures)

    def expected_s(self, num_pictures: int) -> float:
        """Return how many seconds an answer about so many pictures should take; 0.0: not known."""
        if self.seconds_one is None or self.seconds_all is None:
            return self.seconds_one or 0.0
        each_s = (self.seconds_all - self.seconds_one) / max(1, self.pictures - 1)
        return max(0.0, self.seconds_one + each_s * (num_pictures - 1))

    def public(self) -> dict[str, Any]:
        """Return the findings as `/v1/models` shows them."""
        return {name: value for name, value in asdict(self).items() if name not in ("base_url", "max_images", "model")}


class Prober:
    """Finds out what the server of a client can do. The client learns from the replies too."""

    def __init__(
        self, client: ChatClient, settings: AnswererSettings, rule: Egress, *, now: Callable[[], float]
    ) -> None:
        """rule: which addresses may be asked. now: returns unix seconds."""
        self._client, self._rule, self._now = client, rule, now
        self._width, self._timeout_s = settings.max_image_width, settings.timeout_s
        self._found = Capabilities(settings.base_url or "", client.model, settings.max_images, 0.0)

    async def find_out(self, listed: bool | None = None) -> Capabilities:
        """Ask the server, about ten times, and return what it can do. listed: whether it lists the model.

        Waits while questions are answered. Raises AnswererAway if the server is away.
        """
        found, traits = replace(self._found, listed=listed, found_at=self._now()), self._client.traits
        try:
            text, tally, seconds_one = await self._look(1)
        except AnswererAway:
            raise
        except Problem as problem:
            return replace(found, problem=problem.message)
        found = replace(found, seconds_one=seconds_one, usage=tally.prompt_tokens > 0, sees=names(text, *OURS[0]))
        if not found.sees:
            said = plain_line(text)[:80]
            why = f"the model '{found.model}' does not see: shown a digit on {OURS[0][0]}, it says '{said}'"
            return replace(found, problem=why)
        found = await self._several(found, tally.prompt_tokens)
        found = replace(found, json_schema=await self._follows_schema(), tools=await self._calls_tools())
        return replace(
            found,
            thinks=traits.manner.thinks,
            limit_name=traits.limit_name,
            refused=tuple(sorted(traits.refused)),
            together=await self._together(seconds_one),
        )

    async def _several(self, found: Capabilities, tokens_one: int) -> Capabilities:
        """Return the findings with how many pictures one request takes, and how long that lasts."""
        traits, most = self._client.traits, found.max_images
        if most == 1:
            return replace(found, seconds_all=found.seconds_one)
        try:
            text, two, seconds_two = await self._look(2)
            if not names(text, *OURS[1]) and two.prompt_tokens <= tokens_one:
                traits.max_pictures = 1
        except Problem as problem:
            warning = f"with 2 pictures: {problem.message}"
            return replace(found, pictures=1, warnings=(*found.warnings, warning))
        try:
            _, every, seconds_all = await self._look(most)
        except AnswererAway as away:
            pictures = min(most - 1, traits.max_pictures or most, self._in_time(found.seconds_one or 0.0, seconds_two))
            warning = f"with {most} pictures: {away.message} {_pictures(pictures)} should be ready in time"
            return replace(found, pictures=max(1, pictures), warnings=(*found.warnings, warning))
        except Problem as problem:
            warning = f"with {most} pictures: {problem.message}"
            return replace(found, pictures=traits.max_pictures or 1, warnings=(*found.warnings, warning))
        num_sent = len(every.shown)
        num_seen = seen_of(num_sent, tokens_one, two.prompt_tokens, every.prompt_tokens)
        if num_seen < num_sent:
            traits.max_pictures = num_seen
        pictures = min(most, traits.max_pictures or most)
        warnings = found.warnings
        if pictures < most:
            warnings += (f"it takes {_pictures(pictures)} a request, fewer than answerer.max_images ({most})",)
        return replace(found, pictures=pictures, seconds_all=seconds_all, warnings=warnings)

    def _in_time(self, seconds_one: float, seconds_two: float) -> int:
        """Return how many pictures the server should read within the time it may be silent."""
        each_s = max(seconds_two - seconds_one, 0.01)
        return max(2, 1 + int((IN_TIME * self._timeout_s - seconds_one) / each_s))

    async def _look(self, num_pictures: int) -> tuple[str, RemoteTally, float]:
        """Return the answer about so many of our pictures, its counts, and how many seconds it took."""
        ours = await asyncio.to_thread(own_pictures, self._width)
        shown = [replace(ours[number % 2], importance=-float(number)) for number in range(num_pictures)]
        return await self._ask(Prompt((Message("user", (*shown, _DIGITS)),), MAX_TOKENS))

    async def _ask(self, prompt: Prompt) -> tuple[str, RemoteTally, float]:
        await self._client.idle.wait()  # a person's question goes first
        loop, tally = asyncio.get_running_loop(), RemoteTally()
        began = loop.time()
        pieces = [
            piece async for piece in self._client.stream(prompt, self._rule, tally) if not isinstance(piece, Step)
        ]
        return "".join(pieces), tally, round(loop.time() - began, 3)

    async def _follows_schema(self) -> bool:
        prompt = Prompt((Message("user", ("Which number is larger, 4 or 8?",)),), MAX_TOKENS, schema=_SCHEMA)
        try:
            text, _, _ = await self._ask(prompt)
            return bool(parse(text) == {"larger": 8}) and "response_format" not in self._client.traits.refused
        except (Problem, ValueError, RecursionError):
            return False

    async def _calls_tools(self) -> bool:
        prompt = Prompt((Message("user", ("Show me the digit 8, by the tool.",)),), MAX_TOKENS, tools=(_TOOL,))
        try:
            _, tally, _ = await self._ask(prompt)
            return any(call.name == "show_digit" and parse(call.arguments) == {"digit": 8} for call in tally.calls)
        except (Problem, ValueError, RecursionError):
            return False

    async def _together(self, seconds_one: float) -> int:
        """Return how many requests at once take less than twice as long as one: 1, 2 or 4."""
        if seconds_one > SLOW_S:
            return 1
        prompt = Prompt((Message("user", ("Count from 1 to 20.",)),), MAX_TOKENS)
        try:
            _, _, alone_s = await self._ask(prompt)
            together, number = 1, 2
            while number <= MOST_TOGETHER:
                loop = asyncio.get_running_loop()
                began = loop.time()
                await asyncio.gather(*(self._whole(prompt) for _ in range(number)))
                if loop.time() - began > 2 / 3 * number * alone_s:
                    break
                together, number = number, number * 2
        except Problem:
            return 1
        return together

    async def _whole(self, prompt: Prompt) -> None:
        async for _ in self._client.stream(prompt, self._rule, RemoteTally()):
            pass


def names(text: str, colour: str, digit: str) -> bool:
    """Return whether an answer names this colour or this digit."""
    return colour in text.lower() or digit in re.findall(r"\d+", text)


def seen_of(num_sent: int, tokens_one: int, tokens_two: int, tokens_all: int) -> int:
    """Return how many of the pictures sent fit in the prompt that the server read, by its token counts.

    tokens_one, tokens_two, tokens_all: of a prompt with one, two and all pictures; 0: unknown.
    """
    a_picture = tokens_two - tokens_one
    if tokens_one <= 0 or a_picture <= 0 or num_sent <= 2:
        return num_sent
    expected = tokens_one + (num_sent - 1) * a_picture
    if tokens_all >= 0.8 * expected:
        return num_sent
    return max(1, min(num_sent, 1 + (tokens_all - tokens_one) // a_picture))


@cache
def own_pictures(width: int) -> tuple[Shown, ...]:
    """Return two pictures of this width, each a digit on a plain colour. Blocks."""
    made = []
    height = max(36, width * 9 // 16)
    for number, (colour, digit) in enumerate(OURS, 1):
        image = Image.new("RGB", (width, height), colour)
        font = ImageFont.load_default(size=height * 2 // 3)
        ImageDraw.Draw(image).text((width // 2, height // 2), digit, fill="white", font=font, anchor="mm")
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        made.append(Shown(f"Picture {number}:", buffer.getvalue()))
    return tuple(made)


def remembered(path: Path, *, settings: AnswererSettings, now: float) -> Capabilities | None:
    """Return the findings kept in a file, if they are of this server and not too old. now: unix seconds. Blocks."""
    try:
        kept = json.loads(path.read_text("utf-8"))
        lists = {name: tuple(kept[name]) for name in ("refused", "warnings")}
        found = Capabilities(**{**kept, **lists})
        fits = (found.base_url, found.model, found.max_images) == (
            settings.base_url,
            settings.model,
            settings.max_images,
        )
        return found if fits and 0 <= now - found.found_at < VALID_S else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remember(path: Path, found: Capabilities) -> None:
    """Keep the findings in a file. Blocks. A failure is only logged, as the next start asks again."""
    try:
        replace_private(path, json.dumps(asdict(found), indent=2).encode())
    except OSError as error:
        log.warning("what the server can do is not kept", extra={"path": str(path), "error": str(error)})


def listed_in(models: Iterable[str], model: str) -> bool:
    """Return whether a server's list names the model, in full or without Ollama's tag ":latest"."""
    return any(each in (model, f"{model}:latest") for each in models)


def words(found: Capabilities | None) -> Sequence[str]:
    """Return the findings in sentences for the operator."""
    if found is None:
        return ("it has not been asked yet what it can do",)
    able = ", ".join(
        f"{name}: {'yes' if can else 'no'}"
        for name, can in (("JSON schema", found.json_schema), ("tools", found.tools), ("thinks", found.thinks))
    )
    times = [
        f"{seconds:g} s for {_pictures(number)}"
        for number, seconds in {1: found.seconds_one, found.pictures: found.seconds_all}.items()
        if seconds is not None
    ]
    at_once = "one request at a time" if found.together == 1 else f"{found.together} requests at once"
    lines = (f"takes {_pictures(found.pictures)} a request ({', '.join(times)}), {at_once}", able)
    return (*([found.problem] if found.problem else lines), *found.warnings)


def _pictures(number: int) -> str:
    return "one picture" if number == 1 else f"{number} pictures"
