"""Parse JSON from clients strictly. `agent/untrusted/wire.py` writes JSON.

Rejected are duplicate keys, NaN, infinity, lone surrogates (halves of a UTF-16 pair), numbers that are too long, and
nesting that is too deep.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from agent.errors import BadRequest

MAX_DEPTH = 64
MAX_DIGITS = 400  # of a whole number; more than any float has before its decimal point
_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")  # text with a match may hold a lone surrogate
_NO_TEXT = "The JSON holds half a character (a lone surrogate), which is no text."


def parse_json(text: bytes | str) -> Any:
    """Return the value of a JSON text. Raises BadRequest with a message that says what is wrong."""
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(
            decoded, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_whole, parse_float=_fraction
        )
        if _HALF.search(decoded) or decoded.count("[") + decoded.count("{") > MAX_DEPTH:
            _check(value, MAX_DEPTH)
    except RecursionError:
        raise BadRequest("The JSON is nested too deeply.") from None
    except UnicodeError:
        raise BadRequest("This is not JSON: it is not UTF-8 text.") from None
    except ValueError as error:
        raise BadRequest(f"This is not JSON: {error}.") from None
    return value


def parse_object(text: bytes | str) -> dict[str, Any]:
    """Return the value of a JSON text that must be an object. Raises BadRequest."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    return value


def without_nulls(value: Any) -> Any:
    """Return `value` without keys whose value is null, at any depth: a null field counts as left out.

    Example: {"stream": None, "within": {"x": 1, "y": None}, "stop": [None]} -> {"within": {"x": 1}, "stop": [None]}.
    """
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise BadRequest(f"The JSON has the key {twice[:40]!a} twice: send it once.")
    return found


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a finite number")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _fraction(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number is not finite: it is too large")
    return number


def _check(value: Any, depth: int) -> None:
    """Raise RecursionError if `value` is nested deeper than `depth`, or BadRequest if it has a lone surrogate."""
    if depth < 0:
        raise RecursionError
    if isinstance(value, str):
        if not _is_text(value):
            raise BadRequest(_NO_TEXT)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _check(key, depth)
            _check(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth - 1)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
