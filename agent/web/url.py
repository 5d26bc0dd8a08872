"""Reads the path and the query parameters of a request. Its errors say what to send instead."""

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.types import Scope

from agent.ask.request import Cameras, parse_moment, parse_span
from agent.errors import BadRequest, shown
from agent.runtime import pools
from agent.untrusted.fields import check_spelling
from memory.window import Within

_FILTERS = frozenset({"camera", "cameras", "rule", "after", "before", "within", "question"})
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


class FrameNumber(Convertor[int]):
    """Path convertor for routes: `{frame_id:frame}` matches a frame's number of at most 15 digits."""

    regex = "[0-9]{1,15}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("frame", FrameNumber())


def route_path(scope: Scope) -> str:
    """Return the request's path without the prefix under which the application is mounted."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "").rstrip("/")
    return path[len(prefix) :] if prefix and (path == prefix or path.startswith(prefix + "/")) else path


def shown_path(scope: Scope) -> str:
    """Return the path shortened and cleaned for an error message."""
    return shown(route_path(scope), 200)


def check_names(request: Request, *names: str) -> None:
    """Check the names of the query's parameters. names: the parameters that the route reads.

    Raises BadRequest for a misspelling of one of them, for one that is sent twice, and for a parameter such as `after`
    that only other routes read. Any other parameter is ignored.
    """
    check_spelling(request.query_params, names, ("exp", "sig"))
    for name in request.query_params:
        if name in names and len(request.query_params.getlist(name)) > 1:
            raise BadRequest(f"'{name}' comes twice: send it once.", param=name)
        if name in _FILTERS and name not in names:
            raise BadRequest(f"'{name}' has no effect here: leave it out.", param=name)


async def path_camera(cameras: Cameras, request: Request) -> str:
    """Return the camera that the path names. Raises UnknownCamera if there is none with this name."""
    (camera,) = await pools.web(cameras.existing, (request.path_params["camera"],))
    return camera


def span(request: Request, zone: str) -> tuple[float | None, float | None]:
    """Return `after` and `before` of the query in unix seconds. Raises BadRequest, also if `after` is not earlier."""
    return parse_span(request.query_params.get("after"), request.query_params.get("before"), zone)


def moment(request: Request, name: str, zone: str) -> float | None:
    """Return the time in the parameter `name` as unix seconds; None when it is missing. Raises BadRequest.

    The parameter is a number of unix seconds, or an ISO 8601 text, which is local time in `zone` if it has no offset.
    """
    return parse_moment(request.query_params.get(name), zone, name)


def place(request: Request, name: str) -> Within | None:
    """Return the circle in a parameter "x,y,radius"; None when it is missing. Raises BadRequest."""
    text = request.query_params.get(name)
    try:
        return None if text is None else parse_place(text)
    except ValueError as error:
        raise BadRequest(f"'{name}': {error}", param=name) from None


def parse_place(text: str) -> Within:
    """Return the circle that a text describes: "2.5,-1,3" is the circle of radius 3 m around x = 2.5, y = -1.

    Raises ValueError.
    """
    try:
        x, y, radius_m = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f'"{text}" is not a place: give x,y,radius in metres, such as 2.5,-1,3') from None
    return Within(x, y, radius_m)


def whole_number(request: Request, name: str, default: int, most: int) -> int:
    """Return a parameter that is a whole number from 1 to `most`; `default` when it is missing. Raises BadRequest."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most):
        raise BadRequest(f"'{name}' is a number from 1 to {most}.", param=name)
    return int(text)


def flag(request: Request, name: str, default: bool) -> bool:
    """Return a parameter that is "true" or "false"; `default` when it is missing. Raises BadRequest."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if text not in _FLAGS:
        raise BadRequest(f"'{name}' is true or false.", param=name)
    return _FLAGS[text]
