"""Choose rows (frames of a window) without a question: the newest frames, and frames that fill gaps. Pure functions."""

from collections.abc import Sequence

import numpy as np


def fair_share(group_sizes: Sequence[int], num_keyframes: int) -> int:
    """Return how many keyframes each group (camera) that has frames gets: 32 keyframes, sizes (900, 0, 5) -> 16."""
    return num_keyframes // max(1, int(np.count_nonzero(group_sizes)))


def newest_rows(group_sizes: Sequence[int], count: int) -> np.ndarray:
    """Return the newest `count` rows (frames) in rising order, taking one from the end of each group (camera) in turn.

    group_sizes (5, 2), count 3 -> [3, 4, 6]: the last row of each group (4 and 6), then the one before in the first
    (3).
    """
    ends = np.cumsum(group_sizes)
    rows: list[int] = []
    for back in range(max(group_sizes, default=0)):
        rows += [int(end) - 1 - back for end, size in zip(ends, group_sizes, strict=True) if back < size]
        if len(rows) >= count:
            break
    return np.array(sorted(rows[:count]), np.int64)


def fill_gaps(taken: np.ndarray, num_frames: int, num_keyframes: int) -> np.ndarray:
    """Return the rows to add to those already chosen, `taken` (rising), so that min(num_keyframes, num_frames) are
    chosen.

    They are spread as in the published code. D is the smallest piece length for which there are enough places: a gap of
    n frames between chosen rows is cut into ceil(n / D) pieces of at most D frames, and the ceil(n / D) - 1 rows at the
    cuts are added. Places that remain go to the last rows of the video that are not yet chosen.

    48 frames, none chosen, 32 places: D = 1 would need 47 rows, D = 2 needs 23 (2, 4, ..., 46). The other 9 places go
    to the last free rows (31, 33, ..., 47).
    """
    free = min(num_keyframes, num_frames) - len(taken)
    if free <= 0:
        return np.empty(0, np.int64)
    edges = np.concatenate(([-1], taken, [num_frames]))
    starts, lengths = edges[:-1] + 1, np.diff(edges) - 1
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    low, high = 1, num_frames
    while low < high:
        middle = (low + high) // 2
        if int(np.sum(-(-lengths // middle) - 1)) <= free:
            high = middle
        else:
            low = middle + 1
    added: list[int] = []
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        count = -(-length // low) - 1
        step = -(-length // (count + 1))
        added += [min(start + step * place, start + length - 1) for place in range(1, count + 1)]
    is_free = np.ones(num_frames, bool)
    is_free[taken] = False
    is_free[added] = False
    left_over = free - len(added)
    last = np.flatnonzero(is_free)[::-1][:left_over]
    return np.sort(np.concatenate((np.array(added, np.int64), last)))
