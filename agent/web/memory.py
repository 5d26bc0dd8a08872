"""Keeping and forgetting over HTTP: what is held, erasing, the evidence clip.

GET    /v1/memory                                       what is held, per camera and for the whole folder
DELETE /v1/cameras/{camera}/frames?after=&before=       erases for good; both bounds, or all=true
PUT    /v1/cameras/{camera}/metadata                    what goes with its next frames, such as a robot's pose
GET    /v1/cameras/{camera}/export?after=&before=       a ZIP with the window as a video and its log as JSON
"""

import asyncio
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from agent.app import Agent
from agent.errors import BadRequest, Busy, EraseUnfinished, NoFrames, Problem, TooLarge
from agent.ingest.metadata import MAX_METADATA_BYTES, check_metadata
from agent.keep.erasing import NotErasedYet
from agent.keep.erasing import Request as Erasure
from agent.keep.export import NothingToExport, TooManyFrames, export, log_text
from agent.keep.holdings import folder_holdings, holdings
from agent.runtime import pools
from agent.runtime.lanes import TooManyWaiting, Turns
from agent.times import format_stamp
from agent.untrusted.strict_json import parse_json
from agent.untrusted.wire import JsonResponse
from agent.web.body import read_body
from agent.web.guard import Guard
from agent.web.url import check_names, flag, moment

_EXPORT_RETRY_S = 5.0
_LOOK_S = 0.5  # how often an export looks whether its client is still there


class MemoryRoutes:
    """The endpoints, over one agent."""

    def __init__(self, agent: Agent, guard: Guard) -> None:
        self.agent = agent
        self.guard = guard
        self._exports = Turns(1)

    def routes(self) -> list[Route]:
        """Every route of this file."""
        return [
            Route("/v1/memory", self.memory),
            Route("/v1/cameras/{camera}/frames", self.erase, methods=["DELETE"]),
            Route("/v1/cameras/{camera}/export", self.export),
            Route("/v1/cameras/{camera}/metadata", self.tell, methods=["PUT"]),
        ]

    async def memory(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        check_names(request)
        return JsonResponse(await pools.web(self._held))

    def _held(self) -> dict[str, Any]:
        store, settings = self.agent.store, self.agent.settings
        cameras = [holdings(name, store.stats(name), settings) for name in store.cameras()]
        return {"object": "memory", "folder": folder_holdings(cameras, settings), "data": cameras}

    async def erase(self, request: Request) -> Response:
        """Erases; waits until nothing is left on the disk."""
        self.guard.check(request, "admin")
        check_names(request, "after", "before", "all")
        (camera,) = await pools.web(self.agent.cameras.existing, (request.path_params["camera"],))
        zone = self.agent.cameras.zone_of(camera)
        after, before = moment(request, "after", zone), moment(request, "before", zone)
        everything = flag(request, "all", False)
        if everything == (after is not None or before is not None) or (not everything and None in (after, before)):
            raise BadRequest("Send both 'after' and 'before', or all=true to erase everything of this camera.")
        if after is not None and before is not None and after > before:
            raise BadRequest("'after' must not be later than 'before'.", param="after")
        try:
            erased = await pools.erasing(self.agent.erasing.erase, Erasure(camera, after, before))
        except NotErasedYet as error:
            raise EraseUnfinished(f"{str(error).capitalize()}.") from error
        except OSError as error:
            raise EraseUnfinished(f"Nothing is erased yet, as the request cannot be noted down: {error}.") from error
        return JsonResponse({"object": "erasure", "camera": camera, "after": after, "before": before, "erased": erased})

    async def tell(self, request: Request) -> Response:
        """What a publisher says beside its pictures: a JSON object, kept with the frames of the next seconds."""
        name = request.path_params["camera"]
        self.guard.check(request, f"publish:{name}")
        (camera,) = await pools.web(self.agent.cameras.existing, (name,))
        told = check_metadata(parse_json(await read_body(request, MAX_METADATA_BYTES)))
        now = self.agent.clocks.now()
        self.agent.cameras.intake_of(camera).add_metadata(told, now, now)
        return Response(status_code=204)

    async def export(self, request: Request) -> Response:
        """One clip is made at a time; whoever comes meanwhile is refused at once (429)."""
        self.guard.check_signed(request, "ask", ("after", "before"))
        check_names(request, "after", "before")
        (camera,) = await pools.web(self.agent.cameras.existing, (request.path_params["camera"],))
        zone = self.agent.cameras.zone_of(camera)
        after, before = moment(request, "after", zone), moment(request, "before", zone)
        if after is None or before is None or after >= before:
            raise BadRequest("Send 'after' and 'before', the first earlier than the second.", param="after")
        folder = tempfile.TemporaryDirectory(prefix="vilamp-export-")
        try:
            async with self._exports.place():
                path = await self._make(request, camera, after, before, Path(folder.name))
        except TooManyWaiting:
            folder.cleanup()
            raise Busy(_EXPORT_RETRY_S, "Another clip is being made, and one is made at a time") from None
        except BaseException:
            folder.cleanup()
            raise
        cleanup = BackgroundTask(folder.cleanup)
        return FileResponse(path, media_type="application/zip", filename=path.name, background=cleanup)

    async def _make(self, request: Request, camera: str, after: float, before: float, folder: Path) -> Path:
        """The ZIP; given up when the client goes away."""
        gone = threading.Event()
        making = asyncio.create_task(pools.upkeep(self._zip, camera, after, before, folder, gone.is_set))
        try:
            while not making.done():
                await asyncio.wait([making], timeout=_LOOK_S)
                if await request.is_disconnected():
                    gone.set()
            return making.result()
        except NothingToExport as error:
            raise NoFrames(f"{str(error).capitalize()}: widen after/before.") from None
        except TooManyFrames as error:
            raise TooLarge(f"{str(error).capitalize()}.", param="before") from None
        except OSError as error:
            raise Problem(f"The clip cannot be written: {error.strerror or error}.") from error
        finally:
            gone.set()
            if not making.done():
                await asyncio.wait([making])  # one frame at most; its folder goes next

    def _zip(self, camera: str, after: float, before: float, folder: Path, cancelled: Callable[[], bool]) -> Path:
        agent, zone = self.agent, self.agent.cameras.zone_of(camera)
        name = f"{camera}-{format_stamp(after, zone)}"
        video = folder / f"{name}.mp4"
        log = export(agent.store, camera, after, before, zone=zone, now=agent.clock(), video=video, cancelled=cancelled)
        path = folder / f"{name}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.write(video, video.name)
            archive.writestr(f"{name}.json", log_text(log))
        video.unlink()
        return path
