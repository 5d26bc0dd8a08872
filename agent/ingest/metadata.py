"""What a publisher says beside its pictures: metadata such as a robot's pose, and which of it belongs to a frame.

Pure; times are unix seconds and come in as arguments. Does not know how the words arrive.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from agent.errors import BadRequest
from agent.untrusted.plain import plain, plain_value
from memory.records import Json

MAX_TOLD_BYTES = 4096
MAX_DEPTH = 8
MAX_KEPT = 1024  # of one camera: 10 s at the rate at which a data channel is read


def check_told(told: Any) -> dict[str, Json]:
    """What of `told` can be kept with frames: texts without what steers a terminal. Raises BadRequest."""
    if not isinstance(told, dict):
        raise BadRequest('Metadata must be a JSON object, such as {"x": 1.5, "y": 0.2, "heading": 90}.')
    _check_value(told, MAX_DEPTH)
    num_bytes = len(json.dumps(told, separators=(",", ":")))
    if num_bytes > MAX_TOLD_BYTES:
        raise BadRequest(f"Metadata has {num_bytes} bytes; at most {MAX_TOLD_BYTES} are kept with a frame.")
    return {plain(name): plain_value(value) for name, value in told.items()}


def _check_value(value: Any, depth: int) -> None:
    if depth < 0:
        raise BadRequest(f"Metadata is nested more than {MAX_DEPTH} levels deep.")
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_value(key, depth - 1)
            _check_value(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _check_value(inner, depth - 1)
    elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise BadRequest("Metadata holds half a character (a lone surrogate), which is no text.")
    elif isinstance(value, int | float) and not is_finite(value):
        raise BadRequest("Metadata holds a number that is not finite: leave it out instead.")


def is_finite(number: float) -> bool:
    """Neither NaN nor infinite, nor an integer beyond every float."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


class Told:
    """The newest metadata of one camera by time. Overload policy: beyond MAX_KEPT the oldest goes.

    Worked example with `max_age_s` 3: told a at 10 and b at 12; `at` gives nothing for 9, a for 11, b for 12 and for 15,
    nothing for 15.1.
    """

    def __init__(self, max_age_s: float) -> None:
        self._max_age_s = max_age_s
        self._told: list[tuple[float, Mapping[str, Json]]] = []  # rising time

    def add(self, time: float, metadata: Mapping[str, Json], *, latest: float = math.inf) -> None:
        """What was so at `time`. May come out of order. What was told of a time after `latest` goes: a wrong clock said it."""
        self._told = self._told[: bisect_right(self._told, latest, key=lambda each: each[0])]
        place = bisect_right(self._told, time, key=lambda each: each[0])
        self._told = [*self._told[:place], (time, dict(metadata)), *self._told[place:]][-MAX_KEPT:]

    def at(self, time: float) -> Mapping[str, Json]:
        """The newest that was told of `time` or of at most `max_age_s` before it; {}: nothing. Any thread."""
        told = self._told
        place = bisect_right(told, time, key=lambda each: each[0])
        if place == 0 or time - told[place - 1][0] > self._max_age_s:
            return {}
        return told[place - 1][1]
