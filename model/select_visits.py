"""Select keyframes by visits, stretches of time with relevant frames (`model/visits.py`), one keyframe of each visit first.

The paper's rule makes keyframes differ in what they look like (`model/select.py`). This rule makes them differ in when they
were relevant: between two keyframes, relevance must have fallen and risen again. What changed within the visits, weaker
peaks and gaps follow, while there are places left. numpy only.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.config import Fill
from model.places import fair_share, fill_gaps, newest_rows
from model.select import Candidates, EmbeddingRedundancy, Keyframes, Kind, Redundancy, walk_rows
from model.visits import RankedPeaks, Visit, find_visits, rank_peaks, strength_of

_ONCE = 1.0
_SAMPLED = 256


def select_by_visits(
    candidates: Candidates,
    relevance: NDArray[np.float32],
    times: NDArray[np.float64],
    *,
    num_keyframes: int = 8,
    recent: int = 0,
    fill: Fill = "gaps",
    tau: float = 0.98,
    background: NDArray[np.float32] | None = None,
    group_sizes: Sequence[int] | None = None,
    min_per_group: int | None = None,
) -> Keyframes:
    """Choose at most `num_keyframes` rows (with fill="gaps": exactly min(num_keyframes, N)).

    relevance (N,): cosine of every frame with the question; times (N,): unix seconds; the other arguments are those of
    `select.select_keyframes`. The floor of EmbeddingRedundancy is such that two frames which differ from the background
    by noise alone are similar by `tau`, so it depends on the camera and on no constant. Rows are chosen in this
    order until num_keyframes are reached:

    1. the frame with the highest relevance, and the newest `recent` frames, divided among the cameras;
    2. with several cameras: the strongest peaks of each, up to `min_per_group` frames (None: half of its fair share);
    3. the peaks that are visits, too strong to be expected from noise in this window, the strongest first;
    4. changes within the visits: their frames by falling relevance, except those more similar than `tau` to a chosen one;
    5. weaker peaks, the strongest first;
    6. with fill="gaps": frames that fill the longest gaps.
    """
    if num_keyframes < 0 or recent < 0:
        raise ValueError(f"num_keyframes and recent must be at least 0, not {num_keyframes} and {recent}")
    num_frames = len(relevance)
    sizes = [num_frames] if group_sizes is None else list(group_sizes)
    if sum(sizes) != num_frames or len(times) != num_frames or candidates.num_frames != num_frames:
        raise ValueError(f"{num_frames} scores, {len(times)} times, {candidates.num_frames} frames, groups {sizes}")
    peaks = rank_peaks(relevance, times, sizes)
    visits = find_visits(relevance, times, sizes, peaks=peaks)
    chosen: dict[int, Kind] = {int(row): "recent" for row in newest_rows(sizes, max(0, min(recent, num_keyframes - 1)))}
    if num_frames:
        _take(chosen, [int(np.argmax(relevance))], num_keyframes)
    if np.count_nonzero(sizes) > 1 and min_per_group != 0:
        share = fair_share(sizes, num_keyframes)
        minimum = (share + 1) // 2 if min_per_group is None else min(min_per_group, share)
        _guarantee(chosen, peaks, relevance, sizes, minimum, num_keyframes)
    limits = np.array([strength_of(_ONCE, size) for size in sizes])
    _take(chosen, peaks.rows[peaks.strengths > limits[peaks.cameras]].tolist(), num_keyframes)
    if visits and len(chosen) < num_keyframes:
        redundancy = EmbeddingRedundancy(
            candidates,
            background=background,
            group_starts=np.cumsum([0, *sizes[:-1]]),
            background_floor=_noise_of(candidates, sizes) * np.sqrt(tau / (1 - tau)) if 0 < tau < 1 else 0.0,
        )
        _show_changes(chosen, visits, relevance, redundancy, tau, num_keyframes)
    _take(chosen, peaks.rows.tolist(), num_keyframes)
    if fill == "gaps":
        for row in fill_gaps(np.array(sorted(chosen), np.int64), num_frames, num_keyframes):
            chosen.setdefault(int(row), "filling")
    rows = np.array(sorted(chosen), np.int64)
    kinds = tuple(chosen[int(row)] for row in rows)
    scores = np.asarray(candidates.scores(rows), np.float32) if len(rows) else np.empty(0, np.float32)
    return Keyframes(rows, kinds, scores, tuple(visits))


def _noise_of(candidates: Candidates, sizes: Sequence[int]) -> float:
    """Return the length of the noise of the embeddings: from the median distance between neighbouring frames.

    At most _SAMPLED neighbours are looked at. Not 0, so that equal pictures have a similarity.
    """
    ends = np.cumsum(sizes)
    rows = np.arange(0, candidates.num_frames - 1, 1 + candidates.num_frames // _SAMPLED)
    rows = np.setdiff1d(rows, ends - 1)
    steps = np.linalg.norm(candidates.embeddings(rows + 1) - candidates.embeddings(rows), axis=1)
    return max(float(np.median(steps)) / np.sqrt(2), 1e-6) if len(rows) else 1e-6


def _take(chosen: dict[int, Kind], rows: Sequence[int], num_keyframes: int) -> None:
    for row in rows:
        if len(chosen) >= num_keyframes:
            return
        chosen.setdefault(row, "relevant")


def _guarantee(
    chosen: dict[int, Kind],
    peaks: RankedPeaks,
    relevance: NDArray[np.float32],
    sizes: Sequence[int],
    minimum: int,
    num_keyframes: int,
) -> None:
    """Choose frames of each camera until it has `minimum` or all of its frames: peaks of relevance first, then by
    relevance.

    chosen: the row of each chosen frame with why it was chosen; it is added to.
    """
    ends = np.cumsum(sizes).tolist()
    for camera, (end, size) in enumerate(zip(ends, sizes, strict=True)):
        had = sum(end - size <= row < end for row in chosen)
        goal = min(num_keyframes, len(chosen) + max(0, min(minimum, size) - had))
        _take(chosen, peaks.rows[peaks.cameras == camera].tolist(), goal)
        if len(chosen) < goal:
            _take(chosen, (end - size + np.argsort(-relevance[end - size : end], kind="stable")).tolist(), goal)


def _show_changes(
    chosen: dict[int, Kind],
    visits: Sequence[Visit],
    relevance: NDArray[np.float32],
    redundancy: Redundancy,
    tau: float,
    num_keyframes: int,
) -> None:
    """Add frames of the visits (times with relevant frames) to `chosen`: by falling relevance, if unlike all chosen so
    far.

    A frame is unlike another if their similarity is at most `tau`.
    """
    taken = np.array(sorted(chosen), np.int64)
    redundancy.open(taken)
    for place in range(len(taken)):
        redundancy.take(place)
    rows = np.unique(np.concatenate([np.arange(visit.start, visit.end + 1) for visit in visits]))
    rows = rows[np.lexsort((rows, -relevance[rows]))]
    walk_rows(rows, redundancy, chosen, num_keyframes, np.float32(tau))
