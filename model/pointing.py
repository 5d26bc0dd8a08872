"""Find where in the picture the thing is that a question names.

Merging compares each patch with the question (`Merger.presence`). In a checkpoint trained to locate things
(`vilamp_live.pointing` in its config.json), these cosines give the probability that a patch shows the thing, and so the
side of the picture where it is. Arrays are (n, M): n frames in time order, M patches of a frame, row by row of a square
grid. Pure functions.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from model.visit_search import longest_gap

Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of the picture

SIDES = ("left", "middle", "right")
SHOWN = 0.5  # a patch with at least this probability shows the thing
AROUND_ROWS = 16  # frames on each side of the given frame whose patches are used
STANDS = 0.6  # if the thing is on one side in this share of the frames, it did not move


def presence_of(cosines: NDArray[np.float32], pointing: Mapping[str, float]) -> NDArray[np.float32]:
    """Return the probability that each patch shows what is asked about; 0 where the cosine is unknown (NaN).

    cosines (n, M): cosine with the question of each of the M patches of n frames; the result has the same shape.
    pointing: the checkpoint's "scale" and "bias"; the log odds are scale * cosine + bias.
    """
    log_odds = pointing["scale"] * cosines + pointing["bias"]
    return np.where(np.isnan(cosines), 0, 1 / (1 + np.exp(-log_odds))).astype(np.float32)


def shown(presences: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which of n frames show the thing, (n,) bool: those with a patch of at least the probability SHOWN.

    presences (n, M): for each of the M patches of each frame, the probability that it shows the thing.
    """
    return np.asarray(presences.max(axis=1) > SHOWN)


def stay(shows: NDArray[np.bool_], place: int, times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the indices of the frames that show the thing during one stay, the time around index `place` without a
    long absence.

    Empty if no frame shows it. shows (n,) bool: which of n frames of one camera show the thing; times (n,): their unix
    seconds. If the thing is out of sight for longer than `longest_gap`, the stay ends.
    """
    rows = np.flatnonzero(shows)
    if not len(rows):
        return rows
    nearest = int(np.argmin(np.abs(rows - place)))
    apart = np.flatnonzero(np.diff(times[rows]) > longest_gap(times))
    first, last = np.searchsorted(apart, nearest) - 1, np.searchsorted(apart, nearest)
    return rows[(apart[first] + 1 if first >= 0 else 0) : (apart[last] + 1 if last < len(apart) else len(rows))]


def side_during_stay(presences: NDArray[np.float32], place: int, times: NDArray[np.float64]) -> str:
    """Say on which side of the picture the thing was, or how it moved; "" if no frame shows it.

    Only frames of one stay count: those around index `place` between which the thing is never out of sight for longer
    than `longest_gap` says. presences (n, M): probability that each of the M patches of n frames shows the thing; times
    (n,): unix seconds.
    """
    rows = stay(shown(presences), place, times)
    return side_of(presences[rows]) if len(rows) else ""


def side_of(presences: NDArray[np.float32]) -> str:
    """Say where the thing was, "on the left of the picture", or how it moved, "from the left to the right of ...".

    presences (n, M): for n frames that show the thing, the probability of each of the M patches to show it.
    """
    sides = [SIDES[min(2, int(centre * 3))] for centre in centres(presences)]
    [(most, count)] = Counter(sides).most_common(1)
    if count < STANDS * len(sides) and sides[0] != sides[-1]:
        return f"from the {sides[0]} to the {sides[-1]} of the picture"
    return f"{'in' if most == 'middle' else 'on'} the {most} of the picture"


def boxes_of(presence: NDArray[np.float32]) -> tuple[Box, ...]:
    """Return a box around each group of adjacent patches that show the thing, from left to right.

    presence (M,) float32: for each of the M patches of one frame, row by row of a square grid, the probability that it
    shows the thing. A box is in fractions of the picture, from 0 to 1.
    """
    side = round(len(presence) ** 0.5)
    left = {divmod(int(patch), side) for patch in np.flatnonzero(presence > SHOWN)}
    boxes = []
    while left:
        group, edge = set[tuple[int, int]](), [left.pop()]
        while edge:
            row, column = edge.pop()
            group.add((row, column))
            near = {(row + down, column + across) for down in (-1, 0, 1) for across in (-1, 0, 1)} & left
            left -= near
            edge += near
        rows, columns = zip(*group, strict=True)
        corners = (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
        boxes.append(tuple(round(corner / side, 4) for corner in corners))
    return tuple(sorted((x0, y0, x1, y1) for x0, y0, x1, y1 in boxes))


def centres(presences: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the horizontal centre of the thing in each of n frames, (n,): 0 is left, 1 is right.

    presences (n, M): probability of each of the M patches of a frame to show the thing, row by row of a square grid.
    """
    side = round(presences.shape[1] ** 0.5)
    across = (np.arange(presences.shape[1]) % side + 0.5) / side
    return np.asarray((presences @ across) / np.maximum(presences.sum(axis=1), 1e-12), np.float32)
