"""A server with the part of the Hugging Face Hub's API that a download needs. It can break off the first file."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """One repository. breaks: name of a file whose first transfer ends in the middle; "": none."""

    def __init__(self, folder: Path, breaks: str = "") -> None:
        self.folder, self.breaks = folder, breaks
        self.ranges: list[str] = []  # Range headers of the requests
        self.url = ""

    def _files(self) -> dict[str, bytes]:
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}

    async def info(self, request: Request) -> Response:
        siblings = [{"rfilename": name} for name in self._files()]
        return JSONResponse({"id": "org/tiny", "sha": COMMIT, "siblings": siblings})

    async def tree(self, request: Request) -> Response:
        return JSONResponse([
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in self._files().items()
        ])  # fmt: skip

    async def file(self, request: Request) -> Response:
        path = self.folder / request.path_params["name"]
        if not path.is_file():
            return Response("", 404, {"X-Error-Code": "EntryNotFound"})
        content = path.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
            "Content-Length": str(len(content)),
        }
        if request.method == "HEAD":
            return Response(headers=headers)
        start = 0
        if asked := request.headers.get("range"):
            self.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            headers["Content-Length"] = str(len(content) - start)
        if path.name == self.breaks:
            self.breaks = ""
            return StreamingResponse(self._half(content), headers=headers)
        return Response(content[start:], 206 if start else 200, headers)

    async def _half(self, content: bytes) -> AsyncIterator[bytes]:
        yield content[: len(content) // 2]
        raise ConnectionError("the connection breaks")


@asynccontextmanager
async def hub(folder: Path, breaks: str = "") -> AsyncIterator[Hub]:
    """Serve a folder as the repository "org/tiny"."""
    served = Hub(folder, breaks)
    listener = socket.create_server(("127.0.0.1", 0))
    served.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    routes = [
        Route("/api/models/org/tiny/revision/{revision}", served.info),
        Route("/api/models/org/tiny/tree/{revision}", served.tree),
        Route("/org/tiny/resolve/{revision}/{name:path}", served.file, methods=["GET", "HEAD"]),
    ]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="critical", lifespan="off"))
    server.capture_signals = lambda: nullcontext()  # type: ignore[method-assign]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield served
    finally:
        server.should_exit = True
        await serving
