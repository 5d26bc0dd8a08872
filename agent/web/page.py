"""Serves the web page at `/`, tells the page which scopes its token has, and issues tokens for phones used as cameras.

The files of `agent/page/` contain no data, so they need no token. The page gets its data from the API, which needs one.
The Content-Security-Policy allows the page to load files and data from its own server only, and forbids inline scripts
and styles.
"""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.app import Agent
from agent.errors import BadRequest, NotFound
from agent.untrusted.wire import JsonResponse
from agent.web.guard import Guard
from agent.web.url import shown_path

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Cache-Control": "no-cache",  # browsers revalidate the file each time, so they use a new version immediately
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


PUBLISH_TTL_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class PageFile:
    """The content and headers of one file."""

    content: bytes
    media_type: str
    etag: str


def page_files() -> dict[str, PageFile]:
    """Return all files of the page by name. No other file of the package is served."""
    found = {}
    for entry in files("agent.page").iterdir():
        media_type = _TYPES.get("." + entry.name.rpartition(".")[2])
        if media_type is not None and entry.is_file():
            content = entry.read_bytes()
            found[entry.name] = PageFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found


class PageRoutes:
    """Endpoints for the page's files and tokens."""

    def __init__(self, agent: Agent, guard: Guard) -> None:
        self.guard, self.cameras = guard, agent.cameras
        self._files = page_files()

    def routes(self) -> list[Route]:
        return [
            Route("/", self.index),
            Route("/page/{file}", self.file),
            Route("/v1/whoami", self.whoami),
            Route("/v1/cameras/{camera}/publish-token", self.publish_token, methods=["POST"]),
        ]

    async def index(self, request: Request) -> Response:
        return self._send(request, "index.html")

    async def file(self, request: Request) -> Response:
        return self._send(request, request.path_params["file"])

    def _send(self, request: Request, name: str) -> Response:
        file = self._files.get(name)
        if file is None:
            raise NotFound(f"There is nothing at {shown_path(request.scope)}.")
        headers = {**_HEADERS, "ETag": file.etag}
        asked = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
        if file.etag in asked or asked == ["*"]:
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)

    async def whoami(self, request: Request) -> Response:
        """Respond with the name and scopes of the request's token, so that the page offers only what it allows."""
        token = self.guard.who(request)
        if token is None:
            return JsonResponse({"object": "identity", "name": None, "scopes": ["admin"]})
        return JsonResponse({"object": "identity", "name": token.name, "scopes": sorted(token.scopes)})

    async def publish_token(self, request: Request) -> Response:
        """Respond with a new token that allows another device (a phone) to publish as this camera for a week."""
        self.guard.check(request, "admin")
        camera = request.path_params["camera"]
        refusal = self.cameras.may_publish(camera)
        if refusal is not None:
            raise BadRequest(f"{refusal}.", param="camera")
        token = self.guard.issue(f"publish:{camera}", PUBLISH_TTL_S)
        return JsonResponse(
            {"object": "token", "scope": f"publish:{camera}", "token": token.secret, "ttl_s": PUBLISH_TTL_S}
        )
