"""Serving: the agent, its HTTP application and uvicorn, from the first log line to the last.

Prints the URL and, at first start, the tokens; then serves until interrupted. What cannot be mended here (a port in
use, a damaged checkpoint, a folder owned by another process) is raised with words for the person at the terminal.
"""

import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn
import uvloop
from starlette.applications import Starlette

from agent.agent import opened
from agent.api import build_app
from agent.auth import TOKENS_FILE, Auth
from agent.config import Settings
from agent.logs import set_up_logs
from agent.process import stops
from agent.tls import TlsFiles, prepare_tls

SHUTDOWN_GRACE_S = 5
KEEP_ALIVE_S = 30

Started = Callable[[str], Awaitable[None]]  # gets the URL under which the agent answers


class CannotListen(Exception):
    """The address or port cannot be used (the operator's to change)."""


def run(settings: Settings) -> None:
    """Serve until interrupted. Raises CannotListen, TokenFileError, TlsError, StorageError, ValueError (model)."""
    set_up_logs(settings.log_level)
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        uvloop.run(_until_stopped(settings))


async def _until_stopped(settings: Settings) -> None:
    """Serve; a signal that comes before the server listens to signals itself ends the start in peace."""
    loop, serving = asyncio.get_running_loop(), asyncio.ensure_future(serve(settings))
    for number in stops():
        loop.add_signal_handler(number, serving.cancel)
    await serving


async def serve(settings: Settings, *, started: Started | None = None) -> None:
    """Everything, in one event loop. `started` is called once the first request could be answered."""
    auth = Auth.open(settings.data_dir, enabled=settings.security.enabled, extra=settings.security.tokens)
    tls = prepare_tls(settings.tls, settings.data_dir, now=time.time())
    with listening(settings) as listener:
        async with opened(settings) as agent:
            url = url_of(listener, tls)
            server = Server(configuration(build_app(agent, auth, settings, url=url), settings, tls), started)
            server.url = url
            _announce(server.url, auth, tls, settings)
            await server.serve(sockets=[listener])


class Server(uvicorn.Server):
    """uvicorn, which says when it has begun, and which an interrupt ends without ending the process.

    uvicorn itself raises the signal again once it has shut down; a SIGTERM would then kill the process before the agent
    has closed its memory.
    """

    url = ""

    def __init__(self, config: uvicorn.Config, started: Started | None) -> None:
        super().__init__(config)
        self._when_started = started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first SIGINT, SIGTERM or SIGHUP shuts down in peace, the second at once."""
        loop, numbers = asyncio.get_running_loop(), stops()
        for number in numbers:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._when_started is not None:
            await self._when_started(self.url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Streams that have no end of their own are ended first, as every open page holds one; answers a little later."""
        self.config.app.state.end_streams()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def configuration(app: Starlette, settings: Settings, tls: TlsFiles | None) -> uvicorn.Config:
    """uvicorn's settings."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # its lines hold signed URLs
        lifespan="off",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        # uvicorn would believe X-Forwarded-For and -Proto of whatever connects from this machine
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
        ssl_certfile=None if tls is None else str(tls.cert),
        ssl_keyfile=None if tls is None else str(tls.key),
    )


def listening(settings: Settings) -> socket.socket:
    """The socket, bound before the model is loaded, so that a port in use is told at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=256)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise CannotListen(f"cannot listen on {where} ({error.strerror}): choose another --host or --port") from error


def url_of(listener: socket.socket, tls: TlsFiles | None) -> str:
    """Where this machine reaches the server."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what is shown, not what is bound
    return f"{'http' if tls is None else 'https'}://{f'[{shown}]' if ':' in shown else shown}:{port}"


def _announce(url: str, auth: Auth, tls: TlsFiles | None, settings: Settings) -> None:
    """The URL and where the tokens lie, always; the tokens themselves only at the start that made them."""
    lines = [f"ViLaMP Live answers at {url}"]
    if tls is not None:
        lines.append(f"certificate SHA-256: {tls.fingerprint}")
    kept = settings.data_dir / TOKENS_FILE
    if not settings.security.enabled:
        lines.append("security is off: whoever reaches this port may ask and publish")
    elif not auth.created:
        lines.append(f"tokens: {kept}; with one of them the page opens at {url}/#token=...")
    else:
        lines.append(f"open it in a browser: {url}/#token={_owner(auth)}")
        lines.append(f"tokens made now, shown once (kept in {kept}):")
        configured = {each.token.get_secret_value() for each in settings.security.tokens}
        made = [token for token in auth.tokens if token.secret not in configured]
        lines += [f"  {token.name:<10} {', '.join(sorted(token.scopes)):<12} {token.secret}" for token in made]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _owner(auth: Auth) -> str:
    """The token made at the first start that opens everything."""
    return next(token.secret for token in auth.tokens if "admin" in token.scopes)
