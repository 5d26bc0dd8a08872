"""Find the peaks of a signal over time and their prominence.

The prominence of a peak is how far the signal must fall from it before it rises to a higher peak. It does not change
when a constant is added to the signal, and it scales with the signal. numpy only; O(n log n) for ordinary signals and
never quadratic.

Prominence is the topological persistence of the signal's superlevel sets: Edelsbrunner, Letscher, Zomorodian:
Topological persistence and simplification (2002). On a line it is the pairing that rainflow counting makes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

# If a round over whole arrays removes a smaller share of the peaks, a Python loop, always linear, does the rest.
_LEAST_SHARE = 0.1
_FEW_PEAKS = 512  # with fewer peaks the loop is faster than another round

_FOLDS = 6  # the signal is searched in blocks of 2 ** _FOLDS rows


@dataclass(frozen=True, slots=True)
class Peaks:
    """The p peaks of a signal, by rising row.

    rows (p,): the first row of each peak. prominences (p,): in units of the signal. highest (p,) bool: whether it is
    the highest peak of its segment (the first of equally high ones). As no higher peak bounds that one, its prominence
    is its height above the minimum of the segment.
    """

    rows: Int64
    prominences: Float64
    highest: NDArray[np.bool_]


def find_peaks(signal: NDArray[np.floating], starts: Int64 | None = None, *, least: float = 0.0) -> Peaks:
    """Find the highest peak of each segment, and every other peak whose prominence is above 0 and at least `least`.

    signal (n,). starts (s,): first row of each segment, rising, from 0; None: one segment. A peak is compared only with
    peaks of its own segment. Of two equally high peaks the first counts as the higher one. A plateau is one peak. A
    larger `least` makes the search faster. Raises ValueError if the signal is not finite.

    signal 0 3 1 2 0: rows 1 and 3, prominences 3 (down to 0) and 1 (down to the 1 before the higher peak).
    """
    signal = np.asanyarray(signal)
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
    """Return rows (c,), rising, with every peak of at least the prominence `least`, and the higher peaks that bound
    these.

    The signal is cut into short blocks of rows. Where it varies by less than `least` within a block, only the highest
    row of the block is kept. A lower peak there cannot be prominent enough, because the signal falls by less than
    `least` on the way from it to the highest row; and a peak bounded by it is bounded by the highest row at the same
    level. All rows of a block in which a segment begins are kept. starts: first row of each segment of the signal.
    """
    block = 2**_FOLDS
    whole = len(signal) // block * block
    highest = _folded(np.maximum, signal[:whole])
    highest[highest - _folded(np.minimum, signal[:whole]) >= least] = -np.inf
    highest[starts[(starts % block > 0) & (starts < whole)] // block] = -np.inf
    kept = np.ones(len(signal), bool)
    np.greater_equal(signal[:whole].reshape(-1, block), highest[:, None], out=kept[:whole].reshape(-1, block))
    return np.flatnonzero(kept)


def _folded(extreme: np.ufunc, signal: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the extreme value of each block of 2 ** _FOLDS rows. Halving is ten times as fast as `reduceat`."""
    for _ in range(_FOLDS):
        signal = extreme(signal[::2], signal[1::2])
    return signal.copy() if _FOLDS == 0 else signal


def _bases(heights: Float64, valleys: Float64) -> Float64:
    """Return the base of each peak, (p,): the highest level down to which the signal must fall to reach a higher peak.

    The base is -inf for a peak without a higher one. heights (p,); valleys (p - 1,): the lowest level between
    neighbours. Each round takes the higher of the two valleys beside each peak. If the peak behind that valley is
    higher, the valley is the base, because every other way to a higher peak leads through a lower valley. Peaks with a
    base are left out of the next round, and their neighbours then have the lower of the two valleys between them.
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
    """Return the base of each of p peaks: the highest level down to which the signal must fall to reach a higher peak.

    Computed peak by peak with a stack, in linear time for any signal; `_bases` is faster for ordinary ones. heights: of
    the peaks; valleys: the p - 1 lowest levels between neighbours. The base is -inf for a peak without a higher one.
    """
    bases = [-np.inf] * len(heights)
    open_: list[
        tuple[int, float]
    ] = []  # peaks without a base so far, falling in height, each with the lowest valley between it and the previous one
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
