"""Where in the picture is what a question names? Merging's own first term, read as a map.

Merging weighs every patch by its cosine with the question (`Merger.asked`). A checkpoint that was taught where things are
(`vilamp_live.pointing`) says so well enough to point: which patches show the thing, on which side of the picture it stands.
In: cosines (n, M) of the patches of n frames in time order, row-major on a square grid. Out: probabilities, rows, words.
Pure.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

SIDES = ("left", "middle", "right")
SHOWN = 0.5  # probability from which a patch is taken to show the thing
AROUND_ROWS = 16  # of a stay are looked at, on each side of the frame that was named
GAP_ROWS = 3  # it may be hidden for so many
STANDS = 0.6  # of the frames on one side: it stood there


def presence(cosines: NDArray[np.float32], pointing: Mapping[str, float]) -> NDArray[np.float32]:
    """(n, M) probability that a patch shows what is asked about; 0 where nothing is known (NaN)."""
    log_odds = pointing["scale"] * np.nan_to_num(cosines, nan=-np.inf) + pointing["bias"]
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -60, 60))), np.float32)


def shown(presences: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(n,) bool: which frames show it at all."""
    return np.asarray(presences.max(axis=1) > SHOWN)


def stay(shows: NDArray[np.bool_], place: int) -> NDArray[np.int64]:
    """The frames of one stay: those that show the thing around `place`, over gaps of at most GAP_ROWS."""
    rows = np.flatnonzero(shows)
    if not len(rows):
        return np.array([place], np.int64)
    nearest = int(np.argmin(np.abs(rows - place)))
    apart = np.flatnonzero(np.diff(rows) > GAP_ROWS + 1)
    first, last = np.searchsorted(apart, nearest) - 1, np.searchsorted(apart, nearest)
    return rows[(apart[first] + 1 if first >= 0 else 0) : (apart[last] + 1 if last < len(apart) else len(rows))]


def side_during_stay(cosines: NDArray[np.float32], pointing: Mapping[str, float], place: int) -> str:
    """`side_of` of the stay around row `place` of (n, M) cosines."""
    presences = presence(cosines, pointing)
    return side_of(presences[stay(shown(presences), place)])


def side_of(presences: NDArray[np.float32]) -> str:
    """Where the thing stood during a stay, or how it went: "on the left of the picture", "from the left to the right of ..."."""
    sides = [SIDES[min(2, int(centre * 3))] for centre in centres(presences)]
    [(most, count)] = Counter(sides).most_common(1)
    if count < STANDS * len(sides) and sides[0] != sides[-1]:
        return f"from the {sides[0]} to the {sides[-1]} of the picture"
    return f"{'in' if most == 'middle' else 'on'} the {most} of the picture"


def centres(presences: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) horizontal centre of the thing in each frame, 0 (left) to 1."""
    side = round(presences.shape[1] ** 0.5)
    across = (np.arange(presences.shape[1]) % side + 0.5) / side
    return np.asarray((presences @ across) / np.maximum(presences.sum(axis=1), 1e-12), np.float32)
