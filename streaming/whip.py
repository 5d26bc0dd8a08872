"""The WHIP server (RFC 9725): publishers send an offer over HTTP, and then video over WebRTC.

`WhipServer(on_session, authorize).routes()` returns Starlette routes. Each accepted offer whose video arrives becomes a
Source of frames, which is passed to `on_session`. The caller checks tokens and cameras (`authorize`) and serves data channels
(`converse`).
"""

import asyncio
import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from aiortc.exceptions import InternalError, InvalidAccessError, InvalidStateError, OperationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from streaming.channel import Converse
from streaming.frame import EndedSession, FrameSettings, Source
from streaming.ice import Ice, IceSettings
from streaming.sdp import (
    MAX_CANDIDATES,
    IceServer,
    Offer,
    OfferMalformed,
    OfferUnusable,
    check_offer,
    complete_answer,
    parse_fragment,
)
from streaming.session import CloseReason, WebRtcSession
from streaming.whip_requests import (
    Rejected,
    allow_any_origin,
    camera_of,
    client_of,
    program_of,
    retry_later,
    text_of,
)

logger = logging.getLogger(__name__)

_ENDPOINT_METHODS = "POST, GET, HEAD, OPTIONS"
_SESSION_METHODS = "PATCH, DELETE, GET, HEAD, OPTIONS"
_ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_REMEMBERED_REPLACED = 256
NEGOTIATION_ERRORS = (InternalError, InvalidAccessError, InvalidStateError, OperationError, ValueError)

Authorize = Callable[[Request, str], None]
OnSession = Callable[[str, Source], None]
Locate = Callable[[str], str | None]
OnOffer = Callable[[Request, str], Converse | None]
OwnerOf = Callable[[Request], str]
OnEnded = Callable[[str, EndedSession], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class WhipSettings:
    """The WHIP server's limits, its addresses, and the ICE servers that its answers name. Raises ValueError if invalid."""

    max_sessions: int = 16
    max_offer_bytes: int = 65_536
    connect_timeout_s: float = 20.0  # from the answer to the first decoded frame
    ice_servers: tuple[IceServer, ...] = ()  # for publishers
    ice: IceSettings = field(default_factory=IceSettings)  # for this server

    def __post_init__(self) -> None:
        if self.max_sessions < 1 or self.max_offer_bytes < 1024 or not self.connect_timeout_s > 0:
            raise ValueError("max_sessions must be at least 1, max_offer_bytes 1024, connect_timeout_s above 0")


@dataclass(slots=True)
class WhipCounters:
    """Totals since the start.

    `closed` is counted by reason, `rejected` by HTTP status, and `messages` (of data channels) by outcome: "taken" if
    accepted, else the reason.
    """

    opened: int = 0
    takeovers: int = 0
    closed: Counter[str] = field(default_factory=Counter)
    rejected: Counter[int] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Entry:
    session: WebRtcSession
    offer: Offer
    num_candidates: int
    owner: str
    client: str  # the publisher's program
    number: int  # in the order of the offers


@dataclass(slots=True)
class _Past:
    """What is remembered of a camera's earlier sessions, after they have ended."""

    num_sessions: int = 0
    last_frame_time: float | None = None


class WhipServer:
    """All WebRTC publishers of this process.

    authorize(request, camera): raises Rejected (401, 403, 404) before any work is done.
    on_session(camera, source): called when the first picture of a session has arrived.
    locate(camera): returns the URL of the node that serves the camera, None for this one.
    frame_settings(camera): returns how the camera is sampled.
    converse(request, camera): returns the coroutine function that serves the session's data channel, or None.
    owner_of(request): returns who publishes (a token), so that one owner's offers cannot keep others out.

    A session becomes its camera's publisher with its first picture. Only then does it end the session that was the
    publisher before, unless that one's offer is the newer of the two.

    Overload policy: `max_sessions` is the number of cameras with sessions. If it is reached, a publisher that has sent no
    frame yet is closed for a new one. Among these, it is the oldest one of the owner who has most of them. If all
    publishers send frames, the new one gets 503 with Retry-After. For each camera and owner, only the newest offer
    waits for its first frame.
    """

    def __init__(
        self, on_session: OnSession, authorize: Authorize, *, settings: WhipSettings | None = None,
        frame_settings: Callable[[str], FrameSettings] = lambda camera: FrameSettings(),
        locate: Locate = lambda camera: None, converse: OnOffer = lambda request, camera: None,
        owner_of: OwnerOf = lambda request: "", on_ended: OnEnded = lambda camera, session: None,
    ) -> None:  # fmt: skip
        self.counters = WhipCounters()
        self._on_session = on_session
        self._authorize = authorize
        self._settings = settings or WhipSettings()
        self._frame_settings = frame_settings
        self._locate = locate
        self._converse = converse
        self._owner_of = owner_of
        self._on_ended = on_ended
        self._entries: dict[str, _Entry] = {}  # by session id
        self._current: dict[str, _Entry] = {}  # by camera: the session that sends its frames
        self._past: dict[str, _Past] = {}  # by camera that has sent frames; `authorize` limits their number
        self._replaced: deque[str] = deque(maxlen=_REMEMBERED_REPLACED)  # ids of sessions whose camera was taken over
        self._ending: set[asyncio.Task[None]] = set()
        self._negotiating: list[str] = []  # cameras
        self.ice = Ice(self._settings.ice)
        self.ice_servers = self._settings.ice_servers
        self._closed = False

    @property
    def num_sessions(self) -> int:
        return len(self._entries)

    def routes(self, prefix: str = "/whip") -> list[Route]:
        return [
            Route(prefix + "/{camera}", self._handler(self._endpoint, _ENDPOINT_METHODS), methods=_ALL_METHODS),
            Route(prefix + "/{camera}/{id}", self._handler(self._resource, _SESSION_METHODS), methods=_ALL_METHODS),
        ]

    async def close(self) -> None:
        """End every session and refuse new ones."""
        self._closed = True
        for entry in list(self._entries.values()):
            entry.session.end("shutdown")
        await asyncio.gather(*self._ending)
        self.ice.close()

    def _handler(
        self, respond: Callable[[Request, str], Awaitable[Response]], methods: str
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return a request handler that calls `respond`, adds CORS headers, and turns Rejected into a response."""

        async def handle(request: Request) -> Response:
            try:
                if request.method == "OPTIONS":  # a CORS preflight request has no token
                    response = Response(status_code=204, headers={"Allow": methods, "Accept-Post": "application/sdp"})
                elif request.method not in methods.split(", "):
                    raise Rejected(405, f"use {methods} here", {"Allow": methods})
                else:
                    response = await respond(request, camera_of(request))
            except OfferMalformed as error:
                response = self._refuse(Rejected(400, str(error)))
            except OfferUnusable as error:
                response = self._refuse(Rejected(422, str(error)))
            except Rejected as rejected:
                response = self._refuse(rejected)
            allow_any_origin(response, methods)
            return response

        return handle

    def _refuse(self, rejected: Rejected) -> Response:
        self.counters.rejected[rejected.status] += 1
        return rejected.response()

    async def _endpoint(self, request: Request, camera: str) -> Response:
        self._authorize(request, camera)
        if request.method in ("GET", "HEAD"):
            return Response(status_code=204)
        elsewhere = self._locate(camera)
        if elsewhere is not None:
            return Response(status_code=307, headers={"Location": elsewhere})
        began = time.time()
        try:
            return await self._accept(request, camera)
        except (OfferMalformed, OfferUnusable, Rejected) as refused:
            client = program_of(request)
            logger.info("camera %s: offer of %s refused: %s", camera, client or "an unknown client", refused)
            ended = EndedSession(client=client, started=began, ended=time.time(), end="refused", detail=str(refused))
            self._on_ended(camera, ended)
            raise

    async def _accept(self, request: Request, camera: str) -> Response:
        text = await text_of(request, "application/sdp", self._settings.max_offer_bytes)
        offer = check_offer(text, client_of(request))
        session, answer = await self._negotiate(camera, offer, self._converse(request, camera))
        session_id = self._adopt(session, offer, self._owner_of(request), program_of(request))
        session.add_candidates(offer.named_candidates, offer.mid)
        response = Response(answer, 201, {"Location": f"{request.url.path.rstrip('/')}/{session_id}"})
        response.headers["Content-Type"] = "application/sdp"
        for server in self._settings.ice_servers:
            response.headers.append("Link", server.link())
        return response

    async def _negotiate(self, camera: str, offer: Offer, converse: Converse | None) -> tuple[WebRtcSession, str]:
        """Create a session for the offer. Return it, waiting for its publisher to connect, and the SDP answer.

        If this fails, the session is closed.
        """
        if self._closed or not self._make_place(camera):
            raise Rejected(503, "the maximum number of publishers is reached; try again later", retry_later())
        session = WebRtcSession(
            camera,
            self._frame_settings(camera),
            connect_timeout_s=self._settings.connect_timeout_s,
            converse=converse,
            messages=self.counters.messages,
            ice=self.ice,
        )
        self._negotiating.append(camera)
        try:
            answer = await session.negotiate(offer.sdp)
        except NEGOTIATION_ERRORS as error:
            raise Rejected(422, f"the offer cannot be answered: {error}") from error
        except OSError as error:
            logger.error("no address for a publisher: %s", error)
            raise Rejected(503, f"no network port for the video: {error}; try again later", retry_later()) from error
        finally:
            self._negotiating.remove(camera)
        return session, complete_answer(answer, offer)

    def _make_place(self, camera: str) -> bool:
        """Make room for one more publisher, by closing one without frames if necessary.

        Return whether there is room.
        """
        while len({*self._negotiating, *self._cameras(), camera}) > self._settings.max_sessions:
            silent = [entry for entry in self._entries.values() if entry.session.camera not in self._current]
            if not silent:
                return False
            share = Counter(entry.owner for entry in silent)
            max(silent, key=lambda entry: share[entry.owner]).session.end("gave_way")  # the oldest of them
        return True

    def _cameras(self) -> Iterator[str]:
        return (entry.session.camera for entry in self._entries.values())

    def _adopt(self, session: WebRtcSession, offer: Offer, owner: str, client: str) -> str:
        """Keep the session, which waits for its first picture, and return its id.

        It replaces an earlier session of the owner for the same camera that waits as well.
        """
        session_id = secrets.token_urlsafe(24)
        for entry in list(self._entries.values()):
            if (entry.session.camera, entry.owner) == (session.camera, owner) and not entry.session.stats.received:
                entry.session.end("replaced")
        entry = _Entry(session, offer, offer.num_candidates, owner, client, self.counters.opened)
        self._entries[session_id] = entry
        session.on_first_frame = lambda: self._take_over(entry)
        session.on_closed = lambda closed, reason: self._forget(session_id, closed, reason)
        self.counters.opened += 1
        return session_id

    def _take_over(self, entry: _Entry) -> float | None:
        """Make the session its camera's publisher, and begin to end the one before.

        Return the time of the camera's last frame so far, in unix seconds.
        """
        session, old = entry.session, self._current.get(entry.session.camera)
        if old is not None and old.number > entry.number:  # its publisher chose the camera later
            session.end("replaced")
            return None
        self._current[session.camera] = entry
        if old is not None:
            self.counters.takeovers += 1
            old.session.end("replaced")
        past = self._past.setdefault(session.camera, _Past())
        session.stats.reconnects = past.num_sessions
        past.num_sessions += 1
        self._on_session(session.camera, session)
        return past.last_frame_time

    def _forget(self, session_id: str, session: WebRtcSession, reason: CloseReason) -> None:
        self.counters.closed[reason] += 1
        if reason == "replaced":  # its page learns this, so that two pages do not take over from each other for ever
            self._replaced.append(session_id)
        entry = self._entries.pop(session_id)
        if self._current.get(session.camera) is entry:
            del self._current[session.camera]
        if session.stats.last_frame_time is not None:
            self._past[session.camera].last_frame_time = session.stats.last_frame_time
        ending = asyncio.create_task(session.close(reason), name=f"ending-{session.camera}")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        ended = session.ended(entry.client, reason)
        told = (reason, ended.client, ended.codec, ended.width, ended.height, ended.received, ended.packets_lost)
        logger.info("camera %s: publisher gone (%s): %s %s %dx%d, %d frames, %d packets lost", session.camera, *told)
        self._on_ended(session.camera, ended)

    async def _resource(self, request: Request, camera: str) -> Response:
        self._authorize(request, camera)
        entry = self._entries.get(request.path_params["id"])
        if request.path_params["id"] in self._replaced and request.method in ("GET", "HEAD"):
            raise Rejected(410, "another publisher has taken this camera over")
        if entry is None or entry.session.camera != camera:
            raise Rejected(404, "no such session; it has ended or never existed")
        if request.method in ("GET", "HEAD"):
            return Response(status_code=204)
        if request.method == "DELETE":
            await entry.session.close("deleted")
            return Response(status_code=200)
        return await self._trickle(request, entry)

    async def _trickle(self, request: Request, entry: _Entry) -> Response:
        text = await text_of(request, "application/trickle-ice-sdpfrag", self._settings.max_offer_bytes)
        fragment = parse_fragment(text, client_of(request))
        matches = request.headers.get("if-match")
        if matches in ("*", '"*"') or fragment.restarts(entry.offer.ice_ufrag, entry.offer.ice_pwd):
            raise Rejected(422, "ICE restarts are not supported; the session goes on. POST a new offer to start anew")
        if matches is not None:
            raise Rejected(412, "sessions here have no entity tags; leave out If-Match")
        wanted = fragment.candidates[: max(0, MAX_CANDIDATES - entry.num_candidates)]
        entry.num_candidates += len(wanted)
        entry.session.add_candidates(wanted, entry.offer.mid)
        return Response(status_code=204)
