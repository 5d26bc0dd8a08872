"""The memory over HTTP: its size, erasing and exporting frames, and metadata for frames that are not yet stored.

GET    /v1/memory                                    frames and bytes, per camera and in total
DELETE /v1/cameras/{camera}/frames?after=&before=    erases frames for good; needs both bounds, or all=true
PUT    /v1/cameras/{camera}/metadata                 JSON to store with the next frames, such as a robot's pose
GET    /v1/cameras/{camera}/export?after=&before=    a ZIP with the frames as a video and a JSON log
"""

import asyncio
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from agent.app import Agent
from agent.errors import BadRequest, Busy, EraseUnfinished, NoFrames, Problem, TooLarge
from agent.ingest.metadata import MAX_METADATA_BYTES, check_metadata
from agent.keep.caps import this_machine
from agent.keep.erasing import NotErasedYet
from agent.keep.erasing import Request as Erasure
from agent.keep.export import NothingToExport, TooManyFrames, export, log_text
from agent.keep.holdings import memory_summary
from agent.runtime import pools
from agent.runtime.lanes import TooManyWaiting, Turns
from agent.times import format_stamp
from agent.untrusted.strict_json import parse_json
from agent.untrusted.wire import JsonResponse
from agent.web.body import read_body
from agent.web.guard import Guard
from agent.web.streams import unless_gone
from agent.web.url import check_names, flag, moment, path_camera

_EXPORT_RETRY_S = 5.0


class MemoryRoutes:
    """Endpoints for the memory."""

    def __init__(self, agent: Agent, guard: Guard) -> None:
        self.agent = agent
        self.guard = guard
        self._exports = Turns(1)

    def routes(self) -> list[Route]:
        return [
            Route("/v1/memory", self.memory),
            Route("/v1/cameras/{camera}/frames", self.erase, methods=["DELETE"]),
            Route("/v1/cameras/{camera}/export", self.export),
            Route("/v1/cameras/{camera}/metadata", self.metadata, methods=["PUT"]),
        ]

    async def memory(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        check_names(request)
        return JsonResponse(await pools.web(self._holdings))

    def _holdings(self) -> dict[str, Any]:
        store, settings = self.agent.store, self.agent.settings
        free_bytes = shutil.disk_usage(settings.data_dir).free
        stats = {name: store.stats(name) for name in store.cameras()}
        return memory_summary(stats, settings, this_machine(settings.data_dir), free_bytes)

    async def erase(self, request: Request) -> Response:
        """Erase frames. The response is sent when nothing of them is left on the disk."""
        self.guard.check(request, "admin")
        check_names(request, "after", "before", "all")
        camera = await path_camera(self.agent.cameras, request)
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
            raise EraseUnfinished(f"Nothing is erased yet, because the request cannot be stored: {error}.") from error
        return JsonResponse({"object": "erasure", "camera": camera, "after": after, "before": before, "erased": erased})

    async def metadata(self, request: Request) -> Response:
        """Accept a JSON object (such as a pose), to be stored with the camera's frames of the next few seconds."""
        self.guard.check(request, f"publish:{request.path_params['camera']}")
        camera = await path_camera(self.agent.cameras, request)
        metadata = check_metadata(parse_json(await read_body(request, MAX_METADATA_BYTES)))
        now = self.agent.clocks.now()
        self.agent.cameras.intake_of(camera).add_metadata(metadata, now, now)
        return Response(status_code=204)

    async def export(self, request: Request) -> Response:
        """Respond with a ZIP of the frames. Only one export runs at a time; further requests get a 429."""
        self.guard.check_signed(request, "ask", ("after", "before"))
        check_names(request, "after", "before")
        camera = await path_camera(self.agent.cameras, request)
        zone = self.agent.cameras.zone_of(camera)
        after, before = moment(request, "after", zone), moment(request, "before", zone)
        if after is None or before is None or after >= before:
            raise BadRequest("Send 'after' and 'before', the first earlier than the second.", param="after")
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vilamp-export-")))
            try:
                async with self._exports.place():
                    path = await unless_gone(request.receive, self._export(camera, after, before, folder))
            except TooManyWaiting:
                raise Busy(_EXPORT_RETRY_S, "Another clip is being made, and one is made at a time") from None
            cleanup = BackgroundTask(stack.pop_all().close)
            return FileResponse(path, media_type="application/zip", filename=path.name, background=cleanup)

    async def _export(self, camera: str, after: float, before: float, folder: Path) -> Path:
        """Write the ZIP into `folder` and return its path.

        If the task is cancelled, wait until the writing thread has stopped too, which takes the time of one frame at
        most.
        """
        cancelled = threading.Event()
        making = asyncio.create_task(pools.upkeep(self._zip, camera, after, before, folder, cancelled.is_set))
        try:
            return await asyncio.shield(making)
        except NothingToExport as error:
            raise NoFrames(f"{str(error).capitalize()}: widen after/before.") from None
        except TooManyFrames as error:
            raise TooLarge(f"{str(error).capitalize()}.", param="before") from None
        except OSError as error:
            raise Problem(f"The clip cannot be written: {error.strerror or error}.") from error
        finally:
            cancelled.set()
            await asyncio.gather(making, return_exceptions=True)

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
