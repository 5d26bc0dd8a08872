"""A broker that misbehaves only ends its connection: memory and log stay bounded, and the bridge reconnects."""

import asyncio
import importlib.metadata
import io
import logging
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import aiomqtt
import paho.mqtt.client
import pytest

from agent.mqtt.bridge import Bridge
from agent.mqtt.context import CameraView
from agent.mqtt.wire import MAX_PACKET_BYTES, MAX_SKIPPED
from agent.runtime.log_repeats import CountedLines
from tests.support.bridges import Scene, bridged, commit, event
from tests.support.odd_brokers import CONNECT, SUBSCRIBE, Client, after_subscribing, length, odd_broker, packet, text
from tests.support.waiting import until

MIB = 1 << 20


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_private_names_of_the_libraries_still_exist() -> None:
    """agent/mqtt/wire.py uses them. When this fails, check wire.py against the new version, then change the versions here."""
    assert importlib.metadata.version("aiomqtt").startswith("2.5.")
    assert importlib.metadata.version("paho-mqtt").startswith("2.2.")
    ours = aiomqtt.Client
    for name in (
        "_on_connect", "_on_disconnect", "_on_publish", "_on_subscribe", "_on_unsubscribe", "_on_message", "_wait_for",
        "_on_socket_open", "_on_socket_close", "_on_socket_register_write", "_on_socket_unregister_write", "_misc_loop",
    ):  # fmt: skip
        assert callable(getattr(ours, name)), name
    theirs = paho.mqtt.client.Client(paho.mqtt.client.CallbackAPIVersion.VERSION2)
    for name in (
        "_in_packet", "_out_packet", "_sock", "_sock_close", "_sock_recv", "_packet_handle", "_ssl_wrap_socket",
        "_ssl_context", "_host", "_connect_timeout", "_registered_write", "loop_read", "loop_write", "is_connected",
    ):  # fmt: skip
        assert hasattr(theirs, name), name
    fields = {
        "command",
        "have_remaining",
        "remaining_count",
        "remaining_mult",
        "remaining_length",
        "packet",
        "to_process",
        "pos",
    }
    assert set(theirs._in_packet) == fields


async def test_private_fields_of_the_aiomqtt_client_still_exist() -> None:
    made = aiomqtt.Client("127.0.0.1")
    for name in (
        "_client", "_loop", "_connected", "_disconnected", "_queue", "_pending_publishes", "_pending_subscribes",
        "_pending_unsubscribes", "_misc_task",
    ):  # fmt: skip
        assert hasattr(made, name), name


BREAKING: dict[str, Callable[[Client], None]] = {
    "an empty topic": lambda client: client.publish(b"", b"x"),
    "a topic that is not UTF-8": lambda client: client.publish(b"vilamp/\xff", b"x"),
    "QoS 2": lambda client: client.publish("vilamp/ask", b"x", first=0x34),
    "QoS 3": lambda client: client.publish("vilamp/ask", b"x", first=0x36),
    "a topic longer than its packet": lambda client: client.send(packet(0x30, b"\xff\xff" + b"a" * 9)),
    "nothing in a PUBLISH": lambda client: client.send(packet(0x30, b"")),
    "an answer to no subscription": lambda client: client.send(
        packet(0x90, b"\x12\x34" + client.properties() + b"\x01")
    ),
    "a second answer to CONNECT": lambda client: client.connack(),
    "what only clients send": lambda client: client.send(b"\xc0\x00"),
    "an unknown packet": lambda client: client.send(b"\x00\x00"),
    "a length without end": lambda client: client.send(b"\x30\xff\xff\xff\xff\xff\xff"),
    "CONNECT": lambda client: client.send(packet(0x10, text("MQTT") + b"\x05\x02\x00\x3c\x00" + text("x"))),
}


@pytest.mark.parametrize("what", BREAKING)
@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_packet_that_breaks_the_protocol_ends_the_connection(
    scene: Scene, caplog: pytest.LogCaptureFixture, what: str, version: str
) -> None:
    """The connection ends whatever follows the packet, and events are still delivered."""

    def act(client: Client) -> None:
        BREAKING[what](client)
        client.publish("vilamp/x", b"another behind it")

    async with odd_broker(after_subscribing(act)) as broker, bridged(scene, broker.url, version=version) as bridge:
        await until(lambda: broker.gone >= 2)
        commit(scene.alert_store, event(1))
        await until(lambda: scene.alert_store.outbox.count("mqtt") == 0)
        number = broker.gone
        await until(lambda: broker.gone > number and not bridge.status.connected)
        assert "no connection to the broker" in (bridge.problem or "")
        assert broker.gone >= len(broker.clients) - 1  # at most one connection is open
    lines = len([each for each in caplog.records if each.levelno >= logging.WARNING])
    assert lines <= 4 * len(broker.clients) + 8
    assert sum(topic.endswith("/event") for topic, _, _ in broker.published()) >= 1


async def test_packets_that_are_too_large_are_skipped(scene: Scene) -> None:
    """MQTT 3.1.1 has no limit to announce: the packets are read over, and the connection stays."""

    peaks: list[int] = []

    async def script(client: Client, first: int, body: bytes) -> bool:
        if first >> 4 == SUBSCRIBE and b"snooze" in body:
            client.send(packet(0x90, body[:2] + b"\x01"))
            client.send(b"\x30" + length(24 * MIB) + text("vilamp/ask") + b"x" * (MIB - 12))
            tracemalloc.start()
            for _ in range(23 * 16):
                client.send(b"x" * (64 << 10))
                await client.writer.drain()
            client.publish("vilamp/yard/alert/bag/snooze/set", b"10")
            await client.writer.drain()
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            return True
        return False

    async with odd_broker(script) as broker, bridged(scene, broker.url, version="3.1.1") as bridge:
        await until(lambda: scene.shelf.rules["bag", "yard"].snoozed_until > 0)
        assert bridge.status.num_connections == 1
    assert peaks
    assert peaks[0] < 4 * MIB


async def test_the_connection_is_closed_after_many_too_large_packets(scene: Scene) -> None:
    def act(client: Client) -> None:
        for _ in range(MAX_SKIPPED):
            client.send(b"\x30" + length(MAX_PACKET_BYTES + 1) + b"x" * (MAX_PACKET_BYTES + 1))

    async with odd_broker(after_subscribing(act)) as broker, bridged(scene, broker.url, version="3.1.1") as bridge:
        await until(lambda: "larger than 256 KiB" in (bridge.problem or ""))
        await until(lambda: len(broker.clients) > 1)


async def test_connect_announces_the_maximum_packet_size(scene: Scene) -> None:
    connects: list[bytes] = []

    async def script(client: Client, first: int, body: bytes) -> bool:
        if first >> 4 == CONNECT:
            connects.append(body)
        return False

    async with odd_broker(script) as broker, bridged(scene, broker.url):
        await until(lambda: connects)
    assert b"\x27" + MAX_PACKET_BYTES.to_bytes(4, "big") in connects[0]  # Maximum Packet Size


async def test_a_flood_of_messages_is_counted_not_logged(scene: Scene) -> None:
    def act(client: Client) -> None:
        for _ in range(2000):
            client.publish(f"vilamp/yard/alert/none{random.randrange(10**9)}/enabled/set", b"OFF")

    written = io.StringIO()
    counting = CountedLines(written)  # as agent/runtime/logs.py sets it up
    logging.getLogger().addHandler(counting)
    try:
        async with odd_broker(after_subscribing(act)) as broker, bridged(scene, broker.url) as bridge:
            counts = bridge.context.counts
            await until(lambda: counts["message_dropped"] + counts["command_failed"] == 2000)
            assert counts["message_dropped"] > 0
            assert len(broker.clients) == 1
        counting.summarise()
    finally:
        logging.getLogger().removeHandler(counting)
        counting.close()
    assert len(written.getvalue().splitlines()) <= 12
    assert "more times" in written.getvalue()


async def test_a_client_id_used_by_another_client_is_reported(scene: Scene) -> None:
    act = lambda client: client.send(packet(0xE0, b"\x8e\x00"))  # noqa: E731 - DISCONNECT: session taken over
    async with odd_broker(after_subscribing(act)) as broker, bridged(scene, broker.url) as bridge:
        await until(lambda: "mqtt.client_id" in (bridge.problem or ""))
        await until(lambda: bridge.status.connected)
        assert "mqtt.client_id" in (bridge.problem or "")  # also while connected


async def test_a_subscription_over_which_the_connection_ends_is_left_out(scene: Scene) -> None:
    async def script(client: Client, first: int, body: bytes) -> bool:
        if first >> 4 == SUBSCRIBE and b"homeassistant" in body:
            client.writer.close()
            return True
        return False

    async with odd_broker(script) as broker, bridged(scene, broker.url, version="3.1.1") as bridge:
        await until(lambda: bridge.status.connected and "homeassistant/status is set aside" in (bridge.problem or ""))
        commit(scene.alert_store, event(1))
        await until(lambda: scene.alert_store.outbox.count("mqtt") == 0)
        assert bridge.status.num_connections == 3
        assert len(broker.clients[-1].filters) == 2


async def test_without_wildcards_every_rule_has_its_own_subscriptions(scene: Scene) -> None:
    async def script(client: Client, first: int, body: bytes) -> bool:
        if first >> 4 == CONNECT:
            client.connack(properties=b"\x28\x00")  # Wildcard Subscription Available: no
            return True
        return False

    async with odd_broker(script) as broker, bridged(scene, broker.url, discovery=False):
        await until(lambda: broker.clients and len(broker.clients[0].filters) == 2)
    assert broker.clients[0].filters == ["vilamp/yard/alert/bag/enabled/set", "vilamp/yard/alert/bag/snooze/set"]


async def test_an_event_over_which_the_connection_ends_is_set_aside(scene: Scene) -> None:
    """An MQTT 3.1.1 broker cannot refuse it in another way."""

    async def script(client: Client, first: int, body: bytes) -> bool:
        if b'"a1-on"' in body:
            client.writer.close()
            return True
        return False

    async with odd_broker(script) as broker, bridged(scene, broker.url, version="3.1.1", snapshots=False) as bridge:
        for number in range(4):
            commit(scene.alert_store, event(number))
        await until(lambda: [each.event_id for each in scene.alert_store.outbox.pending("mqtt")] == ["a1-on"])
        await until(lambda: bridge.status.connected)
        assert "1 alert events wait" in (bridge.problem or "")
        assert bridge.status.num_connections <= 4
        told = [payload for topic, payload, _ in broker.published() if topic.endswith("/event")]
        assert told == [event(number).payload() for number in (0, 2, 3)]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_silent_broker_is_disconnected_and_tried_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr("agent.mqtt.client.ANSWER_TIMEOUT_S", 0.2)

    async def script(client: Client, first: int, body: bytes) -> bool:
        return first >> 4 == CONNECT

    async with odd_broker(script) as broker, bridged(scene, broker.url, version=version) as bridge:
        await until(lambda: "gives no answer within 0.2 s" in (bridge.problem or ""))
        await until(lambda: broker.gone >= 2)


async def test_run_can_be_repeated_after_a_bug(scene: Scene) -> None:
    """As the supervisor does: nothing is lost, and nothing is subscribed twice."""

    async def script(client: Client, first: int, body: bytes) -> bool:
        return False

    async with odd_broker(script) as broker:
        async with bridged(scene, broker.url) as bridge:
            await until(lambda: bridge.status.connected)
        whole = scene.shelf.views
        scene.shelf.views = lambda: [][1]  # type: ignore[method-assign]
        again = Bridge(bridge.context)
        with pytest.raises(IndexError):
            await asyncio.wait_for(again.run(), 10)
        assert not again.status.connected
        scene.shelf.views = whole  # type: ignore[method-assign]
        task = asyncio.create_task(again.run())
        commit(scene.alert_store, event(1))
        await until(lambda: scene.alert_store.outbox.count("mqtt") == 0)
        assert len(scene.alert_store._listeners) == 1
        assert len(set(broker.clients[-1].filters)) == len(broker.clients[-1].filters)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert scene.alert_store._listeners == []


async def test_a_failing_disk_causes_no_duplicates(scene: Scene) -> None:
    """Retained messages are still published; delivered events are removed once the disk works."""

    async def script(client: Client, first: int, body: bytes) -> bool:
        return False

    def told() -> list[bytes]:
        return [payload for topic, payload, _ in broker.published() if topic.endswith("/event")]

    def shown() -> bytes:
        return [payload for topic, payload, _ in broker.published() if topic == "vilamp/yard/status"][-1]

    async with odd_broker(script) as broker, bridged(scene, broker.url) as bridge:
        commit(scene.alert_store, event(1))
        await until(lambda: len(told()) == 1)
        await until(lambda: any("config" in topic for topic, _, _ in broker.published()))
        commit_lock = scene.alert_store.lock
        with commit_lock:
            scene.alert_store.outbox.put("mqtt", "a2-on", "yard", "bag", "on", event(2).payload(), None, 0.0)
            scene.alert_store.outbox.put("mqtt", "a3-on", "yard", "bag", "on", event(3).payload(), None, 0.0)
            scene.alert_store.connection.execute("PRAGMA query_only = ON")
        bridge.context.wake.set()
        await until(lambda: len(told()) == 3 and "cannot be recorded" in (bridge.problem or ""))
        for word in ("offline", "online", "offline"):  # one turn each
            scene.cameras[0] = CameraView("yard", word)
            bridge.context.wake.set()
            await until(lambda word=word: shown() == word.encode())
        with commit_lock:
            scene.alert_store.connection.execute("PRAGMA query_only = OFF")
        bridge.context.wake.set()
        await until(lambda: scene.alert_store.outbox.count("mqtt") == 0 and bridge.problem is None)
        assert told() == [event(number).payload() for number in (1, 2, 3)]
        assert bridge.status.num_connections == 1
