"""A robot's data channel: real peers, a real agent behind a real server, and the example program."""

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.runtime.lanes import Turns
from agent.web.robot import MAX_QUESTIONS, _fitting
from streaming.channel import MAX_SENT_BYTES
from tests.support.agents import Served, remember, served
from tests.support.browser import browser, needs_chromium, visit
from tests.support.robots import Robot, robot
from tests.support.streams import LOOPBACK_ALONE, write_clip
from tests.support.waiting import until

ROOT = Path(__file__).parents[3]
SECRET, OTHER = "a-robot-that-asks-and-publishes", "a-robot-that-may-only-publish"
SECURITY = {
    "tokens": [
        {"name": "robot", "token": SECRET, "scopes": ["publish:robot", "ask"]},
        {"name": "mute", "token": OTHER, "scopes": ["publish:robot"]},
    ]
}
QUICK = {"security": SECURITY, "cameras": {"robot": {"rate_hz": 5, "metadata": {"site": "lab", "x": 99, "y": 99}}}}


def whip(at: Served) -> str:
    return f"{at.url}/whip/robot"


async def seen(at: Served, count: int) -> None:
    """Wait until this many frames of the robot are encoded."""
    await until(lambda: "robot" in at.agent.cameras.intakes and at.agent.store.stats("robot").frames >= count)
    await at.agent.encoded()


async def stored(at: Served, query: str = "") -> list[dict[str, Any]]:
    async with httpx.AsyncClient(base_url=at.url, headers=at.headers("asker")) as http:
        return list((await http.get(f"/v1/cameras/robot/frames?limit=1000{query}")).json()["data"])


async def ended(it: Robot, question: str) -> list[dict[str, Any]]:
    """Collect all messages that answer one question."""
    said: list[dict[str, Any]] = []
    while not said or said[-1]["type"] not in ("answer", "error"):
        message = await it.hear()
        if message["id"] == question:
            said.append(message)
    return said


async def test_a_pose_is_stored_with_its_frames_and_used_in_answers(tmp_path: Path) -> None:
    async with served(tmp_path, **QUICK) as at, robot(whip(at), SECRET) as it:
        assert await it.hear() == {"type": "ready", "camera": "robot", "may_ask": True}
        it.say(type="metadata", data={"x": 1, "y": 2, "labels": ["door"]})
        await until(lambda: at.agent.cameras.intake_of("robot")._published.at(time.time()) != {})
        before = at.agent.store.stats("robot").frames
        await seen(at, before + 4)
        moved_at = time.time()
        it.say(type="metadata", time=moved_at, data={"x": 50, "y": 2})
        await until(lambda: at.agent.cameras.intakes["robot"]._published.at(time.time()).get("x") == 50)
        await seen(at, at.agent.store.stats("robot").frames + 4)

        frames = await stored(at)
        assert {frame["metadata"]["site"] for frame in frames} == {"lab"}  # as configured, and x, y as told
        assert {frame["metadata"]["x"] for frame in frames if frame["time"] >= moved_at + 1} <= {50}
        assert {50, 1} <= {frame["metadata"]["x"] for frame in frames}
        near = await stored(at, "&within=1,2,3")
        assert near
        assert all(frame["metadata"]["labels"] == ["door"] for frame in near)

        it.say(type="ask", id="q1", question="what is there?", within={"x": 1, "y": 2, "radius_m": 3})
        said = await ended(it, "q1")
        assert [message["type"] for message in said][:2] == ["seen", "piece"]
        answer = said[-1]
        assert answer["type"] == "answer"
        assert answer["text"] == "".join(message["text"] for message in said[1:-1])
        assert 1 <= said[0]["frames"] == answer["frames"]
        assert {each["metadata"]["x"] for each in answer["citations"]} == {1}
        assert {each["camera"] for each in answer["citations"]} == {"robot"}
        async with httpx.AsyncClient() as http:
            assert (await http.get(answer["citations"][0]["url"])).headers["content-type"] == "image/jpeg"


async def test_an_old_pose_is_stored_with_no_frame(tmp_path: Path) -> None:
    brief = {**QUICK, "streaming": {"metadata_max_age_s": 0.5}}
    async with served(tmp_path, **brief) as at, robot(whip(at), OTHER) as it:
        assert (await it.hear())["may_ask"] is False
        it.say(type="metadata", data={"x": 1, "y": 2})
        told = at.agent.cameras.intake_of("robot")._published
        await until(lambda: told.at(time.time()) != {})
        await until(lambda: told.at(time.time()) == {})
        late = time.time()
        await seen(at, at.agent.store.stats("robot").frames + 3)
        assert {frame["metadata"]["x"] for frame in await stored(at) if frame["time"] > late} == {99}


WRONG: list[tuple[str, str, str]] = [
    ("{", "invalid_request", "not JSON"),
    ("[" * 9000, "invalid_request", "nested"),
    ("[1]", "invalid_request", "JSON object"),
    ('{"type": "dance"}', "invalid_request", "metadata, ask or cancel"),
    ('{"type": ["ask"]}', "invalid_request", "metadata, ask or cancel"),
    ('{"type": "metadata"}', "invalid_request", "object"),
    ('{"type": "metadata", "data": [1]}', "invalid_request", "object"),
    ('{"type": "metadata", "data": {"x": NaN}}', "invalid_request", "finite"),
    ('{"type": "metadata", "data": {"x": "%s"}}' % ("y" * 5000), "invalid_request", "4096"),
    ('{"type": "metadata", "data": {}, "time": 5}', "invalid_request", "max_skew_s"),
    ('{"type": "metadata", "data": {}, "time": NaN}', "invalid_request", "finite"),
    ('{"type": "metadata", "data": {}, "time": 1%s}' % ("0" * 400), "invalid_request", "digits"),
    ('{"type": "metadata", "data": {}, "time": true}', "invalid_request", "unix seconds"),
    ('{"type": "metadata", "data": {}, "time": "now"}', "invalid_request", "unix seconds"),
    ('{"type": "metadata", "data": {}, "tme": 5}', "invalid_request", "did you mean 'time'?"),
    ('{"type": "metadata", "data": {}, "dance": 5}', "invalid_request", "'dance' is not a field"),
    ('{"type": "metadata", "data": {}, "\\ud800": 5}', "invalid_request", "lone surrogate"),
    ('{"type": "ask", "question": "what?"}', "invalid_request", "'id'"),
    ('{"type": "ask", "id": 7, "question": "what?"}', "invalid_request", "'id'"),
    ('{"type": "ask", "id": "a"}', "invalid_request", "'question'"),
    ('{"type": "ask", "id": "a", "question": " "}', "invalid_request", "empty"),
    ('{"type": "ask", "id": "a", "question": "what?", "stream": true}', "invalid_request", "'stream'"),
    ('{"type": "ask", "id": "a", "question": "what?", "within": [1]}', "invalid_request", "within"),
    ('{"type": "ask", "id": "a", "question": "what?", "after": "soon"}', "invalid_request", "ISO 8601"),
    ('{"type": "ask", "id": "a", "question": "what?", "camera": "nowhere"}', "camera_not_found", "nowhere"),
    ('{"type": "ask", "id": "a", "question": "Who came?", "before": 5}', "no_frames", "widen"),
    ('{"type": "ask", "id": "a", "question": "%s"}' % ("y" * 3000), "question_too_long", "2000"),
    ('{"type": "cancel", "id": "z"}', "not_found", "in progress"),
    ('{"type": "cancel"}', "not_found", "in progress"),
    ("x" * 20_000, "message_too_large", "16384 bytes"),
]


async def test_bad_messages_get_an_error_and_the_channel_stays_open(tmp_path: Path) -> None:
    async with served(tmp_path, **QUICK) as at, robot(whip(at), SECRET) as it:
        await it.hear("ready")
        for text, code, words in WRONG:
            it.channel.send(text)
            error = await it.hear()
            assert (error["type"], error["code"]) == ("error", code), text[:80]
            assert words in error["message"]
        it.channel.send(b"\x00")
        assert "binary" in (await it.hear())["message"]
        await seen(at, 2)
        it.say(type="ask", id="a", question="what is there?")
        assert (await ended(it, "a"))[-1]["type"] == "answer"
        async with httpx.AsyncClient(base_url=at.url, headers=at.headers("owner")) as http:
            text = (await http.get("/metrics")).text
        assert 'vilamp_whip_messages_total{reason="too_large"} 1.0' in text
        assert 'vilamp_whip_messages_total{reason="not_text"} 1.0' in text


async def test_a_token_that_only_publishes_sends_metadata_but_cannot_ask(tmp_path: Path) -> None:
    async with served(tmp_path, **QUICK) as at, robot(whip(at), OTHER) as it:
        assert (await it.hear())["may_ask"] is False
        it.say(type="ask", id="q", question="what is there?")
        error = await it.hear()
        assert (error["id"], error["code"]) == ("q", "wrong_scope")
        it.say(type="metadata", data={"x": 7, "y": 7})
        await until(lambda: at.agent.cameras.intake_of("robot")._published.at(time.time()) == {"x": 7, "y": 7})


async def test_questions_beyond_the_limit_are_refused_and_one_can_be_cancelled(tmp_path: Path) -> None:
    async with served(tmp_path, **QUICK) as at, robot(whip(at), SECRET) as it:
        await it.hear("ready")
        await seen(at, 2)
        async with at.agent.answering.queue.turns.turn():  # somebody else is being answered
            for number in range(MAX_QUESTIONS + 1):
                it.say(type="ask", id=str(number), question="what is there?")
            error = await it.hear()
            assert (error["id"], error["code"]) == (str(MAX_QUESTIONS), "busy")
            it.say(type="ask", id="0", question="what is there?")
            assert "no other question" in (await it.hear())["message"]
            it.say(type="cancel", id="0")
            error = await it.hear()
            assert (error["id"], error["code"]) == ("0", "cancelled")
            await until(lambda: at.agent.answering.queue.turns.num_inside == 1)
        assert (await ended(it, "1"))[-1]["type"] == "answer"


async def test_an_answer_ends_with_the_connection(tmp_path: Path) -> None:
    """The connection ends between two pieces of an answer; the camera goes on with its next session."""
    async with served(tmp_path, **QUICK, answering={"max_new_tokens": 4000}) as at:
        turns: Turns = at.agent.answering.queue.turns
        async with robot(whip(at), SECRET) as first:
            await first.hear("ready")
            await seen(at, 3)
            first.say(type="ask", id="long", question="what is there?")
            await first.hear("piece")
            assert turns.num_inside == 1
            async with robot(whip(at), SECRET) as second:  # takes the camera over
                await second.hear("ready")
                await until(lambda: turns.num_inside == 0)
                await first.closed()
                frames = at.agent.store.stats("robot").frames
                second.say(type="metadata", data={"x": 5, "y": 5})
                await seen(at, frames + 3)
                second.say(type="ask", id="again", question="who came?", max_tokens=3)
                assert (await ended(second, "again"))[-1]["frames"] > frames
                second.say(type="ask", id="long", question="who came?")
                await second.hear("piece")
        await until(lambda: turns.num_inside == 0)  # it left without a word


async def test_other_cameras_can_be_asked_about(tmp_path: Path) -> None:
    async with served(tmp_path, **QUICK) as at:
        await remember(at.agent, "gate", 5)
        async with robot(whip(at), SECRET) as it:
            await it.hear("ready")
            it.say(type="ask", id="q", question="what is there?", cameras=["gate"])
            assert {each["camera"] for each in (await ended(it, "q"))[-1]["citations"]} == {"gate"}
            it.say(type="ask", id="w", question="what is at the gate?")  # without words, it would be the robot's own
            by_words = (await ended(it, "w"))[-1]
            assert by_words["scope"]["cameras"] == ["gate"]
            assert {each["camera"] for each in by_words["citations"]} == {"gate"}


@pytest.mark.parametrize("size", [0, 3000])
def test_an_answer_fits_into_a_message(size: int) -> None:
    citations: list[dict[str, Any]] = [
        {"frame_id": n, "score": (n * 7) % 40 / 40, "metadata": {"label": "é" * (size // 2)}} for n in range(40)
    ]
    answer: Mapping[str, Any] = {"type": "answer", "id": "q", "text": "yes", "notes": ["a note"]}
    text = _fitting(dict(answer), citations)
    sent = json.loads(text)
    assert len(text.encode()) <= MAX_SENT_BYTES
    kept = [each["frame_id"] for each in sent["citations"]]
    assert kept == sorted(kept)
    if size == 0:
        assert (len(kept), sent["notes"]) == (40, ["a note"])
        return
    assert 10 <= len(kept) < 40
    left_out = [each["score"] for each in citations if each["frame_id"] not in kept]
    assert max(left_out) <= min(each["score"] for each in sent["citations"])
    assert sent["notes"] == ["a note", f"citations left out because the message is full: {40 - len(kept)}"]


@pytest.mark.skipif(LOOPBACK_ALONE, reason="no network but loopback, which aiortc's own client does not offer")
async def test_the_example_publishes_a_file_sends_poses_and_asks(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "walk.mp4", num=30)
    async with served(tmp_path / "data", **QUICK) as at:
        command = [sys.executable, "-W", "error", str(ROOT / "examples" / "robot.py"), at.url, str(clip)]
        options = ["--token", SECRET, "--camera", "robot", "--seconds", "4", "--ask", "where was the red box?"]
        pipe = asyncio.subprocess.PIPE
        example = await asyncio.create_subprocess_exec(*command, *options, stdout=pipe, stderr=pipe, cwd=tmp_path)
        printed, errors = await asyncio.wait_for(example.communicate(), 120)
        assert (example.returncode, errors.decode()) == (0, "")
        assert f"{at.url}/v1/frames/" in printed.decode()
        assert "'heading'" in printed.decode()
        frames = await stored(at)
        assert any(abs(frame["metadata"]["x"] ** 2 + frame["metadata"]["y"] ** 2 - 9) < 1e-6 for frame in frames)
        await until(lambda: at.agent.cameras.intakes["robot"].source is None)  # it said goodbye
        refused = await asyncio.create_subprocess_exec(*command, "--token", "wrong", stdout=pipe, stderr=pipe)
        _, errors = await asyncio.wait_for(refused.communicate(), 120)
        assert refused.returncode == 1
        assert "not known here" in errors.decode()


PHONE = """async ([token, question]) => {
  const camera = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
  const peer = new RTCPeerConnection();
  peer.addTransceiver(camera.getVideoTracks()[0], { direction: "sendonly" });
  const channel = peer.createDataChannel("vilamp");
  const heard = [];
  const answered = new Promise((resolve) => {
    let asked = 0;
    channel.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      heard.push(message);
      const again = ["ready", "error"].includes(message.type);  // until a frame has been encoded
      if (again) setTimeout(() => channel.send(JSON.stringify({ type: "ask", id: `q${asked++}`, question })), 500);
      else if (message.type === "answer") resolve();
    };
  });
  channel.onopen = () => channel.send(JSON.stringify({ type: "metadata", data: { x: 4, y: 2 } }));
  await peer.setLocalDescription();
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/sdp" };
  const response = await fetch("/whip/robot", { method: "POST", headers, body: peer.localDescription.sdp });
  await peer.setRemoteDescription({ type: "answer", sdp: await response.text() });
  await answered;
  const video = peer.getTransceivers()[0].currentDirection;
  peer.close();
  return { heard, video };
}"""


@needs_chromium
async def test_a_browser_publishes_and_asks_on_one_connection(tmp_path: Path) -> None:
    async with served(tmp_path, **QUICK) as at, browser() as chromium, visit(chromium) as seen_by:
        page = await seen_by.open(at.url, at.token("owner"))
        said = await asyncio.wait_for(page.evaluate(PHONE, [SECRET, "what is there?"]), 120)
        assert said["video"] == "sendonly"
        assert said["heard"][0] == {"type": "ready", "camera": "robot", "may_ask": True}
        assert {message["code"] for message in said["heard"] if message["type"] == "error"} <= {
            "no_frames",
            "not_encoded_yet",
        }
        answer = said["heard"][-1]
        assert answer["type"] == "answer"
        assert answer["text"] == "".join(each["text"] for each in said["heard"] if each["type"] == "piece")
        assert answer["citations"]
        seen_by.unharmed()
