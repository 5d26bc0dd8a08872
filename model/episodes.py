"""Find episodes: stretches of time in which a camera shows something other than usual, whatever is asked.

Novelty is how far a frame's embedding lies from the camera's usual one. An episode is a visit (`model.visits`) of that
signal, so it is measured in units of the camera's own noise. Distances between embeddings are all that counts: adding
one vector to all embeddings, scaling or rotating them changes no episode. Novelty is computed from the stored
embeddings when it is asked for, and not stored: one pass over them, about as long as one ranking. numpy only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model.visits import Float64, Signal, Visit, find_visits, segment_starts

BLOCK_FRAMES = 1024  # frames over which the usual view may change, as daylight does: 17 minutes at one frame a second
_SAMPLES = 64  # frames of a block that estimate what is usual there
_STEPS = 12  # of Weiszfeld's iteration, which then has settled to about a percent
_QUIET = 0.25  # this quantile of novelty is a camera's level while nothing happens
_DIFFERS = (
    2.0  # a frame differs from another if it is so many times as far from it as frames usually are from the usual
)

ReadRows = Callable[[NDArray[np.int64]], NDArray[np.floating]]
"""Returns the embeddings (n, D) of n rows."""


def find_episodes(read: ReadRows, times: Float64, group_sizes: Sequence[int]) -> list[Visit]:
    """Return the episodes of all cameras, by camera and time. Their `peak` is the row of the most unusual frame.

    read: returns embeddings by row. times (N,): unix seconds of the N frames; group_sizes: number of frames of each
    camera, in row order. Two episodes with little calm between them are one.
    """
    signal = novelty(read, group_sizes)
    found = find_visits(signal, times, group_sizes)
    ends = np.cumsum(group_sizes).tolist()
    episodes: list[Visit] = []
    for camera, (end, size) in enumerate(zip(ends, group_sizes, strict=True)):
        own = slice(end - size, end)
        starts = end - size + segment_starts(times[own])
        same = [visit for visit in found if visit.camera == camera]
        episodes += _joined(same, signal, starts, float(np.quantile(signal[own], _QUIET)) if size else 0.0)
    return episodes


def novelty(read: ReadRows, group_sizes: Sequence[int]) -> Float64:
    """Return how far each of the N frames is from its camera's usual view, (N,), in units of the embeddings.

    The usual view is the geometric median of each block of frames, interpolated between the middles of the blocks.
    """
    parts: list[Float64] = [np.empty(0)]
    first = 0
    for size in group_sizes:
        parts += _novelty(read, first, size)
        first += size
    return np.concatenate(parts)


def geometric_median(points: NDArray[np.floating]) -> Float64:
    """Return the point (D,) with the least sum of distances to the n given points (n, D).

    Unlike the mean, it hardly moves when fewer than half of the points are far away, and unlike the median of each
    coordinate it turns with the points. Weiszfeld's iteration: Weiszfeld, Sur le point pour lequel la somme des
    distances de n points donnés est minimum (1937).
    """
    points = np.asarray(points, np.float64)
    centre: Float64 = points.mean(axis=0)
    for _ in range(_STEPS):
        distances = np.linalg.norm(points - centre, axis=1)
        least = float(distances.mean()) * 1e-6
        if least == 0:
            break
        weights = 1 / np.maximum(distances, least)
        centre = (weights[:, None] * points).sum(axis=0) / weights.sum()
    return centre


def _novelty(read: ReadRows, first: int, size: int) -> Iterator[Float64]:
    num_blocks = max(1, round(size / BLOCK_FRAMES))
    edges = first + np.linspace(0, size, num_blocks + 1).astype(np.int64)
    usual = [geometric_median(read(_sampled(start, stop))) for start, stop in pairwise(edges.tolist()) if stop > start]
    middles = (edges[:-1] + edges[1:]) / 2
    for start, stop in pairwise(edges.tolist()):
        rows = np.arange(start, stop)
        if not len(rows):
            continue
        place = np.clip(np.searchsorted(middles, rows) - 1, 0, max(0, num_blocks - 2))
        after = np.minimum(place + 1, num_blocks - 1)
        span = np.maximum(middles[after] - middles[place], 1.0)
        share = np.clip((rows - middles[place]) / span, 0.0, 1.0)[:, None]
        centres = np.stack(usual)
        yield np.linalg.norm(read(rows) - ((1 - share) * centres[place] + share * centres[after]), axis=1)


def _sampled(start: int, stop: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(start, stop - 1, min(_SAMPLES, stop - start)).astype(np.int64))


def _joined(visits: Sequence[Visit], signal: Signal, starts: NDArray[np.int64], quiet: float) -> Iterator[Visit]:
    """Yield the visits of one camera, those joined between which novelty stays above half of the lower one's height.

    starts: first rows of the camera's segments without a gap; quiet: its usual novelty, above which heights are counted.
    """
    open_: Visit | None = None
    for visit in visits:
        if open_ is not None:
            lower = min(signal[open_.peak], signal[visit.peak])
            calm = float(np.min(signal[open_.peak : visit.peak + 1]))
            apart = np.searchsorted(starts, open_.peak, side="right") < np.searchsorted(
                starts, visit.peak, side="right"
            )
            if not apart and calm > (quiet + lower) / 2:
                best = max(open_, visit, key=lambda each: float(signal[each.peak]))
                open_ = replace(best, start=open_.start, end=max(open_.end, visit.end))
                continue
            yield open_
        open_ = visit
    if open_ is not None:
        yield open_


def most_different(
    embeddings: NDArray[np.floating], cameras: NDArray[np.integer], chosen: Sequence[int], most: int
) -> list[int]:
    """Return at most `most` of n rows in the order in which they were chosen: `chosen`, then what differs most from them.

    embeddings (n, D); cameras (n,): the camera of each row. Each further row is the one farthest from its camera's usual
    view and from its rows chosen so far, in units of the median distance from the usual view. It ends where nothing is
    twice as far as that. This is the paper's differential selection without a question (farthest-first traversal:
    Gonzalez 1985). O(most * n * D).
    """
    rows = list(dict.fromkeys(chosen))[:most]
    nearest = np.full(len(embeddings), np.inf)
    scale = np.ones(len(embeddings))
    for camera in np.unique(cameras):
        own = np.flatnonzero(cameras == camera)
        usual = geometric_median(embeddings[own[:: 1 + len(own) // (8 * _SAMPLES)]])
        nearest[own] = np.linalg.norm(embeddings[own] - usual, axis=1)
        scale[own] = float(np.median(nearest[own])) or 1.0

    def take(row: int) -> None:
        own = np.flatnonzero(cameras == cameras[row])
        nearest[own] = np.minimum(nearest[own], np.linalg.norm(embeddings[own] - embeddings[row], axis=1))

    for row in rows:
        take(row)
    while len(rows) < most and len(embeddings):
        farthest = int(np.argmax(nearest / scale))
        if nearest[farthest] <= _DIFFERS * scale[farthest]:
            break
        rows.append(farthest)
        take(farthest)
    return rows
