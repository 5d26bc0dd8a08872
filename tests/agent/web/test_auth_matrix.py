"""Who may do what, of every route that the running application has, found by asking the application itself.

A route that is added must be guarded, or this fails: without a token only `OPEN` answers, a signed URL opens only what is
listed in `SIGNED`, and any scope but that of `NEEDED` (by default `ask` to read and `admin` to change) is refused.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest
from starlette.routing import Route

from agent.web.auth import Auth
from tests.support.agents import Served, remember, served
from tests.support.in_process import Reply, ask, scope_of
from tests.support.streams import OFFER

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")
OPEN = {"/", "/page/{file}", "/healthz", "/readyz"}
SIGNED = {
    "/v1/frames/{frame_id:frame}.jpg", "/v1/alerts/{id}/snapshot.jpg", "/v1/alerts/stream", "/v1/cameras/{camera}/export",
}  # fmt: skip
ANY_TOKEN = {"/v1/whoami"}
NEEDED = {
    ("POST", "/v1/chat/completions"): "ask",
    ("POST", "/v1/rules/dry-run"): "ask",
    ("PUT", "/v1/cameras/{camera}/metadata"): "publish:door",
    **{(method, "/whip/{camera}"): "publish:door" for method in ("GET", "HEAD", "POST")},
    **{(method, "/whip/{camera}/{id}"): "publish:door" for method in ("GET", "HEAD", "PATCH", "DELETE")},
    ("POST", "/whep/{camera}"): "ask",
    ("DELETE", "/whep/{camera}/{id}"): "ask",
}
PLACES = {"camera": "door", "model": "vilamp", "frame_id": "1", "id": "none", "file": "app.js", "name": "none"}
SCOPES = ("ask", "publish:door", "publish:yard", "publish:*", "admin")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Served]:
    tokens = [
        {"name": f"token{number}", "token": f"secret-of-token-{number}", "scopes": [scope]}
        for number, scope in enumerate(SCOPES)
    ]
    async with served(tmp_path, security={"tokens": tokens}) as site:
        await remember(site.agent, "door", 2)
        yield site


class Asker:
    """Sends requests to one site, each from its own address, because guesses are slowed by address."""

    def __init__(self, site: Served) -> None:
        self.site = site
        self.num_asked = 0
        self._numbers = count(1)

    async def __call__(self, method: str, target: str, token: str | None = None, kind: str = "Bearer") -> Reply:
        self.num_asked += 1
        number = next(self._numbers)
        headers = [] if token is None else [("Authorization", f"{kind} {token}")]
        client = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        reply = await ask(self.site.app, scope_of(method, target, headers, client), whole=False)
        assert reply.status < 500, (method, target)
        assert "location" not in reply.headers, (method, target)
        if method == "HEAD" and reply.status == 401:
            assert "www-authenticate" in reply.headers
        return reply


def routes_of(site: Served) -> list[tuple[str, str]]:
    """Every method and path of every route."""
    found = []
    for route in site.app.routes:
        assert isinstance(route, Route), "what is no plain route needs a check of its own here"
        found += [(method, route.path) for method in sorted(route.methods or METHODS)]
    return found


def taken(method: str, path: str) -> bool:
    """True unless the response only answers a preflight or refuses the method."""
    if path.startswith(("/whip/", "/whep/")):
        return (method, path) in NEEDED
    return True


def target_of(path: str) -> str:
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda place: PLACES[place[1]], path)


def needed(method: str, path: str) -> str:
    return NEEDED.get((method, path), "ask" if method in ("GET", "HEAD") else "admin")


async def test_without_a_token_only_public_routes_answer(site: Served) -> None:
    asker = Asker(site)
    expired = site.auth.issue("publish:door", site.agent.clock() - 100, 10).secret
    forged = site.auth.issue("publish:door", site.agent.clock(), 1000).secret[:-2] + "AA"
    strangers = [(None, "Bearer"), ("wrong", "Bearer"), ("", "Bearer"), (expired, "Bearer"), (forged, "Bearer")]
    strangers += [(site.token("owner"), "Basic"), (site.token("owner")[:-1], "Bearer")]
    for method, path in routes_of(site):
        if not taken(method, path):
            continue
        for token, kind in strangers:
            status = (await asker(method, target_of(path), token, kind)).status
            if path in OPEN:
                assert status in (200, 304), (method, path, status)
            else:
                assert status == 401, (method, path, token and token[:6], status)
    assert asker.num_asked > 200


async def test_every_scope_allows_its_routes_and_no_others(site: Served) -> None:
    asker = Asker(site)
    tokens = {scope: token for token in site.auth.tokens for scope in token.scopes if token.name.startswith("token")}
    assert set(tokens) == set(SCOPES)
    for method, path in routes_of(site):
        if path in OPEN or not taken(method, path):
            continue
        for scope in SCOPES:
            status = (await asker(method, target_of(path), tokens[scope].secret)).status
            may = path in ANY_TOKEN or tokens[scope].allows(needed(method, path))
            assert (status not in (401, 403)) == may, (method, path, scope, status)
            assert may or status == 403, (method, path, scope, status)


async def test_issued_tokens_allow_publishing_one_camera(site: Served) -> None:
    asker = Asker(site)
    door = site.auth.issue("publish:door", site.agent.clock(), 1000).secret
    for method, path in routes_of(site):
        if path in OPEN | ANY_TOKEN or not taken(method, path):
            continue
        status = (await asker(method, target_of(path), door)).status
        assert (status not in (401, 403)) == (needed(method, path) == "publish:door"), (method, path, status)
        if "/door" in target_of(path) and needed(method, path) == "publish:door":
            assert (await asker(method, target_of(path).replace("/door", "/yard"), door)).status == 403


async def test_signed_urls_open_their_own_path_until_they_expire(site: Served) -> None:
    asker, now = Asker(site), site.agent.clock()
    stranger = Auth([], b"another key")
    for method, path in routes_of(site):
        if path in OPEN or not taken(method, path):
            continue
        query = "?after=1&before=1795363450" if path.endswith("/export") else ""
        target = target_of(path) + query
        good = site.auth.sign_path(target, now, 60)
        old, foreign = site.auth.sign_path(target, now - 100, 10), stranger.sign_path(target, now, 60)
        other = site.auth.sign_path("/v1/frames/2.jpg", now, 60).partition("?")[2]  # of another picture
        moved = f"{target}{'&' if query else '?'}{other}"
        later = re.sub(r"exp=\d+", "exp=99999999999", good)
        if path not in SIGNED:
            assert (await asker(method, good)).status == 401, (method, path)
            continue
        assert (await asker(method, good)).status not in (401, 403), (method, path)
        wider = good.replace("before=1795363450", "before=1795369999") if query else old
        for wrong in (old, foreign, moved, later, good[:-1], wider):
            assert (await asker(method, wrong)).status == 403, (method, path, wrong)
        assert (await asker(method, good, "wrong")).status == 401  # a token that is sent counts


async def test_odd_paths_open_nothing(site: Served) -> None:
    """Double, encoded and trailing slashes; upper case; dots; NUL; bytes that are not text."""
    asker = Asker(site)
    for method, path in routes_of(site):
        if path in OPEN or not taken(method, path):
            continue
        target = target_of(path)
        plain = (await asker(method, target)).status
        assert (await asker(method, target + "/")).status == plain == 401
        assert (await asker(method, target.replace("/", "%2F").replace("%2F", "/", 1))).status == 401
        for odd in (
            "/" + target, target + "//", target.replace("/", "//"), target.upper(), f"/page/..{target}", f"/.{target}",
            f"/page/..%2f..{target}", target + "%00", target + "%0d%0aX: y", target + "%ff", target + ";x=1",
            target + "%2e", "/%2e%2e" + target, target + "/app.js", "http://evil.example" + target,
        ):  # fmt: skip
            assert (await asker(method, odd)).status in (401, 404, 405), (method, odd)


async def test_other_methods_of_a_route_are_refused(site: Served) -> None:
    asker = Asker(site)
    for path in sorted({path for _, path in routes_of(site)}):
        has = {method for method, each in routes_of(site) if each == path}
        for method in sorted(set(METHODS) - has):
            status = (await asker(method, target_of(path))).status
            assert status in (401, 405), (method, path)  # 401: another route with a name in it takes this one
        if path.startswith("/whip/"):
            assert (await asker("OPTIONS", target_of(path))).status == 204
            assert (await asker("PUT", target_of(path))).status == 405


async def test_a_slash_at_the_end_is_ignored_without_a_redirect(site: Served) -> None:
    """A redirect built from the Host header would lead wherever the client says."""
    token = [("Authorization", f"Bearer {site.token('owner')}"), ("Host", "evil.example")]
    for method, path in routes_of(site):
        if path == "/" or path.endswith("/stream"):
            continue
        plain = await ask(site.app, scope_of(method, target_of(path), token), b"{}")
        slash = await ask(site.app, scope_of(method, target_of(path) + "/", token), b"{}")
        assert plain.status == slash.status, (method, path)
        assert "location" not in slash.headers
        assert b"evil.example" not in slash.body


async def test_an_offer_with_a_slash_at_the_end(site: Served) -> None:
    headers = [("Authorization", f"Bearer {site.token('publisher')}"), ("Content-Type", "application/sdp")]
    made = await ask(site.app, scope_of("POST", "/whip/yard/", [*headers, ("Host", "evil.example")]), OFFER.encode())
    assert made.status == 201, made.body
    assert re.fullmatch(r"/whip/yard/[\w-]+", made.headers["location"])
    ended = await ask(site.app, scope_of("DELETE", made.headers["location"] + "/", headers))
    assert ended.status == 200
    await asyncio.sleep(0)
