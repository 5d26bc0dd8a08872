"""Limits of brokers delay nothing else and are reported: sizes, retained messages, access lists, wildcards, client ids."""

import json
from pathlib import Path

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.alerts.event import shortened
from agent.alerts.rules import RuleView
from agent.mqtt.publisher import EVENT, EVENT_RETRY_S, EVENT_TRIES, RETRY_S, Refusals
from agent.mqtt.topics import Topics
from agent.mqtt.wire import Sent
from tests.support.bridges import RULE, START, Scene, bridged, commit, event, jpeg
from tests.support.brokers import Heard, listening, mosquitto, needs_mosquitto
from tests.support.waiting import until


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def ids(heard: Heard, rule: str = RULE) -> list[str]:
    return [json.loads(payload)["id"] for payload in heard.payloads(f"{rule}/event")]


# --- sizes ---


@needs_mosquitto
@pytest.mark.parametrize(("version", "connections"), [("5", 1), ("3.1.1", 6)])
async def test_too_large_announcements_do_not_delay_events(
    tmp_path: Path, scene: Scene, version: str, connections: int
) -> None:
    scene.shelf.rules["cat", "yard"] = RuleView("cat", "yard", False, True, 0.0)
    with mosquitto(tmp_path, "allow_anonymous true", "max_packet_size 2048") as broker:
        async with (
            listening(broker.port) as heard,
            bridged(scene, broker.url, version=version, snapshots=False) as bridge,
        ):
            commit(scene.alert_store, event(1))
            await heard.until(lambda h: ids(h) == ["a1-on"])
            await heard.until(lambda h: {f"{RULE}/state", "vilamp/yard/memory", "vilamp/status"} <= set(h.newest()))
            await until(lambda: bridge.status.connected and "vilamp_yard/config" in (bridge.problem or ""))
            commit(scene.alert_store, event(2))
            await heard.until(lambda h: ids(h) == ["a1-on", "a2-on"])
            await heard.client.publish(f"{RULE}/enabled/set", "OFF", qos=1)
            await heard.until(lambda h: h.newest()[f"{RULE}/enabled/state"] == b"OFF")
            assert bridge.status.num_connections <= connections
            assert not any("yard/config" in topic for topic in heard.newest())


@needs_mosquitto
async def test_a_too_large_event_is_sent_without_its_links(tmp_path: Path, scene: Scene) -> None:
    with mosquitto(tmp_path, "allow_anonymous true", "max_packet_size 560") as broker:
        async with listening(broker.port, f"{RULE}/#") as heard, bridged(scene, broker.url) as bridge:
            commit(scene.alert_store, event(1), jpeg())
            await heard.until(lambda h: ids(h) == ["a1-on"])
            assert "pictures are left out" in (bridge.problem or "")
            assert bridge.status.num_connections == 1
    (payload,) = heard.payloads(f"{RULE}/event")
    told = json.loads(payload)
    assert told["frames"] == []
    assert told["condition"] == "a bag is left by the door"


def test_shortening_keeps_as_much_as_fits() -> None:
    whole = event(1).payload()
    assert shortened(whole, len(whole)) == whole
    once = shortened(whole, len(whole) - 1)
    assert once is not None
    assert json.loads(once) == {**json.loads(whole), "frames": []}
    assert shortened(whole, 10) is None


@needs_mosquitto
async def test_an_event_that_never_fits_does_not_delay_the_next(tmp_path: Path, scene: Scene) -> None:
    with mosquitto(tmp_path, "allow_anonymous true", "max_packet_size 500") as broker:
        async with listening(broker.port, f"{RULE}/#") as heard, bridged(scene, broker.url) as bridge:
            long = event(1)
            object.__setattr__(long, "condition", "a" * 400)
            commit(scene.alert_store, long)
            commit(scene.alert_store, event(2, "off"))
            await heard.until(lambda h: ids(h) == ["a2-off"])
            assert "1 alert events wait" in (bridge.problem or "")
            assert scene.alert_store.outbox.pending("mqtt")[0].event_id == "a1-on"
            scene.alert_store.erase("yard", START, START + 1.5)
            bridge.context.wake.set()
            await until(lambda: "event" not in (bridge.problem or ""))  # no event waits, so there is no problem


# --- retained messages ---


@needs_mosquitto
@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_broker_without_retained_messages_gets_events_and_is_reported(
    tmp_path: Path, scene: Scene, version: str
) -> None:
    with mosquitto(tmp_path, "allow_anonymous true", "retain_available false") as broker:
        async with listening(broker.port) as heard, bridged(scene, broker.url, version=version) as bridge:
            commit(scene.alert_store, event(1), jpeg())
            await heard.until(lambda h: ids(h) == ["a1-on"])
            await until(lambda: "keeps no retained messages" in (bridge.problem or ""))
            await heard.until(lambda h: f"{RULE}/state" in h.newest())
            assert bridge.status.connected
            assert not any(message.retain for message in heard.messages)


@needs_mosquitto
@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize("more", [(), ("retain_available false",)])
async def test_a_broker_that_accepts_only_qos_0_is_used_and_reported(
    tmp_path: Path, scene: Scene, version: str, more: tuple[str, ...]
) -> None:
    with mosquitto(tmp_path, "allow_anonymous true", "max_qos 0", *more) as broker:
        async with listening(broker.port) as heard, bridged(scene, broker.url, version=version) as bridge:
            commit(scene.alert_store, event(1))
            await heard.until(lambda h: ids(h) == ["a1-on"])
            await until(lambda: "accepts only QoS 0" in " ".join(bridge.context.notes._words.values()))


# --- access lists ---


@needs_mosquitto
async def test_forbidden_topics_do_not_delay_others(tmp_path: Path, scene: Scene) -> None:
    """The broker refuses some topics; the others work over the same connection."""
    scene.shelf.rules["cat", "yard"] = RuleView("cat", "yard", False, True, 0.0)
    cat = "vilamp/yard/alert/cat"
    access = tmp_path / "acl"
    denied = (
        f"{RULE}/event",
        f"{RULE}/snapshot",
        "vilamp/yard/memory",
        "vilamp/+/alert/+/enabled/set",
        "homeassistant/#",
    )
    access.write_text("topic readwrite vilamp/#\n" + "".join(f"topic deny {each}\n" for each in denied))
    with mosquitto(tmp_path, "allow_anonymous true", f"acl_file {access}") as broker:
        async with listening(broker.port, "vilamp/#") as heard, bridged(scene, broker.url) as bridge:
            for number in range(3):
                commit(scene.alert_store, event(number), jpeg())
                commit(scene.alert_store, event(10 + number, rule="cat"), jpeg())
            await heard.until(lambda h: ids(h, cat) == ["a10-on", "a11-on", "a12-on"])
            await heard.client.publish(f"{RULE}/snooze/set", "10", qos=1)
            await heard.until(lambda h: h.newest().get(f"{RULE}/snooze/state", b"0") != b"0")
            assert "refuses" in (bridge.problem or "")
            assert "more)" in (bridge.problem or "")
            assert [each.event_id for each in scene.alert_store.outbox.pending("mqtt")] == ["a0-on", "a1-on", "a2-on"]
            assert bridge.status.num_connections == 1
            access.write_text("topic readwrite vilamp/#\ntopic readwrite homeassistant/#\n")
            assert broker.process is not None
            broker.process.send_signal(1)  # rereads the access list
            bridge.context.held.clear()  # as if HOLD_S had passed
            await heard.until(lambda h: ids(h) == ["a0-on", "a1-on", "a2-on"])
            assert f"{RULE}/event" not in (bridge.problem or "")


# --- removed cameras ---


@needs_mosquitto
async def test_removed_cameras_and_rules_leave_no_retained_messages(
    tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retained messages and announcements are cleared at once, including numbers that are rarely published."""
    monkeypatch.setattr("agent.mqtt.state.STATS_INTERVAL_S", 3600.0)
    with mosquitto(tmp_path) as broker:
        async with listening(broker.port) as heard, bridged(scene, broker.url) as bridge:
            commit(scene.alert_store, event(1), jpeg())
            wanted = {f"{RULE}/snapshot", "vilamp/yard/memory", "homeassistant/device/vilamp_yard/config"}
            await heard.until(lambda h: wanted <= set(h.newest()))
            del scene.cameras[0], scene.shelf.rules["bag", "yard"]
            await heard.until(lambda h: {h.newest()[topic] for topic in wanted} == {b""})
            await until(lambda: not [topic for topic in bridge.context.retained.topics() if "yard" in topic])
        async with listening(broker.port) as later:
            await later.fence()
    assert not [topic for topic in later.newest() if "yard" in topic]


# --- client id ---


@needs_mosquitto
@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_broker_that_requires_a_client_id_gets_one(tmp_path: Path, scene: Scene, version: str) -> None:
    with mosquitto(tmp_path, "allow_anonymous true", "allow_zero_length_clientid false") as broker:
        async with bridged(scene, broker.url, version=version) as bridge:
            await until(lambda: bridge.status.connected)


# --- response topics ---


@pytest.mark.parametrize(
    ("topic", "may"),
    [
        ("vilamp/answer/robot/7", True),
        ("vilamp/answer/größe", True),
        ("vilamp/answer/a\x01b", False),
        ("vilamp/answer/a\uffffb", False),
        ("vilamp/answer/\ud800", False),
        ("vilamp/answer/" + "a/" * 60 + "b", False),
        ("vilamp/answer/+", False),
    ],
)
def test_response_topics_that_brokers_reject_are_refused(topic: str, may: bool) -> None:
    assert Topics("vilamp").may_answer_on(topic) is may


def test_only_topics_below_the_prefix_are_commands() -> None:
    topics = Topics("vilamp")
    assert topics.command("yard/alert/bag/enabled/set") is None
    assert topics.command("vilamp/Yard!/alert/bag/enabled/set") is None
    assert topics.command("vilamp/yard/alert/bag/snooze/set") is not None


# --- learning from connections that end ---


def test_a_blamed_message_is_set_aside_for_a_while() -> None:
    refusals, sent = Refusals(), Sent("homeassistant/x", 3000)
    assert not refusals.lost(sent, 0.0)
    assert not refusals.sets_aside(sent, 0.0)
    assert refusals.lost(sent, 1.0)
    assert refusals.sets_aside(sent, 2.0)
    assert refusals.sets_aside(Sent("homeassistant/x", 1600), 2.0)
    assert not refusals.sets_aside(Sent("homeassistant/x", 1500), 2.0)  # may be small enough
    assert not refusals.sets_aside(Sent("homeassistant/y", 3000), 2.0)
    assert not refusals.sets_aside(sent, 1.0 + RETRY_S)
    assert refusals.lost(sent, 1.0 + RETRY_S)  # one more loss is enough
    refusals.confirmed(sent)
    assert not refusals.sets_aside(sent, 2.0 + RETRY_S)


def test_events_get_more_tries_and_sooner() -> None:
    refusals, sent = Refusals(), Sent(f"{EVENT}a1-on", 900)
    assert [refusals.lost(sent, 0.0) for _ in range(EVENT_TRIES)] == [False] * (EVENT_TRIES - 1) + [True]
    assert refusals.sets_aside(sent, 0.0)
    assert not refusals.sets_aside(sent, EVENT_RETRY_S)


def test_two_lost_retained_messages_mean_that_none_is_accepted() -> None:
    refusals, sent = Refusals(), Sent("vilamp/status", 30, retain=True)
    refusals.lost(sent, 0.0)
    assert refusals.retains(0.0)
    refusals.lost(sent, 0.0)
    assert not refusals.retains(1.0)
    assert refusals.retains(RETRY_S)
    taken = Refusals()
    taken.confirmed(sent)
    assert [taken.lost(sent, 0.0), taken.lost(sent, 0.0)] == [False, True]
    assert taken.retains(0.0)


def test_a_confirmed_small_message_does_not_clear_a_large_one() -> None:
    refusals = Refusals()
    for _ in range(2):
        refusals.lost(Sent("pictures", 40_000), 0.0)
    refusals.confirmed(Sent("pictures", 9000))
    assert refusals.size_to_try("pictures", 1.0) == 10_000
    refusals.confirmed(Sent("pictures", 40_000))
    assert refusals.size_to_try("pictures", 1.0) is None


def test_properties_count_towards_the_packet_size() -> None:
    from agent.mqtt.wire import packet_bytes

    properties = Properties(PacketTypes.PUBLISH)
    properties.CorrelationData = b"x" * 1000
    assert packet_bytes("a", b"", properties) >= packet_bytes("a", b"") + 1000
