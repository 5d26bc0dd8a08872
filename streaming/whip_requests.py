"""The HTTP requests of WHIP clients: what is read from them, how they are refused, and headers for browsers."""

import asyncio
import json
import re
from collections.abc import Mapping
from http import HTTPStatus

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

_BODY_TIMEOUT_S = 10.0
_RETRY_AFTER_S = 10
_MAX_PROGRAM = 200  # characters of a User-Agent header


class Rejected(Exception):
    """Raised to refuse a request with an HTTP status. `detail` tells the user what to do."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Return the HTTP response, with an `application/problem+json` body (RFC 9457)."""
        title = HTTPStatus(self.status).phrase
        body = {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail}
        challenge = {"WWW-Authenticate": "Bearer"} if self.status == HTTPStatus.UNAUTHORIZED else {}
        headers = {**challenge, **self.headers}
        return Response(json.dumps(body), self.status, headers, media_type="application/problem+json")


def allow_any_origin(response: Response, methods: str) -> None:
    """Add CORS headers to the response. All origins are allowed, as tokens are sent in a header, never in a cookie."""
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Access-Control-Allow-Methods"] = methods
    response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, If-Match"
    response.headers["Access-Control-Expose-Headers"] = "Location, Link"
    response.headers["Access-Control-Max-Age"] = "86400"


def camera_of(request: Request) -> str:
    camera: str = request.path_params["camera"]
    if not re.fullmatch(r"[a-z0-9_-]{1,64}", camera):
        raise Rejected(404, "no such camera; names are made of a-z, 0-9, _ and -")
    return camera


def program_of(request: Request) -> str:
    return request.headers.get("user-agent", "")[:_MAX_PROGRAM]


def client_of(request: Request) -> str | None:
    """Return the IP address of the client, None if it is unknown or the client is behind a proxy."""
    forwarded = "forwarded" in request.headers or "x-forwarded-for" in request.headers
    return None if forwarded or request.client is None else request.client.host


def retry_later() -> dict[str, str]:
    return {"Retry-After": str(_RETRY_AFTER_S)}


async def text_of(request: Request, content_type: str, max_bytes: int) -> str:
    """Read and return the request's text.

    Raises Rejected: 415 for another content type, 413 as soon as the body is too long, 408 if it does not come in time,
    400 if it is not valid text.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != content_type:
        raise Rejected(415, f"send Content-Type: {content_type}", {"Accept-Post": "application/sdp"})
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise Rejected(413, f"the body is longer than {max_bytes} bytes")
        return body.decode()
    except TimeoutError:
        raise Rejected(408, f"the body did not arrive within {_BODY_TIMEOUT_S:.0f} s") from None
    except ClientDisconnect:
        raise Rejected(400, "the request ended early") from None
    except UnicodeDecodeError:
        raise Rejected(400, "the body is not UTF-8 text") from None
