"""The WHEP server (draft-ietf-wish-whep): viewers send an offer over HTTP, and get a camera's own encoded video.

Nothing is decoded or encoded: the pictures of a `Relay` are packed into RTP again.
"""

import asyncio
import fractions
import logging
import secrets
from collections import Counter
from collections.abc import Callable

import av
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from streaming.ice import Ice
from streaming.relay import Relay, View
from streaming.sdp import IceServer, OfferMalformed, OfferUnusable, check_offer
from streaming.whip import NEGOTIATION_ERRORS
from streaming.whip_requests import Rejected, allow_any_origin, camera_of, client_of, retry_later, text_of

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 15.0
_MAX_OFFER_BYTES = 65_536
_METHODS = "POST, DELETE, OPTIONS"
_TIME_BASE = fractions.Fraction(1, 90_000)

Authorize = Callable[[Request, str], None]
RelayOf = Callable[[str], Relay]


class _ViewTrack(MediaStreamTrack):
    """A video track whose encoded pictures come from a view."""

    kind = "video"

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view

    async def recv(self) -> av.Packet:
        """Return the next encoded picture. Raises MediaStreamError at the end."""
        picture = await self._view.get()
        if picture is None:
            raise MediaStreamError
        packet = av.Packet(picture[0])
        packet.pts, packet.time_base = picture[1], _TIME_BASE
        return packet


class WhepServer:
    """All viewers of this process.

    authorize(request, camera): raises Rejected (401, 403, 404) before any work is done.
    relay_of(camera): returns what is viewed. Raises Rejected (409) if there is nothing.

    Overload policy: beyond `max_viewers`, a viewer gets 503 with Retry-After.
    """

    def __init__(
        self, authorize: Authorize, relay_of: RelayOf, ice: Ice, *, max_viewers: int = 4, ice_servers: tuple[IceServer, ...] = (),
    ) -> None:  # fmt: skip
        """`ice_servers`: STUN and TURN servers whose addresses viewers are sent."""
        self.num_opened = 0
        self.rejected: Counter[int] = Counter()  # by HTTP status
        self._authorize = authorize
        self._relay_of = relay_of
        self._ice = ice
        self._max_viewers = max_viewers
        self._ice_servers = ice_servers
        self._viewers: dict[str, tuple[str, View]] = {}  # by id: the camera and its view
        self._num_negotiating = 0
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def num_viewers(self) -> int:
        return len(self._viewers)

    def routes(self, prefix: str = "/whep") -> list[Route]:
        return [
            Route(prefix + "/{camera}", self._handle, methods=["POST", "OPTIONS"]),
            Route(prefix + "/{camera}/{id}", self._handle, methods=["DELETE", "OPTIONS"]),
        ]

    async def close(self) -> None:
        """End all views."""
        for _, view in list(self._viewers.values()):
            view.close()
        await asyncio.gather(*self._serving)

    async def _handle(self, request: Request) -> Response:
        try:
            if request.method == "OPTIONS":  # a CORS preflight request has no token
                response = Response(status_code=204, headers={"Accept-Post": "application/sdp"})
            else:
                camera = camera_of(request)
                self._authorize(request, camera)
                response = await self._open(request, camera) if request.method == "POST" else self._end(request)
        except (OfferMalformed, OfferUnusable) as error:
            response = self._refuse(Rejected(400 if isinstance(error, OfferMalformed) else 422, str(error)))
        except Rejected as rejected:
            response = self._refuse(rejected)
        allow_any_origin(response, _METHODS)
        return response

    def _refuse(self, rejected: Rejected) -> Response:
        self.rejected[rejected.status] += 1
        return rejected.response()

    async def _open(self, request: Request, camera: str) -> Response:
        relay = self._relay_of(camera)
        text = await text_of(request, "application/sdp", _MAX_OFFER_BYTES)
        offer = check_offer(text, client_of(request), viewer=True)
        if self.num_viewers + self._num_negotiating >= self._max_viewers:
            raise Rejected(503, f"{self._max_viewers} viewers are connected; try again later", retry_later())
        view, peer = relay.view(), self._ice.connection()
        self._num_negotiating += 1
        try:
            answer = await self._negotiate(peer, view, relay.codec, offer.sdp)
        except BaseException as error:
            view.close()
            await peer.close()
            if isinstance(error, OSError):
                raise Rejected(503, f"no network port for the video: {error}", retry_later()) from error
            if isinstance(error, NEGOTIATION_ERRORS):
                raise Rejected(422, f"the offer cannot be answered with {relay.codec} video: {error}") from error
            raise
        finally:
            self._num_negotiating -= 1
        viewer_id = secrets.token_urlsafe(24)
        self._viewers[viewer_id] = camera, view
        self.num_opened += 1
        serving = asyncio.create_task(self._serve(viewer_id, peer, view), name=f"view-{camera}")
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        response = Response(answer, 201, {"Location": f"{request.url.path.rstrip('/')}/{viewer_id}"})
        response.headers["Content-Type"] = "application/sdp"
        for server in self._ice_servers:
            response.headers.append("Link", server.link())
        return response

    async def _negotiate(self, peer: RTCPeerConnection, view: View, codec: str, offer: str) -> str:
        """Return the SDP answer, which sends the view's pictures."""
        transceiver = peer.addTransceiver(_ViewTrack(view), direction="sendonly")
        known = RTCRtpSender.getCapabilities("video").codecs
        transceiver.setCodecPreferences([each for each in known if each.mimeType == f"video/{codec}"])
        await peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        for each in peer.getTransceivers():
            if each is not transceiver:
                each.direction = "inactive"
        self._ice.prepare(peer)
        await peer.setLocalDescription(await peer.createAnswer())
        return str(peer.localDescription.sdp)

    async def _serve(self, viewer_id: str, peer: RTCPeerConnection, view: View) -> None:
        """Wait until the view or the connection ends, and close both."""
        connected = asyncio.Event()
        transports = {each.sender.transport for each in peer.getTransceivers()}

        def changed() -> None:
            states = {peer.connectionState, *(each.state for each in transports)}
            if states & {"failed", "closed"}:
                view.close()
            if states & {"connected", "failed", "closed"}:
                connected.set()

        peer.on("connectionstatechange", changed)
        for transport in transports:  # a viewer that leaves closes DTLS; ICE would notice it after 30 s
            transport.on("statechange", changed)
        changed()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await connected.wait()
        except TimeoutError:
            view.close()
        await view.ended.wait()
        del self._viewers[viewer_id]
        await peer.close()

    def _end(self, request: Request) -> Response:
        camera, view = self._viewers.get(request.path_params["id"], (None, None))
        if view is None or camera != request.path_params["camera"]:
            raise Rejected(404, "no such view; it has ended or never existed")
        view.close()
        return Response(status_code=200)
