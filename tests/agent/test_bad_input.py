"""Everything that users and cameras do wrong, put to one whole agent: a clear error that says what to do, and it goes
on: after each the same question is answered as before."""

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from agent.ingest.jpeg import decode_jpeg
from streaming.publisher import FramesTrack, publish
from tests.support.agents import START, ListSource, Served, frames, picture, remember, served
from tests.support.streams import OFFER, write_clip

QUESTION = {"messages": [{"role": "user", "content": "When did a red car come?"}], "camera": "door"}


@asynccontextmanager
async def site_with(folder: Path, **changes: Any) -> AsyncIterator[tuple[Served, httpx.AsyncClient]]:
    """A served agent that remembers some frames of `door`, and an asker."""
    async with served(folder, **changes) as site:
        await remember(site.agent, "door", 6)
        async with httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=60) as http:
            yield site, http


async def check_goes_on(http: httpx.AsyncClient) -> None:
    assert (await http.get("/healthz")).status_code == 200
    answer = await http.post("/v1/chat/completions", json=QUESTION)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["annotations"]


async def camera_of(http: httpx.AsyncClient, name: str) -> dict[str, Any]:
    response = await http.get(f"/v1/cameras/{name}")
    assert response.status_code == 200
    return dict(response.json())


@pytest.mark.parametrize(
    ("offer", "status", "advice"),
    [
        ("hello", 400, "must begin with v=0"),
        (OFFER[: len(OFFER) // 2], 400, "ice-ufrag"),
        (OFFER.replace("VP8", "VP9").replace("H264", "H265"), 422, "offer VP8 or H.264"),
    ],
)
async def test_malformed_sdp_and_wrong_codec(tmp_path: Path, offer: str, status: int, advice: str) -> None:
    async with site_with(tmp_path) as (site, http):
        headers = {**site.headers("publisher"), "Content-Type": "application/sdp"}
        refused = await http.post("/whip/door", content=offer, headers=headers)
        assert refused.status_code == status
        assert refused.headers["content-type"] == "application/problem+json"
        assert advice in refused.json()["detail"]
        await check_goes_on(http)


async def test_wrong_token(tmp_path: Path) -> None:
    async with site_with(tmp_path) as (_, http):
        wrong = {"Authorization": "Bearer wrong", "Content-Type": "application/sdp"}
        refused = await http.post("/whip/door", content=OFFER, headers=wrong)
        assert (refused.status_code, refused.headers["www-authenticate"][:6]) == (401, "Bearer")
        assert "token" in refused.json()["detail"]
        refused = await http.post("/v1/chat/completions", json=QUESTION, headers=wrong)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_token")
        await check_goes_on(http)


@pytest.mark.parametrize(
    ("fields", "status", "code", "advice"),
    [
        ({"camera": "dor"}, 404, "camera_not_found", "Known cameras: door"),
        ({"messages": [{"role": "user", "content": " \n"}]}, 400, "invalid_request", "send a user message with text"),
        ({"messages": [{"role": "user", "content": "car " * 1000}]}, 413, "question_too_long", "at most 2000 are taken"),
        ({"after": START + 1e6}, 422, "no_frames", "widen after/before"),
        ({"before": START - 1}, 422, "no_frames", "widen after/before"),
    ],
)  # fmt: skip
async def test_questions_that_cannot_be_answered(
    tmp_path: Path, fields: dict[str, Any], status: int, code: str, advice: str
) -> None:
    async with site_with(tmp_path) as (_, http):
        refused = await http.post("/v1/chat/completions", json={**QUESTION, **fields})
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
        assert advice in refused.json()["error"]["message"]
        await check_goes_on(http)


async def test_a_question_longer_than_the_text_encoder_takes(tmp_path: Path) -> None:
    async with site_with(tmp_path) as (_, http):
        asked = {**QUESTION, "messages": [{"role": "user", "content": "Who came? " * 60}]}
        answer = await http.post("/v1/chat/completions", json=asked)
        assert answer.status_code == 200
        assert any("longer than the text encoder reads" in note for note in answer.json()["vilamp"]["notes"])
        await check_goes_on(http)


async def test_files_that_cannot_be_read_or_break_off(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mkv", num=40)
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "text.mp4").write_text("no video at all")
    cameras = {name.replace(".", "-"): {"url": str(tmp_path / name), "rate_hz": 30}
               for name in ("cut.mkv", "text.mp4", "absent.mp4")}  # fmt: skip
    async with site_with(tmp_path / "data", cameras=cameras) as (site, http):
        problems: dict[str, str | None] = dict.fromkeys(cameras)
        while not all(problems.values()):
            await asyncio.sleep(0.02)
            problems = {name: (await camera_of(http, name))["problem"] for name in cameras}
        assert "convert it: ffmpeg" in problems["text-mp4"]
        assert "check the path" in problems["absent-mp4"]
        assert "frames" in problems["cut-mkv"]
        assert "before the damage were kept" in problems["cut-mkv"]
        await site.agent.encoded()
        assert 10 <= (await camera_of(http, "cut-mkv"))["encoded"] < 40
        await check_goes_on(http)


async def test_a_dead_rtsp_host(tmp_path: Path) -> None:
    cameras = {"gate": {"url": "rtsp://ann:s3cret@127.0.0.1:9/live"}}
    async with site_with(tmp_path, cameras=cameras) as (_, http):
        while not ((await camera_of(http, "gate"))["source"] or {}).get("detail"):
            await asyncio.sleep(0.02)
        gate = await camera_of(http, "gate")
        assert (gate["state"], gate["source"]["state"]) == ("offline", "reconnecting")
        assert "127.0.0.1:9" in gate["source"]["detail"]
        assert "refused" in gate["source"]["detail"]
        assert "s3cret" not in str(gate)
        asked = await http.post("/v1/chat/completions", json={**QUESTION, "camera": "gate"})
        assert (asked.status_code, asked.json()["error"]["code"]) == (422, "no_frames")
        await check_goes_on(http)


async def test_a_camera_that_changes_its_size(tmp_path: Path) -> None:
    async def growing() -> AsyncIterator[np.ndarray]:
        for number in range(10_000):
            yield picture(number, 160, 120) if number % 20 < 10 else picture(number, 320, 180)

    async with site_with(tmp_path, cameras={"gate": {"rate_hz": 10}}) as (site, http):
        track = FramesTrack(growing(), rate_hz=10)
        async with publish(f"{site.url}/whip/gate", site.token("publisher"), track, codec="VP8"):
            while site.agent.store.stats("gate").encoded < 25:
                await asyncio.sleep(0.05)
        window = site.agent.store.window(["gate"])
        assert {decode_jpeg(window.jpeg(row)).shape for row in range(25)} == {(120, 160, 3), (180, 320, 3)}
        answer = await http.post("/v1/chat/completions", json={**QUESTION, "camera": "gate"})
        assert answer.status_code == 200
        await check_goes_on(http)


async def test_a_client_that_vanishes_in_mid_answer(tmp_path: Path) -> None:
    async with site_with(tmp_path, answering={"max_questions": 1, "max_new_tokens": 3000}) as (site, http):
        async with http.stream("POST", "/v1/chat/completions", json={**QUESTION, "stream": True}) as response:
            assert response.status_code == 200
            await anext(response.aiter_lines())
        while site.agent.answering.queue.turns.num_inside:  # freed although thousands of tokens were still to come
            await asyncio.sleep(0.005)
        answer = await http.post("/v1/chat/completions", json={**QUESTION, "max_tokens": 2})
        assert answer.status_code == 200


@contextmanager
def full_disk(most_bytes: int) -> Iterator[None]:
    """The kernel lets no file of this process grow beyond `most_bytes`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_for_evidence(tmp_path: Path) -> None:
    async with site_with(tmp_path) as (site, http):
        with full_disk(1000):
            await site.agent.cameras.watch("door", ListSource("door", frames(3, start=START + 10)))
            door, ready = await camera_of(http, "door"), await http.get("/readyz")
            assert (door["frames"], door["lost"]) == (6, 3)
            assert "free some, and recording resumes by itself" in door["problem"]
            assert ready.status_code == 503
            assert "disk is full" in ready.json()["checks"]["disk"]
            await check_goes_on(http)
            metrics = (await http.get("/metrics")).text
        assert 'vilamp_frames_lost_total{camera="door",reason="disk_full"} 3.0' in metrics
        await remember(site.agent, "door", 2, start=START + 20)
        door = await camera_of(http, "door")
        assert (door["frames"], door["encoded"], door["problem"]) == (8, 8, None)
        assert (await http.get("/readyz")).status_code == 200


async def test_a_picture_that_has_gone_from_the_disk(tmp_path: Path) -> None:
    async with site_with(tmp_path) as (_, http):
        cited = (await http.post("/v1/chat/completions", json=QUESTION)).json()["choices"][0]["message"]["annotations"]
        files = list((tmp_path / "memory").rglob("*.frames"))
        assert files
        for path in files:
            path.unlink()
        gone = await http.get(cited[0]["url"])
        assert gone.status_code == 503  # a disk that is not mounted looks the same: nothing is given up for it
        assert "cannot be read" in gone.json()["error"]["message"]
        await check_goes_on(http)
