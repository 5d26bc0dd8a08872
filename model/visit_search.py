"""Find the visits of a thing to a camera by checking single frames, the most relevant first.

`VisitSearch` does not look at frames itself: it names the next frames to check, and its caller reports whether each
shows the thing. The peaks of relevance come first, the most prominent ones before others (`model.visits`), then all
other frames by relevance. When a frame shows the thing, the frames around it whose relevance is close to its own become
a visit, without being checked. If the thing is out of sight for longer than a few seconds, its return is a new visit.

Between two neighbouring visits, the least relevant frame is checked. If it shows the thing, the two are joined. If not,
the frames shortly before and after it are checked too, as the thing may only have been hidden for a moment. Those that
show the thing are added to a visit, and the same is done with the frames still between the two.

The search ends after several stretches of frames in a row that do not show the thing, because all other frames are even
less relevant. Pure; sorting the N relevances is the only slow step.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.visits import find_visits

SAME_VISIT_GAP_S = 6.0  # a thing may be out of sight for so long within one visit, but at least for ...
LEAST_GAP_INTERVALS, MOST_GAP_INTERVALS = 3.0, 6.0  # ... 3 and at most 6 usual intervals between the camera's frames
MOST_LOOKS = 128
PATIENCE = 8  # the search ends after this many stretches of similar frames in a row without the thing
LOOKS_IN_VAIN = 2  # frames checked in a stretch without success, after which its others are not checked
BACKGROUND = 0.1  # this quantile of the relevance around a frame estimates the relevance without the thing
AROUND_ROWS = 1000  # frames on each side for that quantile, which varies with camera and daylight
NEAR = 0.6  # frames are similar if they are at least this share of the way from background to the checked frame's relevance


@dataclass(frozen=True, slots=True)
class Visit:
    """A time during which the thing searched for is in sight of one camera, in rows (indices of frames).

    first, last: estimated first and last row. best: of the rows known to show the thing, the most relevant one.
    """

    first: int
    last: int
    best: int


End = Literal["first", "last", "any"]
_Asked = tuple[Visit, Visit] | Literal["beside"]
"""Purpose of a check: to join two visits, or to see how long the thing was out of sight."""


class VisitSearch:
    """Finds the visits of a thing (times during which it is in sight) in one history by checking few frames.

    Repeat until `next_rows` returns []: check these frames, then `tell` of each whether it shows the thing, or `skip`
    it if it cannot be read.

    times (N,): unix seconds of the N frames, rising within each camera. scores (N,): relevance of each frame.
    group_sizes: number of frames of each camera, in row order. only: "first" or "last" finds that visit alone, and
    checks no frame later (earlier) than one already found; "any" ends with the first visit found. most: the largest
    number of frames to check.
    """

    def __init__(
        self,
        times: NDArray[np.float64],
        scores: NDArray[np.float32],
        group_sizes: Sequence[int] | None = None,
        *,
        only: End | None = None,
        most: int = MOST_LOOKS,
    ) -> None:
        self._times, self._scores, self._only, self._most = times, scores, only, most
        sizes = [len(times)] if group_sizes is None else list(group_sizes)
        ends = np.cumsum(sizes).tolist()
        self._groups = [(first, end) for first, end in pairwise([0, *ends]) if end > first]
        self._gaps_s = [longest_gap(times[first:end]) for first, end in self._groups]
        peaks = [visit.peak for visit in sorted(find_visits(scores, times, sizes), key=lambda visit: -visit.strength)]
        self._order = np.concatenate([np.array(peaks, np.int64), np.argsort(-scores, kind="stable")])
        self._place = 0  # index in _order
        self._closed = np.zeros(len(times), bool)  # frames that need no check of their own
        self._looked: dict[int, bool | None] = {}  # by row: does it show the thing; None: not readable
        self._visits: list[Visit] = []  # in time order, not touching
        self._in_vain: dict[
            tuple[int, int], int
        ] = {}  # (first, last) row of a stretch without the thing -> frames checked in it
        self._misses = 0
        self._asked: dict[int, _Asked] = {}  # by row; the other rows are checked to find a visit

    @property
    def num_looks(self) -> int:
        """Number of frames checked so far, unreadable ones included."""
        return len(self._looked)

    @property
    def gave_up(self) -> bool:
        """Whether the search ended because of the limit on checked frames, so that visits may be missing."""
        return self.num_looks >= self._most and self._misses < PATIENCE

    def visits(self) -> list[Visit]:
        """Return the visits (times during which the thing is in sight) found so far, in row order."""
        return list(self._visits)

    def next_rows(self, limit: int = 1) -> list[int]:
        """Return at most `limit` rows to check next, all of which can be checked at once; [] if the search is over.

        Rows between two visits come first, then those from which most is expected that still need a check.
        """
        limit = min(limit, self._most - self.num_looks)
        if limit <= 0 or (self._only == "any" and self._visits):
            return []
        if self._only is None and (between := self._between(limit)):
            return between
        return self._likely(min(limit, PATIENCE - self._misses))

    def _likely(self, limit: int) -> list[int]:
        """Return the next rows in the search's order that need a check, each of another stretch of similar frames."""
        rows: list[int] = []
        stretches: list[tuple[int, int]] = []
        place = self._place
        while place < len(self._order) and len(rows) < limit:
            row = int(self._order[place])
            place += 1
            if self._is_needless(row):
                if not rows:
                    self._place = place
                continue
            if any(first <= row <= last for first, last in stretches):
                continue
            rows.append(row)
            if limit > 1:
                stretches.append(self._alike(row, through=True))
        return rows

    def _is_needless(self, row: int) -> bool:
        if self._closed[row] or self._only in (None, "any") or not self._visits:
            return bool(self._closed[row])
        if self._only == "first":
            return bool(self._times[row] >= min(self._times[visit.first] for visit in self._visits))
        return bool(self._times[row] <= max(self._times[visit.last] for visit in self._visits))

    def skip(self, row: int) -> None:
        """Record that the frame at `row` cannot be read."""
        self._asked.pop(row, None)
        self._looked[row], self._closed[row] = None, True

    def tell(self, row: int, shows_it: bool) -> None:
        """Record whether the frame at `row` shows the thing, and update the visits."""
        asked = self._asked.pop(row, None)
        self._looked[row], self._closed[row] = shows_it, True
        if shows_it:
            first, last = self._alike(row)
            if isinstance(asked, tuple):  # the least relevant frame between two visits
                first, last = min(first, asked[0].first), max(last, asked[1].last)
            self._add(first, last, row)
        elif asked is None:
            self._note_in_vain(row)

    def _note_in_vain(self, row: int) -> None:
        """Record that the frame at `row` does not show the thing, so that similar frames around it are not all checked.

        Of a run of similar frames, two are checked, as one check may be wrong. Then the run counts as one miss; the
        search ends after several misses.
        """
        first, last = self._alike(row, through=True)
        same = [place for place in self._in_vain if place[0] <= last and first <= place[1]]
        looks = 1 + sum(self._in_vain.pop(place) for place in same)
        place = min([first, *(each[0] for each in same)]), max([last, *(each[1] for each in same)])
        self._in_vain[place] = looks
        self._misses += looks == 1
        near_s = self._gaps_s[self._group_of(row)] / 2
        if looks < LOOKS_IN_VAIN:  # close only the frames nearby, so that the second check is a little further away
            times = self._times[first : last + 1]
            first, last = (
                first + int(np.searchsorted(times, self._times[row] - near_s)),
                first + int(np.searchsorted(times, self._times[row] + near_s, side="right")) - 1,
            )
        self._closed[first : last + 1] = True

    def _add(self, first: int, last: int, row: int) -> None:
        """Add the visit from row `first` to row `last`, in which `row` is known to show the thing.

        Joins it with visits that it overlaps or that are at most a short gap away.
        """
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
        """Return whether the frames up to row `last` and those from row `first` on can show one uninterrupted visit.

        They can if they are of one camera and the time between them is no longer than a thing may be out of sight.
        """
        group = self._group_of(last)
        return first < self._groups[group][1] and bool(self._times[first] - self._times[last] <= self._gaps_s[group])

    def _alike(self, row: int, *, through: bool = False) -> tuple[int, int]:
        """Return (first, last) row of the run of frames around `row` whose relevance is close to that of `row`.

        The run stays within one camera, is never interrupted for longer than a thing may be out of sight, and ends
        before frames that were checked not to show the thing (unless `through`).
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
        )  # indices in `alike` that a gap follows
        first, last = np.searchsorted(apart, place) - 1, np.searchsorted(apart, place)
        return (
            int(alike[apart[first] + 1 if first >= 0 else 0]),
            int(alike[apart[last] if last < len(apart) else len(alike) - 1]),
        )

    def _between(self, limit: int) -> list[int]:
        """Return at most `limit` rows to check between neighbouring visits of one camera; [] if there are none.

        The checks show whether two visits are one.
        """
        found: list[int] = []
        for before, after in pairwise(self._visits):
            group = self._group_of(before.last)
            # The next visit is of another camera, or there is no frame between the two.
            if after.first >= self._groups[group][1] or after.first - before.last < 2:
                continue
            rows = range(before.last + 1, after.first)
            least = rows[int(np.argmin(self._scores[before.last + 1 : after.first]))]
            if least not in self._looked:
                self._asked[least] = before, after
                found.append(least)
                continue
            times, half_s = self._times[rows[0] : after.first], self._gaps_s[group] / 2
            first = rows[0] + int(np.searchsorted(times, self._times[least] - half_s))
            last = rows[0] + int(np.searchsorted(times, self._times[least] + half_s, side="right")) - 1
            for row in dict.fromkeys((first, last)):
                if row not in self._looked:
                    self._asked[row] = "beside"
                    found.append(row)
        return found[:limit]

    def _group_of(self, row: int) -> int:
        return bisect_left([end for _, end in self._groups], row + 1)


def longest_gap(times: NDArray[np.float64]) -> float:
    """Return how many seconds a thing may be out of sight within one visit. times: unix seconds of all frames of a camera.

    That is SAME_VISIT_GAP_S, but at least 3 and at most 6 usual intervals between the camera's frames.
    """
    usual_s = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    gap_s = min(max(SAME_VISIT_GAP_S, LEAST_GAP_INTERVALS * usual_s), MOST_GAP_INTERVALS * usual_s)
    return gap_s * 1.001  # a whole number of intervals is not a little more by rounding
