"""A running agent at a broker: availability, questions, health, erasing, the embedded broker, and kill -9."""

import asyncio
import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiomqtt
import httpx
import jsonschema
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.app import Agent
from agent.keep.erasing import Request
from agent.mqtt.asking import MAX_BYTES
from tests.support.agents import START, ListSource, frames, remember, running, served, tiny_model
from tests.support.bridges import ROOT, RULE, Scene, bridged, check_documented, commit, event, jpeg, until_subscribed
from tests.support.brokers import Heard, listening, mosquitto, needs_mosquitto
from tests.support.waiting import until

RULES = {"bag": {"condition": "a bag", "cameras": ["yard"]}}
ANSWER = json.loads((ROOT / "docs" / "schemas" / "answer.json").read_text())


@pytest.fixture(autouse=True, scope="module")
def model() -> None:
    """Load it before a test waits with a time limit."""
    tiny_model()


async def ask(heard: Heard, question: Any, **options: Any) -> None:
    payload = question if isinstance(question, bytes) else json.dumps(question)
    await heard.client.publish("vilamp/ask", payload, qos=1, **options)


def answers(heard: Heard) -> list[dict[str, Any]]:
    told = [message for message in heard.messages if str(message.topic).startswith("vilamp/answer/")]
    assert not any(message.retain for message in told)
    found = [json.loads(bytes(message.payload)) for message in told]
    for each in found:
        jsonschema.Draft202012Validator(ANSWER).validate(each)
    return found


def agent_at(url: str, **mqtt: Any) -> dict[str, Any]:
    return {"mqtt": {"url": url, **mqtt}, "rules": RULES, "cameras": {"yard": {}, "off": {"enabled": False}}}


@needs_mosquitto
async def test_cameras_are_online_while_frames_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.mqtt.state.STATS_INTERVAL_S", 1.0)
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port) as heard:
            async with running(tmp_path, **agent_at(broker.url)) as agent:
                await heard.until(lambda h: h.newest().get("vilamp/yard/status") == b"offline")
                assert heard.newest()["vilamp/off/status"] == b"disabled"
                source = ListSource("yard", frames(3), stay=True)
                watching = asyncio.create_task(agent.cameras.watch("yard", source))
                await heard.until(lambda h: h.newest()["vilamp/yard/status"] == b"online")
                await heard.until(lambda h: json.loads(h.newest()["vilamp/yard/memory"])["frames"] == 3)
                told = json.loads(heard.newest()["vilamp/yard/memory"])
                assert (told["oldest"], told["newest"]) == (START, START + 2)
                await source.close()
                await watching
                await heard.until(lambda h: h.newest()["vilamp/yard/status"] == b"offline")
            await heard.until(lambda h: h.newest()["vilamp/status"] == b"offline")
        check_documented(heard.messages)


@needs_mosquitto
async def test_switches_over_mqtt_survive_a_restart(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port) as heard:
            async with running(tmp_path, **agent_at(broker.url)):
                await heard.until(lambda h: h.newest().get(f"{RULE}/enabled/state") == b"ON")
                await heard.client.publish(f"{RULE}/enabled/set", "OFF", qos=1)
                await heard.client.publish(f"{RULE}/snooze/set", "60", qos=1)
                await heard.until(lambda h: h.newest()[f"{RULE}/enabled/state"] == b"OFF")
                await heard.until(lambda h: h.newest()[f"{RULE}/snooze/state"] != b"0")
            until_then = heard.newest()[f"{RULE}/snooze/state"]
        async with listening(broker.port) as heard, running(tmp_path, **agent_at(broker.url)):
            await heard.until(lambda h: h.newest().get("vilamp/status") == b"online")
            await heard.until(lambda h: h.newest().get(f"{RULE}/snooze/state") == until_then)
            assert heard.newest()[f"{RULE}/enabled/state"] == b"OFF"


@needs_mosquitto
async def test_only_cameras_that_a_rule_watches_can_be_switched(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port) as heard, running(tmp_path, **agent_at(broker.url)) as agent:
            await heard.until(lambda h: h.newest().get(f"{RULE}/enabled/state") == b"ON")
            for camera in ("*", "off", "unheard-of"):
                await heard.client.publish(f"vilamp/{camera}/alert/bag/enabled/set", "OFF", qos=1)
                await heard.client.publish(f"vilamp/{camera}/alert/bag/snooze/set", "60", qos=1)
            await until(lambda: agent.bridge.context.counts["command_failed"] == 6)
            assert agent.alert_store.switches() == {}
            assert heard.newest()[f"{RULE}/enabled/state"] == b"ON"


@needs_mosquitto
async def test_questions_are_answered_on_the_topic_of_their_id(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        async with (
            listening(broker.port, "vilamp/answer/#") as heard,
            served(tmp_path, **agent_at(broker.url, allow_ask=True)) as server,
        ):
            await remember(server.agent, "yard", 3)
            await until_subscribed(server.agent.bridge)
            await ask(
                heard, {"id": "q1", "camera": "yard", "question": "what is there?", "after": START, "before": START + 1}
            )
            await heard.until(lambda h: h.messages)
            (answer,) = answers(heard)
            assert (answer["id"], answer["cameras"], answer["frames"]) == ("q1", ["yard"], 2)
            assert answer["answer"]
            url = answer["evidence"][0]["url"]
            assert url.startswith(f"{server.url}/v1/frames/")
            picture = await asyncio.to_thread(httpx.get, url, trust_env=False)  # a signed URL needs no token
            assert (picture.status_code, picture.headers["content-type"]) == (200, "image/jpeg")
            await ask(heard, {"id": "q2", "question": "who was in the yard since 2026?"})
            await heard.until(lambda h: len(h.messages) == 2)
            by_words = answers(heard)[1]
            assert (by_words["cameras"], by_words["scope"]["words"]) == (["yard"], ["in the yard", "since 2026"])
            assert by_words["coverage"][0]["frames"] == 3
        assert str(heard.messages[0].topic) == "vilamp/answer/q1"


@needs_mosquitto
async def test_invalid_questions_are_answered_with_an_error(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"id": "a"}, "invalid_request"),
        ({"id": "b", "question": "x", "camera": "none"}, "camera_not_found"),
        ({"id": "c", "question": "x", "camera": "yard", "cameras": ["yard"]}, "invalid_request"),
        ({"id": "d", "question": "x", "after": 9, "before": 8}, "invalid_request"),
        ({"id": "e", "question": "Who came?", "after": START + 99}, "no_frames"),
        ({"id": "f", "question": "x", "colour": "red"}, "invalid_request"),
        ({"id": "g", "question": "x" * 2001}, "question_too_long"),
    ]
    with mosquitto(tmp_path) as broker:
        async with (
            listening(broker.port, "vilamp/answer/#") as heard,
            running(tmp_path, **agent_at(broker.url, allow_ask=True)) as agent,
        ):
            await remember(agent, "yard", 2)
            asking = agent.bridge.context.asking
            await until_subscribed(agent.bridge)
            for question, _ in wrong:
                await ask(heard, question)
            await heard.until(lambda h: len(h.messages) == len(wrong))
            assert {each["id"]: each["error"]["code"] for each in answers(heard)} == {
                question["id"]: code for question, code in wrong
            }
            for unanswerable in (
                b"not json",
                b"[]",
                b'{"question": "x"}',
                b'{"id": "a/b", "question": "x"}',
                b"\xff" * MAX_BYTES,
                b"[" * MAX_BYTES,  # nested deeper than Python's parser allows
            ):
                await ask(heard, unanswerable)
            await ask(heard, {"id": "r", "question": "x"}, retain=True)
            await until(lambda: asking.num_ignored["no_reply_topic"] == 6)
        async with running(tmp_path, **agent_at(broker.url, allow_ask=True)) as agent:  # the question is retained
            await until(lambda: agent.bridge.context.asking.num_ignored["retained"] == 1)


@needs_mosquitto
async def test_mqtt_5_response_topic_and_correlation_data_are_used(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        async with (
            listening(broker.port, "#", protocol=aiomqtt.ProtocolVersion.V5) as heard,
            running(tmp_path, **agent_at(broker.url, allow_ask=True)) as agent,
        ):
            await remember(agent, "yard", 2)
            await until_subscribed(agent.bridge)
            for topic in ("elsewhere/answer", "vilamp/yard/status", "vilamp/answer/robot/7"):
                properties = Properties(PacketTypes.PUBLISH)
                properties.ResponseTopic = topic
                properties.CorrelationData = b"\x00mine"
                await ask(heard, {"question": "what is there?", "id": "q"}, properties=properties)
            await heard.until(lambda h: h.payloads("vilamp/answer/robot/7"))
            (message,) = [each for each in heard.messages if str(each.topic) == "vilamp/answer/robot/7"]
            assert message.properties.CorrelationData == b"\x00mine"
            assert answers(heard)[0]["answer"]
            assert agent.bridge.context.asking.num_ignored["no_reply_topic"] == 2
            assert not heard.payloads("elsewhere/answer")
            assert set(heard.payloads("vilamp/yard/status")) <= {b"online", b"offline"}


@needs_mosquitto
async def test_a_bug_ends_one_question_and_nothing_else(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        async with (
            listening(broker.port, "vilamp/answer/#") as heard,
            running(tmp_path, **agent_at(broker.url, allow_ask=True)) as agent,
        ):
            bridge = agent.bridge
            await until_subscribed(bridge)
            whole = bridge.context.asking._existing
            bridge.context.asking._existing = lambda named: {}[named]
            await ask(heard, {"id": "q1", "question": "what is there?"})
            await heard.until(lambda h: h.payloads("vilamp/answer/q1"))
            assert answers(heard)[0]["error"]["type"] == "server_error"
            bridge.context.asking._existing = whole
            await ask(heard, {"id": "q2", "question": "what is there?"})
            await heard.until(lambda h: h.payloads("vilamp/answer/q2"))
            assert answers(heard)[1]["error"]["code"] != "model_failed"
            assert bridge.status.num_connections == 1


@needs_mosquitto
async def test_too_many_questions_get_the_error_busy(tmp_path: Path) -> None:
    one_at_a_time = {"answering": {"max_questions": 1, "max_new_tokens": 8}}
    with mosquitto(tmp_path) as broker:
        changes = {**agent_at(broker.url, allow_ask=True), **one_at_a_time}
        async with listening(broker.port, "vilamp/answer/#") as heard, running(tmp_path, **changes) as agent:
            await remember(agent, "yard", 2)
            await until_subscribed(agent.bridge)
            async with asyncio.TaskGroup() as tasks:
                for number in range(12):
                    tasks.create_task(ask(heard, {"id": f"q{number}", "question": "what is there?"}))
            await heard.until(lambda h: len(h.messages) == 12)
            told = answers(heard)
    busy = [each for each in told if each.get("error", {}).get("code") == "busy"]
    assert busy
    assert any("answer" in each for each in told)


@needs_mosquitto
async def test_questions_are_ignored_unless_configured(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port) as heard, running(tmp_path, **agent_at(broker.url)) as agent:
            await remember(agent, "yard", 2)
            await until_subscribed(agent.bridge)
            await ask(heard, {"id": "q1", "question": "what is there?"})
            await heard.client.publish(f"{RULE}/enabled/set", "maybe", qos=1)
            await until(lambda: agent.bridge.context.counts["command_failed"])  # sent after the question
            await heard.fence()
    assert not [each for each in heard.messages if "answer" in str(each.topic)]


@needs_mosquitto
async def test_erasing_clears_the_picture_at_the_broker(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        async with (
            listening(broker.port) as heard,
            running(tmp_path, clock=lambda: START + 60, **agent_at(broker.url)) as agent,
        ):
            await heard.until(lambda h: f"{RULE}/state" in h.newest())
            commit(agent.alert_store, event(1), jpeg())
            await heard.until(lambda h: h.newest().get(f"{RULE}/snapshot") == jpeg())
            await asyncio.to_thread(agent.erasing.erase, Request("yard", START, START + 5))
            await heard.until(lambda h: h.newest()[f"{RULE}/snapshot"] == b"")


async def test_health_reports_an_absent_broker(tmp_path: Path) -> None:
    changes = agent_at("mqtt://127.0.0.1:9")  # nothing listens there
    async with served(tmp_path, **changes) as server, httpx.AsyncClient(trust_env=False) as http:
        await until(lambda: "no connection" in (server.agent.bridge.problem or ""))
        ready = await http.get(f"{server.url}/readyz")
        assert ready.status_code == 200
        assert ready.json()["degraded"] is True
        assert "no connection to the broker at 127.0.0.1:9" in ready.json()["checks"]["mqtt"]
        metrics = (await http.get(f"{server.url}/metrics", headers=server.headers())).text
        commit(server.agent.alert_store, event(1))
        assert "vilamp_mqtt_connected 0.0" in metrics
        metrics = (await http.get(f"{server.url}/metrics", headers=server.headers())).text
        assert 'vilamp_outbox_entries{stage="mqtt"} 1.0' in metrics
        await remember(server.agent, "yard", 5)  # frames do not wait for the broker
        assert server.agent.store.stats("yard").encoded == 5


@needs_mosquitto
async def test_the_health_topic_shows_problems(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port) as heard, running(tmp_path, **agent_at(broker.url)):
            await heard.until(lambda h: b"nobody publishes" in h.newest().get("vilamp/health", b""))
            told = json.loads(heard.newest()["vilamp/health"])
            assert (told["ready"], told["degraded"], told["checks"]["mqtt"]) == (True, True, "ok")
            await heard.until(lambda h: "homeassistant/device/vilamp/config" in h.newest())
            device = json.loads(heard.newest()["homeassistant/device/vilamp/config"])
            assert device["components"]["problem"]["state_topic"] == "vilamp/health"
        check_documented(heard.messages)


# --- the embedded broker ---


def embedded(agent: Agent) -> int:
    assert agent.bridge is not None
    address = agent.bridge.status.address
    return 0 if address is None else address[1]


async def test_the_embedded_broker_carries_everything(tmp_path: Path) -> None:
    async with running(tmp_path, **agent_at("embedded", embedded_port=0, allow_ask=True)) as agent:
        await until(lambda: embedded(agent) and agent.bridge.status.connected)
        async with listening(embedded(agent)) as heard:
            await heard.until(lambda h: f"{RULE}/state" in h.newest())
            commit(agent.alert_store, event(1), jpeg())
            await heard.until(lambda h: h.payloads(f"{RULE}/event"))
            assert heard.newest()[f"{RULE}/snapshot"] == jpeg()
            await remember(agent, "yard", 2)
            await ask(heard, {"id": "q1", "question": "what is there?"})
            await heard.until(lambda h: h.payloads("vilamp/answer/q1"))
            check_documented(heard.messages)


async def test_the_embedded_broker_requires_the_configured_password(tmp_path: Path) -> None:
    login = {"user": "joe", "password": "s3cret"}
    async with running(tmp_path, **agent_at("embedded", embedded_port=0, **login)) as agent:
        await until(lambda: embedded(agent) and agent.bridge.status.connected)
        for wrong in ({}, {"username": "joe", "password": "other"}):
            with pytest.raises(aiomqtt.MqttError):
                async with aiomqtt.Client("127.0.0.1", embedded(agent), **wrong):
                    pass
        async with listening(embedded(agent), username="joe", password="s3cret") as heard:
            await heard.until(lambda h: "vilamp/status" in h.newest())


async def test_the_embedded_broker_refuses_packets_announced_as_too_large(tmp_path: Path) -> None:
    async with running(tmp_path, **agent_at("embedded", embedded_port=0)) as agent:
        await until(lambda: embedded(agent) and agent.bridge.status.connected)
        reader, writer = await asyncio.open_connection("127.0.0.1", embedded(agent))
        writer.write(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x")
        assert (await reader.readexactly(4))[3] == 0  # accepted
        writer.write(b"\x30\xff\xff\xff\x7f\x00\x01a")  # 256 MB
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await until_subscribed(agent.bridge)


async def test_a_port_in_use_is_reported(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    async with running(tmp_path, **agent_at("embedded", embedded_port=port)) as agent:
        await until(lambda: "cannot listen" in (agent.bridge.problem or ""))
    taken.close()


async def test_a_missing_password_file_is_reported(tmp_path: Path) -> None:
    login = {"user": "joe", "password_file": str(tmp_path / "gone")}
    async with running(tmp_path, **agent_at("embedded", embedded_port=0, **login)) as agent:
        await until(lambda: "password_file" in (agent.bridge.problem or ""))


# --- kill -9 ---

DOOMED = """
import asyncio, sys
from contextlib import suppress
from pathlib import Path
from tests.support.bridges import Scene, bridged, commit, event, jpeg

async def main(folder, url):
    scene = Scene(Path(folder))
    async with bridged(scene, url) as bridge:
        while not bridge.status.connected:
            await asyncio.sleep(0.01)
        for number in range(300):
            await asyncio.to_thread(commit, scene.alert_store, event(number), jpeg())
            print(number, flush=True)
        await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


@needs_mosquitto
@pytest.mark.parametrize("after", [1, 60])
async def test_a_kill_between_commit_and_publication_loses_nothing(tmp_path: Path, after: int) -> None:
    keeps = {"identifier": "keeper", "clean_session": False}
    with mosquitto(tmp_path) as broker:
        async with (
            listening(broker.port, f"{RULE}/event", **keeps) as heard,
            listening(broker.port, "vilamp/status") as status,
        ):
            command = [sys.executable, "-c", DOOMED, str(tmp_path), broker.url]
            doomed = await asyncio.to_thread(
                subprocess.Popen, command, cwd=ROOT, stdout=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)}
            )
            await heard.until(lambda h: len(h.messages) >= after, timeout_s=60)
            doomed.send_signal(signal.SIGKILL)
            said, _ = await asyncio.to_thread(doomed.communicate)
            await status.until(lambda h: h.newest()["vilamp/status"] == b"offline")  # the last will
            committed = [int(line) for line in said.split()]
            scene = Scene(tmp_path)
            assert scene.alert_store.outbox.count("mqtt") > 0, "it was killed too late to prove anything"
            async with bridged(scene, broker.url):
                await until(lambda: scene.alert_store.outbox.count("mqtt") == 0, timeout_s=60)
            await heard.until(lambda h: f"a{committed[-1]}-on" in ids(h))
    told = list(dict.fromkeys(ids(heard)))
    assert told[: len(committed)] == [f"a{number}-on" for number in committed]  # all of them, in order
    assert len(told) - len(committed) in (0, 1)  # one more may be committed but not printed yet
    assert set(heard.payloads(f"{RULE}/event")) == {event(number).payload() for number in range(len(told))}


def ids(heard: Heard) -> list[str]:
    return [json.loads(payload)["id"] for payload in heard.payloads(f"{RULE}/event")]


@needs_mosquitto
async def test_shutdown_does_not_hang_on_a_silent_broker(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        scene = Scene(tmp_path)
        async with asyncio.timeout(30):
            async with bridged(scene, broker.url) as bridge:
                await until_subscribed(bridge)
                assert broker.process is not None
                broker.process.send_signal(signal.SIGSTOP)
                commit(scene.alert_store, event(1))
        broker.process.send_signal(signal.SIGCONT)
        assert scene.alert_store.outbox.count("mqtt") == 1
