"""The URL of a request: its path, and the values of its query, each checked with an error that says what to send."""

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.ask.request import parse_moment
from agent.errors import BadRequest, shown
from agent.untrusted.fields import check_spelling
from memory.window import Within

_NARROWING = frozenset({"camera", "cameras", "rule", "after", "before", "within", "question"})
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


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


def check_names(request: Request, *names: str) -> None:
    """Raises BadRequest for a parameter that is nearly one of `names`, the ones that are read, that comes twice, or that
    narrows what other routes answer and would be ignored here. Others are ignored."""
    check_spelling(request.query_params, names, ("exp", "sig"))
    for name in request.query_params:
        if name in names and len(request.query_params.getlist(name)) > 1:
            raise BadRequest(f"'{name}' comes twice: send it once.", param=name)
        if name in _NARROWING and name not in names:
            raise BadRequest(f"'{name}' has no effect here: leave it out.", param=name)


def moment(request: Request, name: str, zone: str) -> float | None:
    """Unix seconds of a number or an ISO 8601 text, which is local time in `zone`; None: not given."""
    return parse_moment(request.query_params.get(name), zone, name)


def place(request: Request, name: str) -> Within | None:
    """Three numbers "x,y,radius"; None: not given."""
    text = request.query_params.get(name)
    try:
        return None if text is None else parse_place(text)
    except ValueError as error:
        raise BadRequest(f"'{name}': {error}", param=name) from None


def parse_place(text: str) -> Within:
    """ "2.5,-1,3": within 3 m of x = 2.5, y = -1. ValueError with what to do."""
    try:
        x, y, radius_m = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f'"{text}" is not a place: give x,y,radius in metres, such as 2.5,-1,3') from None
    return Within(x, y, radius_m)


def whole_number(request: Request, name: str, default: int, most: int) -> int:
    """A number from 1 to `most`."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most):
        raise BadRequest(f"'{name}' is a number from 1 to {most}.", param=name)
    return int(text)


def flag(request: Request, name: str, default: bool) -> bool:
    """true or false."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if text not in _FLAGS:
        raise BadRequest(f"'{name}' is true or false.", param=name)
    return _FLAGS[text]
