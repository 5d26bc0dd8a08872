"""The agent as a whole: video in by WebRTC and from files, seen, remembered, asked; and what must not stop it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest

from agent.app import Agent
from agent.ask.question import Question
from agent.errors import UnknownCamera
from agent.ingest.jpeg import encode_jpeg
from agent.keep.memory import open_memory
from streaming.errors import MediaError
from streaming.frame import Frame
from streaming.publisher import FramesTrack, PublishError, publish
from tests.support.agents import START, ListSource, frames, picture, remember, running, served, settings_in, tiny_model
from tests.support.streams import OFFER


async def pictures(count: int) -> AsyncIterator[np.ndarray]:
    for number in range(count):
        yield picture(number, 160, 120)


async def test_webrtc_in_answer_out(tmp_path: Path) -> None:
    async with served(tmp_path, cameras={"door": {"rate_hz": 10}}) as site:
        track = FramesTrack(pictures(1000), rate_hz=10)
        async with publish(f"{site.url}/whip/door", site.token("publisher"), track):
            while site.agent.store.stats("door").encoded < 5:
                await asyncio.sleep(0.05)
            headers = site.headers()
            async with httpx.AsyncClient(base_url=site.url, headers=headers, timeout=30) as http:
                (door,) = (await http.get("/v1/cameras")).json()["data"]
                assert door["state"] == "live"
                assert (door["source"]["width"], door["source"]["remarks"]) == (160, {})
                asked = {"messages": [{"role": "user", "content": "Who is there?"}], "camera": "door"}
                answer = (await http.post("/v1/chat/completions", json=asked)).json()
        assert answer["choices"][0]["message"]["annotations"]
        while site.agent.cameras.intakes["door"].state != "offline":
            await asyncio.sleep(0.05)
        before = site.agent.store.stats("door").frames
        async with publish(f"{site.url}/whip/door", site.token("publisher"), FramesTrack(pictures(1000))):
            while site.agent.store.stats("door").frames < before + 3:
                await asyncio.sleep(0.05)
        assert site.agent.cameras.intakes["door"].counters.sessions == 2
        times = site.agent.store.window(("door",)).times
        assert np.all(np.diff(times) > 0)


async def test_the_last_sessions_of_a_camera_say_why_they_ended(tmp_path: Path) -> None:
    async with served(tmp_path, cameras={"door": {"rate_hz": 10}}) as site:
        url, token = f"{site.url}/whip/door", site.token("publisher")
        async with publish(url, token, FramesTrack(pictures(1000)), codec="VP8"):
            while site.agent.store.stats("door").frames < 1:
                await asyncio.sleep(0.05)
        async with httpx.AsyncClient(timeout=30, headers=site.headers()) as http:
            sdp = {"Authorization": f"Bearer {token}", "User-Agent": "Encoder/1.0", "Content-Type": "application/sdp"}
            for body in ("v=0\r\n", OFFER.replace("VP8", "VP9").replace("H264", "H265")):
                await http.post(url, content=body, headers=sdp)
            camera = (await http.get(f"{site.url}/v1/cameras/door")).json()
            newest, older, first = camera["past_sessions"]
            assert (newest["end"], older["end"], first["end"]) == ("refused", "refused", "deleted")
            assert "H265" in newest["detail"]
            assert newest["client"] == "Encoder/1.0"
            assert (first["width"], first["codec"], first["packets_lost"]) == (160, "vp8", 0)
            assert first["received"] >= first["kept"] >= 1
            assert "(the last session: refused)" in camera["problem"]
            metrics = (await http.get(f"{site.url}/metrics")).text
            assert 'vilamp_whip_closed_total{reason="deleted"} 1.0' in metrics
            assert 'vilamp_frames_damaged_in_transit_total{camera="door"} 0.0' in metrics
            assert 'vilamp_key_frames_requested_total{camera="door"}' in metrics


@pytest.mark.parametrize(
    ("camera", "token", "status"),
    [("door", "asker", 403), ("door", "nonsense", 401), ("new", "publisher", 404), ("pulled", "publisher", 404),
     ("ask", "publisher", 404)],
)  # fmt: skip
async def test_who_may_publish_where(tmp_path: Path, camera: str, token: str, status: int) -> None:
    cameras = {"door": {}, "pulled": {"url": str(tmp_path / "absent.mp4")}}
    async with served(tmp_path, cameras=cameras, allow_new_cameras=False) as site:
        secret = "wrong" if token == "nonsense" else site.token(token)
        with pytest.raises(PublishError) as caught:
            async with publish(f"{site.url}/whip/{camera}", secret, FramesTrack(pictures(1))):
                raise AssertionError("published")
        assert caught.value.status == status


async def test_publishers_cannot_make_cameras_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.web.whip.MAX_CAMERAS", 2)
    async with served(tmp_path, cameras={"listed": {}}) as site:
        await remember(site.agent, "door", 1)
        with pytest.raises(PublishError, match="must be listed in the configuration") as caught:
            async with publish(f"{site.url}/whip/third", site.token("publisher"), FramesTrack(pictures(1))):
                raise AssertionError("published")
        assert caught.value.status == 403
        for camera in ("door", "listed"):
            async with publish(f"{site.url}/whip/{camera}", site.token("publisher"), FramesTrack(pictures(1))):
                pass


async def test_names_that_send_nothing_leave_nothing_and_are_few(tmp_path: Path) -> None:
    """Offers that never connect, under names of their own: 20 an hour from one token, and none of them is a camera."""
    async with served(tmp_path, cameras={"listed": {}}) as site, httpx.AsyncClient(timeout=30) as http:
        headers = {**site.headers("publisher"), "Content-Type": "application/sdp"}
        posts = [await http.post(f"{site.url}/whip/x{number}", content=OFFER, headers=headers) for number in range(25)]
        assert [post.status_code for post in posts] == [201] * 20 + [429] * 5
        assert 3500 < int(posts[-1].headers["retry-after"]) <= 3600
        assert "cameras in the configuration" in posts[-1].json()["detail"]
        for camera in ("listed", "x3"):  # neither of them is new
            assert (await http.post(f"{site.url}/whip/{camera}", content=OFFER, headers=headers)).status_code == 201
        owner = {**site.headers("owner"), "Content-Type": "application/sdp"}
        assert (await http.post(f"{site.url}/whip/x24", content=OFFER, headers=owner)).status_code == 201
        listed = (await http.get(f"{site.url}/v1/cameras", headers=site.headers())).json()["data"]
        assert [camera["id"] for camera in listed] == ["listed"]
        assert 'camera="x' not in (await http.get(f"{site.url}/metrics", headers=site.headers())).text
        for intake in list(site.agent.cameras.intakes.values()):
            assert intake.source is not None
            await intake.source.close()
        while set(site.agent.cameras.intakes) - {"listed"}:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("failure", [MediaError("no codec"), ValueError("odd")])
async def test_a_new_name_whose_source_fails_is_forgotten(tmp_path: Path, failure: Exception) -> None:
    class Broken(ListSource):
        async def frames(self) -> AsyncIterator[Frame]:
            self.stats.state = "failed"
            if True:
                raise failure
            yield

    async with running(tmp_path) as agent:
        agent.cameras.publish("guest", Broken("guest", frames(1)))
        assert list(agent.cameras.intakes) == ["guest"]
        while agent.cameras.intakes:
            await asyncio.sleep(0.001)
        await remember(agent, "guest", 1)  # and comes again
        assert agent.cameras.names() == ("guest",)


def write_video(path: Path, seconds: int) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=4, width=64, height=48, pix_fmt="yuv420p")
        for number in range(4 * seconds):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number // 4), format="rgb24")))
        container.mux(stream.encode(None))


async def test_configured_files_are_watched_and_a_missing_one_hurts_nobody(tmp_path: Path) -> None:
    write_video(tmp_path / "yard.mp4", 2)
    cameras = {
        "yard": {"url": str(tmp_path / "yard.mp4"), "rate_hz": 4, "metadata": {"place": "yard"}},
        "gone": {"url": str(tmp_path / "gone.mp4")},
    }
    async with running(tmp_path / "data", cameras=cameras) as agent:
        while agent.cameras.intakes.get("yard") is None or agent.store.stats("yard").encoded < 7:
            await asyncio.sleep(0.05)
        assert agent.cameras.names() == ("gone", "yard")
        assert agent.cameras.existing(()) == ("gone", "yard")
        assert agent.cameras.intakes["gone"].state == "offline"
        assert "gone.mp4" in (agent.cameras.intakes["gone"].problem or "")
        window = agent.store.window(("yard",))
        assert window.metadata(0) == {"place": "yard", "clock": "file"}
        with pytest.raises(UnknownCamera, match="gone, yard"):
            agent.cameras.existing(("nowhere",))
        answer = await agent.answering.answer(Question("Who came?", agent.cameras.existing(())))
        assert {e.camera for e in answer.seen.evidence} == {"yard"}


async def test_damaged_pictures_do_not_stop_the_others(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        for number, frame in enumerate(frames(9)):
            jpeg = b"\xff\xd8\xff\xe0 damaged" if number % 3 == 0 else encode_jpeg(frame.image)
            agent.store.append("door", frame.time, jpeg)
        await agent.encoded()
        assert agent.store.stats("door").encoded == 6
        assert agent.store.pending(10) == []
        assert b'vilamp_encode_failures_total{reason="unreadable"} 3.0' in agent.metrics.text()


async def test_cameras_share_the_encoder_and_lose_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        agent.backlog.capacity = 4  # far fewer than arrive at once
        sources = [ListSource(f"cam{n}", frames(20, first=100 * n)) for n in range(4)]
        await asyncio.gather(*(agent.cameras.watch(source.camera, source) for source in sources))
        await agent.encoded()
        assert [agent.store.stats(f"cam{n}").encoded for n in range(4)] == [20] * 4
        assert agent.backlog.num_deferred > 0


async def test_an_encoder_that_fails_costs_delay_and_not_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.ingest.encoder._FIRST_RETRY_S", 0.01)
    settings = settings_in(tmp_path)
    failures = iter(range(6))
    model = Fails(tiny_model(), lambda images: next(failures, None) is not None)
    async with Agent(settings, open_memory(settings, model), model).running() as agent:  # type: ignore[arg-type]
        await agent.cameras.watch("door", ListSource("door", frames(4)))
        while agent.encoding.problem is None:
            await asyncio.sleep(0)
        assert "illegal memory access" in agent.encoding.problem
        await agent.encoded()
        assert agent.encoding.problem is None
        assert agent.store.stats("door").encoded == 4


class Fails:
    """The tiny model, which fails on the pictures that `when` says."""

    def __init__(self, model: Any, when: Callable[[list[np.ndarray]], bool]) -> None:
        self._model = model
        self._when = when

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, images: list[np.ndarray]) -> list[Any]:
        if self._when(images):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return list(self._model.encode(images))


async def test_one_picture_that_the_encoder_refuses_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.ingest.encoder._FIRST_RETRY_S", 0.01)
    settings = settings_in(tmp_path)
    model = Fails(tiny_model(), lambda images: any(image.shape[0] == 50 for image in images))
    async with Agent(settings, open_memory(settings, model), model).running() as agent:  # type: ignore[arg-type]
        sent = frames(6)
        sent[2] = type(sent[2])(sent[2].time, picture(2, 64, 50), "arrival")
        await remember_all(agent, sent)
        assert agent.store.stats("door").encoded == 5
        assert b'vilamp_encode_failures_total{reason="refused"} 1.0' in agent.metrics.text()


async def test_numbers_too_large_for_the_memory_are_that_frame_alone(tmp_path: Path) -> None:
    """Finite, so that the encoder is not at fault, but beyond half precision: the agent goes on without them."""
    settings = settings_in(tmp_path)
    model = Large(tiny_model())
    async with Agent(settings, open_memory(settings, model), model).running() as agent:  # type: ignore[arg-type]
        sent = frames(6)
        sent[2] = type(sent[2])(sent[2].time, picture(2, 64, 50), "arrival")
        await remember_all(agent, sent)
        assert agent.store.stats("door").encoded == 5
        assert b'vilamp_encode_failures_total{reason="refused"} 1.0' in agent.metrics.text()


class Large:
    """The tiny model, whose summaries of pictures 50 pixels high are huge."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, images: list[np.ndarray]) -> list[Any]:
        scales = [1e6 if image.shape[0] == 50 else 1 for image in images]
        encoded = zip(self._model.encode(images), scales, strict=True)
        return [replace(each, summary=each.summary * np.float32(scale)) for each, scale in encoded]


async def remember_all(agent: Agent, sent: list[Any]) -> None:
    await agent.cameras.watch("door", ListSource("door", sent))
    await agent.encoded()


async def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 5)
        await agent.cameras.watch("door", ListSource("door", frames(2, start=START + 5)))  # perhaps not encoded yet
    async with running(tmp_path) as agent:
        assert agent.cameras.names() == ("door",)
        assert agent.store.stats("door").frames == 7
        await agent.encoded()
        assert agent.store.stats("door").encoded == 7
        await remember(agent, "door", 1, start=START + 1000)
        assert agent.store.stats("door").frames == 8


async def test_an_error_in_the_block_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(UnknownCamera):
        async with running(tmp_path) as agent:
            agent.cameras.existing(("nowhere",))


async def test_sources_get_the_configured_limits(tmp_path: Path) -> None:
    changes = {"cameras": {"door": {"rate_hz": 3}}, "streaming": {"stall_timeout_s": 4, "max_skew_s": 7}}
    async with running(tmp_path, **changes) as agent:
        given = agent.cameras.frame_settings("door")
    assert (given.rate_hz, given.max_width, given.max_height) == (3.0, 1280, 1280)
    assert (given.stall_timeout_s, given.max_skew_s) == (4.0, 7.0)
