"""The HTTP application: all routes and their middleware.

Every request needs a token or a signed URL, except `/healthz`, `/readyz`, the files of the page and CORS preflights.
"""

import asyncio
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.app import Agent
from agent.errors import BadRequest, NotFound, Problem, respond
from agent.settings.settings import Settings
from agent.web.alerts import AlertRoutes
from agent.web.auth import Auth
from agent.web.body import Unpacking
from agent.web.cameras import CameraRoutes
from agent.web.chat import ChatRoutes
from agent.web.guard import Guard, Guesses, SlowGuessing
from agent.web.health import HealthRoutes
from agent.web.memory import MemoryRoutes
from agent.web.page import PageRoutes
from agent.web.rules import RuleRoutes
from agent.web.streams import LongResponses
from agent.web.timeline import TimelineRoutes
from agent.web.url import route_path, shown_path
from agent.web.whep import whep_server
from agent.web.whip import whip_server

KEEP_ALIVE_S = 15.0
PREFLIGHT_MAX_AGE_S = 600


def build_app(
    agent: Agent, auth: Auth, settings: Settings, *, keep_alive_s: float = KEEP_ALIVE_S, url: str = ""
) -> Starlette:
    """Return the HTTP application of a running agent.

    keep_alive_s: a stream that has sent nothing for this long sends a comment line, so that the connection stays open.
    url: the server's own address, used in links when no `public_url` is set.
    """
    guard = Guard(auth, settings.security.url_ttl_s, agent.clock, public_url=settings.public_url)
    responses = LongResponses(keep_alive_s)
    alerts = AlertRoutes(agent, guard, responses)
    parts = (
        PageRoutes(agent, guard),
        ChatRoutes(agent, guard, responses),
        CameraRoutes(agent, guard),
        HealthRoutes(agent, guard),
        MemoryRoutes(agent, guard),
        TimelineRoutes(agent, guard),
        RuleRoutes(agent, guard, responses),
        alerts,
    )
    agent.alerts.watcher.recorder.link = lambda path: guard.link(path, url)
    routes: list[BaseRoute] = [route for part in parts for route in part.routes()]
    whip = whip_server(agent, guard, settings)
    whep = whep_server(agent, guard, settings, whip)
    routes += [*whip.routes(), *whep.routes()]
    guesses = Guesses()
    agent.metrics.watch([guesses.reader()])
    handlers = {Problem: respond, HTTPException: _http_error, Exception: respond}
    middleware = [
        Middleware(Private),
        Middleware(Below, guard.prefix),
        Middleware(CrossOrigin, origins=settings.security.cors_origins),
        Middleware(OneSlashLess),
        Middleware(SlowGuessing, auth=auth, guesses=guesses, clock=agent.clock),
        Middleware(Unpacking),
    ]
    app = Starlette(routes=routes, exception_handlers=handlers, middleware=middleware)
    app.router.redirect_slashes = False  # a redirect would contain the Host header, which the client can forge

    def end_streams() -> None:
        alerts.end_streams()
        responses.stop()

    async def end_video() -> None:
        await asyncio.gather(whep.close(), whip.close())

    app.state.end_streams, app.state.end_video = end_streams, end_video  # called by `Server` at shutdown
    return app


class Private:
    """Middleware that adds `X-Content-Type-Options: nosniff`, and `Cache-Control: no-store` if the route set no other.

    A cache could otherwise show an erased picture, or show a picture to someone whose token does not allow it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def mark(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Cache-Control", "no-store")
                headers.setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        await self._app(scope, receive, mark)


class Below:
    """Middleware that serves the application below a path prefix, the path of the setting `public_url`.

    It works whether or not a reverse proxy has already removed the prefix. The prefix becomes ASGI's `root_path`.
    `X-Forwarded-Prefix` and similar headers are ignored.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix = self._prefix
        if not prefix or scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif scope["path"] == prefix and scope["type"] == "http":  # the page's relative URLs need the slash
            await Response(status_code=308, headers={"Location": prefix + "/"})(scope, receive, send)
        else:
            path = scope["path"] if scope["path"].startswith(prefix + "/") else prefix + scope["path"]
            await self._app({**scope, "root_path": prefix, "path": path}, receive, send)


class CrossOrigin:
    """Middleware that lets web pages of the listed origins call `/v1` (CORS). Their preflight requests need no token.

    `/whip` and `/whep` are left out, because they answer CORS requests of every origin themselves, as RFC 9725 requires
    (`streaming/whip.py`, `streaming/whep.py`).
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._open = app if not origins else CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["*"],  # OpenAI's client sends a dozen of them
            allow_private_network=True,
            expose_headers=["Location", "Retry-After", "WWW-Authenticate", "Content-Disposition"],
            max_age=PREFLIGHT_MAX_AGE_S,
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_api = scope["type"] == "http" and route_path(scope).startswith("/v1/")
        await (self._open if is_api else self._app)(scope, receive, send)


class OneSlashLess:
    """Middleware that removes one slash at the end of a path: `/v1/cameras/` is served as `/v1/cameras`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(route_path(scope)) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"][:-1]}
        await self._app(scope, receive, send)


async def _http_error(request: Request, error: Exception) -> Response:
    """Return the response to a request whose path or method no route handles."""
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 404:
        return NotFound(f"There is nothing at {shown_path(request.scope)}.").response()
    problem = BadRequest(error.detail, headers=dict(error.headers or {}))
    problem.status = error.status_code
    return problem.response()
