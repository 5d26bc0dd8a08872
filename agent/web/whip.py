"""Connects the WHIP endpoint of `streaming` (video over WebRTC, RFC 9725) with the agent."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request

from agent.app import Agent
from agent.ask.question import Evidence
from agent.errors import NotAllowed
from agent.metrics import Reader, Reading, value_reader
from agent.settings.settings import IceServer as IceServerSettings
from agent.settings.settings import Settings, StreamingSettings
from agent.web.guard import Guard, origin_of
from agent.web.robot import Conversation
from streaming.channel import Converse
from streaming.ice import IceSettings
from streaming.sdp import IceServer
from streaming.whip import WhipServer, WhipSettings
from streaming.whip_requests import Rejected

MAX_CAMERAS = 1000  # with so many cameras, no new name is accepted, because each camera keeps a history
MAX_NEW_CAMERAS = 20  # new names for one token in an hour; cameras in the configuration do not count
_HOUR_S = 3600.0


class NewCameras:
    """Limits how many new camera names each token may create within an hour.

    Overload policy: after MAX_NEW_CAMERAS new names, a token may use no other new name until one hour after the first.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Begin without any names. now: a function that returns monotonic seconds."""
        self._now = now
        self._made: dict[str, dict[str, float]] = {}  # by owner: each new camera, and when it was first used

    def wait_s(self, owner: str, camera: str) -> float:
        """Return how many seconds `owner` must wait before it may publish as the new camera `camera`.

        If the result is 0.0, the name is counted as used. owner: a hash that stands for the token.
        """
        now = self._now()
        recent = {
            each: {name: at for name, at in made.items() if now - at < _HOUR_S} for each, made in self._made.items()
        }
        self._made = {each: made for each, made in recent.items() if made}
        made = self._made.setdefault(owner, {})
        if camera not in made and len(made) >= MAX_NEW_CAMERAS:
            return min(made.values()) + _HOUR_S - now
        made.setdefault(camera, now)
        return 0.0


def whip_server(agent: Agent, guard: Guard, settings: Settings) -> WhipServer:
    """Return the WHIP endpoint, which passes each publisher's frames to the agent."""
    new_cameras = NewCameras()

    def owner_of(request: Request) -> str:
        """Return a hash that identifies the request's token without revealing it; "" if security is off."""
        token = guard.who(request)
        return "" if token is None else hashlib.sha256(token.secret.encode()).hexdigest()

    def authorize(request: Request, camera: str) -> None:
        try:
            guard.check(request, f"publish:{camera}")
        except NotAllowed as error:
            raise Rejected(error.status, error.message, error.headers) from None
        refusal = agent.cameras.may_publish(camera)
        if refusal is not None:
            raise Rejected(404, refusal)
        if request.method == "POST":
            admit(request, camera)

    def admit(request: Request, camera: str) -> None:
        known = agent.cameras.names()
        if camera in known:
            return
        if len(known) >= MAX_CAMERAS:
            raise Rejected(
                403, f"there are {len(known)} cameras already; '{camera}' must be listed in the configuration"
            )
        wait_s = math.ceil(new_cameras.wait_s(owner_of(request), camera))
        if wait_s > 0:
            raise Rejected(
                429,
                f"this token has made {MAX_NEW_CAMERAS} new cameras within an hour: try again in {wait_s} s, "
                f"or list '{camera}' under cameras in the configuration",
                {"Retry-After": str(wait_s)},
            )

    def converse(request: Request, camera: str) -> Converse:
        origin = origin_of(request)

        def link(evidence: Evidence) -> str:
            return guard.frame_link(evidence.frame_id, origin)

        return Conversation(agent, camera, may_ask=guard.allows(request, "ask"), link=link).run

    server = WhipServer(
        agent.cameras.publish,
        authorize,
        settings=_whip_settings(settings.streaming),
        frame_settings=agent.cameras.frame_settings,
        converse=converse,
        owner_of=owner_of,
        on_ended=agent.cameras.session_ended,
    )
    agent.metrics.watch(_readers(server))
    return server


def _readers(server: WhipServer) -> list[Reader]:
    counters = server.counters

    def by_reason(counts: Mapping[Any, int]) -> list[Reading]:
        return [({"reason": str(reason)}, float(count)) for reason, count in counts.items()]

    return [
        value_reader("vilamp_whip_sessions", "Publishers now.", lambda: server.num_sessions),
        value_reader("vilamp_whip_opened_total", "Publishers accepted.", lambda: counters.opened),
        value_reader("vilamp_whip_takeovers_total", "Publishers replaced by another.", lambda: counters.takeovers),
        Reader("vilamp_whip_closed_total", "Sessions ended.", ("reason",), lambda: by_reason(counters.closed)),
        Reader("vilamp_whip_rejected_total", "Refusals by status.", ("reason",), lambda: by_reason(counters.rejected)),
        Reader("vilamp_whip_messages_total", "Data channels.", ("reason",), lambda: by_reason(counters.messages)),
    ]


def _whip_settings(settings: StreamingSettings) -> WhipSettings:
    def used_by(who: str) -> tuple[IceServer, ...]:
        servers = (each for each in settings.ice_servers if each.used_by in (who, "both"))
        return tuple(_ice_server(server, url) for server in servers for url in server.urls)

    first, _, last = (settings.udp_ports or "").partition("-")
    ports = (int(first), int(last or first)) if first else None
    ice = IceSettings(udp_ports=ports, public_addresses=settings.public_addresses, servers=used_by("agent"))
    return WhipSettings(max_sessions=settings.max_sessions, ice_servers=used_by("publishers"), ice=ice)


def _ice_server(server: IceServerSettings, url: str) -> IceServer:
    credential = None if server.credential is None else server.credential.get_secret_value()
    return IceServer(url, server.username, credential)
