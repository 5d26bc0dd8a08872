"""Visits: stretches of time in which a camera's frames were relevant to a question.

A visit is a prominent peak of relevance over time (`model/prominence.py`). Its prominence is measured in units of the camera's
own noise, so that cameras compare. It tells how often a camera that shows nothing of the kind has such a peak by chance.
No visit reaches across a gap in the recording. numpy only; no files, no clock.

A *row* is the place of a frame in one window. The rows of one camera are together and in rising time.
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

GAP_INTERVALS = 3.0  # a silence longer than so many usual intervals ends a visit
MOST_BY_CHANCE = 0.05  # a peak is a visit when a quiet camera would have fewer of its kind in the whole window
CLEAR_STEP = 1.5  # visits stand apart from others of which the most prominent is so many times less prominent
CLEAR_SHARE = 0.4
MIN_STRENGTH = 7.0
_NOISE_PEAKS = 64  # peaks so low that a quiet camera has more of them are not looked for
_SAMPLED = 1 << 16  # frames that the noise is estimated from
_NORMAL = NormalDist()
_MAD = _NORMAL.inv_cdf(0.75)  # median of |x| for x of variance 1
_QUIET = 0.25  # quantile of relevance that is a camera's quiet level
_RISES_WITHIN = (1, 2, 4, 8, 16)  # frames within which relevance rises or falls at a visit
_NEIGHBOURS = 8  # intervals on each side that tell how fast a camera sends there


@dataclass(frozen=True, slots=True)
class RankedPeaks:
    """Peaks of relevance of all cameras, by falling strength, ties by lower row; all arrays (p,).

    rows; cameras: index of each one's camera; prominences: in units of relevance; strengths: in units of the camera's noise;
    whole: relevance came and went while nothing was recorded, so that the recording does not show how far it rose.
    """

    rows: Int64
    cameras: Int64
    prominences: Float64
    strengths: Float64
    whole: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Visit:
    """One visit. start, peak, end: its first, its most relevant and its last row.

    `prominence` as in RankedPeaks; `strength` too, but of what rises or falls within a few frames; `chance`: peaks at least so
    strong that are expected in a camera that shows nothing relevant, in as many frames.
    """

    camera: int
    start: int
    peak: int
    end: int
    prominence: float
    strength: float
    chance: float


def rank_peaks(relevance: Signal, times: Float64, group_sizes: Sequence[int]) -> RankedPeaks:
    """Rank the peaks of `relevance` (N,), seen at `times` (N,) unix seconds; `group_sizes`: frames per camera, in row order.

    The highest peak of a segment (a stretch without a gap) has no higher one beside it. Its prominence is down to the
    segment's minimum or to the camera's quiet level, whichever is lower: what stays for a whole recording is a peak, too.
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
    """Find the visits, by camera and rising time; `peaks`: what `rank_peaks` gave for the same arguments.

    A peak is a visit when fewer than `most_by_chance` of its kind are expected in a quiet camera. Only what rises or falls within
    a few frames counts for that: what comes and goes with the light of the day is no visit. A visit lasts while relevance
    stays above half of its prominence, and ends at the latest in the valley before the next one.
    """
    peaks = rank_peaks(relevance, times, group_sizes) if peaks is None else peaks
    visits = []
    first = 0
    for camera, (signal, seen, _) in enumerate(_by_camera(relevance, times, group_sizes)):
        limit = strength_of(most_by_chance, len(signal))
        which = np.flatnonzero((peaks.cameras == camera) & (peaks.strengths > limit))
        which = which[np.argsort(peaks.rows[which])]
        bounds = _bounds(signal, segment_starts(seen), peaks.rows[which] - first)
        for each, (lowest, highest) in zip(which.tolist(), bounds, strict=True):
            peak, prominence = int(peaks.rows[each]) - first, float(peaks.prominences[each])
            level = signal[peak] - prominence / 2
            rise = prominence if peaks.whole[each] else _rise(signal[lowest:highest])
            strength = float(peaks.strengths[each]) * min(1.0, rise / prominence)
            if strength <= limit:
                continue
            before = np.flatnonzero(signal[lowest:peak] < level)
            after = np.flatnonzero(signal[peak:highest] < level)
            visits.append(
                Visit(
                    camera,
                    first + (lowest + int(before[-1]) + 1 if len(before) else lowest),
                    first + peak,
                    first + (peak + int(after[0]) - 1 if len(after) else highest - 1),
                    prominence,
                    strength,
                    chance_of(strength, len(signal)),
                )
            )
        first += len(signal)
    return visits


def clear_visits(visits: Sequence[Visit]) -> list[Visit]:
    """Those of one camera's visits that stand apart from all others by their prominence; [] when none do.

    What was asked about makes relevance rise by much, other things by little: the visits before the widest step between one
    prominence and the next smaller one, if that step is at least CLEAR_STEP. What is below CLEAR_SHARE of the most prominent one
    is no such visit. Prominences 6, 5, 2, 1.9 give the first two.
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
    """First row of each stretch without a gap; times (n,) rising, of one camera.

    A gap is longer than GAP_INTERVALS usual intervals: those of the whole history or, where the camera sent more slowly,
    of the frames around.
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


def noise_of(signal: Signal, starts: Int64) -> float:
    """Standard deviation of a camera's relevance from frame to frame; 0 where it never changes.

    The median step between neighbours, as that of Gaussian noise. Visits hardly touch it: most steps are within or between
    them. Steps across the gaps (`starts`) and repeated pictures do not count.
    """
    steps = np.abs(np.diff(signal.astype(np.float64)))
    steps = np.delete(steps, starts[1:] - 1)
    steps = steps[:: 1 + len(steps) // _SAMPLED]
    steps = steps[steps > 0]
    return float(np.median(steps)) / _MAD / sqrt(2) if len(steps) else 0.0


def chance_of(strength: float, num_frames: int) -> float:
    """Expected peaks of at least `strength` standard deviations among `num_frames` frames of Gaussian noise: an upper bound.

    A pair of values that far apart has one of them at least half as far from the mean; measured, 0.78 to 0.9 of this for
    strengths from 6 to 9.
    """
    return num_frames * erfc(strength / 2 / sqrt(2)) / 2


def strength_of(chance: float, num_frames: int) -> float:
    """The inverse of `chance_of`: the strength that `chance` peaks are expected to reach; 0 where more are expected."""
    return -2 * _NORMAL.inv_cdf(min(0.5, chance / max(1, num_frames)))


def _peaks_of(camera: int, signal: Signal, times: Float64, first: int) -> tuple[NDArray[Any], ...]:
    """One camera's columns of RankedPeaks, in no order; `first`: its first row in the window."""
    starts = segment_starts(times)
    if not len(signal):
        return *(np.empty(0, np.int64),) * 2, *(np.empty(0),) * 2, np.empty(0, bool)
    # a signal without noise is one of drawn or repeated pictures: any change in it stands out, and none is infinitely strong
    noise = max(noise_of(signal, starts), float(np.ptp(signal)) * 1e-3) or 1.0
    peaks = find_peaks(signal, starts, least=strength_of(_NOISE_PEAKS, len(signal)) * noise)
    quiet = float(np.quantile(signal[:: 1 + len(signal) // _SAMPLED], _QUIET))
    rises = np.where(peaks.highest, signal[peaks.rows] - quiet, 0.0)
    whole = rises > peaks.prominences
    prominences = np.maximum(peaks.prominences, rises)
    strengths = prominences / noise
    return first + peaks.rows, np.full(len(peaks.rows), camera), prominences, strengths, whole


def _rise(signal: Signal) -> float:
    """The largest change of relevance within a few frames."""
    return max(
        (float(np.abs(signal[lag:] - signal[:-lag]).max()) for lag in _RISES_WITHIN if lag < len(signal)), default=0.0
    )


def _by_camera(relevance: Signal, times: Float64, group_sizes: Sequence[int]) -> Iterator[tuple[Signal, Float64, int]]:
    first = 0
    for size in group_sizes:
        yield relevance[first : first + size], times[first : first + size], first
        first += size


def _bounds(signal: Signal, starts: Int64, rows: Int64) -> list[tuple[int, int]]:
    """For each peak (rows rising): the first row that can be part of its visit, and the row after the last one."""
    segments = np.searchsorted(starts, rows, side="right") - 1
    ends = np.append(starts[1:], len(signal))
    bounds = [[int(starts[segment]), int(ends[segment])] for segment in segments]
    for place in range(1, len(rows)):
        if segments[place] == segments[place - 1]:
            valley = int(rows[place - 1]) + int(np.argmin(signal[rows[place - 1] : rows[place]]))
            bounds[place - 1][1], bounds[place][0] = valley + 1, valley + 1
    return [(lowest, highest) for lowest, highest in bounds]
