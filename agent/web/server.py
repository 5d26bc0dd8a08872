"""Runs the agent and its HTTP application under uvicorn until it is interrupted.

Prints the URL and, at the first start, the tokens. If the start fails (port in use, damaged checkpoint, data folder in
use), an exception is raised whose message tells the operator what to do.
"""

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import uvicorn
import uvloop
from starlette.applications import Starlette

from agent.app import opened
from agent.runtime.files import make_private, remove_leftovers
from agent.runtime.logs import set_up_logs
from agent.runtime.process import stops
from agent.settings.settings import Settings
from agent.web.app import build_app
from agent.web.auth import TOKENS_FILE, Auth
from agent.web.connections import Acceptor, Connection, connection_limit, raise_descriptor_limit
from agent.web.tls import TlsFiles, prepare_tls

log = logging.getLogger(__name__)

SHUTDOWN_GRACE_S = 5
BACKLOG = 256
KEEP_ALIVE_S = 30

Started = Callable[[str], Awaitable[None]]  # called with the server's URL when it has started


class CannotListen(Exception):
    """The address or port cannot be used; the message tells the operator what to do."""


def run(settings: Settings) -> None:
    """Run the server until it is interrupted.

    Raises CannotListen, TokenFileError, TlsError, StorageError, or ValueError if the model cannot be used.
    """
    set_up_logs(settings.log_level)
    _keep_private(settings.data_dir)
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        uvloop.run(_until_stopped(settings))


async def _until_stopped(settings: Settings) -> None:
    """Run the server. A SIGINT, SIGTERM or SIGHUP that arrives during the start cancels the start.

    Later signals are handled by `Server.capture_signals`.
    """
    loop, serving = asyncio.get_running_loop(), asyncio.ensure_future(serve(settings))
    for number in stops():
        loop.add_signal_handler(number, serving.cancel)
    await serving


def _keep_private(folder: Path) -> None:
    """Make the data folder readable by its owner only, and delete temporary files of killed processes. Log both."""
    try:
        narrowed = make_private(folder)
    except OSError as error:
        log.error("the data folder cannot be made private", extra={"folder": str(folder), "error": str(error)})
        return
    if narrowed:
        shown = ", ".join(narrowed[:5]) + (f" and {len(narrowed) - 5} more" if len(narrowed) > 5 else "")
        log.warning("other users could read files of the data folder: now only their owner can", extra={"files": shown})
    if removed := remove_leftovers(folder, time.time()):
        log.info("unfinished files of an earlier run removed", extra={"files": ", ".join(removed)})


async def serve(settings: Settings, *, started: Started | None = None) -> None:
    """Run the agent and its server in this event loop. `started` is called as soon as requests can be answered."""
    raise_descriptor_limit()  # before cameras and segments are opened
    auth = Auth.open(settings.data_dir, enabled=settings.security.enabled, extra=settings.security.tokens)
    tls = prepare_tls(settings.tls, settings.data_dir, now=time.time())
    with listening(settings) as listener:
        async with opened(settings) as agent:
            url = url_of(listener, tls)
            server = Server(configuration(build_app(agent, auth, settings, url=url), settings, tls), started)
            server.url = url
            _announce(server.url, auth, tls, settings, reach_of(listener))
            await server.serve(sockets=[listener])


class Server(uvicorn.Server):
    """A uvicorn server with a limited number of connections, a callback at the start, and its own signal handlers.

    uvicorn's own handlers raise the signal again after the server's shutdown. That would kill the process before the
    agent has closed its memory.
    """

    url = ""

    def __init__(self, config: uvicorn.Config, started: Started | None, max_connections: int | None = None) -> None:
        super().__init__(config)
        self._when_started = started
        self.max_connections = max_connections  # None: computed from the limit on open files
        self.acceptors: list[Acceptor] = []
        self._connections = cast("set[Connection]", self.server_state.connections)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Context manager: in the block, the first SIGINT, SIGTERM or SIGHUP starts a graceful shutdown.

        A second signal ends the server without waiting for requests in progress.
        """
        loop, numbers = asyncio.get_running_loop(), stops()
        for number in numbers:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, but use an `Acceptor`, which limits connections, instead of asyncio's server."""
        await self.lifespan.startup()
        limit = connection_limit(raise_descriptor_limit()) if self.max_connections is None else self.max_connections
        self.acceptors = [
            Acceptor(each, self._connection, self._connections, limit=limit, tls=self.config.ssl)
            for each in sockets or []
        ]
        self.servers = self.acceptors  # type: ignore[assignment]  # uvicorn closes them and waits for them
        self.started = True
        if self._when_started is not None:
            await self._when_started(self.url)

    def _connection(self) -> Connection:
        return Connection(self.config, self.server_state, self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        """Close connections that wait too long, once a second. uvicorn calls this ten times a second."""
        if counter % 10 == 0:
            for acceptor in self.acceptors:
                acceptor.sweep()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End streams and video, then shut down as uvicorn does, which waits SHUTDOWN_GRACE_S for requests in progress.

        Every open web page has an alert stream, which would otherwise use up all of that time.
        """
        state = self.config.app.state  # type: ignore[union-attr]
        state.end_streams()
        await state.end_video()
        await super().shutdown(sockets)


def configuration(app: Starlette, settings: Settings, tls: TlsFiles | None) -> uvicorn.Config:
    """Return uvicorn's configuration for the agent's settings."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # an access log would contain signed URLs
        lifespan="off",
        http=Connection,
        ws="none",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        # by default, uvicorn trusts X-Forwarded-For and -Proto of every connection from this machine
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
        ssl_certfile=None if tls is None else str(tls.cert),
        ssl_keyfile=None if tls is None else str(tls.key),
    )


def listening(settings: Settings) -> socket.socket:
    """Return a socket that listens on the configured address; for "::" it accepts IPv4 too. Raises CannotListen.

    Call this before the model is loaded, so that the start fails early if the port is in use.
    """
    host = settings.host.removeprefix("[").removesuffix("]")
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        family = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server(
            (host, settings.port), family=family, backlog=BACKLOG, dualstack_ipv6=both and family == socket.AF_INET6
        )
    except (OSError, UnicodeError) as error:
        where, why = f"{settings.host}:{settings.port}", getattr(error, "strerror", None) or error
        raise CannotListen(f"cannot listen on {where} ({why}): choose another --host or --port") from error


def url_of(listener: socket.socket, tls: TlsFiles | None) -> str:
    """Return the URL at which this machine reaches the server. It uses IPv4 unless the server listens on IPv6 only."""
    host, port = listener.getsockname()[:2]
    local = {"0.0.0.0": "127.0.0.1", "::": "::1" if _is_ipv6_only(listener) else "127.0.0.1"}  # noqa: S104
    shown = local.get(host, host)
    return f"{'http' if tls is None else 'https'}://{f'[{shown}]' if ':' in shown else shown}:{port}"


def _is_ipv6_only(listener: socket.socket) -> bool:
    return listener.family == socket.AF_INET6 and bool(listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def reach_of(listener: socket.socket) -> str:
    """Return a sentence that says on which addresses the server listens; "" if it is a single one."""
    host = listener.getsockname()[0]
    if host == "0.0.0.0":  # noqa: S104 - compared, not bound
        return "listening on every IPv4 address of this machine; --host :: adds IPv6"
    if host != "::":
        return ""
    if _is_ipv6_only(listener):
        return "listening on every IPv6 address of this machine, not on IPv4"
    return "listening on every address of this machine, IPv4 and IPv6"


def _announce(url: str, auth: Auth, tls: TlsFiles | None, settings: Settings, reach: str) -> None:
    """Print the URL and the path of the token file. If this start created the tokens, print them too."""
    lines = [f"ViLaMP Live answers at {url}", *([reach] if reach else [])]
    if settings.public_url is not None:
        lines.append(f"others reach it at {settings.public_url}/")
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
    """Return the secret of the token with the scope "admin", which allows everything."""
    return next(token.secret for token in auth.tokens if "admin" in token.scopes)
