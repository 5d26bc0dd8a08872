"""The one check of a request: a bearer token with the right scope, or a signed URL that has not expired.

It makes those URLs too: signed for a path of ours, written as whoever gets it reaches us (below `public_url`, if given).
"""

import time
from collections.abc import Callable, Collection
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request

from agent.errors import NotAllowed
from agent.web.auth import Auth, AuthError, Token
from agent.web.url import route_path


class Guard:
    """Puts requests before `Auth`."""

    def __init__(
        self, auth: Auth, url_ttl_s: float, clock: Callable[[], float] = time.time, *, public_url: str | None = None
    ) -> None:
        self.auth = auth
        public = urlsplit(public_url or "")
        self.prefix = public.path.rstrip("/")  # "/vilamp" where a proxy has us below that path; "" at the root
        self._origin = f"{public.scheme}://{public.netloc}" if public_url else None
        self._url_ttl_s = url_ttl_s
        self._clock = clock

    def check(self, request: Request, scope: str) -> None:
        """Raises NotAllowed unless the request's token covers `scope`."""
        try:
            self.auth.check(request.headers.get("authorization"), scope, self._clock())
        except AuthError as error:
            raise NotAllowed(error.message, status=error.status, headers=error.headers) from None

    def allows(self, request: Request, scope: str) -> bool:
        """Does the request's token cover `scope`?"""
        try:
            self.check(request, scope)
        except NotAllowed:
            return False
        return True

    def who(self, request: Request) -> Token | None:
        """The request's token, whatever it opens; None when security is off. Raises NotAllowed."""
        try:
            return self.auth.identify(request.headers.get("authorization"), self._clock())
        except AuthError as error:
            raise NotAllowed(error.message, status=error.status, headers=error.headers) from None

    def check_signed(self, request: Request, scope: str, covered: Collection[str] = ()) -> None:
        """As `check`; a signed URL will do when no token is sent. `covered`: parameters of its query that were signed too."""
        if "authorization" in request.headers:
            self.check(request, scope)
            return
        query = request.query_params
        told = urlencode([(name, value) for name, value in query.multi_items() if name in covered])
        own = route_path(request.scope)
        path = f"{own}?{told}" if told else own
        try:
            self.auth.verify_path(path, query.get("exp"), query.get("sig"), self._clock())
        except AuthError as error:
            raise NotAllowed(error.message, status=error.status, headers=error.headers) from None

    def issue(self, scope: str, ttl_s: float) -> Token:
        """A token for one scope that expires after `ttl_s`."""
        return self.auth.issue(scope, self._clock(), ttl_s)

    def sign(self, path: str) -> str:
        """`path` with a signature that opens it without a token until it expires, below the path of `public_url`.

        The signature is that of `path` alone: it holds whether a proxy takes the prefix off or passes it on.
        """
        return self.prefix + self.auth.sign_path(path, self._clock(), self._url_ttl_s)

    def link(self, path: str, here: str) -> str:
        """As `sign`, a whole URL. here: scheme and host to name where no `public_url` is set."""
        return (self._origin or here) + self.sign(path)


def origin_of(request: Request) -> str:
    """Scheme and host as the client named them: "http://127.0.0.1:8080"."""
    return f"{request.url.scheme}://{request.url.netloc}"
