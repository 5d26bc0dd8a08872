"""Connects the WHEP endpoint of `streaming` (live views) with the agent."""

from starlette.requests import Request

from agent.app import Agent
from agent.errors import NotAllowed, UnknownCamera
from agent.metrics import Reader, value_reader
from agent.settings.settings import Settings
from agent.web.guard import Guard
from streaming.media import LiveSource
from streaming.relay import Relay
from streaming.session import WebRtcSession
from streaming.whep import WhepServer
from streaming.whip import WhipServer
from streaming.whip_requests import Rejected

_INSTEAD = "show its newest frame instead (GET /v1/cameras/{0})"


def whep_server(agent: Agent, guard: Guard, settings: Settings, whip: WhipServer) -> WhepServer:
    """Return the WHEP endpoint, which uses the same UDP ports and ICE servers as the WHIP endpoint."""

    def authorize(request: Request, camera: str) -> None:
        try:
            guard.check(request, "ask")
            agent.cameras.existing((camera,))
        except NotAllowed as error:
            raise Rejected(error.status, error.message, error.headers) from None
        except UnknownCamera as error:
            raise Rejected(404, error.message) from None

    def relay_of(camera: str) -> Relay:
        instead = _INSTEAD.format(camera)
        if settings.camera(camera).masks:
            raise Rejected(409, f"a live view of '{camera}' would show what its masks cover: {instead}")
        intake = agent.cameras.intakes.get(camera)
        source = None if intake is None else intake.source
        if not isinstance(source, LiveSource | WebRtcSession) or source.stats.state != "live":
            raise Rejected(409, f"'{camera}' sends no live video now: {instead}")
        if not source.relay.codec:
            raise Rejected(409, f"'{camera}' sends no VP8 or H.264 over WebRTC or RTSP: {instead}")
        return source.relay

    max_viewers = settings.streaming.max_viewers
    server = WhepServer(authorize, relay_of, whip.ice, max_viewers=max_viewers, ice_servers=whip.ice_servers)
    agent.metrics.watch([
        value_reader("vilamp_whep_viewers", "Live views now.", lambda: server.num_viewers),
        value_reader("vilamp_whep_opened_total", "Live views opened.", lambda: server.num_opened),
        Reader(
            "vilamp_whep_rejected_total", "Live views refused, by status.", ("reason",),
            lambda: [({"reason": str(status)}, float(num)) for status, num in server.rejected.items()],
        ),
    ])  # fmt: skip
    return server
