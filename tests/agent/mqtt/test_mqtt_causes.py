"""Explanations of failed connections: the cause and what to do, against real brokers where possible."""

import asyncio
import errno
import socket
from pathlib import Path

import pytest

from agent.mqtt.bridge import Bridge
from agent.runtime.unreachable import why_unreachable
from agent.settings.mqtt import MqttSettings
from tests.support.bridges import QUICK, Scene, bridged
from tests.support.brokers import free_port, mosquitto, needs_mosquitto
from tests.support.certificates import Pair, authority
from tests.support.odd_brokers import CONNECT, Client, odd_broker, packet
from tests.support.waiting import until


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def said(bridge: Bridge, words: str) -> None:
    try:
        await until(lambda: words in (bridge.problem or ""))
    except TimeoutError:
        raise AssertionError(f'"{words}" is not in "{bridge.problem}"') from None


def tls(ca: Path, server: Pair) -> tuple[str, ...]:
    return ("allow_anonymous true", f"cafile {ca}", f"certfile {server.cert}", f"keyfile {server.key}")


# --- TLS ---


@needs_mosquitto
@pytest.mark.parametrize(
    ("valid_days", "words"),
    [((-9, -2), "its certificate has expired: renew it"), ((2, 9), "is not valid yet: set this machine's clock")],
)
async def test_expired_and_future_certificates(
    tmp_path: Path, scene: Scene, valid_days: tuple[int, int], words: str
) -> None:
    ca, server, _ = authority(tmp_path, "127.0.0.1", valid_days)
    with mosquitto(tmp_path, *tls(ca, server)) as broker:
        async with bridged(scene, f"mqtts://127.0.0.1:{broker.port}", ca=ca) as bridge:
            await said(bridge, words)


@needs_mosquitto
async def test_a_certificate_for_another_host(tmp_path: Path, scene: Scene) -> None:
    ca, server, _ = authority(tmp_path, "127.0.0.9")
    with mosquitto(tmp_path, *tls(ca, server)) as broker:
        async with bridged(scene, f"mqtts://127.0.0.1:{broker.port}", ca=ca) as bridge:
            await said(bridge, "its certificate is for another name")


@needs_mosquitto
async def test_an_authority_that_is_not_trusted(tmp_path: Path, scene: Scene) -> None:
    ca, server, _ = authority(tmp_path, "127.0.0.1")
    with mosquitto(tmp_path, *tls(ca, server)) as broker:
        async with bridged(scene, f"mqtts://127.0.0.1:{broker.port}") as bridge:
            await said(bridge, "(mqtt.ca)")


@needs_mosquitto
@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_plain_connection_to_a_tls_port(tmp_path: Path, scene: Scene, version: str) -> None:
    ca, server, _ = authority(tmp_path, "127.0.0.1")
    with mosquitto(tmp_path, *tls(ca, server)) as broker:
        async with bridged(scene, broker.url, version=version) as bridge:
            await said(bridge, "mqtts://")


@needs_mosquitto
async def test_a_tls_connection_to_a_plain_port(tmp_path: Path, scene: Scene) -> None:
    with mosquitto(tmp_path) as broker:
        async with bridged(scene, f"mqtts://127.0.0.1:{broker.port}") as bridge:
            await said(bridge, "TLS port")


async def test_an_http_port(scene: Scene) -> None:
    async def script(client: Client, first: int, body: bytes) -> bool:
        client.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        client.writer.close()
        return True

    async with odd_broker(script) as broker, bridged(scene, broker.url) as bridge:
        await said(bridge, "HTTP or WebSocket port")


async def test_another_protocol(scene: Scene) -> None:
    async def script(client: Client, first: int, body: bytes) -> bool:
        client.send(b"220 mail.example ESMTP\r\n")
        client.writer.close()
        return True

    async with odd_broker(script) as broker, bridged(scene, broker.url) as bridge:
        await said(bridge, "does not speak MQTT")


# --- the broker's answer ---


@pytest.mark.parametrize(
    ("version", "code", "words"),
    [
        ("5", 0x84, "mqtt.version"),
        ("5", 0x85, "mqtt.client_id"),
        ("5", 0x86, "check mqtt.user and mqtt.password"),
        ("5", 0x87, "access list"),
        ("5", 0x8A, "banned this client"),
        ("5", 0x97, "limits"),
        ("3.1.1", 1, "mqtt.version"),
        ("3.1.1", 2, "mqtt.client_id"),
        ("3.1.1", 4, "check mqtt.user and mqtt.password"),
        ("3.1.1", 5, "access list"),
    ],
)
async def test_refusals_are_explained(scene: Scene, version: str, code: int, words: str) -> None:
    async def script(client: Client, first: int, body: bytes) -> bool:
        client.connack(code)
        return True

    async with odd_broker(script) as broker, bridged(scene, broker.url, version=version) as bridge:
        await said(bridge, words)


async def test_the_brokers_own_words_are_repeated_without_control_characters(scene: Scene) -> None:
    reason = b"licence \x1b[2Jexpired"

    async def script(client: Client, first: int, body: bytes) -> bool:
        client.connack(0x87, b"\x1f" + len(reason).to_bytes(2, "big") + reason)
        return True

    async with odd_broker(script) as broker, bridged(scene, broker.url) as bridge:
        await said(bridge, 'in its own words "licence [2Jexpired"')


@pytest.mark.parametrize(("code", "byte"), [(0x9A, "retain"), (0x9B, "qos")])
async def test_a_refused_last_will_is_tried_with_less(scene: Scene, code: int, byte: str) -> None:
    async def script(client: Client, first: int, body: bytes) -> bool:
        mask = 0x20 if byte == "retain" else 0x18
        if first >> 4 == CONNECT and body[7] & mask:
            client.connack(code)
            return True
        return False

    async with odd_broker(script) as broker, bridged(scene, broker.url) as bridge:
        await until(lambda: bridge.status.num_connections >= 1)
        assert "not supported" not in (bridge.problem or "")


async def test_a_broker_that_hangs_up_may_want_tls(scene: Scene) -> None:
    async def script(client: Client, first: int, body: bytes) -> bool:
        client.writer.close()
        return True

    async with odd_broker(script) as broker, bridged(scene, broker.url) as bridge:
        await said(bridge, "it may want TLS (mqtts:// in mqtt.url)")


async def test_disconnect_reasons_are_explained(scene: Scene) -> None:
    async def script(client: Client, first: int, body: bytes) -> bool:
        if first >> 4 != CONNECT:
            client.send(packet(0xE0, b"\x8b\x00"))  # server shutting down
            return True
        return False

    async with odd_broker(script) as broker, bridged(scene, broker.url) as bridge:
        await said(bridge, "Server shutting down (the agent tries again)")


# --- the network and the settings ---


async def test_a_port_where_nothing_listens(scene: Scene) -> None:
    async with bridged(scene, f"mqtt://127.0.0.1:{free_port()}") as bridge:
        await said(bridge, "nothing listens there")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "the host name is not known"),
        (TimeoutError("timed out"), "does not answer"),
        (OSError(errno.EHOSTUNREACH, "x"), "host cannot be reached"),
        (OSError(errno.EMFILE, "x"), "too many files open"),
    ],
)
def test_system_errors_behind_library_errors_are_explained(error: OSError, words: str) -> None:
    def failing() -> None:
        try:
            raise error
        except OSError:
            raise RuntimeError("cannot connect") from None  # as in aiomqtt

    with pytest.raises(RuntimeError) as raised:
        failing()
    assert words in (why_unreachable(raised.value) or "")


def test_other_errors_have_no_network_cause() -> None:
    assert why_unreachable(ValueError("x")) is None


async def test_unusable_settings_are_reported_once_and_retried_slowly(
    scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(b"\xff\xfe")
    settings = MqttSettings(url="mqtt://127.0.0.1:1", user="joe", password_file=tmp_path / "secret")
    bridge = Bridge(scene.context(settings), QUICK)
    reads = 0

    def secret(self: MqttSettings) -> str:
        nonlocal reads
        reads += 1
        return (tmp_path / "secret").read_text(encoding="utf-8")

    monkeypatch.setattr(MqttSettings, "secret", secret)
    task = asyncio.create_task(bridge.run())
    await until(lambda: reads >= 3)
    assert "is not text" in (bridge.problem or "")
    assert len([each for each in caplog.records if each.name.startswith("agent.mqtt")]) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ca": "none.pem"}, "none.pem"),
        ({"ca": "junk.pem"}, "the certificates cannot be used"),
        ({"cert": "junk.pem", "key": "junk.pem"}, "the certificates cannot be used"),
    ],
)
async def test_unusable_files_are_named(scene: Scene, tmp_path: Path, settings: dict[str, str], words: str) -> None:
    (tmp_path / "junk.pem").write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    given = {name: tmp_path / value for name, value in settings.items()}
    async with bridged(scene, "mqtts://127.0.0.1:1", **given) as bridge:
        await said(bridge, words)
