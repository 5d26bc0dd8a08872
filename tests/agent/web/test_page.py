"""The page's files, the policy they are served under, and what the server does for the page. The browser's tests are in
test_page_browser.py."""

import asyncio
import io
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from agent.errors import NotAllowed
from agent.ingest.jpeg import encode_jpeg, smaller_jpeg
from agent.web.auth import Auth
from agent.web.page import page_files
from tests.support.agents import START, Served, picture, remember, served

FOLDER = Path(__file__).parents[3] / "agent" / "page"
NOW = 1_800_000_000.0


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as site:
        yield site


async def test_files_need_no_token_and_carry_the_policy(site: Served) -> None:
    async with httpx.AsyncClient(base_url=site.url) as http:
        for path, kind in (("/", "text/html"), ("/page/app.js", "text/javascript"), ("/page/style.css", "text/css")):
            response = await http.get(path)
            assert response.status_code == 200
            assert response.headers["content-type"].startswith(kind)
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            again = await http.get(path, headers={"If-None-Match": response.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        for path in ("/page/__init__.py", "/page/nothing.js", "/page/..%2fapi.py", "/page/"):
            assert (await http.get(path)).status_code == 404


async def test_private_responses_are_not_cached(site: Served) -> None:
    await remember(site.agent, "door", 1)
    async with httpx.AsyncClient(base_url=site.url, headers=site.headers()) as http:
        for path in ("/v1/cameras", "/v1/whoami", "/v1/cameras/door/timeline", "/metrics", "/v1/nothing", "/healthz"):
            response = await http.get(path)
            assert response.headers["cache-control"] == "no-store", path
            assert response.headers["x-content-type-options"] == "nosniff", path
        picture = (await http.get("/v1/cameras/door")).json()["latest"]["url"]
        clip = f"/v1/cameras/door/export?after={START - 1}&before={START + 1}"
        for path in (picture, f"{picture}&width=32", clip):  # what is erased later is in no cache
            response = await http.get(path)
            assert (response.status_code, response.headers["cache-control"]) == (200, "no-store"), path
            assert response.headers["x-content-type-options"] == "nosniff"
        assert (await http.get("/")).headers["cache-control"] == "no-cache"


def test_nothing_is_inline_or_fetched_from_elsewhere() -> None:
    for name, file in page_files().items():
        text = file.content.decode().replace("http://www.w3.org/2000/svg", "")  # a name, not an address to load from
        if name.endswith(".html"):
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", text), name
        assert not re.search(r"https?://\w+\.\w", text), name
        assert "innerHTML" not in text, name
        assert "eval(" not in text, name


def test_every_import_of_the_page_is_served() -> None:
    files = page_files()
    for name, file in files.items():
        for imported in re.findall(r"""(?:from|import\()\s*["']\./([\w.]+)["']""", file.content.decode()):
            assert imported in files, f"{name} imports {imported}"


async def test_whoami_returns_the_scopes_of_a_token(site: Served) -> None:
    async with httpx.AsyncClient(base_url=site.url) as http:
        for name, scopes in (("owner", ["admin"]), ("asker", ["ask"]), ("publisher", ["publish:*"])):
            body = (await http.get("/v1/whoami", headers=site.headers(name))).json()
            assert (body["name"], body["scopes"]) == (name, scopes)
        assert (await http.get("/v1/whoami")).status_code == 401


async def test_a_publish_token_allows_one_camera(site: Served) -> None:
    async with httpx.AsyncClient(base_url=site.url) as http:
        assert (await http.post("/v1/cameras/door/publish-token", headers=site.headers())).status_code == 403
        assert (await http.post("/v1/cameras/No!/publish-token", headers=site.headers("owner"))).status_code == 400
        made = (await http.post("/v1/cameras/door/publish-token", headers=site.headers("owner"))).json()
        phone = {"Authorization": f"Bearer {made['token']}"}
        assert (await http.get("/v1/whoami", headers=phone)).json()["scopes"] == ["publish:door"]
        assert (await http.get("/whip/door", headers=phone)).status_code == 204
        assert (await http.get("/whip/gate", headers=phone)).status_code == 403
        assert (await http.get("/v1/cameras", headers=phone)).status_code == 403


def test_an_issued_token_expires_and_cannot_be_forged() -> None:
    auth = Auth([], b"key")
    token = auth.issue("publish:door", NOW, 60).secret
    assert auth.check(f"Bearer {token}", "publish:door", NOW + 59) is not None
    with pytest.raises(NotAllowed, match="expired"):
        auth.check(f"Bearer {token}", "publish:door", NOW + 61)
    with pytest.raises(NotAllowed, match="not known"):
        auth.check(f"Bearer {token}", "publish:door")  # nobody said what time it is
    later = token.replace(str(int(NOW + 60)), str(int(NOW + 9999)))
    for forged in (
        token.replace("door", "gate"),
        later,
        "vt_",
        "vt_admin",
        "vt_admin..",
        f"vt_admin.{int(NOW)}.x",
        token + "x",
    ):
        with pytest.raises(NotAllowed) as caught:
            auth.check(f"Bearer {forged}", "publish:door", NOW)
        assert caught.value.status == 401


async def test_frames_newest_first_and_scaled_pictures(site: Served) -> None:
    await remember(site.agent, "door", 9)
    async with httpx.AsyncClient(base_url=site.url, headers=site.headers()) as http:
        seen: list[float] = []
        page = {"next_before": START + 7}
        while page["next_before"] is not None:
            query = {"before": page["next_before"], "limit": 3, "order": "desc"}
            page = (await http.get("/v1/cameras/door/frames", params=query)).json()
            seen += [frame["time"] - START for frame in page["data"]]
        assert seen == [float(n) for n in range(7, -1, -1)]
        assert (await http.get("/v1/cameras/door/frames?order=up")).status_code == 400
        url = (await http.get("/v1/cameras/door")).json()["latest"]["url"]
        small = await http.get(f"{url}&width=32")
        with Image.open(io.BytesIO(small.content)) as opened:
            assert opened.size == (32, 24)
        assert (await http.get(f"{url}&width=0")).status_code == 400


def test_scaling_never_enlarges_a_picture() -> None:
    jpeg = encode_jpeg(picture(3, width=640, height=480))
    assert smaller_jpeg(jpeg, 640) is jpeg
    with Image.open(io.BytesIO(smaller_jpeg(jpeg, 100))) as small:
        assert small.size == (100, 75)
    with pytest.raises(OSError, match=r"."):
        smaller_jpeg(jpeg[: len(jpeg) // 2], 100)


async def test_two_readiness_requests_at_once(site: Served) -> None:
    async with httpx.AsyncClient(base_url=site.url) as http:
        answers = await asyncio.gather(*(http.get("/readyz") for _ in range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20
