"""Write JSON for clients, also from text and numbers that JSON cannot represent.

Such values may come from a model, a server or a camera. Lone surrogates (halves of a UTF-16 pair) become U+FFFD; NaN
and infinity become null.
"""

import json
import math
from typing import Any

from starlette.responses import JSONResponse


def whole_text(text: str) -> str:
    """Return `text` with each lone surrogate replaced by U+FFFD, and each surrogate pair by its character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def json_bytes(value: Any) -> bytes:
    """Return `value` as compact JSON in UTF-8."""
    try:
        text = _dumps(value)
    except ValueError:
        text = _dumps(_finite(value))
    return whole_text(text).encode()


class JsonResponse(JSONResponse):
    """A response with a JSON body, written by `json_bytes`."""

    def render(self, content: Any) -> bytes:
        return json_bytes(content)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    """Return a copy of `value` in which NaN and infinity are replaced by None."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
