"""What is known of a server, and what another try changes after the server has refused a request.

Servers say in words what they do not take: a field, a number of pictures, a length. What was learned holds until the
agent restarts, so that only one request is refused.
"""

import re
from dataclasses import dataclass, field

from agent.ask.remote_prompt import LimitName
from agent.ask.remote_reply import Manner

OPTIONAL = ("stream_options", "temperature", "response_format")  # what a request may leave out if a server refuses it
SMALLEST_WIDTH = 32  # pixels
TRY_AGAIN = 100  # prompts after which a guessed limit grows by one picture
FIRST_CONTEXT = 1024  # tokens; no vision model has a smaller context
_SHARE = 0.9  # of the pictures that should fit by their number: the text needs tokens too

_PICTURES = re.compile(
    r"at most (\d+) image|(?:maximum|limit)[^.]{0,40}? (\d+) images?\b|only (?:supports? )?(one|1|a single) image"
    r"|supports? (?:only )?(one|1|a single) image|too many images",
    re.IGNORECASE,
)
_NO_PICTURES = re.compile(
    r"mmproj|image input is not supported|not (?:a )?multi-?modal|(?:does not|doesn't|not) support (?:image|vision|multi)"
    r"|at most 0 image|no (?:vision|image) support",
    re.IGNORECASE,
)
_CONTEXT = re.compile(
    r"context (?:length|size|window)|exceed_context_size|longer than the maximum model length|context_length_exceeded"
    r"|too many tokens|prompt is too long",
    re.IGNORECASE,
)
_CONTEXT_SIZE = re.compile(
    r"(?:context (?:length|size|window)(?: of| is)?|model length of|\"n_ctx\":)\D{0,12}(\d{3,})", re.IGNORECASE
)
_ROOM = re.compile(r"\d+ > (\d+) - (\d+)")  # vLLM: max_tokens > context - tokens of the request
_AT_MOST = re.compile(
    r"(?:<=?|at most|less than or equal to|up to|between 1 and|\[1,|maximum(?: value)?(?: of| is)?|cannot be greater than)"
    r"\D{0,3}(\d+)",
    re.IGNORECASE,
)
_LIMITS = ("max_tokens", "max_completion_tokens", "max_new_tokens")
_NUMBER = re.compile(r"\d{3,}")


@dataclass(slots=True)
class Traits:
    """What is known of a server. None: not known, or no limit.

    max_tokens: of an answer. max_pictures, max_width: of a request. refused: fields that it does not take.
    """

    limit_name: LimitName = "max_tokens"
    max_tokens: int | None = None
    max_pictures: int | None = None
    max_width: int | None = None
    refused: frozenset[str] = frozenset()
    tools: bool | None = None
    json_schema: bool | None = None
    manner: Manner = field(default_factory=Manner)
    context: int | None = None  # tokens
    last_counts: dict[int, int] = field(default_factory=dict)  # tokens of a prompt, by its number of pictures
    num_whole: int | None = None  # prompts that were not cut since max_pictures was guessed; None: it is no guess

    def truncation(self, num_pictures: int, prompt_tokens: int) -> str | None:
        """Return a note if a server seems to have dropped a part of a prompt, and send fewer pictures from now on.

        Servers such as Ollama cut a prompt that exceeds the context without an error. Then the number of tokens is that
        of the context, a power of two, or the same for different numbers of pictures. As this may be a coincidence, one
        more picture is tried after every TRY_AGAIN prompts that were not cut.
        """
        if num_pictures < 1 or prompt_tokens < FIRST_CONTEXT:
            return None
        same = [number for number, tokens in self.last_counts.items() if tokens == prompt_tokens]
        self.last_counts[num_pictures] = prompt_tokens
        full = prompt_tokens == self.context or prompt_tokens & (prompt_tokens - 1) == 0
        if not full and all(number == num_pictures for number in same):
            self._was_whole()
            return None
        self.context = prompt_tokens
        if num_pictures == 1:
            return f"the server's context of {prompt_tokens} tokens is too short for one picture: make it longer there"
        self.max_pictures, self.num_whole = num_pictures // 2, 0
        return (
            f"the server's context of {prompt_tokens} tokens is too short: it did not see all {num_pictures} pictures; "
            f"at most {self.max_pictures} are sent from now on, or make the context longer there"
        )

    def _was_whole(self) -> None:
        if self.num_whole is not None and self.max_pictures is not None:
            self.num_whole += 1
            if self.num_whole >= TRY_AGAIN:
                self.max_pictures, self.num_whole = self.max_pictures + 1, 0


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that a server refused. words: its message, with codes and numbers from the body. fields: of the request."""

    words: str
    fields: frozenset[str]
    num_pictures: int
    width: int  # of its widest picture in pixels
    tokens: int  # its limit for the answer


@dataclass(frozen=True, slots=True)
class Change:
    """What the next try changes. A change of one kind is tried once a question. note: for the asker, may be ""."""

    kind: str
    note: str = ""


def takes_no_pictures(words: str) -> bool:
    """Return whether this error says that the model takes no pictures."""
    return _NO_PICTURES.search(words) is not None


def adapt(traits: Traits, refused: Refused) -> Change | None:
    """Change `traits` so that another try may succeed. Return what was changed; None: nothing that is known helps."""
    if takes_no_pictures(refused.words):
        return None
    for learn in (_limit_name, _field, _pictures, _tokens, _context):
        if (change := learn(traits, refused)) is not None:
            return change
    return None


def _limit_name(traits: Traits, refused: Refused) -> Change | None:
    if traits.limit_name == "max_tokens" and re.search(
        r"use '?\"?`?max_completion_tokens", refused.words, re.IGNORECASE
    ):
        traits.limit_name = "max_completion_tokens"
        return Change("limit_name")
    return None


def _field(traits: Traits, refused: Refused) -> Change | None:
    for name in OPTIONAL:
        if name in refused.fields and name in refused.words:
            traits.refused |= {name}
            return Change(name)
    return None


def _pictures(traits: Traits, refused: Refused) -> Change | None:
    found = _PICTURES.search(refused.words)
    if found is None or refused.num_pictures < 2:
        return None
    said = next((group for group in found.groups() if group), "")
    most = int(said) if said.isdecimal() else 1
    traits.max_pictures = min(max(most, 1), refused.num_pictures - 1)
    return Change("pictures", f"the server takes {_pictures_of(traits.max_pictures)} a request")


def _tokens(traits: Traits, refused: Refused) -> Change | None:
    if not any(name in refused.words for name in _LIMITS):
        return None
    if room := _ROOM.search(refused.words):
        most = int(room[1]) - int(room[2])
    else:
        limits = [int(number) for number in _AT_MOST.findall(refused.words)]
        most = min((number for number in limits if number < refused.tokens), default=0)
    if not 0 < most < refused.tokens:
        return None
    traits.max_tokens = most
    return Change("tokens")


def _context(traits: Traits, refused: Refused) -> Change | None:
    if not _CONTEXT.search(refused.words) or not refused.num_pictures:
        return None
    size = _CONTEXT_SIZE.search(refused.words)
    traits.context = int(size[1]) if size else traits.context
    if refused.num_pictures == 1:
        traits.max_width = max(SMALLEST_WIDTH, refused.width // 2)
        return Change(
            "context", f"the picture was sent {traits.max_width} pixels wide: the server's context is too short"
        )
    needed = max((int(number) for number in _NUMBER.findall(refused.words)), default=0)
    share = traits.context / needed * _SHARE if traits.context and needed > traits.context else 0.5
    traits.max_pictures = min(max(1, int(refused.num_pictures * share)), refused.num_pictures - 1)
    return Change("context", f"{_pictures_of(traits.max_pictures)} fit into the server's context")


def _pictures_of(number: int) -> str:
    return "one picture" if number == 1 else f"at most {number} pictures"
