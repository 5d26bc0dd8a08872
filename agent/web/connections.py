"""Limits how many HTTP connections are open and how long each may be inactive.

Each open connection needs a file descriptor, and cameras and the memory need descriptors too. The headers of a request
must arrive within HEAD_S and its body within BODY_S. A client that does not read its response is disconnected after
STALL_S. Responses have no time limit, because streams are long. When the limit is reached and a new client connects,
the connection that has waited longest for a request is closed; if none is waiting for a request, the new client gets a
503.

uvicorn has none of these limits: its `limit_concurrency` counts complete requests. Works on Linux and macOS, which have
the module `resource`.
"""

import asyncio
import errno
import logging
import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)

HEAD_S = 10.0
BODY_S = 30.0
IDLE_S = 60.0  # between two requests; uvicorn's own timeout is shorter, but a client that sends one byte stops it
STALL_S = 120.0
CLOSING_S = 10.0
HANDSHAKE_S = 10.0
MAX_DESCRIPTORS = 65_536
MAX_CONNECTIONS = 1024
_ACCEPTED_AT_ONCE = 64
_PAUSE_S = 0.05  # before connections are accepted again after no descriptor was free
_WARN_EVERY_S = 60.0
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_MAPPED = "::ffff:"  # before an IPv4 address written as an IPv6 address
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

Phase = Literal["head", "body", "idle", "stalled", "closing", "answering"]
LIMITS_S: dict[Phase, float] = {
    "head": HEAD_S, "body": BODY_S, "idle": IDLE_S, "stalled": STALL_S, "closing": CLOSING_S,
}  # fmt: skip
_WAITING: frozenset[Phase] = frozenset({"head", "idle", "closing"})


def raise_descriptor_limit() -> int:
    """Raise this process's limit on open files, as far as the system allows, to MAX_DESCRIPTORS. Return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def connection_limit(num_descriptors: int) -> int:
    """Return how many connections may be open: a quarter of the descriptors, within fixed limits.

    The other descriptors are for cameras, the memory and MQTT brokers.
    """
    return max(8, min(MAX_CONNECTIONS, num_descriptors // 4))


class Connection(H11Protocol):
    """A uvicorn connection that also records its phase (what it is waiting for) and since when."""

    since: float = 0.0  # time of the event loop at which the current phase was first recorded
    _seen: tuple[Phase, object] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None and self.client[0].startswith(_MAPPED):  # IPv4 on a socket for both families
            self.client = (self.client[0].removeprefix(_MAPPED), self.client[1])
        self.look(self.loop.time())

    @property
    def phase(self) -> Phase:
        """The phase of the connection: what it is doing or waiting for now."""
        if self.transport.is_closing():
            return "closing"
        if self.flow.write_paused:
            return "stalled"
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        if self.conn.their_state is not h11.IDLE:
            return "answering"
        return "head" if self.cycle is None or self.conn.trailing_data[0] else "idle"

    def look(self, now: float) -> float:
        """Record the connection's phase. Return how many seconds it may still last, below 0 if it has lasted too long.

        now: time of the event loop, in seconds.
        """
        seen = (self.phase, self.cycle)
        if self._seen is None or seen[0] != self._seen[0] or seen[1] is not self._seen[1]:
            self._seen, self.since = seen, now
        return LIMITS_S.get(seen[0], float("inf")) - (now - self.since)

    def send_400_response(self, msg: str) -> None:
        """Respond with status 400, as uvicorn does. If another response is already in progress, cancel it instead."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.abort()
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _unsupported_upgrade_warning(self) -> None:
        """Do nothing, where uvicorn logs a warning. A request for a WebSocket gets a plain HTTP response."""


class Acceptor:
    """Accepts connections from a listening socket, of which at most `limit` are open. Used instead of asyncio's server.

    Overload policy: at the limit, the connection that has waited longest for a request is closed for the new one. If
    none is waiting for a request, the new one gets a 503.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], Connection],
        connections: Iterable[Connection],
        *,
        limit: int,
        tls: ssl.SSLContext | None,
    ) -> None:
        """Begin to accept connections.

        make: returns a new Connection. connections: uvicorn's set of open connections. tls: None for plain HTTP.
        """
        self._listener = listener
        self._make = make
        self._connections = connections
        self._limit = limit
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._opening: dict[asyncio.Task[None], socket.socket] = {}  # oldest first
        self._warned: float | None = None  # monotonic time of the last warning
        self._closed = False
        listener.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Accept no more connections."""
        self._closed = True
        self._loop.remove_reader(self._listener)
        for task in self._opening:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until no TLS handshake is in progress."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def sweep(self) -> None:
        """Close connections that have been in one phase for too long. Must be called about once a second."""
        now = self._loop.time()
        for connection in list(self._connections):
            if connection.look(now) < 0:
                connection.transport.abort()

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        if self._closed:  # closed after this call was scheduled
            return
        for _ in range(_ACCEPTED_AT_ONCE):
            was_full = self._is_full()
            if was_full and self._tls is None and self._opening:
                return  # in the loop's next iteration, those in `_opening` are connections, one of which can be closed
            try:
                accepted, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_DESCRIPTOR:
                    raise
                self._warn(f"no connection can be accepted: {error.strerror}")
                self._make_room()
                self._loop.remove_reader(self._listener)  # otherwise the loop would call `_accept` again immediately
                self._loop.call_later(_PAUSE_S, self._resume)
                return
            self._take(accepted)
            if was_full:
                return  # the connection that was closed for this one is removed in the loop's next iteration

    def _is_full(self) -> bool:
        return len(self._opening) + sum(1 for _ in self._connections) >= self._limit

    def _take(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        if self._is_full():
            self._warn(f"all {self._limit} connections are in use")
            if not self._make_room():
                with suppress(OSError), accepted:
                    if self._tls is None:
                        accepted.send(_FULL)
                return
        task = self._loop.create_task(self._open(accepted), name="open a connection")
        self._opening[task] = accepted
        task.add_done_callback(lambda done: self._opening.pop(done, None))

    async def _open(self, accepted: socket.socket) -> None:
        """Make an HTTP connection of an accepted socket, after a TLS handshake if TLS is on.

        A handshake that fails or takes too long is not logged.
        """
        limit_s = None if self._tls is None else HANDSHAKE_S
        try:
            await self._loop.connect_accepted_socket(self._make, accepted, ssl=self._tls, ssl_handshake_timeout=limit_s)
        except (OSError, TimeoutError):
            accepted.close()

    def _make_room(self) -> bool:
        """Close the handshake or connection that has waited longest for a request. Return False if none is waiting."""
        if self._tls is not None and self._opening:
            oldest = next(iter(self._opening))
            with suppress(OSError):
                self._opening.pop(oldest).shutdown(socket.SHUT_RDWR)
            return True
        now = self._loop.time()
        for connection in self._connections:
            connection.look(now)
        waiting = [each for each in self._connections if each.phase in _WAITING]
        if not waiting:
            return False
        min(waiting, key=lambda each: each.since).transport.abort()
        return True

    def _warn(self, reason: str) -> None:
        """Log a warning with this reason, at most once a minute, so that many connections do not fill the log."""
        if self._warned is None or time.monotonic() - self._warned > _WARN_EVERY_S:
            self._warned = time.monotonic()
            log.warning("connections are refused or dropped", extra={"reason": reason})
