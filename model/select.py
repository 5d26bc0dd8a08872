"""Differential keyframe selection (DKS): select the frames that a question gets all visual tokens of.

The paper's Algorithm 1 goes through the frames by falling relevance (cosine with the question). It selects a frame
unless it is redundant: more similar than tau to one already selected. Output: rows of the window, rising. numpy only.

With a camera whose frames are mostly alike, this would go through nearly all frames in an order that is slow to read.
So only the first thousand or so are ranked. If they do not suffice, the rest is read in memory order, redundant frames
are dropped, and only what remains is ranked. The result is the same, in time O(frames * keyframes * embedding width).

A *row* is the index of a frame in one window. The rows of one camera are adjacent and in time order: a *group*.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from model.config import Fill
from model.places import fair_share, fill_gaps, newest_rows
from model.visits import Visit

Kind = Literal["relevant", "recent", "filling"]
# Ranked in stages: first FIRST_STAGE candidates, then STAGE_GROWTH times as many. The others are filtered (`_sift`).
FIRST_STAGE, STAGE_GROWTH = 128, 8
LEAST_SHARE = 64  # second stage only if the window has this many times its frames: else filtering is as fast
BLOCK_ROWS = 512  # rows whose embeddings are read and compared at once: 1 MB at D = 512 fits the CPU cache
MOST_BLOCK_ROWS = 8192  # for filtered rows, which are scattered: reading more of them at once is faster


class Candidates(Protocol):
    """The N frames of a window that may become keyframes, with their relevance to one fixed question."""

    @property
    def num_frames(self) -> int:
        """Number of frames."""

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k most relevant rows (k,) and their scores (k,) float32, by falling score, ties by lower row."""

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return the cosine of the frame at each of n rows with the question, (n,) float32."""

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Return the normalised embeddings of the frames at n rows: (n, embedding width D) float32."""


class Redundancy(Protocol):
    """Measures how similar frames are to the selected ones. Works on one batch of n rows at a time, the block."""

    def open(self, rows: np.ndarray) -> np.ndarray:
        """Make these n rows the block. Return each one's largest similarity to a selected frame, (n,), or -inf."""

    def take(self, position: int) -> np.ndarray:
        """Select the frame at `position` of the block of n rows. Return the similarity of all of them to it, (n,)."""


@dataclass(frozen=True, slots=True)
class Keyframes:
    """The k selected frames: rows (k,), rising; kinds: why each was selected; scores (k,): cosines with the question.

    visits: with selection by visits, all times with relevant frames (visits) that were found, by camera and time,
    whether a keyframe shows them or not; else ().
    """

    rows: np.ndarray
    kinds: tuple[Kind, ...]
    scores: np.ndarray
    visits: tuple[Visit, ...] = ()

    def at(self, places: Sequence[int]) -> "Keyframes":
        """Return only the keyframes at these indices of the list, with all visits."""
        kinds = tuple(self.kinds[place] for place in places)
        return replace(self, rows=self.rows[list(places)], kinds=kinds, scores=self.scores[list(places)])


class ArrayCandidates:
    """The N frames of a window as arrays: embeddings (N, D) and a question's embedding (D,), both normalised."""

    def __init__(self, embeddings: np.ndarray, query: np.ndarray) -> None:
        self._embeddings = np.ascontiguousarray(embeddings, np.float32)
        self._scores = self._embeddings @ np.asarray(query, np.float32)
        self._order: np.ndarray | None = None

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self._scores)

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k most relevant rows (k,) and their scores (k,) float32, by falling score, ties by lower row."""
        if self._order is None:
            self._order = np.argsort(-self._scores, kind="stable")
        rows = self._order[:k]
        return rows, self._scores[rows]

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return the cosine of the frame at each of n rows with the question, (n,) float32."""
        scores: np.ndarray = self._scores[rows]
        return scores

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Return the normalised embeddings of the frames at n rows: (n, embedding width D) float32."""
        return self._embeddings[rows]


class SearchableFrames(Protocol):
    """The part of a memory window that selection uses: exact ranking for a query, and embeddings by row."""

    @property
    def num_frames(self) -> int:
        """Number of frames."""

    def top(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k rows most similar to `query` and their scores, by falling score, ties by lower row."""

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Return the normalised embeddings of the frames at n rows: (n, embedding width D) float32."""


class QueryCandidates:
    """The frames of a memory window, with their relevance to one question. query: its normalised embedding."""

    def __init__(self, frames: SearchableFrames, query: np.ndarray) -> None:
        self._frames = frames
        self._query = np.asarray(query, np.float32)
        self._last: tuple[np.ndarray, np.ndarray] | None = None  # rows and embeddings of the last call of `embeddings`

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return self._frames.num_frames

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k most relevant rows (k,) and their scores (k,) float32, as the window ranks them."""
        return self._frames.top(self._query, k)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return the cosine of each of n rows with the question, (n,) float32: exactly the scores of `top`."""
        unit = self._last[1] if self._last and self._last[0] is rows else self._frames.embeddings(rows)
        scores: np.ndarray = np.vecdot(unit, self._query)
        return scores

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Return the normalised embeddings of the frames at n rows: (n, embedding width D) float32."""
        self._last = rows, self._frames.embeddings(rows)
        return self._last[1]


class EmbeddingRedundancy:
    """Measures the redundancy of frames as the cosine between embeddings, raw or relative to each camera's background.

    Relative: the background, the camera's mean embedding, is subtracted, a coordinate of fixed size `background_floor`
    is appended, and the result is normalised. So frames with changes larger than the floor are compared by what
    changed, and frames that show only the background are equal (cosine 1) instead of a division by zero.
    """

    def __init__(
        self,
        candidates: Candidates,
        *,
        background: np.ndarray | None = None,
        group_starts: np.ndarray | None = None,
        background_floor: float = 1e-3,
    ) -> None:
        self._candidates = candidates
        self._background = None if background is None else np.atleast_2d(np.asarray(background, np.float32))
        self._group_starts = group_starts
        # Without a background nothing is subtracted, every norm is one and there is no extra coordinate.
        self._floor = np.float32(0.0 if background is None else background_floor)
        self._block = np.empty((0, 0), np.float32)
        self._norms = np.empty(0, np.float32)
        self._taken: list[np.ndarray] = []
        self._taken_norms: list[np.float32] = []

    def open(self, rows: np.ndarray) -> np.ndarray:
        """Make these n rows the block. Return each one's largest similarity to a selected frame, (n,), or -inf."""
        self._block = np.asarray(self._candidates.embeddings(rows), np.float32)
        self._norms = np.ones(len(rows), np.float32)
        if self._background is not None:
            self._subtract_background(rows, self._background)
        if not self._taken:
            return np.full(len(rows), -np.inf, np.float32)
        products = self._block @ np.stack(self._taken, axis=1)
        closest: np.ndarray = self._cosines(products, np.array(self._taken_norms, np.float32)).max(axis=1)
        return closest

    def take(self, position: int) -> np.ndarray:
        """Select the frame at `position` of the block of n rows. Return the similarity of all of them to it, (n,)."""
        taken = self._block[position].copy()
        self._taken.append(taken)
        self._taken_norms.append(self._norms[position])
        return self._cosines((self._block @ taken)[:, None], self._norms[position, None])[:, 0]

    def _cosines(self, products: np.ndarray, norms: np.ndarray) -> np.ndarray:
        """Return cosines (n, k) of n rows and k selected ones. products (n, k): scalar products; norms (k,)."""
        if self._background is None:
            return products
        cosines: np.ndarray = (products + self._floor**2) / self._norms[:, None] / norms
        return cosines

    def _subtract_background(self, rows: np.ndarray, background: np.ndarray) -> None:
        if self._group_starts is None or len(self._group_starts) == 1:
            self._block = self._block - background[0]
        else:
            self._block = self._block - background[np.searchsorted(self._group_starts, rows, side="right") - 1]
        self._norms = np.sqrt(np.einsum("nd,nd->n", self._block, self._block) + self._floor**2)


def select_keyframes(
    candidates: Candidates,
    *,
    num_keyframes: int = 32,
    tau: float = 0.85,
    floor: float = -1.0,
    recent: int = 0,
    fill: Fill = "gaps",
    background: np.ndarray | None = None,
    background_floor: float = 1e-3,
    group_sizes: Sequence[int] | None = None,
    min_per_group: int | None = None,
    redundancy: Redundancy | None = None,
) -> Keyframes:
    """Choose at most `num_keyframes` rows (with fill="gaps": exactly min(num_keyframes, N)).

    First the newest `recent` frames, divided among the cameras. With several cameras, then `min_per_group` frames of each
    (None: half of its equal share; see `_guarantee`). Then frames by falling relevance down to `floor`, except those more
    similar than `tau` to a selected one. With fill="gaps", frames that fill the longest gaps come last. group_sizes: frames
    per camera, in row order. background (cameras, D): mean embeddings, see EmbeddingRedundancy; None: raw embeddings.
    redundancy: another comparison than that. All comparisons are in float32, as in the published code.
    """
    if num_keyframes < 0 or recent < 0:
        raise ValueError(f"num_keyframes and recent must be at least 0, not {num_keyframes} and {recent}")
    num_frames = candidates.num_frames
    sizes = [num_frames] if group_sizes is None else list(group_sizes)
    if sum(sizes) != num_frames:
        raise ValueError(f"the groups hold {sum(sizes)} frames, the window {num_frames}")
    if redundancy is None:
        starts = np.cumsum([0, *sizes[:-1]])
        redundancy = EmbeddingRedundancy(
            candidates, background=background, group_starts=starts, background_floor=background_floor
        )
    chosen: dict[int, Kind] = {}
    newest = newest_rows(sizes, min(recent, num_keyframes))
    if len(newest):
        redundancy.open(newest)
        for position, row in enumerate(newest):
            redundancy.take(position)
            chosen[int(row)] = "recent"
    if np.count_nonzero(sizes) > 1 and min_per_group != 0:
        share = fair_share(sizes, num_keyframes)
        minimum = (share + 1) // 2 if min_per_group is None else min(min_per_group, share)
        _guarantee(candidates, redundancy, chosen, sizes, minimum, tau)
    _walk(candidates, redundancy, chosen, num_keyframes, np.float32(tau), np.float32(floor))
    if fill == "gaps":
        for row in fill_gaps(np.array(sorted(chosen), np.int64), num_frames, num_keyframes):
            chosen.setdefault(int(row), "filling")
    rows = np.array(sorted(chosen), np.int64)
    scores = np.asarray(candidates.scores(rows), np.float32) if len(rows) else np.empty(0, np.float32)
    return Keyframes(rows, tuple(chosen[int(row)] for row in rows), scores)


def _guarantee(
    candidates: Candidates,
    redundancy: Redundancy,
    chosen: dict[int, Kind],
    group_sizes: Sequence[int],
    minimum: int,
    tau: float,
) -> None:
    """Select frames of each group until it has `minimum` (or all of its frames), those already in `chosen` included.

    The most relevant row comes first, then rows by the paper's rule within the group. If all others are redundant, the most
    relevant of them are selected all the same, so that a camera with a still scene is represented, too.
    """
    ends = np.cumsum(group_sizes).tolist()
    first = np.sort(candidates.top(min(FIRST_STAGE * STAGE_GROWTH, candidates.num_frames))[0])
    for end, size in zip(ends, group_sizes, strict=True):
        had = sum(end - size <= row < end for row in chosen)
        goal = len(chosen) + min(minimum, size) - had
        if goal <= len(chosen):
            continue
        near = first[(first >= end - size) & (first < end)]
        if had == 0:
            _take_best(candidates, redundancy, chosen, near if len(near) else np.arange(end - size, end), 1)
        for rows in (near, np.arange(end - size, end)):
            ranked = _sift(candidates, redundancy, rows, np.float32(tau), np.float32(-np.inf))
            walk_rows(ranked, redundancy, chosen, goal, np.float32(tau))
            if len(chosen) >= goal:
                break
        else:
            rest = np.setdiff1d(np.arange(end - size, end), np.fromiter(chosen, np.int64))
            _take_best(candidates, redundancy, chosen, rest, goal - len(chosen))


def _take_best(
    candidates: Candidates, redundancy: Redundancy, chosen: dict[int, Kind], rows: np.ndarray, count: int
) -> None:
    """Select the `count` most relevant of these rows, redundant or not; add them to `chosen`."""
    best = _sift(candidates, redundancy, rows, np.float32(np.inf), np.float32(-np.inf))[:count]
    redundancy.open(best)
    for position, row in enumerate(best):
        redundancy.take(position)
        chosen[int(row)] = "relevant"


def _walk(
    candidates: Candidates,
    redundancy: Redundancy,
    chosen: dict[int, Kind],
    num_keyframes: int,
    tau: np.float32,
    floor: np.float32,
) -> None:
    """Run Algorithm 1 of the paper: go through the frames by falling relevance and add those not redundant."""
    num_frames = candidates.num_frames
    waiting = np.ones(num_frames, bool)
    for stage in (FIRST_STAGE, FIRST_STAGE * STAGE_GROWTH):
        if len(chosen) >= num_keyframes or not waiting.any():
            return
        if stage > FIRST_STAGE and stage * LEAST_SHARE > num_frames:
            break
        rows, scores = candidates.top(min(stage, num_frames))
        new = waiting[rows]
        waiting[rows] = False
        relevant = rows[new & (np.asarray(scores, np.float32) >= floor)]
        walk_rows(relevant, redundancy, chosen, num_keyframes, tau)
        if scores[-1] < floor:
            return
    rest = np.flatnonzero(waiting)
    while len(rest) and len(chosen) < num_keyframes:
        rest = _sift(candidates, redundancy, rest, tau, floor)
        rest = _walk_down(rest, redundancy, chosen, num_keyframes, tau)


def _sift(
    candidates: Candidates, redundancy: Redundancy, rows: np.ndarray, tau: np.float32, floor: np.float32
) -> np.ndarray:
    """Return those of the rows (rising) that no selected frame makes redundant, by falling relevance, ties by row."""
    kept_rows, kept_scores = [rows[:0]], [np.empty(0, np.float32)]
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        is_kept = ~(redundancy.open(block) > tau)
        if is_kept.any():
            scores = np.asarray(candidates.scores(block), np.float32)
            is_kept &= scores >= floor
            kept_rows.append(block[is_kept])
            kept_scores.append(scores[is_kept])
    left, scores = np.concatenate(kept_rows), np.concatenate(kept_scores)
    ranked: np.ndarray = left[np.lexsort((left, -scores))]
    return ranked


def _walk_down(
    ranked: np.ndarray, redundancy: Redundancy, chosen: dict[int, Kind], num_keyframes: int, tau: np.float32
) -> np.ndarray:
    """Select from these rows, by falling relevance, until filtering the rest again is cheaper. Return the rest, rising.

    That is when the last rows not selected are as many as half of the rows left. The first row is always selected.
    """
    start = barren = 0
    size = BLOCK_ROWS
    while start < len(ranked):
        block, before = ranked[start : start + size], len(chosen)
        _walk_block(block, redundancy, chosen, num_keyframes, tau)
        if len(chosen) >= num_keyframes:
            break
        start += len(block)
        size = max(BLOCK_ROWS, min(2 * size, MOST_BLOCK_ROWS, len(ranked) // 128))
        barren = barren + len(block) if len(chosen) == before else 0
        if 2 * barren >= len(ranked) - start:
            return np.sort(ranked[start:])
    return ranked[:0]


def walk_rows(
    ranked: np.ndarray, redundancy: Redundancy, chosen: dict[int, Kind], num_keyframes: int, tau: np.float32
) -> None:
    """Go through these rows in this order and add each one not more similar than `tau` to a selected frame to `chosen`."""
    for start in range(0, len(ranked), BLOCK_ROWS):
        _walk_block(ranked[start : start + BLOCK_ROWS], redundancy, chosen, num_keyframes, tau)


def _walk_block(
    rows: np.ndarray, redundancy: Redundancy, chosen: dict[int, Kind], num_keyframes: int, tau: np.float32
) -> None:
    """Go through this block of rows; add each one not more similar than `tau` to a selected frame to `chosen`."""
    if not len(rows) or len(chosen) >= num_keyframes:
        return
    closest = redundancy.open(rows)
    open_ = ~(closest > tau)
    if chosen:
        open_ &= ~np.isin(rows, np.fromiter(chosen, np.int64))
    position = int(np.argmax(open_))
    while open_[position] and len(chosen) < num_keyframes:
        chosen[int(rows[position])] = "relevant"
        open_ &= ~(redundancy.take(position) > tau)
        open_[: position + 1] = False
        position = int(np.argmax(open_))
