"""Alerts over HTTP: lists of alerts that fired or were suppressed, their pictures, and a stream of alert events.

    GET /v1/alerts                       list of alerts, newest first, filtered by the query
    GET /v1/alerts/{id}                  one alert that fired
    GET /v1/alerts/{id}/snapshot.jpg     the picture of that alert
    GET /v1/alerts/stream                server-sent events with the same payloads as over MQTT

A suppressed alert is an alert that a rule began to consider but did not raise; its `reason` says why. All requests need
a token with the scope `ask`. A picture and the stream may be requested with a signed URL instead, because a browser's
`<img>` and `EventSource` send no headers. Streams read from the alert store, so a slow client delays nobody and misses
no event that is still stored.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.alerts.event import clip_path
from agent.alerts.store import Alert, Filter, Suppressed
from agent.app import Agent
from agent.errors import BadRequest, NotFound, shown
from agent.runtime import pools
from agent.untrusted.wire import JsonResponse
from agent.web.guard import Guard
from agent.web.streams import LongResponses
from agent.web.url import check_names, moment, whole_number

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
MAX_CURSOR = 10**9 - 1


class AlertRoutes:
    """Endpoints for alerts."""

    def __init__(self, agent: Agent, guard: Guard, responses: LongResponses) -> None:
        self.guard = guard
        self.responses = responses
        self._store, self._cameras = agent.alert_store, agent.cameras
        self._loop: asyncio.AbstractEventLoop | None = None  # set by the first stream
        self._pulse = asyncio.Event()  # set, and replaced by a new one, whenever an event is stored
        self._ended = False
        self._store.listen(self._committed)

    def routes(self) -> list[Route]:
        return [
            Route("/v1/alerts", self.alerts),
            Route("/v1/alerts/stream", self.stream),
            Route("/v1/alerts/{id}", self.alert),
            Route("/v1/alerts/{id}/snapshot.jpg", self.snapshot),
        ]

    async def alerts(self, request: Request) -> Response:
        """Respond with one page of alerts.

        `next_cursor` in the response is the `cursor` to send for the next page; it is null on the last page.
        """
        self.guard.check(request, "ask")
        check_names(request, "rule", "camera", "kind", "after", "before", "limit", "cursor")
        wanted = self._filter(request)
        kind = request.query_params.get("kind", "fired")
        if kind not in ("fired", "suppressed"):
            raise BadRequest("'kind' is fired or suppressed.", param="kind")
        page = await pools.alerts(self._fired if kind == "fired" else self._suppressed, wanted)
        return JsonResponse({**page, "stream_url": self.guard.sign("/v1/alerts/stream")})

    async def alert(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        found = await pools.alerts(self._store.alert, request.path_params["id"])
        if found is None:
            raise _unknown(request)
        return JsonResponse(self._describe(found))

    async def snapshot(self, request: Request) -> Response:
        self.guard.check_signed(request, "ask")
        jpeg = await pools.alerts(self._store.snapshot, request.path_params["id"])
        if jpeg is None:
            raise _unknown(request)
        return Response(jpeg, media_type="image/jpeg")

    async def stream(self, request: Request) -> Response:
        """Respond with a stream of the events stored from now on.

        If the client sends `Last-Event-ID`, the stream begins after that event instead. The first line is the id of the
        newest event without the event itself, so that a client that is disconnected before any event arrives can
        resume.
        """
        self.guard.check_signed(request, "ask")
        check_names(request, "rule", "camera")
        query = request.query_params
        self._loop = asyncio.get_running_loop()
        last = request.headers.get("last-event-id", "")
        if last and not (last.isascii() and last.isdigit() and len(last) <= 9):
            raise BadRequest("'Last-Event-ID' is the id of an event of this stream.", param="Last-Event-ID")
        newest = await pools.alerts(self._store.newest_event)
        begin = min(int(last), newest) if last else newest
        if request.method == "HEAD":  # HEAD gets the headers only, as the stream itself never ends
            return Response(media_type="text/event-stream")
        return self.responses.stream(self._events(begin, query.get("rule"), query.get("camera")))

    # --- lists ---

    def _filter(self, request: Request) -> Filter:
        query = request.query_params
        camera = query.get("camera")
        zone = "UTC" if camera is None else self._cameras.zone_of(camera)
        return Filter(
            rule=query.get("rule"),
            camera=camera,
            after=moment(request, "after", zone),
            before=moment(request, "before", zone),
            cursor=whole_number(request, "cursor", 0, MAX_CURSOR) or None,
            limit=whole_number(request, "limit", DEFAULT_LIMIT, MAX_LIMIT),
        )

    def _fired(self, wanted: Filter) -> dict[str, Any]:
        found = self._store.alerts(wanted)
        return _page([self._describe(alert) for alert in found], found, wanted.limit)

    def _suppressed(self, wanted: Filter) -> dict[str, Any]:
        found = self._store.suppressed(wanted)
        return _page([self._describe_suppressed(each) for each in found], found, wanted.limit)

    def _describe(self, alert: Alert) -> dict[str, Any]:
        """Return an alert as JSON: the fields of the events for its begin and its end, and newly signed URLs."""
        on: dict[str, Any] = json.loads(alert.on_event)
        off: dict[str, Any] | None = None if alert.off_event is None else json.loads(alert.off_event)
        evidence = [*on["frames"], *(off["frames"] if off else [])]
        copied = ("condition", "message", "confirmations", "score", "model", "latency_s")
        picture = self.guard.sign(f"/v1/alerts/{alert.id}/snapshot.jpg") if alert.has_snapshot else None
        clip = clip_path(alert.camera, alert.start_time, alert.end_time or alert.time)
        return {
            "object": "alert",
            "id": alert.id,
            "rule": alert.rule,
            "camera": alert.camera,
            "start_time": alert.start_time,
            "time": alert.time,
            "end_time": alert.end_time,
            **{name: on[name] for name in copied},
            "frames": [{**frame, "url": self.guard.frame_url(frame["id"])} for frame in evidence],
            "snapshot_url": picture,
            "clip_url": self.guard.sign(clip),
        }

    def _describe_suppressed(self, each: Suppressed) -> dict[str, Any]:
        url = None if each.frame_id is None else self.guard.frame_url(each.frame_id)
        return {
            "object": "suppressed_alert",
            "rule": each.rule,
            "camera": each.camera,
            "time": each.time,
            "reason": each.reason,
            "score": each.score,
            "frame_id": each.frame_id,
            "url": url,
        }

    # --- the stream ---

    def _committed(self) -> None:
        """Wake the responses that stream alert events, because an event was stored.

        Called in the thread that stored it.
        """
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._beat)

    def end_streams(self) -> None:
        """End all responses that stream alert events.

        Called when the server shuts down, because streams never end by themselves.
        """
        self._ended = True
        self._beat()

    def _beat(self) -> None:
        pulse, self._pulse = self._pulse, asyncio.Event()
        pulse.set()

    async def _events(self, begin: int, rule: str | None, camera: str | None) -> AsyncGenerator[bytes, None]:
        yield b"id: %d\n\n" % begin
        last = begin
        while not self._ended:
            pulse = self._pulse  # read before the store, so that an event stored in between sets this one
            events = await pools.alerts(self._store.events, last)
            for event in events:
                last = event.seq
                if rule in (None, event.rule) and camera in (None, event.camera):
                    yield b"id: %d\nevent: alert\ndata: %s\n\n" % (event.seq, event.payload)
            if not events:
                await pulse.wait()


def _page(listed: list[dict[str, Any]], found: list[Alert] | list[Suppressed], limit: int) -> dict[str, Any]:
    return {"object": "list", "data": listed, "next_cursor": found[-1].seq if len(found) == limit else None}


def _unknown(request: Request) -> NotFound:
    return NotFound(f"There is no alert '{shown(request.path_params['id'])}' (any more), or it has no picture.")
