"""A camera's history as few numbers: relevance in bins as wide as a pixel, and the gaps where nothing was received.

Pure numpy: times, scores and the present are arguments. Knows no HTTP, no question's words and no pictures.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

GAP_INTERVALS, MIN_GAP_S = 3.0, 2.0  # silence longer than so many frame intervals, and than this, is a gap
CHUNK_ROWS = 8192  # embeddings read at once: 16 MB at 512 dimensions
MAX_SCORES = 4_000_000  # of all questions together: 48 MB
_SAMPLED_INTERVALS = 10_000


class ScoredFrames(Protocol):
    """What of a memory window is needed to score it."""

    @property
    def num_frames(self) -> int: ...
    @property
    def frame_ids(self) -> Int64: ...
    def embeddings(self, rows: Int64) -> Float32:
        """(n, D) unit vectors."""


@dataclass(frozen=True, slots=True)
class Bins:
    """The bins that hold frames, in order; all arrays (m,).

    number: which bin, from 0; counts: its frames; best: row of its highest score (of its first frame where there are no
    scores); highest, mean: of its scores, None without.
    """

    number: Int64
    counts: Int64
    best: Int64
    highest: Float32 | None
    mean: Float32 | None


def bin_frames(times: Float64, scores: Float32 | None, after: float, before: float, num_bins: int) -> Bins:
    """Frames at rising `times` (n,), all inside [after, before], put into bins of equal width.

    times 0 1 2 9 10, scores .1 .3 .2 .5 .4, [0, 10] in 5 bins: bins 0 (frames 0 1), 1 (frame 2), 4 (frames 9 10);
    counts 2 1 2, best rows 1 2 3, highest .3 .2 .5, mean .2 .2 .45. A frame at `before` belongs to the last bin.
    """
    edges = after + (before - after) / num_bins * np.arange(num_bins)
    starts = np.searchsorted(times, edges)
    counts = np.diff(starts, append=len(times))
    number = np.flatnonzero(counts)
    starts, counts = starts[number], counts[number]
    if scores is None or not len(number):
        return Bins(number, counts, starts, None, None)
    highest = np.maximum.reduceat(scores, starts)
    means = (np.add.reduceat(scores, starts, dtype=np.float64) / counts).astype(np.float32)
    best = [int(s + np.argmax(scores[s : s + n])) for s, n in zip(starts.tolist(), counts.tolist(), strict=True)]
    return Bins(number, counts, np.array(best, np.int64), highest, means)


def gap_threshold_s(times: Float64, rate_hz: float) -> float:
    """The longest silence of this camera that is no gap.

    Three intervals of its configured rate or of the typical distance of its frames, whichever is longer.
    """
    interval_s = 1.0 / rate_hz
    if len(times) > 1:
        sampled = np.linspace(0, len(times) - 2, min(len(times) - 1, _SAMPLED_INTERVALS)).astype(np.int64)
        interval_s = max(interval_s, float(np.median(times[sampled + 1] - times[sampled])))
    return max(MIN_GAP_S, GAP_INTERVALS * interval_s)


def find_gaps(times: Float64, after: float, before: float, now: float, threshold_s: float) -> list[tuple[float, float]]:
    """Silences longer than the threshold, cut to [after, before].

    times: rising, of all that is remembered, inside the bounds or not. From the newest frame on there is a gap once
    `now` is far enough away. Before the oldest nothing is known: that is no gap.
    """
    if not len(times):
        return []
    first = max(0, int(np.searchsorted(times, after)) - 1)
    last = int(np.searchsorted(times, before, side="right")) + 1
    known = np.append(times[first:last], now) if last > len(times) else times[first:last]
    found = np.flatnonzero(np.diff(known) > threshold_s)
    cut = [(max(float(known[n]), after), min(float(known[n + 1]), before)) for n in found]
    return [(start, end) for start, end in cut if start < end]


class Relevance:
    """Scores of frames for the questions asked last, so that a zoom computes only what was not seen before.

    Bounded: beyond `max_scores` the questions not used for longest go. Not for two threads at once.
    """

    def __init__(self, max_scores: int = MAX_SCORES) -> None:
        self._max_scores = max_scores
        self._known: OrderedDict[Hashable, tuple[Int64, Float32]] = OrderedDict()  # ids rising, their scores

    def scores(self, key: Hashable, window: ScoredFrames, query: Float32) -> Float32:
        """(N,) float32 cosine of every frame of the window with `query` (D,). `key` names the camera and question."""
        ids, known = self._known.pop(key, (np.zeros(0, np.int64), np.zeros(0, np.float32)))
        asked = window.frame_ids
        places = np.searchsorted(ids, asked)
        held = places < len(ids)
        held[held] = ids[places[held]] == asked[held]
        scores = np.empty(window.num_frames, np.float32)
        scores[held] = known[places[held]]
        missing = np.flatnonzero(~held)
        for start in range(0, len(missing), CHUNK_ROWS):
            rows = missing[start : start + CHUNK_ROWS]
            scores[rows] = np.vecdot(window.embeddings(rows), query)
        if len(missing):
            ids, known = _merged(ids, known, asked[missing], scores[missing])
        self._keep(key, ids, known)
        return scores

    def _keep(self, key: Hashable, ids: Int64, scores: Float32) -> None:
        self._known[key] = (ids, scores)
        total = sum(len(held) for held, _ in self._known.values())
        while total > self._max_scores:
            total -= len(self._known.popitem(last=False)[1][0])


def _merged(ids: Int64, scores: Float32, new_ids: Int64, new_scores: Float32) -> tuple[Int64, Float32]:
    all_ids, all_scores = np.concatenate((ids, new_ids)), np.concatenate((scores, new_scores))
    if len(ids) and ids[-1] > new_ids[0]:
        order: NDArray[Any] = np.argsort(all_ids, kind="stable")
        return all_ids[order], all_scores[order]
    return all_ids, all_scores
