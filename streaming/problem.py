"""Refusals over HTTP: `application/problem+json` (RFC 9457)."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import Response


class Rejected(Exception):
    """A request is refused; whose fault it is says the status. `detail` tells the user what to do."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def problem_response(rejected: Rejected) -> Response:
    body = {
        "type": "about:blank",
        "title": HTTPStatus(rejected.status).phrase,
        "status": rejected.status,
        "detail": rejected.detail,
    }
    headers = dict(rejected.headers)
    if rejected.status == HTTPStatus.UNAUTHORIZED:
        headers.setdefault("WWW-Authenticate", "Bearer")
    return Response(json.dumps(body), rejected.status, headers, media_type="application/problem+json")
