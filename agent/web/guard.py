"""Checks the token or signed URL of every request, signs URLs for clients, and slows down clients that guess tokens.

After more than MAX_WRONG unknown tokens from one address within a minute, each further refusal of that address takes
DELAY_S. A valid token is accepted immediately, even if somebody else is guessing from the same address. There is one
exception: while MAX_DELAYED refusals of an address are being delayed, a token that was never used from that address is
refused without checking it, so that guessing in parallel is not faster. IPv6 addresses count by their /64 network.
Every table has a maximum size.
"""

import asyncio
import hashlib
import ipaddress
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.errors import NotAllowed, TooManyGuesses
from agent.metrics import Reader, value_reader
from agent.web.auth import Auth, Token
from agent.web.url import route_path

log = logging.getLogger(__name__)

MAX_WRONG, WINDOW_S = 20, 60.0
DELAY_S = 1.0
MAX_DELAYED = 8  # refusals of one address that are delayed at the same time
_MAX_ADDRESSES, _MAX_USED = 4096, 4096


class Guard:
    """Checks the token or the signed URL of a request, and signs URLs.

    A URL is signed without the path prefix of the setting `public_url`, so that its signature is valid whether or not
    a reverse proxy removes the prefix.
    """

    def __init__(
        self, auth: Auth, url_ttl_s: float, clock: Callable[[], float] = time.time, *, public_url: str | None = None
    ) -> None:
        self.auth = auth
        public = urlsplit(public_url or "")
        self.prefix = public.path.rstrip("/")  # "/vilamp" for https://example.org/vilamp; "" at the root
        self._origin = f"{public.scheme}://{public.netloc}" if public_url else None
        self._url_ttl_s = url_ttl_s
        self._clock = clock

    def check(self, request: Request, scope: str) -> None:
        """Raise NotAllowed unless the request's token allows `scope`."""
        self.auth.check(request.headers.get("authorization"), scope, self._clock())

    def allows(self, request: Request, scope: str) -> bool:
        """Return True when the request's token allows `scope`."""
        try:
            self.check(request, scope)
        except NotAllowed:
            return False
        return True

    def who(self, request: Request) -> Token | None:
        """Return the request's token, whatever its scopes; None when security is off.

        Raises NotAllowed without a token.
        """
        return self.auth.identify(request.headers.get("authorization"), self._clock())

    def check_signed(self, request: Request, scope: str, covered: Collection[str] = ()) -> None:
        """Raise NotAllowed unless the request has a token that allows `scope`, or has no token but a valid signed URL.

        covered: names of the query parameters that are part of what was signed.
        """
        if "authorization" in request.headers:
            self.check(request, scope)
            return
        query = request.query_params
        signed = urlencode([(name, value) for name, value in query.multi_items() if name in covered])
        path = route_path(request.scope) + (f"?{signed}" if signed else "")
        self.auth.verify_path(path, query.get("exp"), query.get("sig"), self._clock())

    def issue(self, scope: str, ttl_s: float) -> Token:
        """Return a new token for one scope, which expires after `ttl_s`."""
        return self.auth.issue(scope, self._clock(), ttl_s)

    def sign(self, path: str) -> str:
        """Return `path` with the prefix of `public_url` and a signature, which replaces a token until it expires."""
        return self.prefix + self.auth.sign_path(path, self._clock(), self._url_ttl_s)

    def frame_url(self, frame_id: int) -> str:
        """Return the signed path of a frame's picture, without scheme and host."""
        return self.sign(f"/v1/frames/{frame_id}.jpg")

    def frame_link(self, frame_id: int, origin: str) -> str:
        """Return the complete signed URL of a frame's picture.

        origin: scheme and host to use when no `public_url` is set.
        """
        return self.link(f"/v1/frames/{frame_id}.jpg", origin)

    def link(self, path: str, origin: str) -> str:
        """Return the complete signed URL of `path`. origin: scheme and host to use when no `public_url` is set."""
        return (self._origin or origin) + self.sign(path)


def origin_of(request: Request) -> str:
    """Return the scheme and host that the client used in its request, such as "http://127.0.0.1:8080"."""
    return f"{request.url.scheme}://{request.url.netloc}"


class Guesses:
    """Counts unknown tokens of the last minute by address, and remembers which valid tokens each address used.

    Times are monotonic seconds.
    """

    def __init__(self) -> None:
        self.num_wrong = 0
        self.delayed: Counter[str] = Counter()  # number of refusals that are being delayed now, by address
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._used: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def add_wrong(self, address: str, now: float) -> bool:
        """Count an unknown token. Return True if the address has sent too many. Log a warning when that begins."""
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

    def add_valid(self, address: str, authorization: str) -> None:
        """Remember that this valid token was used from the address."""
        used = (address, _digest(authorization))
        self._used[used] = None
        self._used.move_to_end(used)
        if len(self._used) > _MAX_USED:
            self._used.popitem(last=False)

    def refuses(self, address: str, authorization: str) -> bool:
        """Return True if a request must be refused without checking its token.

        That is while too many refusals of this address are being delayed, unless the token was used from there before.
        """
        return self.delayed[address] >= MAX_DELAYED and (address, _digest(authorization)) not in self._used

    def reader(self) -> Reader:
        """Return the metric that counts requests with an unknown token."""
        return value_reader(
            "vilamp_wrong_tokens_total", "Requests with a token that is not known.", lambda: self.num_wrong
        )


class SlowGuessing:
    """Middleware that delays the refusals sent to addresses that guess tokens. clock: returns unix seconds."""

    def __init__(self, app: ASGIApp, *, auth: Auth, guesses: Guesses, clock: Callable[[], float]) -> None:
        self._app, self._auth, self._guesses, self._clock = app, auth, guesses, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        authorization = Headers(scope=scope).get("authorization") if scope["type"] == "http" else None
        if not authorization or not self._auth.enabled:
            await self._app(scope, receive, send)
            return
        address = address_of(scope)
        if self._guesses.refuses(address, authorization):
            await TooManyGuesses(DELAY_S).response()(scope, receive, send)
        elif self._auth.is_guess(authorization, self._clock()):
            await self._refuse_slowly(address, scope, receive, send)
        else:
            self._guesses.add_valid(address, authorization)
            await self._app(scope, receive, send)

    async def _refuse_slowly(self, address: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request with an unknown token. If the response is 401, count it as a guess.

        If the address has guessed too often, the client gets a 429 after DELAY_S instead of the 401.
        """
        is_slowed = False

        async def watch(message: Message) -> None:
            nonlocal is_slowed
            if message["type"] == "http.response.start" and message["status"] == 401:
                is_slowed = self._guesses.add_wrong(address, time.monotonic())
            if not is_slowed:
                await send(message)

        await self._app(scope, receive, watch)
        if not is_slowed:
            return
        delayed = self._guesses.delayed
        delayed[address] += 1
        try:
            await asyncio.sleep(DELAY_S)
        finally:
            delayed[address] -= 1
            if not delayed[address]:
                del delayed[address]
        await TooManyGuesses(DELAY_S).response()(scope, receive, send)


def address_of(scope: Scope) -> str:
    """Return the address under which a client's requests are counted: IPv4, or the /64 network of an IPv6 address."""
    client = scope.get("client")
    host = str(client[0])[:64] if client else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host  # a proxy may send something else than an IP address
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _digest(authorization: str) -> bytes:
    return hashlib.sha256(authorization.encode("utf-8", "surrogateescape")).digest()
