"""What is remembered, over HTTP: cameras, lists of frames, and the frames themselves as JPEG.

A picture opens with a token or with the signed URL that a citation carries; such a URL expires.
"""

import math
from contextlib import suppress
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
from agent.web.url import check_names, moment, place, whole_number
from memory.errors import FrameGone, StorageError
from memory.records import FrameRecord
from memory.window import Window

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
MAX_WIDTH = 7680


class CameraRoutes:
    """The endpoints, over one agent."""

    def __init__(self, agent: Agent, guard: Guard) -> None:
        self.agent = agent
        self.guard = guard

    def routes(self) -> list[Route]:
        """Every route of this file."""
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
        camera = await self._named(request)
        return JsonResponse(await pools.web(self._describe, camera))

    async def frames(self, request: Request) -> Response:
        """Encoded frames inside [after, before], rising time; `next_after`, where given, begins the next page.

        With `order=desc` the newest come first, and `next_before` ends the next page.
        """
        self.guard.check(request, "ask")
        check_names(request, "after", "before", "limit", "order", "within")
        camera = await self._named(request)
        zone = self.agent.cameras.zone_of(camera)
        after, before = (moment(request, name, zone) for name in ("after", "before"))
        limit = whole_number(request, "limit", DEFAULT_LIMIT, MAX_LIMIT)
        newest_first = _newest_first(request)
        window = await pools.web(self.agent.store.window, (camera,), after, before, place(request, "within"))
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
        """The JPEG as it is kept, or at most `width` pixels across."""
        self.guard.check_signed(request, "ask")
        check_names(request, "width")
        width = whole_number(request, "width", MAX_WIDTH, MAX_WIDTH)
        try:
            jpeg = await pools.web(self.agent.store.jpeg, request.path_params["frame_id"])
            if "width" in request.query_params:
                jpeg = await pools.web(smaller_jpeg, jpeg, width)
        except StorageError as error:
            message = f"The picture cannot be read now, try again: {error.strerror or error}."
            raise StorageFailed(message, headers={"Retry-After": "2"}) from error
        except (FrameGone, OSError):
            raise _gone(request) from None
        return Response(jpeg, media_type="image/jpeg")

    async def _named(self, request: Request) -> str:
        (camera,) = await pools.web(self.agent.cameras.existing, (request.path_params["camera"],))
        return camera

    def _describe_all(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._describe(name) for name in self.agent.cameras.names()]}

    def _record(self, request: Request) -> FrameRecord:
        try:
            return self.agent.store.record(request.path_params["frame_id"])
        except FrameGone:
            raise _gone(request) from None

    def _frame(self, record: FrameRecord) -> dict[str, Any]:
        url = self.guard.sign(f"/v1/frames/{record.frame_id}.jpg")
        return {
            "frame_id": record.frame_id,
            "object": "frame",
            "camera": record.camera,
            "time": record.time,
            "metadata": record.metadata,
            "url": url,
        }

    def _latest(self, camera: str, newest: float | None) -> dict[str, Any] | None:
        """The newest frame; after a restart the newest one that is encoded, until another comes."""
        intake = self.agent.cameras.intakes.get(camera)
        with suppress(FrameGone):
            if intake is not None and intake.newest_id is not None:
                return self._frame(self.agent.store.record(intake.newest_id))
            window = self.agent.store.window((camera,), newest)
            if newest is not None and window.num_frames:
                return self._frame(self.agent.store.record(int(window.frame_ids[-1])))
        return None

    def _describe(self, camera: str) -> dict[str, Any]:
        stats = self.agent.store.stats(camera)
        intake = self.agent.cameras.intakes.get(camera)
        described: dict[str, Any] = {
            "id": camera,
            "object": "camera",
            "state": self.agent.cameras.state(camera),
            "timezone": self.agent.cameras.zone_of(camera),
            "frames": stats.frames,
            "encoded": stats.encoded,
            "bytes": stats.bytes,
            "oldest": stats.oldest,
            "newest": stats.newest,
            "latest": self._latest(camera, stats.newest),
            "recorder_url": self.agent.settings.camera(camera).recorder_url,
            "problem": self.agent.cameras.problem(camera),
            "remembered": 0 if intake is None else intake.counters.remembered,
            "lost": 0 if intake is None else intake.counters.lost,
            "sessions": 0 if intake is None else intake.counters.sessions,
            "source": None,
        }
        connected = None if intake is None else intake.source
        if connected is not None:
            source = connected.stats
            described["source"] = {
                "state": source.state,
                "received": source.received,
                "kept": source.kept,
                "dropped": source.dropped,
                "reconnects": source.reconnects,
                "clock": source.clock,
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
