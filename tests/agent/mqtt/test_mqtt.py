"""The bridge against a real mosquitto: topics and payloads, outages, credentials, TLS, Home Assistant."""

import asyncio
import gc
import io
import json
import signal
import ssl
import time
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

from agent.alerts.rules import RuleView
from agent.mqtt.context import CameraView, MemoryView
from tests.support.bridges import ROOT, RULE, START, Scene, bridged, check_documented, commit, documented, event, jpeg
from tests.support.brokers import Heard, listening, mosquitto, needs_mosquitto
from tests.support.certificates import authority
from tests.support.waiting import until

pytestmark = needs_mosquitto


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def event_ids(heard: Heard) -> list[str]:
    return [json.loads(payload)["id"] for payload in heard.payloads(f"{RULE}/event")]


def all_there(heard: Heard) -> bool:
    return {f"{RULE}/snooze/state", "vilamp/yard/memory", "vilamp/status"} <= set(heard.newest())


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_every_published_message_is_documented(tmp_path: Path, scene: Scene, version: str) -> None:
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port) as heard:
            async with bridged(scene, broker.url, version=version):
                await heard.until(all_there)
                commit(scene.alert_store, event(1), jpeg())
                commit(scene.alert_store, event(1, "off"))
                await heard.client.publish(f"{RULE}/enabled/set", "OFF", qos=1)
                await heard.client.publish(f"{RULE}/snooze/set", "10", qos=1)
                await heard.until(lambda h: len(event_ids(h)) == 2 and h.newest()[f"{RULE}/snooze/state"] != b"0")
                await heard.until(lambda h: h.newest()[f"{RULE}/enabled/state"] == b"OFF")
            await heard.until(lambda h: h.newest()["vilamp/status"] == b"offline")
        seen = check_documented(heard.messages)
        assert set(documented()) - seen == {"P/ask", "P/answer/<id>", "P/health"}
        snooze = float(heard.newest()[f"{RULE}/snooze/state"])
        assert 0 < snooze - time.time() <= 600.5
        async with listening(broker.port) as later:  # gets retained messages only
            await later.fence()
        kept = later.newest()
        assert {topic for topic in kept if topic.startswith(RULE)} == {
            f"{RULE}/state", f"{RULE}/snapshot", f"{RULE}/enabled/state", f"{RULE}/snooze/state",
        }  # fmt: skip
        assert (kept["vilamp/status"], kept["vilamp/yard/status"]) == (b"offline", b"offline")
        assert kept[f"{RULE}/snapshot"] == jpeg()


async def test_events_follow_their_picture_with_the_committed_payload(tmp_path: Path, scene: Scene) -> None:
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port, f"{RULE}/#") as heard, bridged(scene, broker.url):
            await heard.until(lambda h: f"{RULE}/state" in h.newest())
            commit(scene.alert_store, event(1), jpeg(seed=1))
            commit(scene.alert_store, event(2), jpeg(seed=2))
            await heard.until(lambda h: len(event_ids(h)) == 2)
        told = [str(each.topic).removeprefix(f"{RULE}/") for each in heard.messages]
        told = [topic for topic in told if topic in ("snapshot", "event")]
        assert told[:4] == ["snapshot", "event", "snapshot", "event"]
        assert heard.payloads(f"{RULE}/event") == [event(1).payload(), event(2).payload()]
        assert heard.payloads(f"{RULE}/snapshot")[:2] == [jpeg(seed=1), jpeg(seed=2)]


async def test_an_event_erased_while_it_waits_is_not_published(tmp_path: Path, scene: Scene) -> None:
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port) as heard, bridged(scene, broker.url):
            await heard.until(all_there)
            assert broker.process is not None
            broker.process.send_signal(signal.SIGSTOP)  # the first event is in flight, the second waits behind it
            for number in (1, 2):
                commit(scene.alert_store, event(number))
            await until(lambda: broker.num_unread() >= len(event(1).payload()))
            scene.alert_store.erase("yard", START + 1.5, START + 2.5)
            broker.process.send_signal(signal.SIGCONT)
            commit(scene.alert_store, event(3))
            await heard.until(lambda h: "a3-on" in event_ids(h))
        assert event_ids(heard) == ["a1-on", "a3-on"]


async def test_large_pictures_are_scaled_down(tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.mqtt.state.MAX_SNAPSHOT_BYTES", 16 << 10)
    large = jpeg(800, 600)
    with mosquitto(tmp_path) as broker:
        bridge = bridged(scene, broker.url)
        async with listening(broker.port, f"{RULE}/snapshot") as heard, bridge:
            commit(scene.alert_store, event(1), large)
            await heard.until(lambda h: h.messages)
    small = heard.payloads(f"{RULE}/snapshot")[0]
    assert len(large) > 16 * 1024 >= len(small)
    with Image.open(io.BytesIO(small)) as picture:
        assert picture.width < 800


@pytest.mark.parametrize(("version", "connections"), [("5", 1), ("3.1.1", 3)])
async def test_pictures_are_scaled_to_the_brokers_limit(
    tmp_path: Path, scene: Scene, version: str, connections: int
) -> None:
    """MQTT 5 announces the limit; with 3.1.1 it is learnt from connections that end."""
    large = jpeg(400, 300)
    with mosquitto(tmp_path, "allow_anonymous true", "max_packet_size 40000") as broker:
        async with (
            listening(broker.port, f"{RULE}/#") as heard,
            bridged(scene, broker.url, version=version, discovery=False) as bridge,
        ):
            commit(scene.alert_store, event(1), large)
            commit(scene.alert_store, event(2), jpeg())
            await heard.until(lambda h: event_ids(h) == ["a1-on", "a2-on"])
            commit(scene.alert_store, event(3), large)  # the limit is learnt: no connection is lost
            await heard.until(lambda h: event_ids(h) == ["a1-on", "a2-on", "a3-on"])
            assert bridge.problem is None
            assert bridge.status.num_connections == connections
    pictures = heard.payloads(f"{RULE}/snapshot")
    assert len(large) > 40_000
    assert pictures[1] == jpeg()
    assert all(len(each) <= 40_000 for each in pictures)
    assert Image.open(io.BytesIO(pictures[0])).width < 400


async def test_nothing_is_lost_while_the_broker_is_away(tmp_path: Path, scene: Scene) -> None:
    with mosquitto(tmp_path) as broker:
        heard_ids: list[str] = []
        payloads: dict[str, set[bytes]] = {}

        async def hear(count: int) -> None:
            async with listening(broker.port, f"{RULE}/event") as heard:
                ready.set()
                await heard.until(lambda h: len(set(event_ids(h)) | set(heard_ids)) >= count)
                heard_ids.extend(event_ids(heard))
                for payload in heard.payloads(f"{RULE}/event"):
                    payloads.setdefault(json.loads(payload)["id"], set()).add(payload)

        async with bridged(scene, broker.url) as bridge:
            await until(lambda: bridge.status.connected)
            ready = asyncio.Event()
            hearing = asyncio.create_task(hear(10))
            await ready.wait()
            for number in range(10):
                commit(scene.alert_store, event(number), jpeg())
            await hearing
            broker.stop()
            await until(lambda: not bridge.status.connected)
            for number in range(10, 40):
                commit(scene.alert_store, event(number), jpeg())
            assert "no connection" in (bridge.problem or "")
            broker.start()
            ready = asyncio.Event()
            await hear(40)
            await until(lambda: scene.alert_store.outbox.count("mqtt") == 0)
        # the subscriber may have missed events delivered before it reconnected; the outbox lost none
        assert sorted(set(heard_ids), key=lambda each: int(each[1:-3])) == list(dict.fromkeys(heard_ids))
        assert all(len(same) == 1 for same in payloads.values())


async def test_a_persistent_subscriber_gets_every_event_in_order(tmp_path: Path, scene: Scene) -> None:
    """A session like Home Assistant's survives the broker's restart."""
    keeps = {"identifier": "keeper", "clean_session": False}
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port, f"{RULE}/event", **keeps):
            pass
        async with bridged(scene, broker.url) as bridge:
            for number in range(60):
                commit(scene.alert_store, event(number))
                if number in (15, 35):
                    broker.stop()
                if number in (25, 45):
                    broker.start()
                await asyncio.sleep(0.01)
            await until(lambda: bridge.status.connected and scene.alert_store.outbox.count("mqtt") == 0)
        async with listening(broker.port, f"{RULE}/event", **keeps) as heard:
            await heard.until(lambda h: len(set(event_ids(h))) == 60)
    assert list(dict.fromkeys(event_ids(heard))) == [f"a{number}-on" for number in range(60)]
    assert set(heard.payloads(f"{RULE}/event")) == {event(number).payload() for number in range(60)}


async def test_unpublished_events_are_published_after_a_restart(tmp_path: Path, scene: Scene) -> None:
    commit(scene.alert_store, event(1), jpeg())
    commit(scene.alert_store, event(1, "off"))
    scene.alert_store.close()
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port, f"{RULE}/event") as heard, bridged(Scene(tmp_path), broker.url):
            await heard.until(lambda h: len(event_ids(h)) == 2)
    assert event_ids(heard) == ["a1-on", "a1-off"]


async def test_refused_credentials_are_reported(tmp_path: Path, scene: Scene) -> None:
    (tmp_path / "passwords").write_text("")
    with mosquitto(tmp_path, "allow_anonymous false", f"password_file {tmp_path / 'passwords'}") as broker:
        for version in ("5", "3.1.1"):
            async with bridged(scene, broker.url, version=version, user="joe", password="wrong") as bridge:
                await until(lambda: "refuses the connection" in (bridge.problem or ""))
                assert bridge.problem is not None
                assert "Not authorized" in bridge.problem
                assert "mqtt.password" in bridge.problem
                assert not bridge.status.connected
                assert bridge.status.num_connections == 0


async def test_an_absent_broker_is_tried_until_it_is_there(tmp_path: Path, scene: Scene) -> None:
    commit(scene.alert_store, event(1))
    with mosquitto(tmp_path) as broker:
        broker.stop()
        async with bridged(scene, broker.url) as bridge:
            await until(lambda: "no connection" in (bridge.problem or ""))
            broker.start()
            await until(lambda: scene.alert_store.outbox.count("mqtt") == 0)
            assert bridge.problem is None


async def test_an_event_that_the_access_list_forbids_waits_and_is_reported(tmp_path: Path, scene: Scene) -> None:
    access = tmp_path / "acl"
    access.write_text(f"topic readwrite vilamp/#\ntopic deny {RULE}/event\ntopic write homeassistant/#\n")
    with mosquitto(tmp_path, "allow_anonymous true", f"acl_file {access}") as broker:
        async with bridged(scene, broker.url) as bridge:
            commit(scene.alert_store, event(1))
            await until(lambda: f"refuses {RULE}/event: Not authorized" in (bridge.problem or ""))
            commit(scene.alert_store, event(2, rule="cat"))  # another topic does not wait behind the first
            await until(lambda: scene.alert_store.outbox.count("mqtt") == 1)
            assert bridge.status.num_connections == 1
            assert scene.alert_store.outbox.pending("mqtt")[0].event_id == "a1-on"


async def test_retained_messages_of_removed_rules_are_cleared_after_a_restart(tmp_path: Path, scene: Scene) -> None:
    scene.shelf.rules["cat", "yard"] = RuleView("cat", "yard", True, True, 0.0)
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port) as heard, bridged(scene, broker.url):
            commit(scene.alert_store, event(1), jpeg())
            commit(scene.alert_store, event(2, rule="cat"), jpeg())
            await heard.until(lambda h: {"vilamp/yard/alert/cat/snapshot", f"{RULE}/snapshot"} <= set(h.newest()))
            await heard.until(all_there)
        broker.stop()
        scene.alert_store.erase("yard", START, START + 1.5)  # the bag's alert
        scene.alert_store.close()
        again = Scene(tmp_path)  # without the rule "cat" and the camera "gate"
        again.cameras.pop()
        broker.start()
        async with bridged(again, broker.url) as bridge, listening(broker.port) as heard:
            await heard.until(lambda h: h.newest().get("vilamp/status") == b"online")
            gone = ("cat", "gate", f"{RULE}/snapshot")
            await until(
                lambda: not [each for each in bridge.context.retained.topics() if any(part in each for part in gone)]
            )
        async with listening(broker.port) as later:
            await later.until(all_there)
            await later.fence()
        assert f"{RULE}/state" in later.newest()
        assert not [topic for topic in later.newest() if "snapshot" in topic or "cat" in topic or "gate" in topic]


async def test_invalid_commands_change_nothing(tmp_path: Path, scene: Scene) -> None:
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port) as heard, bridged(scene, broker.url) as bridge:
            await heard.until(all_there)
            await heard.client.publish(f"{RULE}/enabled/set", "maybe", qos=1)
            for minutes in ("nan", "-1", "1e99", "x"):
                await heard.client.publish(f"{RULE}/snooze/set", minutes, qos=1)
            await heard.client.publish("vilamp/yard/alert/none/enabled/set", "OFF", qos=1)
            await until(lambda: bridge.context.counts["command_failed"] == 6)
        async with listening(broker.port) as heard:
            await heard.client.publish(f"{RULE}/enabled/set", "OFF", qos=1, retain=True)
        async with listening(broker.port) as heard, bridged(scene, broker.url) as bridge:
            # a retained command is ignored; the next one is obeyed
            await heard.until(lambda h: h.newest().get("vilamp/status") == b"online")
            await heard.client.publish(f"{RULE}/snooze/set", "x", qos=1)
            await until(lambda: bridge.context.counts["command_failed"])
        view = scene.shelf.rules["bag", "yard"]
        assert (view.enabled, view.snoozed_until) == (True, 0.0)


async def test_retained_messages_follow_changes(tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.mqtt.state.STATS_INTERVAL_S", 1.0)
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port) as heard, bridged(scene, broker.url):
            await heard.until(all_there)
            scene.cameras[:] = [CameraView("yard", "disabled")]
            scene.memories[:] = [MemoryView("yard", 4, START, START + 9, 0.5)]
            scene.shelf.rules["bag", "yard"] = RuleView("bag", "yard", True, True, time.time() + 2)
            await heard.until(lambda h: h.newest()["vilamp/yard/status"] == b"disabled")
            await heard.until(lambda h: h.newest()[f"{RULE}/state"] == b"ON")
            await heard.until(lambda h: json.loads(h.newest()["vilamp/yard/memory"])["frames"] == 4)
            await heard.until(lambda h: h.payloads(f"{RULE}/snooze/state")[-1] == b"0")  # the snooze has ended
            assert len(heard.payloads(f"{RULE}/snooze/state")) == 3


# --- Home Assistant ---


async def test_announcements_have_the_documented_fields(tmp_path: Path, scene: Scene) -> None:
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port, "homeassistant/#") as heard, bridged(scene, broker.url):
            await heard.until(lambda h: len(h.newest()) == 2)
    told = {topic: json.loads(payload) for topic, payload in heard.newest().items()}
    assert set(told) == {"homeassistant/device/vilamp_yard/config", "homeassistant/device/vilamp_gate/config"}
    schema = json.loads((ROOT / "docs" / "schemas" / "discovery.json").read_text())
    for payload in told.values():
        jsonschema.Draft202012Validator(schema).validate(payload)
    yard = told["homeassistant/device/vilamp_yard/config"]
    assert yard["device"]["identifiers"] == ["vilamp/yard"]
    assert yard["origin"] == {"name": "vilamp-live", "sw_version": "0.1.0"}
    agent = {"topic": "vilamp/status", "payload_available": "online", "payload_not_available": "offline"}
    assert yard["availability"] == [agent]
    components = yard["components"]
    assert {key: each["platform"] for key, each in components.items()} == {
        "status": "binary_sensor", "frames": "sensor", "rate": "sensor", "oldest": "sensor", "newest": "sensor",
        "state_bag": "binary_sensor", "event_bag": "event", "image_bag": "image", "enabled_bag": "switch",
        "snooze_bag": "sensor",
    }  # fmt: skip
    assert components["event_bag"]["event_types"] == ["on", "off"]
    assert components["event_bag"]["state_topic"] == f"{RULE}/event"
    assert components["image_bag"]["image_topic"] == f"{RULE}/snapshot"
    assert components["enabled_bag"]["command_topic"] == f"{RULE}/enabled/set"
    assert components["enabled_bag"]["state_topic"] == f"{RULE}/enabled/state"
    assert components["state_bag"]["state_topic"] == f"{RULE}/state"
    assert [each["topic"] for each in components["state_bag"]["availability"]] == [
        "vilamp/status",
        "vilamp/yard/status",
    ]
    assert components["state_bag"]["availability_mode"] == "all"
    assert components["frames"]["state_topic"] == "vilamp/yard/memory"
    unique = [each["unique_id"] for payload in told.values() for each in payload["components"].values()]
    assert len(set(unique)) == len(unique)
    assert not [key for key in told["homeassistant/device/vilamp_gate/config"]["components"] if "bag" in key]


async def test_a_removed_rule_is_removed_from_its_device(tmp_path: Path, scene: Scene) -> None:
    config = "homeassistant/device/vilamp_yard/config"
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port, config) as heard, bridged(scene, broker.url):
            await heard.until(lambda h: h.messages)
            del scene.shelf.rules["bag", "yard"]
            await heard.until(lambda h: len(h.messages) == 3)
    announced, removing, after = (json.loads(payload)["components"] for payload in heard.payloads(config))
    assert set(removing) == set(announced)
    assert removing["event_bag"] == {"platform": "event"}
    assert set(after) == {"status", "frames", "rate", "oldest", "newest"}
    check_documented(heard.messages)


async def test_everything_is_announced_again_when_home_assistant_starts(tmp_path: Path, scene: Scene) -> None:
    config = "homeassistant/device/vilamp_yard/config"
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port) as heard, bridged(scene, broker.url, reannounce_s=(1.0, 2.0)):
            await heard.until(all_there)
            await heard.client.publish("homeassistant/status", "offline", qos=1)
            said = (heard.client.publish("homeassistant/status", "online", qos=1) for _ in range(8))
            await asyncio.gather(*said)  # however often that happens meanwhile
            for times in (2, 3):  # more announcements, if any, would come before the next
                await heard.until(
                    lambda h, n=times: len(h.payloads(config)) >= n and len(h.payloads(f"{RULE}/state")) >= n
                )
                assert len(heard.payloads(config)) == times
                await heard.client.publish("homeassistant/status", "online", qos=1)


async def test_without_discovery_nothing_is_announced(tmp_path: Path, scene: Scene) -> None:
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port) as heard, bridged(scene, broker.url, discovery=False):
            await heard.until(all_there)
    assert not [each for each in heard.messages if str(each.topic).startswith("homeassistant")]


# --- TLS ---


async def test_tls_with_a_client_certificate(tmp_path: Path, scene: Scene) -> None:
    ca, server, client = authority(tmp_path, "127.0.0.1")
    lines = (
        "allow_anonymous true", f"cafile {ca}", f"certfile {server.cert}", f"keyfile {server.key}", "require_certificate true",
    )  # fmt: skip
    with mosquitto(tmp_path, *lines) as broker:
        url = f"mqtts://127.0.0.1:{broker.port}"
        async with bridged(scene, url, ca=ca) as bridge:  # without a client certificate
            await until(lambda: "client certificate (mqtt.cert, mqtt.key)" in (bridge.status.problem or ""))
            assert not bridge.status.connected
        async with bridged(scene, url) as bridge:  # without the CA
            await until(lambda: "authority that is not trusted" in (bridge.status.problem or ""))
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(str(client.cert), str(client.key))
        async with (
            listening(broker.port, tls_context=context) as heard,
            bridged(scene, url, ca=ca, cert=client.cert, key=client.key),
        ):
            await heard.until(all_there)
    gc.collect()  # reports sockets that were left open
