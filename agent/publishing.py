"""Publishers: the WHIP endpoint joined to tokens, settings and the agent."""

from starlette.requests import Request

from agent.agent import Agent
from agent.auth import AuthError
from agent.config import IceServer as IceServerSettings
from agent.config import Settings
from agent.guard import Guard
from streaming.answer import IceServer
from streaming.frame import Source
from streaming.problem import Rejected
from streaming.whip import WhipServer, WhipSettings


def whip_server(agent: Agent, guard: Guard, settings: Settings) -> WhipServer:
    """The endpoint; what is published goes to the agent."""

    def authorize(request: Request, camera: str) -> None:
        try:
            guard.auth.check(request.headers.get("authorization"), f"publish:{camera}")
        except AuthError as error:
            raise Rejected(error.status, error.message, error.headers) from None
        refusal = agent.may_publish(camera)
        if refusal is not None:
            raise Rejected(404, refusal)

    def on_session(camera: str, source: Source) -> None:
        agent.published(camera, source)

    told = tuple(_ice_server(server, url) for server in settings.streaming.ice_servers for url in server.urls)
    limits = WhipSettings(max_sessions=settings.streaming.max_sessions, ice_servers=told)
    return WhipServer(on_session, authorize, settings=limits, frame_settings=agent.frame_settings)


def _ice_server(server: IceServerSettings, url: str) -> IceServer:
    credential = None if server.credential is None else server.credential.get_secret_value()
    return IceServer(url, server.username, credential)
