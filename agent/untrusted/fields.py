"""Check the names of request fields: unsupported fields of OpenAI's API, and misspelt fields of our own.

A field that would change the answer but is not supported is rejected, never ignored.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from agent.errors import MAX_SHOWN, BadRequest, shown
from agent.times import MAX_UNIX_S, unit_hint

# Fields of OpenAI's chat-completions API. Those that are neither in `_REFUSED` nor read by us do not affect an answer.
OPENAI_FIELDS = frozenset({
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "messages", "metadata", "modalities", "model", "moderation", "n", "parallel_tool_calls", "prediction",
    "presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort",
    "response_format", "safety_identifier", "seed", "service_tier", "stop", "store", "stream", "stream_options",
    "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
})  # fmt: skip
_TEXT_FORMAT = {"type": "text"}
# Fields that are refused -> whether a value would change nothing and is accepted. A null field counts as left out.
_REFUSED: Mapping[str, Callable[[Any], bool]] = {
    "audio": lambda value: False,
    "function_call": lambda value: value in ("none", "auto"),
    "functions": lambda value: value == [],
    "logprobs": lambda value: value is False,
    "modalities": lambda value: value in ([], ["text"]),
    "response_format": lambda value: value == _TEXT_FORMAT,
    "stop": lambda value: value in ("", []),
    "tool_choice": lambda value: value in ("none", "auto"),
    "tools": lambda value: value == [],
    "top_logprobs": lambda value: value == 0,
    "web_search_options": lambda value: False,
    "extra_body": lambda value: value == {},
}
# Other names that clients use for our fields, in lower case and without "_" and "-" -> our name.
_SYNONYMS = {
    **dict.fromkeys(("cam", "camid", "camname", "cameraid", "cameraname", "camerasids", "cameraids", "cams"), "camera"),
    **dict.fromkeys(("since", "from", "start", "starttime", "begin", "fromtime", "aftertime"), "after"),
    **dict.fromkeys(("until", "till", "to", "end", "endtime", "totime", "beforetime"), "before"),
    **dict.fromkeys(("near", "place"), "within"),
}


def refuse_unsupported(body: Mapping[str, Any]) -> None:
    """Raise BadRequest if `body` has a field of OpenAI's API that would change the answer but is not supported."""
    if body.get("n", 1) != 1:
        raise BadRequest("'n' must be 1: a question gets one answer here.", param="n")
    for name, is_harmless in _REFUSED.items():
        if name not in body or is_harmless(body[name]):
            continue
        if name == "response_format":
            raise BadRequest(
                '\'response_format\' must be {"type": "text"}: answers are text here, other formats are not supported.',
                param=name,
            )
        if name == "extra_body":  # not a field: OpenAI's Python client merges this argument into the body
            raise BadRequest("'extra_body' is not read: send its fields beside 'messages'.", param=name)
        raise BadRequest(f"'{name}' is not supported here: leave it out.", param=name)


def check_spelling(names: Iterable[str], ours: Collection[str], others: Collection[str] = ()) -> None:
    """Raise BadRequest if one of `names` looks like a misspelling of a name in `ours`.

    Names in `ours` or `others` are correct. Any other name is accepted unless it resembles one of `ours`.

    Worked example: with ours {"camera", "before"}, "camra" and "Befor" are refused, "top_k" is not.
    """
    for name in names:
        if name in ours or name in others:
            continue
        meant = nearest(name, ours)
        if meant is not None:
            raise BadRequest(f"There is no '{shown(name)}': did you mean '{meant}'?", param=shown(name))


def nearest(name: str, ours: Collection[str]) -> str | None:
    """Return the name in `ours` that `name` is probably a misspelling or a synonym of; None if it resembles none."""
    plain = _plain(name)
    synonym = _SYNONYMS.get(plain)
    if synonym in ours:
        return synonym
    if len(plain) > MAX_SHOWN:
        return None
    distances = sorted((_distance(plain, _plain(known)), known) for known in ours)
    if not distances:
        return None
    distance, known = distances[0]
    return (
        known if distance <= (2 if len(_plain(known)) > 4 and len(plain) > 3 else 1 if len(plain) > 2 else 0) else None
    )


def wrong_field(error: ValidationError, ours: Collection[str], whole: str = "body") -> BadRequest:
    """Return a BadRequest for the first mistake that pydantic found.

    Its message names the wrong field, or `whole` if the mistake is in no single field. ours: the valid field names.
    """
    first = error.errors(include_url=False)[0]
    place = shown(".".join(str(part) for part in first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        meant = nearest(str(first["loc"][-1]), ours)
        message = "there is no such field" + (f": did you mean '{meant}'?" if meant else "")
    elif first["type"] == "less_than_equal" and first.get("ctx", {}).get("le") == MAX_UNIX_S:
        with suppress(ValueError, TypeError, OverflowError):
            message = unit_hint(float(first["input"])) or message
    return BadRequest(f"{place or whole}: {message}", param=place or None)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _distance(one: str, other: str) -> int:
    """Return the edit distance between two texts, in which swapping two adjacent letters counts as one edit.

    This is the optimal string alignment distance.
    """
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]
