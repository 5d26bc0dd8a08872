"""The WHIP client: readable errors, deleted sessions, redirects."""

import asyncio
import itertools
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Route

from streaming.frame import FrameSettings
from streaming.publisher import PublishError, file_track, publish
from tests.support.streams import TOKEN, index_of, serve, take, track, whip_site, write_clip
from tests.support.waiting import until


async def test_session_is_deleted_at_the_end() -> None:
    async with whip_site() as site:
        async with publish(site.url(), TOKEN, track()) as publication:
            await publication.wait_connected()
            assert publication.state == "connected"
            assert publication.session_url.startswith(site.url() + "/")
            assert site.server.num_sessions == 1
        assert site.server.num_sessions == 0
        assert site.server.counters.closed == {"deleted": 1}


async def test_session_is_deleted_after_an_error_too() -> None:
    async with whip_site() as site:
        with pytest.raises(KeyError):
            async with publish(site.url(), TOKEN, track()):
                raise KeyError("the user's own")
        assert site.server.num_sessions == 0


@pytest.mark.parametrize(
    ("camera", "token", "status", "words"),
    [
        ("door", None, 401, "send a token"),
        ("other", TOKEN, 403, "other cameras"),
        ("unknown", TOKEN, 404, "no such camera"),
    ],
)
async def test_refusals_say_why(camera: str, token: str | None, status: int, words: str) -> None:
    async with whip_site() as site:
        with pytest.raises(PublishError, match=words) as caught:
            async with publish(site.url(camera), token, track()):
                pass
        assert caught.value.status == status


async def test_unreachable_server() -> None:
    with pytest.raises(PublishError, match="cannot be reached") as caught:
        async with publish("http://user:secret@127.0.0.1:9/whip/door", TOKEN, track()):
            pass
    assert "secret" not in str(caught.value)
    assert caught.value.status is None


async def test_a_server_that_is_not_a_whip_endpoint() -> None:
    async def page(request: object) -> PlainTextResponse:
        return PlainTextResponse("welcome", 201)

    async def rubbish(request: object) -> PlainTextResponse:
        return PlainTextResponse("welcome", 201, {"Location": "/x/1"})

    routes = [Route("/page", page, methods=["POST"]), Route("/x", rubbish, methods=["POST"])]
    async with serve(Starlette(routes=routes)) as base:
        with pytest.raises(PublishError, match="no session URL"):
            async with publish(base + "/page", TOKEN, track()):
                pass
        with pytest.raises(PublishError, match="not a usable SDP answer"):
            async with publish(base + "/x", TOKEN, track()):
                pass
        with pytest.raises(PublishError, match="404"):
            async with publish(base + "/nothing", TOKEN, track()):
                pass


async def test_redirects_are_followed_with_the_token() -> None:
    async with whip_site() as near, whip_site(locate=lambda camera: near.url(camera)) as far:
        async with publish(far.url(), TOKEN, track()) as publication:
            assert publication.session_url.startswith(near.url())
            assert await take(near.sources[0].frames(), 1)
        assert near.server.num_sessions == 0


async def test_redirects_in_a_circle_end() -> None:
    async def again(request: object) -> RedirectResponse:
        return RedirectResponse("/again", 307)

    async with serve(Starlette(routes=[Route("/again", again, methods=["POST"])])) as base:
        with pytest.raises(PublishError, match="redirects"):
            async with publish(base + "/again", TOKEN, track()):
                pass


async def test_a_server_that_dies_ends_the_publication() -> None:
    async with whip_site() as site, publish(site.url(), TOKEN, track()) as publication:
        await publication.wait_connected()
        await site.server.close()
        await asyncio.wait_for(publication.wait_ended(), 10)
        assert publication.state == "closed"


async def test_a_file_is_published_at_its_own_speed(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", num=30, rate_hz=10)
    async with (
        whip_site(frames=FrameSettings(rate_hz=30.0)) as site,
        publish(site.url(), TOKEN, file_track(str(clip)), codec="H264") as publication,
    ):
        taking = asyncio.create_task(take(site.sources[0].frames(), 20))
        await publication.wait_ended()
        await until(lambda: site.sources[0].stats.kept >= 20)
        frames = await taking
    span = frames[-1].time - frames[0].time
    steps = sum((index_of(b.image) - index_of(a.image)) % 20 for a, b in itertools.pairwise(frames))
    assert abs(span - steps / 10) < 1.0


async def test_a_bad_file_is_reported(tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video")
    async with whip_site() as site:
        with pytest.raises(PublishError, match="cannot be read as video"):
            async with publish(site.url(), TOKEN, file_track(str(bad))) as publication:
                await publication.wait_ended()


async def test_the_http_client_can_be_passed_in(tmp_path: Path) -> None:
    async with whip_site() as site, httpx.AsyncClient() as client:
        async with publish(site.url(), TOKEN, track(), client=client):
            pass
        assert not client.is_closed
