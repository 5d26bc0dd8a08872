"""Every light tells the truth: what spoils an answer from pictures of now is said in words, and green means that nothing does."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.app import Agent
from agent.ask.question import Question
from agent.health import CHECKS, Health, Trouble
from agent.keep.erasing import Request
from agent.runtime.pools import erasing
from tests.support.agents import START, ListSource, frames, remember, running, served
from tests.support.rtsp import rtsp_server
from tests.support.rules import RULE
from tests.support.streams import write_clip
from tests.support.vlm_server import spying
from tests.support.waiting import until


def troubles(agent: Agent) -> dict[str, str]:
    """Part -> problem."""
    return {trouble.part: trouble.problem for trouble in agent.health.run().troubles}


async def test_all_is_well_while_every_configured_camera_sends(tmp_path: Path) -> None:
    async with running(tmp_path, cameras={"door": {"timezone": "UTC"}}, clock=lambda: START + 2) as agent:
        assert troubles(agent) == {"camera door": "nobody publishes to it; no picture of it is stored"}
        source = ListSource("door", frames(2), stay=True)
        agent.cameras.publish("door", source)
        await until(lambda: agent.store.stats("door").frames == 2)
        await agent.encoded()
        assert troubles(agent) == {}
        source.stats.state = "stalled"
        words = "it is connected but sends no pictures; its last picture is of 2026-11-22 16:04:06 UTC"
        assert troubles(agent)["camera door"] == words
        await source.close()
        await until(lambda: agent.cameras.state("door") == "offline")
        assert "nobody publishes to it; its last picture is of" in troubles(agent)["camera door"]


async def test_a_camera_that_cannot_be_reached(tmp_path: Path) -> None:
    cameras = {
        "gate": {"url": "rtsp://user:hunter2@127.0.0.1:9/x"},
        "off": {"url": "rtsp://127.0.0.1:9/", "enabled": False},
    }
    async with served(tmp_path, cameras=cameras) as site, httpx.AsyncClient(base_url=site.url) as http:
        await until(lambda: "refused" in troubles(site.agent).get("camera gate", ""))
        assert set(troubles(site.agent)) == {"camera gate"}
        told = await http.get("/readyz")
        assert (told.status_code, told.json()["ready"], told.json()["degraded"]) == (200, True, True)
        assert told.json()["checks"] == {**dict.fromkeys(CHECKS, "ok"), "cameras": "1 camera does not work"}
        assert "gate" not in told.text
        known = await http.get("/readyz", headers=site.headers())
        (problem,) = known.json()["problems"]
        assert (problem["part"], problem["stops"]) == ("camera gate", False)
        assert "hunter2" not in known.text
        gate = (await http.get("/v1/cameras/gate", headers=site.headers())).json()
        assert gate["problem"] == problem["problem"]
        metrics = (await http.get("/metrics", headers=site.headers())).text
        assert 'vilamp_problems{stage="cameras"} 1.0' in metrics


async def test_a_guest_whose_session_broke_off_is_said_for_an_hour(tmp_path: Path) -> None:
    now = START + 10
    async with running(tmp_path, clock=lambda: now) as agent:
        source = ListSource("phone", frames(1), stay=True)
        agent.cameras.publish("phone", source)
        await until(lambda: agent.store.stats("phone").frames == 1)
        await agent.encoded()
        agent.cameras.intakes["phone"].failed(ValueError("odd"))
        await source.close()
        await until(lambda: agent.cameras.state("phone") == "offline")
        assert troubles(agent) == {"camera phone": "its source failed: ValueError: odd"}
        agent.cameras.intakes["phone"].problem_since = now - 3601
        assert troubles(agent) == {}


async def test_a_guest_who_said_goodbye_is_no_trouble(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "phone", 2)
        assert troubles(agent) == {}


async def test_an_encoder_that_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    now = START + 59
    ahead_s = 0.0
    async with running(tmp_path, clock=lambda: now + ahead_s, running_s=lambda: now) as agent:
        inner = agent.model.encode

        def slow(images: Any) -> Any:
            go.wait(30)
            return inner(images)

        monkeypatch.setattr(agent.model, "encode", slow)
        await agent.cameras.watch("door", ListSource("door", frames(3)))
        assert troubles(agent) == {}
        now = START + 200
        behind = "the encoder is 3 min 20 s behind: answers miss the frames that still wait"
        assert troubles(agent) == {"encoder": behind}
        assert agent.health.run().ready
        ahead_s = 86_400.0  # a clock that was set makes it no later
        assert troubles(agent)["encoder"] == behind
        ahead_s = 0.0
        go.set()
        await agent.encoded()
        assert set(troubles(agent)) == {"clock"}


async def test_an_answerer_that_is_away_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.ask.probe.EVERY_S", 0.05)
    monkeypatch.setattr("agent.ask.probe.WHILE_AWAY_S", 0.05)
    with spying() as spy:
        answerer = {"kind": "openai", "probe": False, "base_url": spy.url(), "model": "yes"}
        async with running(tmp_path, answerer=answerer) as agent:
            await until(lambda: agent.answerer is not None and agent.answerer.problem is None)
            assert troubles(agent) == {}
            spy.process.kill()
            spy.process.wait()
            await until(lambda: "cannot be reached" in troubles(agent).get("answerer", ""))
            assert agent.health.run().ready


async def test_rules_that_cannot_work_are_counted_for_all_and_named_for_askers(tmp_path: Path) -> None:
    async with running(tmp_path, rules={"car": RULE}) as agent:
        await until(lambda: not agent.alerts.watcher.unarmed())
        agent.alerts.watcher.problems["car"] = "its judge says neither yes nor no"
        health = agent.health.run()
        assert health.public()["checks"]["rules"] == "1 rule does not work"
        assert health.private()["problems"][0]["part"] == "rule car"


def test_only_what_stops_everything_makes_it_not_ready() -> None:
    slow = Trouble("encoder", "encoder", "behind")
    full = Trouble("disk", "disk", "the disk is full", stops=True)
    assert (Health((), CHECKS).ready, Health((), CHECKS).degraded) == (True, False)
    assert (Health((slow,), CHECKS).ready, Health((slow,), CHECKS).degraded) == (True, True)
    assert (Health((slow, full), CHECKS).ready, Health((slow, full), CHECKS).degraded) == (False, True)


async def test_no_question_waits_for_erasures(tmp_path: Path) -> None:
    """More erasures than any pool has threads, none of which ends."""
    go = threading.Event()

    def slow(camera: str, after: float, before: float) -> int:
        go.wait(60)
        return 0

    async with running(tmp_path) as agent:
        await remember(agent, "door", 3)
        agent.erasing.add("slow", slow)
        erasures = [asyncio.create_task(erasing(agent.erasing.erase, Request("gone", 0.0, 1.0))) for _ in range(40)]
        try:
            async with asyncio.timeout(30):
                answer = await agent.answering.answer(Question("Who came?", ("door",)))
                assert answer.seen.num_frames == 3
                await remember(agent, "door", 1, start=START + 100)
                assert await asyncio.to_thread(agent.health.run)
        finally:
            go.set()
            await asyncio.gather(*erasures)


async def test_a_file_that_has_been_played_says_so(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "door.mp4", num=10)
    async with running(tmp_path / "data", cameras={"door": {"url": str(clip)}}) as agent:
        await until(lambda: agent.store.stats("door").frames and agent.cameras.state("door") == "offline")
        assert troubles(agent)["camera door"].startswith("its file has been played to the end; its last picture is of")


async def test_a_camera_whose_clock_is_off_is_told_beside_its_pictures(tmp_path: Path) -> None:
    async with (
        rtsp_server(sender_offset_s=-7200.0) as camera,
        served(tmp_path, cameras={"gate": {"url": camera.url}}) as site,
        httpx.AsyncClient() as http,
    ):
        await until(lambda: "clock is" in troubles(site.agent).get("camera gate", ""))
        told = (await http.get(f"{site.url}/readyz")).json()
        assert told["degraded"]
        assert "behind this machine's: one of them is wrong" in told["checks"]["clock"]
        assert "gate" not in told["checks"]["clock"]
        assert told["checks"]["cameras"] == "ok"
    async with (
        rtsp_server(sender_offset_s=-1.7e9) as unset,
        running(tmp_path / "unset", cameras={"gate": {"url": unset.url}}) as agent,
    ):
        await until(lambda: agent.store.stats("gate").frames > 1)
        assert "camera gate" not in troubles(agent)  # a camera that tells the time since its start has no clock


async def test_a_live_camera_of_which_nothing_is_stored(tmp_path: Path) -> None:
    now = START + 2
    cameras = {"door": {"timezone": "UTC"}, "slow": {"rate_hz": 0.01}}
    async with running(tmp_path, cameras=cameras, clock=lambda: now) as agent:
        for name in cameras:
            agent.cameras.publish(name, ListSource(name, frames(2), stay=True))
        await until(lambda: all(agent.store.stats(name).frames == 2 for name in cameras))
        await agent.encoded()
        now += 29
        assert troubles(agent) == {}
        now += 2
        words = (
            "it is connected, but no picture of it was stored for 31 s; its last picture is of 2026-11-22 16:04:06 UTC"
        )
        assert troubles(agent) == {"camera door": words}
        now += 300
        assert set(troubles(agent)) == {"camera door", "camera slow"}


async def test_a_rule_that_watches_nothing(tmp_path: Path) -> None:
    rules = {"bag": {**RULE, "cameras": ["gaet", "yrad"]}, "off": {**RULE, "cameras": ["gaet"], "enabled": False}}
    async with running(tmp_path, cameras={"gate": {"enabled": False}}, rules=rules) as agent:
        words = "it watches nothing: there is no camera gaet or yrad (cameras of the rule)"
        assert troubles(agent) == {"rule bag": words}
        await remember(agent, "gaet", 1)  # a camera may come later
        assert troubles(agent) == {}
