"""Metadata that a publisher sends with its video, such as a robot's pose: check it, and find what belongs to a frame.

Reads no clock: times are arguments, in unix seconds.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from agent.errors import BadRequest
from agent.untrusted.plain import plain, plain_value
from memory.records import Json

MAX_METADATA_BYTES = 4096
MAX_DEPTH = 8
MAX_KEPT = 1024  # entries of one camera: 10 s of messages at the rate limit of the data channel


def check_metadata(value: Any) -> dict[str, Json]:
    """Return `value` without terminal control characters. Raises BadRequest if it cannot be stored with a frame."""
    if not isinstance(value, dict):
        raise BadRequest('Metadata must be a JSON object, such as {"x": 1.5, "y": 0.2, "heading": 90}.')
    _check_value(value, MAX_DEPTH)
    num_bytes = len(json.dumps(value, separators=(",", ":")))
    if num_bytes > MAX_METADATA_BYTES:
        raise BadRequest(f"Metadata has {num_bytes} bytes; at most {MAX_METADATA_BYTES} are kept with a frame.")
    return {plain(name): plain_value(inner) for name, inner in value.items()}


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
        raise BadRequest("Metadata holds half a character (a lone surrogate), which is not text.")
    elif isinstance(value, int | float) and not is_finite(value):
        raise BadRequest("Metadata holds a number that is not finite: leave it out instead.")


def is_finite(number: float) -> bool:
    """Return False for NaN, infinities, and integers too large for a float."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


class MetadataHistory:
    """The newest metadata of one camera, sorted by time. When there are more than MAX_KEPT entries, the oldest is deleted.

    Example with `max_age_s` 3, entry a at time 10 and entry b at time 12: `at` returns {} for 9, a for 11, b for 12 and
    15, and {} for 15.1.
    """

    def __init__(self, max_age_s: float) -> None:
        self._max_age_s = max_age_s
        self._entries: list[tuple[float, Mapping[str, Json]]] = []  # in time order; replaced, never changed in place

    def add(self, time: float, metadata: Mapping[str, Json], *, latest: float = math.inf) -> None:
        """Add the metadata for `time`. Calls may come in any order of times.

        Entries later than `latest` are removed, because a wrong clock must have dated them.
        """
        entries = self._entries[: bisect_right(self._entries, latest, key=lambda entry: entry[0])]
        place = bisect_right(entries, time, key=lambda entry: entry[0])
        self._entries = [*entries[:place], (time, dict(metadata)), *entries[place:]][-MAX_KEPT:]

    def at(self, time: float) -> Mapping[str, Json]:
        """Return the newest entry whose time is `time` or at most `max_age_s` before; {} if there is none. Thread-safe."""
        entries = self._entries
        place = bisect_right(entries, time, key=lambda entry: entry[0])
        if place == 0 or time - entries[place - 1][0] > self._max_age_s:
            return {}
        return entries[place - 1][1]
