"""aiomqtt's client as this agent wants it: every publication confirmed or refused in words, connecting bounded in time.

Knows settings and the protocol, not what is published.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiomqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent import pools
from agent.mqtt.settings import MqttSettings

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0  # for the broker's word on anything; then the connection counts as lost
LEAVE_TIMEOUT_S = 2.0
MAX_WAITING_MESSAGES = 256  # beyond it what arrives is dropped by the client, which logs it


class Refused(aiomqtt.MqttError):
    """The broker confirms that it did not take a message (its access list)."""


class Client(aiomqtt.Client):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._client.connect_timeout = CONNECT_TIMEOUT_S
        self._turn = asyncio.Lock()
        self._reasons: list[ReasonCode] = []  # of the publication in hand

    async def put(self, topic: str, payload: bytes, *, retain: bool, properties: Properties | None = None) -> None:
        """Publish with QoS 1 and wait for the broker's word. Raises Refused or another MqttError."""
        async with self._turn:
            self._reasons.clear()
            await self.publish(topic, payload, qos=1, retain=retain, properties=properties)
            for reason in self._reasons:
                if reason.is_failure:
                    raise Refused(f"the broker refuses {topic}: {reason}")

    async def enter(self) -> None:
        """Connect. When that fails nothing stays open, and the error says what the connection itself said."""
        try:
            await self.__aenter__()
        except aiomqtt.MqttError as error:
            self._client.disconnect()  # the library leaves the socket to the garbage collector
            reason = self._disconnected.exception() if self._disconnected.done() else None
            raise (error if reason is None else aiomqtt.MqttError(str(reason))) from None

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self._reasons.append(reason_code)
        super()._on_publish(client, userdata, mid, reason_code, properties)


@asynccontextmanager
async def connected(settings: MqttSettings, address: tuple[str, int], will: aiomqtt.Will) -> AsyncIterator[Client]:
    """A connection that the broker has accepted, closed with the block. Raises aiomqtt.MqttError or OSError.

    Connecting runs in a thread that cannot be interrupted: when cancelled it is waited for, at most until it gives up
    by itself (CONNECT_TIMEOUT_S each for the connection and for TLS, ANSWER_TIMEOUT_S for the broker's word).
    """
    host, port = address
    client = Client(
        host,
        port,
        username=settings.user,
        password=await pools.alerts(settings.secret),
        identifier=settings.client_id,
        protocol=_version(settings),
        clean_session=True if _version(settings) is aiomqtt.ProtocolVersion.V311 else None,
        will=will,
        keepalive=settings.keepalive_s,
        timeout=ANSWER_TIMEOUT_S,
        max_queued_incoming_messages=MAX_WAITING_MESSAGES,
        tls_context=await pools.alerts(_tls, settings) if settings.tls else None,
    )
    connecting = asyncio.ensure_future(client.enter())
    try:
        await asyncio.shield(connecting)
    except asyncio.CancelledError:
        await asyncio.wait({connecting})
        if not connecting.exception():
            await _leave(client)
        raise
    try:
        yield client
    finally:
        await _leave(client)


async def _leave(client: Client) -> None:
    """Say goodbye, and have no answer hide what else is happening."""
    client.timeout = LEAVE_TIMEOUT_S
    with suppress(aiomqtt.MqttError):
        await client.__aexit__(None, None, None)


def _version(settings: MqttSettings) -> aiomqtt.ProtocolVersion:
    # the embedded broker speaks 3.1.1 only
    newer = settings.version == "5" and settings.url != "embedded"
    return aiomqtt.ProtocolVersion.V5 if newer else aiomqtt.ProtocolVersion.V311


def _tls(settings: MqttSettings) -> ssl.SSLContext:
    """Raises OSError (ssl.SSLError) for files that cannot be read."""
    context = ssl.create_default_context(cafile=None if settings.ca is None else str(settings.ca))
    if settings.cert is not None:
        context.load_cert_chain(str(settings.cert), None if settings.key is None else str(settings.key))
    return context
