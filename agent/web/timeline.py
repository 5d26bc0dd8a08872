"""The timeline of a camera: relevance to a question, its visits, the keyframes an answer would use, gaps, and alerts.

    GET /v1/cameras/{camera}/timeline?after=&before=&question=&points=&keyframes=
    {"after", "before", "bin_s", "gap_s", "oldest", "newest", "frames", "unencoded", "timezone",
     "points": [{"t", "count", "max", "mean", "frame_id", "time"}],        one for each bin with frames
     "keyframes": [{"frame_id", "time", "kind", "score", "url"}],
     "visits": [{"camera", "start", "peak", "end", "prominence", "strength", "is_clear", "frame_id"}],
     "background": {"level", "noise", "limit"},                            null without a question or frames
     "gaps": [[t0, t1]], "alerts": [{"id", "rule", "start", "end", "message"}]}

At most `points` points are returned, however long the history. Overload policy: timelines are computed one at a time,
and a request that finds MAX_WAITING others waiting is refused (429).
"""

import json
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.alerts.store import Alert, Filter
from agent.app import Agent
from agent.ask.keyframes import visits_of
from agent.ask.question import Question
from agent.errors import Busy
from agent.runtime import pools
from agent.runtime.lanes import TooManyWaiting, Turns
from agent.untrusted.wire import JsonResponse
from agent.web.guard import Guard
from agent.web.openai import visits_json
from agent.web.url import check_names, flag, path_camera, span, whole_number
from memory.errors import FrameGone
from memory.window import Window
from model.scoring import StoredFrames, score_frames
from model.visits import MOST_BY_CHANCE, background_of, find_visits, segment_starts, strength_of

if TYPE_CHECKING:
    from model.features import TextFeatures
    from model.select import Keyframes

DEFAULT_POINTS, MAX_POINTS = 800, 4000
MAX_WAITING = 16
MAX_ALERTS = 200
GAP_INTERVALS, MIN_GAP_S = 3.0, 2.0  # a gap is a silence longer than this many frame intervals, and than this
MAX_SCORES = 4_000_000  # of all questions together: 48 MB
_MAX_QUESTIONS = 8  # whose embeddings are kept
_RETRY_S = 2.0
_MAX_PENDING = 10_000  # frames waiting for the encoder that are looked up: they are no gap
_MAX_INTERVALS = 10_000  # of which the typical frame interval is the median

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


# --- scores, bins and gaps: pure numpy ---


class ScoredFrames(StoredFrames, Protocol):
    """The part of a memory window that scoring needs."""

    @property
    def frame_ids(self) -> Int64: ...


@dataclass(frozen=True, slots=True)
class Bins:
    """The bins (equal parts of the time shown) that hold frames, in order. All arrays have one entry for each, (m,).

    number: index of the bin; counts: frames in it; best: row of the highest score (without scores: of the first frame);
    highest, mean: of the scores, None without scores.
    """

    number: Int64
    counts: Int64
    best: Int64
    highest: Float32 | None
    mean: Float32 | None


def bin_frames(times: Float64, scores: Float32 | None, after: float, before: float, num_bins: int) -> Bins:
    """Put frames at rising `times` (n,), all inside [after, before], into bins of equal width.

    times 0 1 2 9 10, scores .1 .3 .2 .5 .4, [0, 10] in 5 bins: bins 0 (frames 0 1), 1 (frame 2), 4 (frames 9 10);
    counts 2 1 2, best rows 1 2 3, highest .3 .2 .5, mean .2 .2 .45. A frame at `before` belongs to the last bin.
    """
    edges = after + (before - after) / num_bins * np.arange(num_bins)
    starts = np.searchsorted(times, edges)
    counts = np.diff(starts, append=len(times))
    number = np.flatnonzero(counts)
    starts, counts = starts[number], counts[number]
    if scores is None or not len(number):
        return Bins(number, counts, starts, None, None)
    highest = np.maximum.reduceat(scores, starts)
    means = (np.add.reduceat(scores, starts, dtype=np.float64) / counts).astype(np.float32)
    best = [int(s + np.argmax(scores[s : s + n])) for s, n in zip(starts.tolist(), counts.tolist(), strict=True)]
    return Bins(number, counts, np.array(best, np.int64), highest, means)


def gap_threshold_s(times: Float64, rate_hz: float) -> float:
    """Return the seconds without a frame beyond which the timeline shows a gap.

    GAP_INTERVALS times the configured or the median frame interval, whichever is longer, and at least MIN_GAP_S.
    """
    interval_s = 1.0 / rate_hz
    if len(times) > 1:
        sampled = np.linspace(0, len(times) - 2, min(len(times) - 1, _MAX_INTERVALS)).astype(np.int64)
        interval_s = max(interval_s, float(np.median(times[sampled + 1] - times[sampled])))
    return max(MIN_GAP_S, GAP_INTERVALS * interval_s)


def find_gaps(times: Float64, after: float, before: float, now: float, threshold_s: float) -> list[tuple[float, float]]:
    """Return (start, end) of each gap of more than `threshold_s` between frames, clipped to [after, before].

    times: all frames of the camera, rising, inside the bounds or not. The time from the newest frame to `now` may be a
    gap too; the time before the oldest frame is not.
    """
    if not len(times):
        return []
    first = max(0, int(np.searchsorted(times, after)) - 1)
    last = int(np.searchsorted(times, before, side="right")) + 1
    known = np.append(times[first:last], now) if last > len(times) else times[first:last]
    found = np.flatnonzero(np.diff(known) > threshold_s)
    cut = [(max(float(known[n]), after), min(float(known[n + 1]), before)) for n in found]
    return [(start, end) for start, end in cut if start < end]


class Relevance:
    """A cache of frame scores by question, so that only frames that came since the last call are scored.

    Beyond `max_scores` the least recently used questions are dropped. Not thread-safe.
    """

    def __init__(self, max_scores: int = MAX_SCORES) -> None:
        self._max_scores = max_scores
        self._known: OrderedDict[Hashable, tuple[Int64, Float32]] = OrderedDict()  # frame ids, their scores

    def scores(self, key: Hashable, window: ScoredFrames, query: Float32) -> Float32:
        """Return the cosine of `query` (D,) with every frame of the window, (N,) float32.

        `key`: the camera and the question. `window`: all frames of the camera. Frames may have left it at the start and
        come at the end since the last call; after any other change, the frames from there on are scored again.
        """
        asked = window.frame_ids
        ids, known = self._known.pop(key, (asked[:0], np.zeros(0, np.float32)))
        first = int(np.searchsorted(ids, asked[0])) if len(asked) else 0
        same = ids[first : first + len(asked)] == asked[: max(0, len(ids) - first)]
        count = len(same) if same.all() else int(np.argmin(same))
        scores = np.concatenate([known[first : first + count], score_frames(window, query, count)])
        self._known[key] = (asked, scores)
        total = sum(len(held) for held, _ in self._known.values())
        while total > self._max_scores:
            total -= len(self._known.popitem(last=False)[1][0])
        return scores


# --- the endpoint ---


@dataclass(frozen=True, slots=True)
class View:
    """The part of the history to show. `after` or `before` None: from the oldest frame, to the newest."""

    camera: str
    after: float | None
    before: float | None
    question: str
    num_points: int
    keyframes: bool


class TimelineRoutes:
    """The timeline endpoint."""

    def __init__(self, agent: Agent, guard: Guard) -> None:
        self.agent = agent
        self.guard = guard
        self._turns = Turns(MAX_WAITING)
        self._queries: OrderedDict[str, TextFeatures] = OrderedDict()
        self._relevance = Relevance()

    def routes(self) -> list[Route]:
        return [Route("/v1/cameras/{camera}/timeline", self.timeline)]

    async def timeline(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        check_names(request, "after", "before", "question", "points", "keyframes")
        view = await self._view(request)
        try:
            async with self._turns.place(), self._turns.turn():
                query = await self._query(view.question) if view.question else None
                return JsonResponse(await self._draw(view, query))
        except TooManyWaiting:
            raise Busy(_RETRY_S, "Too many timelines at once") from None

    async def _view(self, request: Request) -> View:
        camera = await path_camera(self.agent.cameras, request)
        after, before = span(request, self.agent.cameras.zone_of(camera))
        return View(
            camera,
            after,
            before,
            request.query_params.get("question", "").strip(),
            whole_number(request, "points", DEFAULT_POINTS, MAX_POINTS),
            flag(request, "keyframes", True),
        )

    async def _query(self, text: str) -> "TextFeatures":
        query = self._queries.pop(text, None) or await self.agent.answering.embed(text)
        self._queries[text] = query
        if len(self._queries) > _MAX_QUESTIONS:
            self._queries.popitem(last=False)
        return query

    async def _draw(self, view: View, query: "TextFeatures | None") -> dict[str, Any]:
        drawn = await pools.web(self._drawn, view, query)
        drawn["keyframes"] = []
        if query is not None and view.keyframes and drawn["frames"]:
            question = Question(view.question, (view.camera,), view.after, view.before)
            answering = self.agent.answering
            question = await answering.read(question)
            searched = await answering.window(await answering.scope(question))
            chosen: dict[int, dict[str, Any]] = {}  # by frame: several searches may choose the same one
            for text in answering.search_texts(question):
                sought = query if text == view.question else await self._query(text)
                for each in self._keyframes(searched, await answering.select(searched, sought, question)):
                    chosen.setdefault(each["frame_id"], each)
            drawn["keyframes"] = sorted(chosen.values(), key=lambda each: float(each["time"]))
        return drawn

    def _drawn(self, view: View, query: "TextFeatures | None") -> dict[str, Any]:
        """Return the response without its keyframes."""
        store = self.agent.store
        window = store.window((view.camera,))
        stats = store.stats(view.camera)
        pending = self._pending(view.camera) if window.unencoded else []
        times = np.sort(np.append(window.times, pending)) if pending else window.times
        after, before = _bounds(view, times)
        threshold_s = gap_threshold_s(times, self.agent.settings.camera(view.camera).rate_hz)
        first, stop = np.searchsorted(window.times, after), np.searchsorted(window.times, before, side="right")
        rows = slice(int(first), int(stop))
        scores = None if query is None else self._relevance.scores((view.camera, view.question), window, query.unit)
        bins = bin_frames(window.times[rows], None if scores is None else scores[rows], after, before, view.num_points)
        gaps = find_gaps(times, after, before, self.agent.clocks.now(), threshold_s)
        bin_s = (before - after) / view.num_points
        return {
            "object": "timeline",
            "camera": view.camera,
            "timezone": self.agent.cameras.zone_of(view.camera),
            "after": after,
            "before": before,
            "bin_s": bin_s,
            "gap_s": threshold_s,
            "oldest": stats.oldest,
            "newest": stats.newest,
            "frames": rows.stop - rows.start,
            "unencoded": sum(after <= time <= before for time in pending),
            "points": _points(window, bins, rows.start, after, bin_s),
            **_visits(window, scores, rows),
            "gaps": [[start, end] for start, end in gaps if end - start >= bin_s],
            "alerts": [_flag(alert) for alert in self._alerts(view.camera, after, before)],
        }

    def _alerts(self, camera: str, after: float, before: float) -> list[Alert]:
        """Return the newest alerts that overlap the bounds, oldest first."""
        newest = self.agent.alert_store.alerts(Filter(camera=camera, before=before, limit=MAX_ALERTS))
        return [alert for alert in reversed(newest) if alert.end_time is None or alert.end_time >= after]

    def _pending(self, camera: str) -> list[float]:
        """Return the times (unix seconds) of this camera's frames that are waiting for the encoder."""
        times = []
        for frame_id in self.agent.store.pending(_MAX_PENDING):
            try:
                record = self.agent.store.record(frame_id)
            except FrameGone:  # deleted in the meantime
                continue
            if record.camera == camera:
                times.append(record.time)
        return times

    def _keyframes(self, window: Window, keyframes: "Keyframes") -> list[dict[str, Any]]:
        listed = []
        for row, kind, score in zip(keyframes.rows, keyframes.kinds, keyframes.scores, strict=True):
            frame_id = int(window.frame_ids[row])
            url = self.guard.frame_url(frame_id)
            time = float(window.times[row])
            listed.append(
                {"frame_id": frame_id, "time": time, "kind": kind, "score": round(float(score), 4), "url": url}
            )
        return listed


def _flag(alert: Alert) -> dict[str, Any]:
    message = json.loads(alert.on_event)["message"]
    return {"id": alert.id, "rule": alert.rule, "start": alert.start_time, "end": alert.end_time, "message": message}


def _bounds(view: View, times: Float64) -> tuple[float, float]:
    """Return start and end of the view in unix seconds.

    A bound that the view does not give is taken from `times` (rising, of all frames): the oldest or the newest frame.
    It is moved if start and end would be less than one second apart. Bounds that the view gives are never moved.
    """
    after, before = view.after, view.before
    if after is None:
        oldest = float(times[0]) if len(times) else 0.0
        after = oldest if before is None else min(oldest, before - 1.0)
    if before is None:
        before = max(after + 1.0, float(times[-1]) if len(times) else 0.0)
    return after, before


def _visits(window: Window, scores: Float32 | None, rows: slice) -> dict[str, Any]:
    """Return the visits of the frames in these rows, and the background of all frames: JSON fields of the response.

    scores: of all frames of the window, which are those of one camera.
    """
    if scores is None or not len(scores):
        return {"visits": [], "background": None}
    shown = scores[rows]
    found = find_visits(shown, window.times[rows], [len(shown)])
    moved = [
        replace(each, start=each.start + rows.start, peak=each.peak + rows.start, end=each.end + rows.start)
        for each in found
    ]
    level, noise = background_of(scores, segment_starts(window.times))
    limit = strength_of(MOST_BY_CHANCE, len(shown))
    return {
        "visits": visits_json(visits_of(window, moved)),
        "background": {"level": level, "noise": noise, "limit": limit},
    }


def _points(window: Window, bins: Bins, first: int, after: float, bin_s: float) -> list[dict[str, Any]]:
    """Return the bins as JSON. first: the window's row of the first frame in the bins; after: start of the first bin."""
    starts = np.round(after + bins.number * bin_s, 3).tolist()
    best = first + bins.best
    ids, times = window.frame_ids[best].tolist(), window.times[best].tolist()
    empty = [None] * len(starts)
    highest = empty if bins.highest is None else np.round(bins.highest.astype(float), 4).tolist()
    mean = empty if bins.mean is None else np.round(bins.mean.astype(float), 4).tolist()
    names = ("t", "count", "max", "mean", "frame_id", "time")
    columns = zip(starts, bins.counts.tolist(), highest, mean, ids, times, strict=True)
    return [dict(zip(names, values, strict=True)) for values in columns]
