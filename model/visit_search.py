"""Find the visits of a thing by looking at single frames, the most relevant first.

The caller looks: `VisitSearch` only says which frame is next, and is told whether it shows the thing. A visit is a run of
frames about as relevant as one that shows the thing. If the thing is out of sight for longer than a few seconds, its return is a
new visit. Between two visits the least relevant frame is looked at. If it shows the thing, the two are one visit. If not, the
frames shortly before and after it are looked at as well, because something may only have passed in front of it. The search
ends after several places in a row without the thing, as all other frames are less relevant.

Pure. Sorting the N relevances is the only step that takes long.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SAME_VISIT_GAP_S = 6.0
GAP_INTERVALS = 3.0  # or so many frame intervals, if the camera is slow
MOST_LOOKS = 128
PATIENCE = 8  # places in a row without the thing, after which the search ends
LOOKS_IN_VAIN = 2  # at one place, before it counts as a place without the thing
BACKGROUND = 0.1  # this quantile of the relevance around a frame is taken as the relevance without the thing
AROUND_ROWS = 1000  # on each side; relevance without the thing varies with camera and daylight
NEAR = 0.6  # a frame is as relevant if it is so far from the background towards the frame that was looked at


@dataclass(frozen=True, slots=True)
class Visit:
    """Rows of the visit's first and last frame, by relevance, and of the most relevant frame that was seen to show the thing."""

    first: int
    last: int
    best: int


End = Literal["first", "last"]
_Asked = (
    tuple[Visit, Visit] | Literal["beside"] | None
)  # the purpose of the next look: to join two visits, or to see how long the thing was gone


class VisitSearch:
    """A search over one history. Call `next_row`, look at the frame, and `tell` or `skip`, until it returns None.

    times (N,) unix seconds, rising within each group. scores (N,) relevance. group_sizes: frames of each camera, in row order.
    gap_s: seconds out of sight that end a visit. only: find the first (last) visit alone, and look at no frame after (before)
    one already found.
    """

    def __init__(
        self,
        times: NDArray[np.float64],
        scores: NDArray[np.float32],
        group_sizes: Sequence[int] | None = None,
        *,
        gap_s: float = SAME_VISIT_GAP_S,
        only: End | None = None,
    ) -> None:
        self._times, self._scores, self._only = times, scores, only
        ends = np.cumsum([len(times)] if group_sizes is None else list(group_sizes)).tolist()
        self._groups = [(first, end) for first, end in pairwise([0, *ends]) if end > first]
        self._gaps_s = [longest_gap(times[first:end], gap_s) for first, end in self._groups]
        self._order = np.argsort(-scores, kind="stable")
        self._place = 0  # in it
        self._closed = np.zeros(len(times), bool)  # needs no look of its own
        self._looked: dict[int, bool | None] = {}  # None: nobody could say
        self._visits: list[Visit] = []  # rising, apart
        self._in_vain: dict[tuple[int, int], int] = {}  # looks by place
        self._misses = 0
        self._asked: _Asked = None

    @property
    def num_looks(self) -> int:
        """How many frames were looked at."""
        return len(self._looked)

    @property
    def gave_up(self) -> bool:
        """Whether the search ended at its limit of looks, so that there may be more visits."""
        return self.num_looks >= MOST_LOOKS and self._misses < PATIENCE

    def visits(self) -> list[Visit]:
        """The visits found so far, in row order."""
        return list(self._visits)

    def next_row(self) -> int | None:
        """The row to look at next: one between two visits, or the most relevant open one. None: the search is over."""
        if self.num_looks >= MOST_LOOKS:
            return None
        if self._only is None and (row := self._between()) is not None:
            return row
        while self._place < len(self._order) and self._is_needless(self._order[self._place]):
            self._place += 1
        return None if self._misses >= PATIENCE or self._place == len(self._order) else int(self._order[self._place])

    def _is_needless(self, row: int) -> bool:
        if self._closed[row] or self._only is None or not self._visits:
            return bool(self._closed[row])
        if self._only == "first":
            return bool(self._times[row] >= min(self._times[visit.first] for visit in self._visits))
        return bool(self._times[row] <= max(self._times[visit.last] for visit in self._visits))

    def skip(self, row: int) -> None:
        """Note that the frame cannot be read."""
        self._looked[row], self._closed[row], self._asked = None, True, None

    def tell(self, row: int, shows_it: bool) -> None:
        """Note whether the frame shows the thing."""
        asked, self._asked = self._asked, None
        self._looked[row], self._closed[row] = shows_it, True
        if shows_it:
            first, last = self._alike(row)
            if isinstance(asked, tuple):  # the least relevant frame between two visits
                first, last = min(first, asked[0].first), max(last, asked[1].last)
            self._add(first, last, row)
        elif asked is None:
            self._note_in_vain(row)

    def _note_in_vain(self, row: int) -> None:
        """Note a look without the thing. A place gets two looks, as one may be wrong, and counts once, however long it is."""
        first, last = self._alike(row, through=True)
        same = [place for place in self._in_vain if place[0] <= last and first <= place[1]]
        looks = 1 + sum(self._in_vain.pop(place) for place in same)
        place = min([first, *(each[0] for each in same)]), max([last, *(each[1] for each in same)])
        self._in_vain[place] = looks
        self._misses += looks == 1
        near_s = self._gaps_s[self._group_of(row)] / 2
        if looks < LOOKS_IN_VAIN:  # look again, a little further away
            times = self._times[first : last + 1]
            first, last = (
                first + int(np.searchsorted(times, self._times[row] - near_s)),
                first + int(np.searchsorted(times, self._times[row] + near_s, side="right")) - 1,
            )
        self._closed[first : last + 1] = True

    def _add(self, first: int, last: int, row: int) -> None:
        """Add a visit, joined with those it touches or nearly touches."""
        self._misses = 0
        self._closed[first : last + 1] = True
        best, apart = row, []
        for visit in self._visits:
            lower, upper = (visit.last, first) if visit.first < first else (last, visit.first)
            if lower >= upper or self._is_one(lower, upper):
                first, last = min(first, visit.first), max(last, visit.last)
                best = max(best, visit.best, key=lambda each: float(self._scores[each]))
            else:
                apart.append(visit)
        place = bisect_left([visit.first for visit in apart], first)
        self._visits = [*apart[:place], Visit(first, last, best), *apart[place:]]

    def _is_one(self, last: int, first: int) -> bool:
        """Whether frames that end at row `last` and begin at row `first` can be one visit: same camera, and a short gap."""
        group = self._group_of(last)
        return first < self._groups[group][1] and bool(self._times[first] - self._times[last] <= self._gaps_s[group])

    def _alike(self, row: int, *, through: bool = False) -> tuple[int, int]:
        """(first, last) of the run of frames around a row that are about as relevant, with gaps as short as a visit allows.

        It stays within one camera, and ends at frames that were seen not to show the thing (unless `through`).
        """
        group = self._group_of(row)
        begin, end = self._groups[group]
        around = self._scores[max(begin, row - AROUND_ROWS) : min(end, row + AROUND_ROWS + 1)]
        background = float(np.quantile(around, BACKGROUND))
        near = background + NEAR * (float(self._scores[row]) - background)
        if not through:
            in_vain = [other for other, shows_it in self._looked.items() if shows_it is False]
            begin = max([begin, *(other + 1 for other in in_vain if other < row)])
            end = min([end, *(other for other in in_vain if other > row)])
        alike = begin + np.flatnonzero(self._scores[begin:end] >= min(near, float(self._scores[row])))
        place = int(np.searchsorted(alike, row))
        apart = np.flatnonzero(
            np.diff(self._times[alike]) > self._gaps_s[group]
        )  # after these of `alike` a gap follows
        first, last = np.searchsorted(apart, place) - 1, np.searchsorted(apart, place)
        return (
            int(alike[apart[first] + 1 if first >= 0 else 0]),
            int(alike[apart[last] if last < len(apart) else len(alike) - 1]),
        )

    def _between(self) -> int | None:
        """The next frame to look at between two visits of one camera, to see whether they are one. None: all are clear."""
        for before, after in pairwise(self._visits):
            group = self._group_of(before.last)
            if (
                after.first >= self._groups[group][1] or after.first - before.last < 2
            ):  # of another camera; no frame between
                continue
            rows = range(before.last + 1, after.first)
            least = rows[int(np.argmin(self._scores[before.last + 1 : after.first]))]
            if least not in self._looked:
                self._asked = before, after
                return least
            times, half_s = self._times[rows[0] : after.first], self._gaps_s[group] / 2
            first = rows[0] + int(np.searchsorted(times, self._times[least] - half_s))
            last = rows[0] + int(np.searchsorted(times, self._times[least] + half_s, side="right")) - 1
            for row in (first, last):
                if row not in self._looked:
                    self._asked = "beside"
                    return row
        return None

    def _group_of(self, row: int) -> int:
        return bisect_left([end for _, end in self._groups], row + 1)


def longest_gap(times: NDArray[np.float64], gap_s: float) -> float:
    """How many seconds a thing may be out of sight within one visit. times: of this camera's frames."""
    usual_s = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return max(gap_s, GAP_INTERVALS * usual_s)
