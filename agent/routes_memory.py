"""Keeping and forgetting over HTTP: what is held, erasing, the evidence clip.

    GET    /v1/memory                                       what is held, per camera and for the whole folder
    DELETE /v1/cameras/{camera}/frames?after=&before=       erases for good; both bounds, or all=true
    GET    /v1/cameras/{camera}/export?after=&before=       a ZIP with the window as a video and its log as JSON
"""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent.agent import Agent
from agent.erasing import NotErasedYet
from agent.erasing import Request as Erasure
from agent.guard import Guard
from agent.holdings import folder_holdings, holdings
from agent.problems import BadRequest, EraseUnfinished
from agent.query import flag, moment


class MemoryRoutes:
    """The endpoints, over one agent."""

    def __init__(self, agent: Agent, guard: Guard) -> None:
        self.agent = agent
        self.guard = guard

    def routes(self) -> list[Route]:
        """Every route of this file."""
        return [
            Route("/v1/memory", self.memory),
            Route("/v1/cameras/{camera}/frames", self.erase, methods=["DELETE"]),
        ]

    async def memory(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        return JSONResponse(await asyncio.to_thread(self._held))

    def _held(self) -> dict[str, Any]:
        store, settings = self.agent.store, self.agent.settings
        cameras = [holdings(name, store.stats(name), settings) for name in store.cameras()]
        return {"object": "memory", "folder": folder_holdings(cameras, settings), "data": cameras}

    async def erase(self, request: Request) -> Response:
        """Erases; waits until nothing is left on the disk."""
        self.guard.check(request, "admin")
        (camera,) = await asyncio.to_thread(self.agent.existing, (request.path_params["camera"],))
        zone = self.agent.zone_of(camera)
        after, before = moment(request, "after", zone), moment(request, "before", zone)
        everything = flag(request, "all", False)
        if everything == (after is not None or before is not None) or (not everything and None in (after, before)):
            raise BadRequest("Send both 'after' and 'before', or all=true to erase everything of this camera.")
        if after is not None and before is not None and after > before:
            raise BadRequest("'after' must not be later than 'before'.", param="after")
        try:
            erased = await asyncio.to_thread(self.agent.erasing.erase, Erasure(camera, after, before))
        except NotErasedYet as error:
            raise EraseUnfinished(str(error)) from error
        return JSONResponse({"object": "erasure", "camera": camera, "after": after, "before": before, "erased": erased})
