"""Prominence of the peaks of a signal over time (topological persistence of its superlevel sets).

The prominence of a peak is how far the signal must fall from it before it rises to a higher peak. It does not change when a
constant is added to the signal, and it scales with the signal. numpy only; O(n log n) for ordinary signals and never quadratic.

Edelsbrunner, Letscher, Zomorodian: Topological persistence and simplification (2002); on a line it is the pairing that
rainflow counting makes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

# Rounds over whole arrays remove at least this share of the peaks, or the rest is left to a loop that is linear in any case.
_LEAST_SHARE = 0.1
_FEW_PEAKS = 512  # below this the loop is faster than another round


_BLOCK_ROWS = 16


@dataclass(frozen=True, slots=True)
class Peaks:
    """Peaks of a signal, rows rising.

    rows (p,): the first row of the peak. prominences (p,): in units of the signal. highest (p,): whether it is the highest
    peak of its segment (the first of several). No higher peak bounds it: its prominence is down to the segment's minimum.
    """

    rows: Int64
    prominences: Float64
    highest: NDArray[np.bool_]


def find_peaks(signal: NDArray[np.floating], starts: Int64 | None = None, *, least: float = 0.0) -> Peaks:
    """Find the highest peak of each segment, and every other peak whose prominence is above 0 and at least `least`.

    `signal` (n,); `starts` (s,): first row of each segment, rising, from 0; None: one segment. A peak is compared with
    those of its segment alone. Of two equally high peaks the first counts as the higher one. A plateau is one peak.
    The larger `least` is, the faster. Raises ValueError for a signal that is not finite.

    signal 0 3 1 2 0: rows 1 and 3, prominences 3 (down to 0) and 1 (down to the 1 before the higher peak).
    """
    signal = np.asarray(signal)
    starts = np.zeros(1, np.int64) if starts is None else np.asarray(starts, np.int64)
    if not len(signal):
        return Peaks(np.empty(0, np.int64), np.empty(0), np.empty(0, bool))
    lowest = np.minimum.reduceat(signal, starts).astype(np.float64)
    if not np.isfinite(signal.sum(dtype=np.float64)):
        raise ValueError("the signal is not finite")
    rows = _candidates(signal, starts, least)
    valleys = np.minimum.reduceat(signal, rows)[:-1].astype(np.float64)
    segments = np.searchsorted(starts, rows, side="right") - 1
    valleys[np.diff(segments) > 0] = -np.inf
    bases = _bases(signal[rows].astype(np.float64), valleys)
    highest = np.isneginf(bases)
    bases[highest] = lowest[segments[highest]]
    prominences = signal[rows] - bases
    kept = highest | ((prominences >= least) & (prominences > 0))
    return Peaks(rows[kept], prominences[kept], highest[kept])


def _candidates(signal: NDArray[np.floating], starts: Int64, least: float) -> Int64:
    """Rows (c,) that hold every peak with a prominence of at least `least`, and every peak that bounds such a one.

    Of a block of rows in which the signal varies by less than `least`, the highest row is enough: a lower peak in it falls by
    less than `least` on the way to it, and whoever would join the lower one joins the highest row at the same level.
    """
    blocks = np.union1d(np.arange(0, len(signal), _BLOCK_ROWS), starts)
    lengths = np.diff(blocks, append=len(signal))
    highest = np.maximum.reduceat(signal, blocks)
    varies = highest - np.minimum.reduceat(signal, blocks) >= least
    highest[varies] = -np.inf
    return np.flatnonzero(signal >= np.repeat(highest, lengths))


def _bases(heights: Float64, valleys: Float64) -> Float64:
    """(p,) the level at which each peak joins a higher one; -inf for one that joins none.

    Each round looks at the higher one of the two valleys beside a peak. If the neighbour behind it is higher, the peak joins
    it there: nothing further away is reached at a higher level. What has joined is left out of the next round.
    """
    bases = np.full(len(heights), -np.inf)
    places = np.arange(len(heights))
    while len(places) > _FEW_PEAKS:
        left, right = np.append(-np.inf, valleys), np.append(valleys, -np.inf)
        higher_left = np.append(False, heights[:-1] >= heights[1:]) & (left >= right)
        higher_right = np.append(heights[1:] > heights[:-1], False) & (right >= left)
        base = np.maximum(left, right)
        joins = (higher_left | higher_right) & ~np.isneginf(base)
        bases[places[joins]] = base[joins]
        stays = np.flatnonzero(~joins)
        num_joined = len(places) - len(stays)
        places, heights = places[stays], heights[stays]
        valleys = np.minimum.reduceat(valleys[: stays[-1]], stays[:-1]) if len(stays) > 1 else valleys[:0]
        if num_joined < _LEAST_SHARE * (num_joined + len(places)):
            break
    bases[places] = _bases_in_turn(heights.tolist(), valleys.tolist())
    return bases


def _bases_in_turn(heights: list[float], valleys: list[float]) -> list[float]:
    """The same, peak after peak; linear in their number whatever the signal."""
    bases = [-np.inf] * len(heights)
    open_: list[
        tuple[int, float]
    ] = []  # peaks of falling height, each with the lowest valley between it and the one before
    for place, height in enumerate(heights):
        valley = valleys[place - 1] if place else -np.inf
        while open_ and heights[open_[-1][0]] < height:
            lower, before = open_.pop()
            bases[lower] = max(before, valley)
            valley = min(before, valley)
        open_.append((place, valley))
    for place, before in open_:
        bases[place] = before
    return bases
