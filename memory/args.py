"""Checks of what callers hand to the store. Pure."""

import heapq
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.records import Json

MAX_METADATA_BYTES = 65_536
"""Of one frame, as JSON."""


def metadata_text(metadata: Mapping[str, Json] | None) -> str:
    """JSON in ASCII, "" for none. ValueError if it is no JSON or too large."""
    if not metadata:
        return ""
    try:
        text = json.dumps(metadata, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be JSON: {error}") from error
    if len(text) > MAX_METADATA_BYTES:
        raise ValueError(f"metadata has {len(text)} bytes, at most {MAX_METADATA_BYTES} are kept")
    return text


def load_metadata(text: str) -> dict[str, Any]:
    """What `metadata_text` was given."""
    return dict(json.loads(text)) if text else {}


def place_of(text: str) -> tuple[float, float]:
    """The numbers x and y of stored metadata; NaN without them: '{"x": 1, "y": 2.5}' -> (1.0, 2.5)."""
    if '"x"' not in text or '"y"' not in text:
        return math.nan, math.nan
    metadata = load_metadata(text)
    x, y = metadata.get("x", ""), metadata.get("y", "")
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (x, y))
    return (float(x), float(y)) if numbers else (math.nan, math.nan)


def check_shapes(**expected: tuple[Any, tuple[int, ...]]) -> None:
    """name=(array, shape): ValueError that names the first array of another shape."""
    for name, (array, shape) in expected.items():
        if np.shape(array) != tuple(shape):
            raise ValueError(f"{name} must have shape {tuple(shape)}, not {np.shape(array)}")


def first_ids(limit: int, each: Iterable[Iterator[npt.NDArray[np.int64]]], *, newest_first: bool) -> list[int]:
    """The lowest (or highest) `limit` ids, in that order. each: of one camera, arrays of rising ids, themselves in the
    wanted order; no more of them is read than is needed."""
    merged = heapq.merge(*(_in_order(arrays, newest_first) for arrays in each), reverse=newest_first)
    return list(islice(merged, max(0, limit)))


def _in_order(arrays: Iterator[npt.NDArray[np.int64]], newest_first: bool) -> Iterator[int]:
    for ids in arrays:
        yield from (ids[::-1] if newest_first else ids).tolist()
