"""The agent below a path of a real nginx: assets, pictures, sessions, links and streams, also in a real browser."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from aioice import ice

pytest.importorskip("playwright", reason="the browser's tests need playwright: pip install '.[dev]'")

from playwright.async_api import expect

from agent.cli.client import Client
from streaming.publisher import publish
from tests.support.agents import START, Served, remember, served
from tests.support.brokers import free_port
from tests.support.browser import browser, needs_chromium, visit
from tests.support.proxies import documented_location, needs_nginx, nginx
from tests.support.streams import track
from tests.support.waiting import until

PREFIX = "/cams/vilamp"


@asynccontextmanager
async def behind(folder: Path, *, stripped: bool = True, told: bool = True) -> AsyncIterator[tuple[Served, str]]:
    """An agent with a few frames of "door", and its URL behind nginx. told: whether `public_url` is set."""
    port = free_port()
    public = f"http://127.0.0.1:{port}{PREFIX}"
    async with served(folder, **({"public_url": public} if told else {})) as site:
        with nginx(folder, port, documented_location(site.url, PREFIX, stripped=stripped)):
            await remember(site.agent, "door", 4)
            yield site, public


@needs_nginx
@pytest.mark.parametrize("stripped", [True, False], ids=["stripped", "passed-on"])
async def test_every_url_that_is_returned_works_below_the_prefix(tmp_path: Path, stripped: bool) -> None:
    async with behind(tmp_path, stripped=stripped) as (site, public), httpx.AsyncClient() as http:
        page = await http.get(f"{public}/")
        assert page.status_code == 200
        for each in re.findall(r'(?:src|href)="([^"#]+)"', page.text):
            assert (await http.get(urljoin(f"{public}/", each))).status_code == 200, each
        headers = site.headers("owner")

        camera = (await http.get(f"{public}/v1/cameras/door", headers=headers)).json()
        frames = (await http.get(f"{public}/v1/cameras/door/frames", headers=headers)).json()["data"]
        timeline = (await http.get(f"{public}/v1/cameras/door/timeline?question=a+car", headers=headers)).json()
        stream = (await http.get(f"{public}/v1/alerts", headers=headers)).json()["stream_url"]
        asked = {"messages": [{"role": "user", "content": "a car?"}]}
        answer = (await http.post(f"{public}/v1/chat/completions", headers=headers, json=asked)).json()
        cited = [each["url"] for each in answer["choices"][0]["message"]["annotations"]]
        in_messages = [site.agent.alerts.watcher.recorder.link(f"/v1/frames/{frames[0]['frame_id']}.jpg")]
        assert all(url.startswith(f"{public}/v1/frames/") for url in [*cited, *in_messages])
        paths = [camera["latest"]["url"], frames[0]["url"], *(each["url"] for each in timeline["keyframes"])]
        assert cited
        assert len(paths) > 2
        for url in [*cited, *in_messages, *(urljoin(public, path) for path in paths)]:
            got = await http.get(url)
            assert (got.status_code, got.headers["content-type"]) == (200, "image/jpeg"), url
        for path in (
            paths[0],
            urlsplit(cited[0]).path + "?" + urlsplit(cited[0]).query,
        ):  # the agent's own address, too
            assert (await http.get(site.url + path)).status_code == 200
        clip = site.agent.alerts.watcher.recorder.link(f"/v1/cameras/door/export?after={START}&before={START + 3}")
        assert (await http.get(clip)).headers["content-type"] == "application/zip"
        async with http.stream("GET", urljoin(public, stream)) as events:
            assert (await anext(events.aiter_lines())).startswith("id: ")  # at once, though the stream has no end
        assert (
            await http.get(f"{public}/v1/cameras/door/", headers=headers, follow_redirects=True)
        ).url.port == urlsplit(public).port


# Behind a proxy the server refuses addresses of loopback, because it cannot tell that the publisher is on its machine.
@pytest.mark.skipif(not ice.get_host_addresses(True, True), reason="needs a network besides loopback")
@needs_nginx
@pytest.mark.parametrize("stripped", [True, False], ids=["stripped", "passed-on"])
async def test_publisher_ends_its_session_through_the_proxy(tmp_path: Path, stripped: bool) -> None:
    async with behind(tmp_path, stripped=stripped) as (site, public):
        async with publish(f"{public}/whip/gate", site.token("owner"), track()) as publication:
            await publication.wait_connected()
            assert publication.session_url.startswith(f"{public}/whip/gate/")
            await until(lambda: "gate" in site.agent.cameras.names())
        async with httpx.AsyncClient(headers=site.headers("owner")) as http:  # ended by the DELETE, not by a time limit
            assert 'vilamp_whip_closed_total{reason="deleted"} 1.0' in (await http.get(f"{public}/metrics")).text


@needs_nginx
@pytest.mark.parametrize("stripped", [True, False], ids=["stripped", "passed-on"])
async def test_command_line_client_below_a_prefix(tmp_path: Path, stripped: bool) -> None:
    async with behind(tmp_path, stripped=stripped) as (site, public):

        def fetch() -> list[bytes]:
            with Client(public, site.token("asker")) as client:
                *_, reply = client.ask("a car?")
                assert not isinstance(reply, str)
                path = client.get_json("/v1/cameras/door")["latest"]["url"]
                return [client.get_bytes(reply.citations[0].url), client.get_bytes(path)]

        assert all(jpeg.startswith(b"\xff\xd8") for jpeg in await asyncio.to_thread(fetch))


@needs_nginx
@needs_chromium
@pytest.mark.parametrize(("stripped", "told"), [(False, True), (True, False)])
async def test_page_works_below_a_prefix(tmp_path: Path, stripped: bool, told: bool) -> None:
    async with (
        behind(tmp_path, stripped=stripped, told=told) as (site, public),
        browser() as chromium,
        visit(chromium) as seen,
    ):
        page = await seen.open(public, site.token("owner"))
        thumb = page.locator(".card img").first
        await expect(thumb).to_be_visible()
        assert await thumb.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
        await page.get_by_role("button", name="Use this device's camera").click()
        await page.get_by_label("Name of the camera").fill("desk")
        await page.get_by_role("button", name="Make a link for another device").click()
        await expect(page.get_by_label("Link for “desk”")).to_have_value(
            re.compile(re.escape(f"{public}/#publish=desk&"))
        )
        await page.get_by_role("button", name="Start publishing").click()
        await expect(page.get_by_text("Live: the agent receives this picture.")).to_be_visible()
        await until(lambda: site.agent.store.stats("desk").encoded > 0)  # a camera that sent nothing is forgotten
        await page.get_by_role("button", name="Stop").click()
        await until(lambda: site.agent.cameras.state("desk") == "offline")
        await page.evaluate("location.hash = 'ask'")
        await page.get_by_label("Question", exact=True).fill("a car?")
        await page.keyboard.press("Enter")
        evidence = page.locator(".evidence img").first
        await expect(evidence).to_be_visible()
        assert await evidence.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        await page.evaluate("location.hash = 'rules'")
        await expect(page.locator(".alerts .chip").first).to_have_text("live")
        await page.evaluate("location.hash = 'health'")
        await expect(page.get_by_text("Encoder works")).to_be_visible()
        seen.unharmed(requests=False)
        # the connection may be gone before the request that ends its session comes
        assert [each for each in seen.refused if "/whip/desk/" not in each] == []


async def test_forwarded_headers_count_only_from_trusted_proxies(tmp_path: Path) -> None:
    forged = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.1", "X-Forwarded-Host": "evil.example",
              "X-Forwarded-Prefix": "/evil", "Forwarded": "host=evil.example;proto=https"}  # fmt: skip
    asked = {"messages": [{"role": "user", "content": "a car?"}]}
    for trusted, scheme in (([], "http://"), (["127.0.0.1"], "https://")):
        folder = tmp_path / scheme[:-3]
        async with served(folder, trusted_proxies=trusted) as site:
            await remember(site.agent, "door", 2)
            async with httpx.AsyncClient(base_url=site.url, headers={**site.headers(), **forged}) as http:
                answer = (await http.post("/v1/chat/completions", json=asked)).json()
        cited = answer["choices"][0]["message"]["annotations"][0]["url"]
        assert cited.startswith(scheme + "127.0.0.1:")
        assert "evil" not in json.dumps(answer)
