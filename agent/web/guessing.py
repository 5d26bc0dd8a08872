"""Token guessing is slowed: beyond 20 tokens a minute that are not known, an address waits a second for each refusal.

A known token is let through at once, whoever else guesses behind the same address. Only while WAITING_MOST refusals of an
address are being held back is a token that was never used from there turned away unread, so that guesses cannot be made
in parallel either. IPv6 addresses count by /64. Every table here is bounded.
"""

import asyncio
import hashlib
import ipaddress
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.errors import TooManyGuesses
from agent.metrics import Reader, Reading
from agent.web.auth import Auth

log = logging.getLogger(__name__)

MAX_WRONG, WINDOW_S = 20, 60.0
DELAY_S = 1.0
WAITING_MOST = 8  # refusals held back at once for one address
_MAX_ADDRESSES, _MAX_USED = 4096, 4096


class Guesses:
    """Wrong tokens of the last minute by address, and the right ones that were used. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.num_wrong = 0
        self.waiting: Counter[str] = Counter()  # refusals held back now, by address
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._used: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def wrong(self, address: str, now: float) -> bool:
        """Count one. True: this address has sent too many; logged when that begins."""
        self.num_wrong += 1
        times = self._wrong.pop(address, deque(maxlen=MAX_WRONG + 1))
        was_over = len(times) > MAX_WRONG and now - times[0] < WINDOW_S
        times.append(now)
        is_over = len(times) > MAX_WRONG and now - times[0] < WINDOW_S
        self._wrong[address] = times
        if len(self._wrong) > _MAX_ADDRESSES:
            self._wrong.popitem(last=False)
        if is_over and not was_over:
            log.warning("many wrong tokens: refusals are slowed", extra={"address": address, "per_minute": MAX_WRONG})
        return is_over

    def right(self, address: str, authorization: str) -> None:
        """A token that is known was used from there."""
        used = (address, _digest(authorization))
        self._used[used] = None
        self._used.move_to_end(used)
        if len(self._used) > _MAX_USED:
            self._used.popitem(last=False)

    def turned_away(self, address: str, authorization: str) -> bool:
        """Must the request be refused without looking at its token?"""
        return self.waiting[address] >= WAITING_MOST and (address, _digest(authorization)) not in self._used

    def reader(self) -> Reader:
        """The metric."""

        def read() -> list[Reading]:
            return [({}, float(self.num_wrong))]

        return Reader("vilamp_wrong_tokens_total", "Requests with a token that is not known.", (), read)


class SlowGuessing:
    """Puts `Guesses` before an application that answers 401 to tokens that are not known."""

    def __init__(
        self, app: ASGIApp, *, auth: Auth, guesses: Guesses, clock: Callable[[], float], delay_s: float = DELAY_S
    ) -> None:
        self._app = app
        self._auth = auth
        self._guesses = guesses
        self._clock = clock  # unix seconds: tokens expire by it
        self._delay_s = delay_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = Headers(scope=scope).get("authorization") if scope["type"] == "http" else None
        if not told or not self._auth.enabled:
            await self._app(scope, receive, send)
            return
        address = address_of(scope)
        if self._guesses.turned_away(address, told):
            await TooManyGuesses(self._delay_s).response()(scope, receive, send)
            return
        is_guess = self._auth.is_guess(told, self._clock())
        if not is_guess:
            self._guesses.right(address, told)
            await self._app(scope, receive, send)
            return
        await self._refuse_slowly(address, scope, receive, send)

    async def _refuse_slowly(self, address: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer; a 401 counts, and beyond the limit comes late and as a 429."""
        slowed = False

        async def watch(message: Message) -> None:
            nonlocal slowed
            if message["type"] == "http.response.start" and message["status"] == 401:
                slowed = self._guesses.wrong(address, time.monotonic())
            if not slowed:
                await send(message)

        await self._app(scope, receive, watch)
        if slowed:
            self._guesses.waiting[address] += 1
            try:
                await asyncio.sleep(self._delay_s)
            finally:
                self._guesses.waiting[address] -= 1
                if not self._guesses.waiting[address]:
                    del self._guesses.waiting[address]
            await TooManyGuesses(self._delay_s).response()(scope, receive, send)


def address_of(scope: Scope) -> str:
    """Whose requests count together: an IPv4 address, or the /64 of an IPv6 address."""
    client = scope.get("client")
    host = str(client[0])[:64] if client else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host  # what a proxy calls its client
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _digest(authorization: str) -> bytes:
    return hashlib.sha256(authorization.encode("utf-8", "surrogateescape")).digest()
