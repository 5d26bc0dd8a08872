"""How often was a thing seen, and when? Looks at frames one by one, the most relevant first; somebody says what each shows.

In: times and relevance of all frames of a history, camera by camera, and verdicts. Out: which frame to look at next, and the
visits. A visit is a run of frames: around a frame that shows the thing all those that are about as relevant belong to it, and
what is out of sight for longer than a few seconds has gone and come again; between every two visits the least relevant frame
is looked at: if that shows it too, they are one. The search ends after several frames in a row that do not show it, as all that
remain are less relevant. Pure: it sees no picture and asks nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

SAME_VISIT_GAP_S = 6.0
GAP_INTERVALS = 3.0  # or so many distances between the frames of a slow camera
MOST_LOOKS = 128
PATIENCE = 8  # frames in a row that do not show it
BACKGROUND = 0.1  # quantile of relevance: frames without the thing
NEAR = 0.6  # as relevant: so far of the way from the background to the frames that show it


@dataclass(frozen=True, slots=True)
class Visit:
    """Rows of its first and last frame, and of the one that was looked at, or of the most relevant of them."""

    first: int
    last: int
    best: int


class VisitSearch:
    """Ask `next_row`, look, `tell`; until it is None. times (N,) rising within each group; scores (N,); group_sizes: frames of
    each camera, in row order."""

    def __init__(
        self, times: NDArray[np.float64], scores: NDArray[np.float32], group_sizes: Sequence[int] | None = None
    ) -> None:
        self._times, self._scores = times, scores
        sizes = [len(times)] if group_sizes is None else list(group_sizes)
        self._groups = list(pairwise([0, *np.cumsum(sizes).tolist()]))
        self._open = np.ones(len(times), bool)  # worth a look
        self._known = np.zeros(len(times), bool)  # shows it: looked at, or between two that were found to be one
        self._looked: dict[int, bool] = {}
        self._misses = 0
        self._gap: tuple[int, int] | None = None  # rows between which the next look is
        self._background = float(np.quantile(scores, BACKGROUND)) if len(scores) else 0.0

    @property
    def num_looks(self) -> int:
        """Frames looked at."""
        return len(self._looked)

    @property
    def gave_up(self) -> bool:
        """After so many looks that there may be more visits."""
        return self.num_looks >= MOST_LOOKS and self._misses < PATIENCE and bool(self._open.any())

    def next_row(self) -> int | None:
        """One between two visits, or the most relevant frame that nothing is known of yet; None: the search is over."""
        if self.num_looks >= MOST_LOOKS:
            return None
        row = self._between()
        if row is None and self._misses < PATIENCE and self._open.any():
            row = int(np.argmax(np.where(self._open, self._scores, -np.inf)))
        return row

    def tell(self, row: int, shows_it: bool) -> None:
        """What the frame shows. Frames of the same visit need no look."""
        self._looked[row], self._open[row] = shows_it, False
        if self._gap is None:
            self._misses = 0 if shows_it else self._misses + 1
            self._known[row] = shows_it
        elif shows_it:
            self._known[self._gap[0] : self._gap[1] + 1] = True
        self._gap = None
        if shows_it:
            for visit in self.visits():
                self._open[visit.first : visit.last + 1] = False

    def visits(self) -> list[Visit]:
        """So far, in row order."""
        shown = [row for row, shows_it in self._looked.items() if shows_it]
        if not shown:
            return []
        near = self._background + NEAR * (float(np.mean(self._scores[shown])) - self._background)
        found: list[Visit] = []
        for first, end in self._groups:
            times = self._times[first:end]
            gap_s = max(SAME_VISIT_GAP_S, GAP_INTERVALS * float(np.median(np.diff(times)))) if len(times) > 1 else 0.0
            rows = np.flatnonzero((self._scores[first:end] >= near) | self._known[first:end]) + first
            for run in np.split(rows, np.flatnonzero(np.diff(self._times[rows]) > gap_s) + 1):
                looked = [row for row in shown if len(run) and run[0] <= row <= run[-1]]
                if looked:
                    best = max(looked, key=lambda row: float(self._scores[row]))
                    found.append(Visit(int(run[0]), int(run[-1]), best))
        return found

    def _between(self) -> int | None:
        """The least relevant frame between two visits of one camera that has not been looked at."""
        starts = {first for first, _ in self._groups}
        for before, after in pairwise(self.visits()):
            rows = np.arange(before.last + 1, after.first)
            if len(rows) and not any(before.last < start <= after.first for start in starts):
                row = int(rows[np.argmin(self._scores[rows])])
                if row not in self._looked:
                    self._gap = before.last, after.first
                    return row
        return None
