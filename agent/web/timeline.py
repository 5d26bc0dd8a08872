"""The timeline of a camera over HTTP: relevance to a question, the keyframes an answer would take, gaps, alerts.

    GET /v1/cameras/{camera}/timeline?after=&before=&question=&points=&keyframes=
    {"after", "before", "bin_s", "gap_s", "oldest", "newest", "frames", "unencoded", "timezone",
     "points": [{"t", "count", "max", "mean", "frame_id", "time"}],        one for each bin that holds frames
     "keyframes": [{"frame_id", "time", "kind", "score", "url"}],
     "gaps": [[t0, t1]], "alerts": [{"id", "rule", "start", "end", "message"}]}

However long the history, at most `points` points come back. Overload policy: timelines are computed one at a time;
whoever comes while `MAX_WAITING` are inside is refused at once (429).
"""

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.alerts.store import Alert, Filter
from agent.app import Agent
from agent.ask.question import Question
from agent.ask.request import parse_span
from agent.errors import Busy
from agent.runtime import pools
from agent.runtime.lanes import TooManyWaiting, Turns
from agent.untrusted.wire import JsonResponse
from agent.web.bins import Bins, Relevance, bin_frames, find_gaps, gap_threshold_s
from agent.web.guard import Guard
from agent.web.url import check_names, flag, whole_number
from memory.errors import FrameGone
from memory.window import Window

if TYPE_CHECKING:
    from model.features import TextFeatures
    from model.select import Keyframes

DEFAULT_POINTS, MAX_POINTS = 800, 4000
MAX_WAITING = 16
MAX_ALERTS = 200
_HELD_QUESTIONS = 8
_RETRY_S = 2.0
_MAX_PENDING = 10_000  # frames not yet encoded that are looked up, so as not to be taken for gaps


@dataclass(frozen=True, slots=True)
class View:
    """What was asked for. `after` and `before` None: as far as the memory goes."""

    camera: str
    after: float | None
    before: float | None
    question: str
    num_points: int
    keyframes: bool


class TimelineRoutes:
    """The endpoint, over one agent."""

    def __init__(self, agent: Agent, guard: Guard) -> None:
        self.agent = agent
        self.guard = guard
        self._turns = Turns(MAX_WAITING)
        self._queries: OrderedDict[str, TextFeatures] = OrderedDict()
        self._relevance = Relevance()

    def routes(self) -> list[Route]:
        """Every route of this file."""
        return [Route("/v1/cameras/{camera}/timeline", self.timeline)]

    async def timeline(self, request: Request) -> Response:
        """See the module."""
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
        (camera,) = await pools.web(self.agent.cameras.existing, (request.path_params["camera"],))
        zone = self.agent.cameras.zone_of(camera)
        after, before = parse_span(request.query_params.get("after"), request.query_params.get("before"), zone)
        return View(
            camera,
            after,
            before,
            request.query_params.get("question", "").strip(),
            whole_number(request, "points", DEFAULT_POINTS, MAX_POINTS),
            flag(request, "keyframes", True),
        )

    async def _query(self, text: str) -> "TextFeatures":
        query = self._queries.pop(text, None) or await self.agent.answering.making.embed(text)
        self._queries[text] = query
        if len(self._queries) > _HELD_QUESTIONS:
            self._queries.popitem(last=False)
        return query

    async def _draw(self, view: View, query: "TextFeatures | None") -> dict[str, Any]:
        window, drawn = await pools.web(self._drawn, view, query)
        drawn["keyframes"] = []
        if query is not None and view.keyframes and window.num_frames:
            question = Question(view.question, (view.camera,), view.after, view.before)
            seen = await self.agent.answering.making.looked_at(question, window)
            chosen: dict[int, dict[str, Any]] = {}  # by frame, once each where an answer is made in steps
            for text in self.agent.answering.making.sought(question):
                sought = query if text == view.question else await self._query(text)
                for each in self._keyframes(seen, await self.agent.answering.making.choose(seen, sought)):
                    chosen.setdefault(each["frame_id"], each)
            drawn["keyframes"] = sorted(chosen.values(), key=lambda each: float(each["time"]))
        return drawn

    def _drawn(self, view: View, query: "TextFeatures | None") -> tuple[Window, dict[str, Any]]:
        """The window that was asked for, and all of the answer but its keyframes."""
        store = self.agent.store
        whole = store.window((view.camera,))
        window = store.window((view.camera,), view.after, view.before)
        stats = store.stats(view.camera)
        times = _with(whole.times, self._pending(view.camera) if whole.unencoded else [])
        after, before = _bounds(view, times)
        threshold_s = gap_threshold_s(times, self.agent.settings.camera(view.camera).rate_hz)
        scores = None if query is None else self._relevance.scores((view.camera, view.question), window, query.unit)
        bins = bin_frames(window.times, scores, after, before, view.num_points)
        gaps = find_gaps(times, after, before, self.agent.clocks.now(), threshold_s)
        bin_s = (before - after) / view.num_points
        return window, {
            "object": "timeline",
            "camera": view.camera,
            "timezone": self.agent.cameras.zone_of(view.camera),
            "after": after,
            "before": before,
            "bin_s": bin_s,
            "gap_s": threshold_s,
            "oldest": stats.oldest,
            "newest": stats.newest,
            "frames": window.num_frames,
            "unencoded": window.unencoded,
            "points": _points(window, bins, after, bin_s),
            "gaps": [[start, end] for start, end in gaps if end - start >= bin_s],
            "alerts": [_flag(alert) for alert in self._alerts(view.camera, after, before)],
        }

    def _alerts(self, camera: str, after: float, before: float) -> list[Alert]:
        """The newest ones that touch the bounds, rising time."""
        newest = self.agent.alert_store.alerts(Filter(camera=camera, before=before, limit=MAX_ALERTS))
        return [alert for alert in reversed(newest) if alert.end_time is None or alert.end_time >= after]

    def _pending(self, camera: str) -> list[float]:
        """Times of this camera's frames that wait for the encoder."""
        times = []
        for frame_id in self.agent.store.pending(_MAX_PENDING):
            try:
                record = self.agent.store.record(frame_id)
            except FrameGone:  # forgotten in between
                continue
            if record.camera == camera:
                times.append(record.time)
        return times

    def _keyframes(self, window: Window, keyframes: "Keyframes") -> list[dict[str, Any]]:
        listed = []
        for row, kind, score in zip(keyframes.rows, keyframes.kinds, keyframes.scores, strict=True):
            frame_id = int(window.frame_ids[row])
            url = self.guard.sign(f"/v1/frames/{frame_id}.jpg")
            time = float(window.times[row])
            listed.append(
                {"frame_id": frame_id, "time": time, "kind": kind, "score": round(float(score), 4), "url": url}
            )
        return listed


def _flag(alert: Alert) -> dict[str, Any]:
    message = json.loads(alert.on_event)["message"]
    return {"id": alert.id, "rule": alert.rule, "start": alert.start_time, "end": alert.end_time, "message": message}


def _with(times: np.ndarray, more: list[float]) -> np.ndarray:
    return np.sort(np.append(times, more)) if more else times


def _bounds(view: View, times: np.ndarray) -> tuple[float, float]:
    """The bounds asked for, or those of what is remembered; never empty."""
    after, before = view.after, view.before
    if after is None:
        oldest = float(times[0]) if len(times) else 0.0
        after = oldest if before is None else min(oldest, before - 1.0)
    if before is None:
        before = max(after + 1.0, float(times[-1]) if len(times) else 0.0)
    return after, before


def _points(window: Window, bins: Bins, after: float, bin_s: float) -> list[dict[str, Any]]:
    starts = np.round(after + bins.number * bin_s, 3).tolist()
    ids, times = window.frame_ids[bins.best].tolist(), window.times[bins.best].tolist()
    empty = [None] * len(starts)
    highest = empty if bins.highest is None else np.round(bins.highest.astype(float), 4).tolist()
    mean = empty if bins.mean is None else np.round(bins.mean.astype(float), 4).tolist()
    names = ("t", "count", "max", "mean", "frame_id", "time")
    columns = zip(starts, bins.counts.tolist(), highest, mean, ids, times, strict=True)
    return [dict(zip(names, values, strict=True)) for values in columns]
