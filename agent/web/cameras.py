"""Cameras and their stored frames over HTTP: lists, single frames, and pictures as JPEG.

A picture can be requested with a token, or with the signed URL in the frame's JSON until that URL expires.
"""

import math
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.app import Agent
from agent.errors import BadRequest, NotFound, StorageFailed
from agent.ingest.jpeg import smaller_jpeg
from agent.runtime import pools
from agent.untrusted.plain import plain_line
from agent.untrusted.wire import JsonResponse
from agent.web.guard import Guard
from agent.web.url import check_names, moment, path_camera, place, whole_number
from memory.errors import FrameGone, StorageError
from memory.records import FrameRecord
from memory.window import Window

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
MAX_WIDTH = 7680


class CameraRoutes:
    """Endpoints for cameras and frames."""

    def __init__(self, agent: Agent, guard: Guard) -> None:
        self.guard = guard
        self._cameras, self._store, self._settings = agent.cameras, agent.store, agent.settings

    def routes(self) -> list[Route]:
        return [
            Route("/v1/cameras", self.cameras),
            Route("/v1/cameras/{camera}", self.camera),
            Route("/v1/cameras/{camera}/frames", self.frames),
            Route("/v1/frames/{frame_id:frame}.jpg", self.picture),
            Route("/v1/frames/{frame_id:frame}", self.frame),
        ]

    async def cameras(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        return JsonResponse(await pools.web(self._describe_all))

    async def camera(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        camera = await path_camera(self._cameras, request)
        return JsonResponse(await pools.web(self._describe, camera))

    async def frames(self, request: Request) -> Response:
        """Respond with one page of frames with times in [after, before], oldest first.

        Only frames that the model has already encoded are listed.

        `next_after` in the response is the `after` to send for the next page, null on the last page. With `order=desc`
        the newest come first, and `next_before` is the `before` to send for the next page.
        """
        self.guard.check(request, "ask")
        check_names(request, "after", "before", "limit", "order", "within")
        camera = await path_camera(self._cameras, request)
        zone = self._cameras.zone_of(camera)
        after, before = (moment(request, name, zone) for name in ("after", "before"))
        limit = whole_number(request, "limit", DEFAULT_LIMIT, MAX_LIMIT)
        newest_first = _newest_first(request)
        window = await pools.web(self._store.window, (camera,), after, before, place(request, "within"))
        return JsonResponse(await pools.web(self._list, camera, window, limit, newest_first))

    def _list(self, camera: str, window: Window, limit: int, newest_first: bool) -> dict[str, Any]:
        rows = range(window.num_frames)[:: -1 if newest_first else 1][:limit]
        listed = [
            self._frame(FrameRecord(int(window.frame_ids[row]), camera, float(window.times[row]), window.metadata(row)))
            for row in rows
        ]
        name, beyond = ("next_before", -math.inf) if newest_first else ("next_after", math.inf)
        bound = math.nextafter(float(window.times[rows[-1]]), beyond) if window.num_frames > limit else None
        return {"object": "list", "data": listed, name: bound, "unencoded": window.unencoded}

    async def frame(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        return JsonResponse(await pools.web(lambda: self._frame(self._record(request))))

    async def picture(self, request: Request) -> Response:
        """Respond with the JPEG of a frame as it is stored, or scaled down to at most `width` pixels."""
        self.guard.check_signed(request, "ask")
        check_names(request, "width")
        width = whole_number(request, "width", MAX_WIDTH, MAX_WIDTH)
        try:
            jpeg = await pools.web(self._store.jpeg, request.path_params["frame_id"])
            if "width" in request.query_params:
                jpeg = await pools.web(smaller_jpeg, jpeg, width)
        except StorageError as error:
            message = f"The picture cannot be read now, try again: {error.strerror or error}."
            raise StorageFailed(message, headers={"Retry-After": "2"}) from error
        except (FrameGone, OSError):
            raise _gone(request) from None
        return Response(jpeg, media_type="image/jpeg")

    def _describe_all(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._describe(name) for name in self._cameras.names()]}

    def _record(self, request: Request) -> FrameRecord:
        try:
            return self._store.record(request.path_params["frame_id"])
        except FrameGone:
            raise _gone(request) from None

    def _frame(self, record: FrameRecord) -> dict[str, Any]:
        return {
            "frame_id": record.frame_id,
            "object": "frame",
            "camera": record.camera,
            "time": record.time,
            "metadata": record.metadata,
            "url": self.guard.frame_url(record.frame_id),
        }

    def _latest(self, camera: str, newest: float | None) -> dict[str, Any] | None:
        """Return the camera's newest frame as JSON; None if no frame is stored.

        After a restart of the agent, this is the newest frame that the model has encoded, until the camera sends
        another. newest: the time of that encoded frame.
        """
        intake = self._cameras.intakes.get(camera)
        with suppress(FrameGone):
            if intake is not None and intake.newest_id is not None:
                return self._frame(self._store.record(intake.newest_id))
            window = self._store.window((camera,), newest)
            if newest is not None and window.num_frames:
                return self._frame(self._store.record(int(window.frame_ids[-1])))
        return None

    def _describe(self, camera: str) -> dict[str, Any]:
        stats = self._store.stats(camera)
        intake = self._cameras.intakes.get(camera)
        described: dict[str, Any] = {
            "id": camera,
            "object": "camera",
            "state": self._cameras.state(camera),
            "timezone": self._cameras.zone_of(camera),
            "frames": stats.frames,
            "encoded": stats.encoded,
            "bytes": stats.bytes,
            "oldest": stats.oldest,
            "newest": stats.newest,
            "latest": self._latest(camera, stats.newest),
            "recorder_url": self._settings.camera(camera).recorder_url,
            "problem": self._cameras.problem(camera),
            "remembered": 0 if intake is None else intake.counters.remembered,
            "lost": 0 if intake is None else intake.counters.lost,
            "sessions": 0 if intake is None else intake.counters.sessions,
            "source": None,
            "past_sessions": [
                {**asdict(each), "client": plain_line(each.client), "detail": plain_line(each.detail)}
                for each in self._cameras.past_sessions(camera)
            ],
        }
        connected = None if intake is None else intake.source
        if connected is not None:
            source = connected.stats
            described["source"] = {
                "state": source.state,
                "received": source.received,
                "kept": source.kept,
                "dropped": source.dropped,
                "damaged": source.damaged,
                "packets_received": source.packets_received,
                "packets_lost": source.packets_lost,
                "reconnects": source.reconnects,
                "clock": source.clock,
                "sender_clock_s": source.sender_clock_s,
                "codec": source.codec,
                "rate_hz": round(1 / source.interval_s, 2) if source.interval_s else None,
                "width": source.width,
                "height": source.height,
                "detail": plain_line(source.detail) if source.detail else source.detail,
                "remarks": {about: plain_line(words) for about, words in list(source.remarks.items())},
            }
        return described


def _newest_first(request: Request) -> bool:
    order = request.query_params.get("order", "asc")
    if order not in ("asc", "desc"):
        raise BadRequest("'order' is asc or desc.", param="order")
    return order == "desc"


def _gone(request: Request) -> NotFound:
    return NotFound(f"Frame {request.path_params['frame_id']} is not remembered (any more).")
