"""Connections of strangers, bounded in number and in time, so that descriptors are left for pictures and memory.

A request's head must come within HEAD_S and its body within BODY_S; a connection that does not take what is sent to it is
dropped after STALL_S. Answers themselves may last: streams of events, long answers. When all places are taken, the
connection that has waited longest for a request gives way to the new one; where none waits, the new one is refused.

uvicorn bounds none of this: its `limit_concurrency` comes after a whole head. Linux and macOS (`resource`).
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
IDLE_S = 60.0  # between two requests; uvicorn's own limit is shorter, but any byte stops it
STALL_S = 120.0
CLOSING_S = 10.0
HANDSHAKE_S = 10.0
MAX_DESCRIPTORS = 65_536
MAX_CONNECTIONS = 1024
_ACCEPTED_AT_ONCE = 64
_PAUSE_S = 0.05  # without descriptors
_SAID_EVERY_S = 60.0
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_MAPPED = "::ffff:"  # before an IPv4 address written as an IPv6 address
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

Phase = Literal["head", "body", "idle", "stalled", "closing", "answering"]
LIMITS_S: dict[Phase, float] = {
    "head": HEAD_S, "body": BODY_S, "idle": IDLE_S, "stalled": STALL_S, "closing": CLOSING_S,
}  # fmt: skip
_WAITING: frozenset[Phase] = frozenset({"head", "idle", "closing"})


def raise_descriptor_limit() -> int:
    """Let this process open as many files as the system allows it, up to MAX_DESCRIPTORS. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def connection_limit(num_descriptors: int) -> int:
    """Connections at once: a quarter of what may be open, the rest is for cameras, memory and brokers."""
    return max(8, min(MAX_CONNECTIONS, num_descriptors // 4))


class Connection(H11Protocol):
    """One of uvicorn's connections, which knows what it waits for and since when."""

    since: float = 0.0  # loop time at which the phase was first seen
    _seen: tuple[Phase, object] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None and self.client[0].startswith(_MAPPED):  # where one socket listens on both families
            self.client = (self.client[0].removeprefix(_MAPPED), self.client[1])
        self.look(self.loop.time())

    @property
    def phase(self) -> Phase:
        """What happens on it now."""
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
        """Seconds left for what it waits for, below 0 when it has waited too long; `now` is loop time."""
        seen = (self.phase, self.cycle)
        if self._seen is None or seen[0] != self._seen[0] or seen[1] is not self._seen[1]:
            self._seen, self.since = seen, now
        return LIMITS_S.get(seen[0], float("inf")) - (now - self.since)

    def send_400_response(self, msg: str) -> None:
        """As uvicorn; what cannot be parsed may also come while an answer is being made or sent, which then has no reader."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.abort()
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _unsupported_upgrade_warning(self) -> None:
        """Whoever asks for WebSockets gets the plain answer, and no line in the log each time."""


class Acceptor:
    """Takes connections from a listening socket, as the server that asyncio would make, within `limit` places.

    Overload policy: the connection that has waited longest gives way; where none waits the new one gets a 503.
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
        """`connections`: those open now, kept by uvicorn."""
        self._listener = listener
        self._make = make
        self._connections = connections
        self._limit = limit
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._opening: dict[asyncio.Task[None], socket.socket] = {}  # in the order in which they came
        self._said = 0.0
        self._closed = False
        listener.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Take no more."""
        self._closed = True
        self._loop.remove_reader(self._listener)
        for task in self._opening:
            task.cancel()

    async def wait_closed(self) -> None:
        """Until no handshake is under way."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def sweep(self) -> None:
        """Drop whatever has waited too long. To be called about once a second."""
        now = self._loop.time()
        for connection in list(self._connections):
            if connection.look(now) < 0:
                connection.transport.abort()

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        if self._closed:  # called already when it was
            return
        for _ in range(_ACCEPTED_AT_ONCE):
            was_full = self._is_full()
            if was_full and self._tls is None and self._opening:
                return  # they are open at the next turn of the loop, and may then give way
            try:
                accepted, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_DESCRIPTOR:
                    raise
                self._say(f"no connection can be taken: {error.strerror}")
                self._make_room()
                self._loop.remove_reader(self._listener)  # it would be ready again at once
                self._loop.call_later(_PAUSE_S, self._resume)
                return
            self._take(accepted)
            if was_full:
                return  # what gave way is gone at the next turn

    def _is_full(self) -> bool:
        return len(self._opening) + sum(1 for _ in self._connections) >= self._limit

    def _take(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        if self._is_full():
            self._say(f"all {self._limit} places for connections are taken")
            if not self._make_room():
                with suppress(OSError), accepted:
                    if self._tls is None:
                        accepted.send(_FULL)
                return
        task = self._loop.create_task(self._open(accepted), name="open a connection")
        self._opening[task] = accepted
        task.add_done_callback(lambda done: self._opening.pop(done, None))

    async def _open(self, accepted: socket.socket) -> None:
        """The TLS handshake where there is one; whoever fails it, or is too slow, is gone without a word."""
        limit_s = None if self._tls is None else HANDSHAKE_S
        try:
            await self._loop.connect_accepted_socket(self._make, accepted, ssl=self._tls, ssl_handshake_timeout=limit_s)
        except (OSError, TimeoutError):
            accepted.close()

    def _make_room(self) -> bool:
        """End what has waited longest: a handshake, a head, or between two requests. False: nothing waits."""
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

    def _say(self, what: str) -> None:
        """Once a minute at most: whoever floods must not fill the log too."""
        if time.monotonic() - self._said > _SAID_EVERY_S or not self._said:
            self._said = time.monotonic()
            log.warning("connections are refused or dropped", extra={"reason": what})
