"""Find visits: stretches of time in which a camera's frames were relevant to a question.

A visit is a prominent peak of relevance over time (`model/prominence.py`). Its strength is its prominence divided by
the camera's own noise, which makes cameras comparable: the strength decides how many such peaks are expected by chance
in a camera that shows nothing relevant. No visit spans a gap in the recording. numpy only; no files, no clock.

A *row* is the index of a frame in one window. The rows of one camera are adjacent and in time order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import erfc, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.prominence import find_peaks

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Signal = NDArray[np.floating]

GAP_INTERVALS = 3.0  # a pause longer than this many usual frame intervals is a gap, which ends a visit
MOST_BY_CHANCE = 0.05  # a peak is a visit if fewer peaks as strong are expected by chance in the whole window
# clear_visits: least ratio between the prominence of the last clear visit and of the next one; and least prominence of a
# clear visit, as a share of the highest.
CLEAR_STEP = 1.5
CLEAR_SHARE = 0.4
MIN_STRENGTH = 7.0
_NOISE_PEAKS = 64  # peaks so weak that more than this many are expected by chance are not searched for
_SAMPLED = 1 << 16  # longer histories are thinned to about this many frames to estimate noise and medians
_NORMAL = NormalDist()
_MAD = _NORMAL.inv_cdf(0.75)  # median of |x| for x of variance 1
_QUIET = 0.25  # this quantile of a camera's relevance is its level when nothing relevant is visible
_RISES_WITHIN = (1, 2, 4, 8, 16)  # lags, in frames, over which a rise or fall of relevance is measured
_NEIGHBOURS = 8  # intervals on each side whose median is the usual interval at that time


@dataclass(frozen=True, slots=True)
class RankedPeaks:
    """The p peaks of relevance of all cameras, sorted by falling strength, ties by lower row. All arrays have shape
    (p,).

    rows: row (index of the frame) of each peak; cameras: index of its camera; prominences: how far relevance falls
    around the peak; strengths: the same in units of the camera's noise; whole: the rise or fall happened in a gap of
    the recording, so it cannot be measured from the frames and the whole prominence counts as the rise.
    """

    rows: Int64
    cameras: Int64
    prominences: Float64
    strengths: Float64
    whole: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Visit:
    """A visit: a time in which the frames of one camera are relevant to a question.

    start, peak, end: its first, its most relevant and its last row (index of a frame). prominence: how far relevance
    falls on both sides, as in RankedPeaks. strength: the same in units of the camera's noise, but counting only what
    rises or falls within a few frames. chance: expected number of peaks at least this strong in as many frames of a
    camera that shows nothing relevant.
    """

    camera: int
    start: int
    peak: int
    end: int
    prominence: float
    strength: float
    chance: float


def rank_peaks(relevance: Signal, times: Float64, group_sizes: Sequence[int]) -> RankedPeaks:
    """Find the peaks of relevance in the N frames of a window and rank them by strength.

    relevance (N,): cosine of each frame with the question; times (N,): unix seconds; group_sizes: number of frames of
    each camera, in row order. Strength is the prominence of a peak in units of its camera's noise.

    The highest peak of a segment (a stretch without a gap) has no higher peak to bound it. Its prominence is its height
    above the segment's minimum or above the lower quartile of the camera's relevance, whichever is lower. So something
    that is in view during a whole segment gives a peak, too.
    """
    found = [_peaks_of(camera, *part) for camera, part in enumerate(_by_camera(relevance, times, group_sizes))]
    if not found:
        return RankedPeaks(*(np.empty(0, np.int64),) * 2, *(np.empty(0),) * 2, np.empty(0, bool))
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    rows, _, _, strengths, _ = columns
    order = np.lexsort((rows, -strengths))
    return RankedPeaks(*(column[order] for column in columns))


def find_visits(
    relevance: Signal,
    times: Float64,
    group_sizes: Sequence[int],
    *,
    peaks: RankedPeaks | None = None,
    most_by_chance: float = MOST_BY_CHANCE,
) -> list[Visit]:
    """Find the visits (times in which the frames of a camera are relevant to the question), sorted by camera and time.

    relevance, times, group_sizes: as for `rank_peaks`; peaks: its result for them, if known. A peak is a visit if fewer
    than `most_by_chance` peaks of its strength are expected by chance. Only what rises or falls within a few frames
    counts here, which excludes slow changes such as daylight. A visit lasts while relevance stays above half of the
    peak's prominence, and ends at the latest in the valley before the next visit.
    """
    peaks = rank_peaks(relevance, times, group_sizes) if peaks is None else peaks
    visits: list[Visit] = []
    for camera, (signal, seen, first) in enumerate(_by_camera(relevance, times, group_sizes)):
        limit = strength_of(most_by_chance, len(signal))
        which = np.flatnonzero((peaks.cameras == camera) & (peaks.strengths > limit))
        which = which[np.argsort(peaks.rows[which])]
        if not len(which):
            continue
        rows, prominences = peaks.rows[which] - first, peaks.prominences[which]
        lowest, highest = _bounds(signal, segment_starts(seen), rows)
        rises = np.where(peaks.whole[which], prominences, _rises(signal, lowest, highest))
        strengths = peaks.strengths[which] * np.minimum(1.0, rises / prominences)
        kept = np.flatnonzero(strengths > limit)
        rows, prominences, strengths = rows[kept], prominences[kept], strengths[kept]
        levels = signal[rows] - prominences / 2
        before = _reach(signal, rows, lowest[kept], levels, -1)
        after = _reach(signal, rows, highest[kept] - 1, levels, 1)
        columns = (first + before, first + rows, first + after, prominences, strengths)
        for start, peak, end, prominence, strength in zip(*(column.tolist() for column in columns), strict=True):
            visits.append(Visit(camera, start, peak, end, prominence, strength, chance_of(strength, len(signal))))
    return visits


def clear_visits(visits: Sequence[Visit]) -> list[Visit]:
    """Return the visits of one camera that stand clearly above all its others in prominence; [] if none do.

    Prominence is how far relevance falls on both sides of the visit. What the question asks about raises relevance much
    more than other things do. So the visits are sorted by falling prominence and cut at the largest ratio between
    neighbours. The visits before the cut are returned, if that ratio is at least CLEAR_STEP. Visits below CLEAR_SHARE
    of the highest prominence are never returned. Prominences 6, 5, 2, 1.9 give the first two.
    """
    ranked = sorted(visits, key=lambda visit: -visit.prominence)
    if not ranked:
        return []
    noise = ranked[0].prominence / ranked[0].strength
    after = [visit.prominence for visit in ranked[1:]] + [noise * MIN_STRENGTH]
    steps = [visit.prominence / next_ for visit, next_ in zip(ranked, after, strict=True)]
    num_large = sum(visit.prominence >= CLEAR_SHARE * ranked[0].prominence for visit in ranked)
    widest = max(range(num_large), key=lambda place: steps[place])
    return sorted(ranked[: widest + 1], key=lambda visit: visit.start) if steps[widest] >= CLEAR_STEP else []


def segment_starts(times: Float64) -> Int64:
    """Return the first row of each segment, a stretch of time without a gap. times (n,): rising, of one camera.

    A gap is an interval longer than GAP_INTERVALS times the median interval, both that of the whole history and that of
    the intervals around it (which is longer where the camera sent more slowly).
    """
    intervals = np.diff(times)
    if not len(intervals):
        return np.zeros(min(1, len(times)), np.int64)
    usual = float(np.median(intervals[:: 1 + len(intervals) // _SAMPLED]))
    longer = np.flatnonzero(intervals > GAP_INTERVALS * usual)
    around = np.delete(np.arange(-_NEIGHBOURS, _NEIGHBOURS + 1), _NEIGHBOURS)
    gaps = []
    for some in np.array_split(longer, 1 + len(longer) // _SAMPLED):
        nearby = np.median(intervals[np.clip(some[:, None] + around, 0, len(intervals) - 1)], axis=1)
        gaps.append(some[intervals[some] > GAP_INTERVALS * nearby])
    return np.concatenate([[0], np.concatenate(gaps) + 1])


def background_of(signal: Signal, starts: Int64) -> tuple[float, float]:
    """Return the relevance of a camera that shows nothing relevant, and the standard deviation of its noise.

    signal (n,): relevance of one camera's frames, at least one; starts: first rows of its segments without a gap.
    """
    # A signal of drawn or repeated pictures has no noise. The lower limit keeps strengths finite there.
    noise = max(noise_of(signal, starts), float(np.ptp(signal)) * 1e-3) or 1.0
    return float(np.quantile(signal[:: 1 + len(signal) // _SAMPLED], _QUIET)), noise


def noise_of(signal: Signal, starts: Int64) -> float:
    """Return the standard deviation of a camera's relevance from frame to frame; 0 if it never changes.

    It is computed from the median difference between neighbouring frames, assuming Gaussian noise. Times of relevant
    frames (visits) hardly change the median, as few of these differences are at the start or end of one. Differences
    across gaps (`starts`: first rows of the segments) and between identical pictures are left out.
    """
    sampled = np.setdiff1d(np.arange(1, len(signal), 1 + len(signal) // _SAMPLED), starts, assume_unique=True)
    steps = np.abs(signal[sampled].astype(np.float64) - signal[sampled - 1])
    steps = steps[steps > 0]
    return float(np.median(steps)) / _MAD / sqrt(2) if len(steps) else 0.0


def chance_of(strength: float, num_frames: int) -> float:
    """Return the expected number of peaks of at least this strength in `num_frames` frames of Gaussian noise.

    This is an upper bound. `strength` is in standard deviations of the noise. A peak that high above its base means two
    values that far apart, of which at least one is half as far from the mean. Measured, 0.78 to 0.9 of the bound occur
    for strengths from 6 to 9.
    """
    return num_frames * erfc(strength / 2 / sqrt(2)) / 2


def strength_of(chance: float, num_frames: int) -> float:
    """Return the least strength for which at most `chance` peaks of noise are expected in `num_frames` frames.

    The strength of a peak is its height in standard deviations of the noise. The inverse of `chance_of`, at least 0.
    """
    return -2 * _NORMAL.inv_cdf(min(0.5, chance / max(1, num_frames)))


def _peaks_of(camera: int, signal: Signal, times: Float64, first: int) -> tuple[NDArray[Any], ...]:
    """Find the peaks of relevance of one camera. Return the columns of RankedPeaks for them, not sorted by strength.

    signal: the relevance of the camera's frames; first: the camera's first row in the window.
    """
    starts = segment_starts(times)
    if not len(signal):
        return *(np.empty(0, np.int64),) * 2, *(np.empty(0),) * 2, np.empty(0, bool)
    quiet, noise = background_of(signal, starts)
    peaks = find_peaks(signal, starts, least=strength_of(_NOISE_PEAKS, len(signal)) * noise)
    rises = np.where(peaks.highest, signal[peaks.rows] - quiet, 0.0)
    whole = rises > peaks.prominences
    prominences = np.maximum(peaks.prominences, rises)
    strengths = prominences / noise
    return first + peaks.rows, np.full(len(peaks.rows), camera), prominences, strengths, whole


def _rises(signal: Signal, lowest: Int64, highest: Int64) -> Float64:
    """Return for each of m visits the largest change of relevance within a few frames, over the lags _RISES_WITHIN.

    lowest, highest (m,): the first row that the visit can have, and the row after the last.
    """
    largest = np.zeros(len(lowest))
    changes = np.zeros_like(signal)
    for lag in _RISES_WITHIN:
        long = np.flatnonzero(highest - lowest > lag)
        if len(long):
            np.subtract(signal[lag:], signal[:-lag], out=changes[:-lag])
            np.abs(changes, out=changes)
            spans = np.column_stack([lowest[long], highest[long] - lag]).reshape(-1)
            largest[long] = np.maximum(largest[long], np.maximum.reduceat(changes, spans)[::2])
    return largest


def _reach(signal: Signal, rows: Int64, limits: Int64, levels: Signal, step: int) -> Int64:
    """Return for each of m peaks the last row, going from it towards `limits` (inclusive), before relevance is below
    its level.

    Looks at 16 rows of each, then at twice as many of those that go on, so the work is linear in the rows returned.
    """
    reached = limits.copy()
    going, offset, width = np.arange(len(rows)), 1, 16
    while len(going):
        ahead = rows[going, None] + step * np.arange(offset, offset + width)
        past = (ahead - limits[going, None]) * step > 0
        stops = past | (signal[np.where(past, rows[going, None], ahead)] < levels[going, None])
        stopped = stops.any(axis=1)
        reached[going[stopped]] = rows[going[stopped]] + step * (offset + stops[stopped].argmax(axis=1) - 1)
        going, offset, width = going[~stopped], offset + width, 2 * width
    return reached


def _by_camera(relevance: Signal, times: Float64, group_sizes: Sequence[int]) -> Iterator[tuple[Signal, Float64, int]]:
    first = 0
    for size in group_sizes:
        yield relevance[first : first + size], times[first : first + size], first
        first += size


def _bounds(signal: Signal, starts: Int64, rows: Int64) -> tuple[Int64, Int64]:
    """Return for each of m peaks of relevance the first row that its visit can have, and the row after the last, (m,).

    signal: relevance of one camera's frames; starts: first rows of its segments without a gap; rows: the peaks',
    rising. A visit can reach to the ends of its segment or to the first lowest row before the next peak, which belongs
    to the visit before it.
    """
    segments = np.searchsorted(starts, rows, side="right") - 1
    lowest, highest = starts[segments], np.append(starts[1:], len(signal))[segments]
    if len(rows) > 1:
        between = signal[rows[0] : rows[-1]]
        low = np.repeat(np.minimum.reduceat(between, rows[:-1] - rows[0]), np.diff(rows))
        valleys = rows[0] + np.flatnonzero(between == low)
        after = valleys[np.searchsorted(valleys, rows[:-1])] + 1
        same = np.flatnonzero(np.diff(segments) == 0)
        highest[same] = lowest[same + 1] = after[same]
    return lowest, highest
