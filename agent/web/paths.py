"""Paths of requests: numbers in them, and the slash at their end."""

from starlette.convertors import Convertor, register_url_convertor
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.untrusted.wire import shown


class FrameNumber(Convertor[int]):
    """`{frame_id:frame}`: a frame's number. More digits than any frame has match nothing, and so are not found."""

    regex = "[0-9]{1,15}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("frame", FrameNumber())


def route_path(scope: Scope) -> str:
    """The path that a request asks for, below the prefix under which the application is mounted."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "").rstrip("/")
    return path[len(prefix) :] if prefix and (path == prefix or path.startswith(prefix + "/")) else path


def shown_path(scope: Scope) -> str:
    """It, as a message may repeat it."""
    return shown(route_path(scope), 200)


class OneSlashLess:
    """`/v1/cameras/` is `/v1/cameras`: a single slash at the end is dropped, without a redirect to anywhere."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(route_path(scope)) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"][:-1]}
        await self._app(scope, receive, send)
