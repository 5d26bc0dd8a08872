"""aiomqtt's client, guarded against brokers that misbehave: the only file that uses what aiomqtt and paho keep private.

Checked against aiomqtt 2.5.1 and paho-mqtt 2.2.0; tests/agent/mqtt/test_mqtt_wire.py fails when one of the names used here goes.

What the guard adds: a packet that breaks the protocol ends the connection (paho would meet it again for ever); the announced
length is looked at before anything is kept; every wait ends with the connection; the socket is closed whatever happens; and
what the broker said about its limits, or about the end, is kept in words.

Does not know settings, topics or what is published.
"""

import asyncio
import logging
import math
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

log = logging.getLogger(__name__)

MAX_PACKET_BYTES = 256 << 10  # of one packet from the broker; questions are at most a quarter of it
MAX_SKIPPED = 16  # larger packets that are passed over; then the connection is made anew, so that the broker frees them
MAX_UNSENT = 1000  # packets that wait because the broker does not read
_CHUNK_BYTES = 64 << 10
_MAX_SAID = 200  # characters of a broker's own words
_CONNACK, _PUBLISH, _PINGREQ, _PACKET_TYPE, _QOS_2 = 0x20, 0x30, 0xC0, 0xF0, 0x04
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, AssertionError, struct.error, MQTTException)

T = TypeVar("T")


class Refused(aiomqtt.MqttError):
    """The broker says that it did not take one message or subscription; the connection goes on."""


class HungUp(aiomqtt.MqttError):
    """The connection ended before the broker had answered it. `first`: the first byte it sent; None: it sent nothing.
    `failure`: what the socket said."""

    def __init__(self, message: str, first: int | None, failure: OSError | None) -> None:
        super().__init__(message)
        self.first = first
        self.failure = failure


class Unanswered(aiomqtt.MqttError):
    """The broker keeps the connection and says nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the broker takes, as it says on connecting (MQTT 5); with 3.1.1 it says nothing, and these are the defaults."""

    max_packet_bytes: int | None = None
    max_qos: int = 1  # of those used here
    retain: bool = True
    wildcards: bool = True


@dataclass(frozen=True, slots=True)
class Sent:
    """What is on its way to the broker: one message or subscription, by a name that stays the same when it is tried again."""

    name: str
    num_bytes: int
    retain: bool = False


class _Guarded(paho.Client):
    """paho's client, reading with care."""

    first: int | None = None  # the first byte that arrived
    num_skipped = 0
    broken: str | None = None  # what was wrong with what the broker sent
    failure: OSError | None = None  # of the socket
    home: tuple[asyncio.AbstractEventLoop, int]  # the loop, and its thread

    def _sock_close(self) -> None:
        """In the loop's thread: whoever closes elsewhere has the loop watch a number that soon is another's."""
        loop, thread = self.home
        if threading.get_ident() == thread:
            super()._sock_close()
        elif self._sock is not None:
            loop.call_soon_threadsafe(self._close_that, self._sock)

    def _close_that(self, sock: Any) -> None:
        if self._sock is sock:
            super()._sock_close()

    def _sock_recv(self, bufsize: int) -> bytes:
        packet = self._in_packet
        if packet["have_remaining"] and packet["remaining_length"] > MAX_PACKET_BYTES:
            return self._skip(packet)
        try:
            data: bytes = super()._sock_recv(bufsize)
        except BlockingIOError:
            raise
        except OSError as error:  # paho logs it and forgets it
            self.failure = error
            raise
        if self.first is None and data:
            self.first = data[0]
        return data

    def _skip(self, packet: dict[str, Any]) -> bytes:
        """Read on over a packet that is too large, keeping nothing. b"": the connection has ended."""
        data: bytes = super()._sock_recv(min(packet["to_process"], _CHUNK_BYTES))
        if not data:
            return data
        packet["to_process"] -= len(data)
        if packet["to_process"] == 0:
            packet.update(command=0, have_remaining=0, remaining_count=[], remaining_mult=1, remaining_length=0)
            self.num_skipped += 1
            if self.num_skipped >= MAX_SKIPPED:
                self.broken = f"it sends packets larger than {MAX_PACKET_BYTES >> 10} KiB"
                raise ConnectionError(self.broken)
        raise BlockingIOError  # for paho: nothing to handle yet

    def _packet_handle(self) -> Any:
        try:
            self.broken = self._fault()
            return paho.MQTT_ERR_PROTOCOL if self.broken else super()._packet_handle()
        except _BROKEN as error:
            self.broken = f"it sends what breaks the protocol ({type(error).__name__}: {str(error)[:_MAX_SAID]})"
            return paho.MQTT_ERR_PROTOCOL

    def _fault(self) -> str | None:
        """What is wrong with the packet in hand, beyond what paho looks at; None: nothing."""
        command, accepted = self._in_packet["command"], self.is_connected()
        kind = command & _PACKET_TYPE
        if accepted == (kind == _CONNACK):
            return "it answers twice" if accepted else "it sends packets before it has answered"
        if kind == _PUBLISH and command & _QOS_2:  # nothing is subscribed to with it; paho would keep such messages
            return "it sends with QoS 2, which was not asked for"
        if kind == _PINGREQ:
            return "it sends what only clients may send"
        if len(self._out_packet) > MAX_UNSENT:
            return "it does not read what it is sent"
        return None

    def _ssl_wrap_socket(self, tcp_sock: Any) -> Any:
        """As paho's own, but the socket is closed when the handshake fails."""
        wrapped = self._ssl_context.wrap_socket(tcp_sock, server_hostname=self._host, do_handshake_on_connect=False)
        try:
            wrapped.settimeout(self._connect_timeout)
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()
            raise
        return wrapped


class Client(aiomqtt.Client):
    """One connection. `dropped` is called for every message that found the queue full."""

    def __init__(self, *args: Any, connect_timeout_s: float, dropped: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._client.__class__ = _Guarded
        self._client.home = (self._loop, threading.get_ident())
        self._client.connect_timeout = connect_timeout_s
        self.limits = Limits()
        self.in_hand: Sent | None = None  # what the connection ended over, if it has ended
        self.said: str | None = None  # the broker's own words about a refusal or the end
        self.farewell: ReasonCode | None = None  # with which the broker ended the connection (MQTT 5)
        self._dropped = dropped
        self._turn = asyncio.Lock()
        self._reasons: list[ReasonCode] = []  # of the publication in hand
        self._watch_end()

    # --- connecting and leaving ---

    async def enter(self) -> None:
        """Connect. When that fails nothing stays open. Raises aiomqtt.MqttError, HungUp and Unanswered among them; the broker's
        own words are a note of the error."""
        try:
            await self.__aenter__()
            if self._client.socket() is None:
                raise aiomqtt.MqttError("the connection ended at once")
        except BaseException as error:
            if self.said:
                error.add_note(self.said)
            self._client.disconnect()
            self._client._sock_close()
            raise
        self._watch_end()  # the library may have begun a new future

    async def leave(self, timeout_s: float) -> None:
        """Say goodbye and close, whatever the broker does."""
        self.timeout = timeout_s
        try:
            with suppress(aiomqtt.MqttError):
                await self.__aexit__(None, None, None)
        finally:
            self._client._sock_close()

    @property
    def why(self) -> BaseException | str | None:
        """Why the connection ended, as far as is known."""
        if self._client.broken:
            return str(self._client.broken)
        failure: OSError | None = self._client.failure
        if failure is not None:
            return failure
        return self._disconnected.exception() if self._disconnected.done() else None

    def _watch_end(self) -> None:
        def ended(end: asyncio.Future[None]) -> None:
            if not end.cancelled():
                end.exception()  # looked at, so that nobody warns
            self._client._sock_close()  # the library leaves it open, and is called for its data for ever

        self._disconnected.add_done_callback(ended)

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason_code: ReasonCode, properties: Properties | None = None
    ) -> None:
        self.limits = _limits(properties)
        self._note(properties)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason_code: ReasonCode, properties: Properties | None = None
    ) -> None:
        self._note(properties)
        if flags.is_disconnect_packet_from_server and self.farewell is None:
            self.farewell = reason_code
        if not self._connected.done():  # the library would go on waiting; this may be another thread
            self._loop.call_soon_threadsafe(self._hung_up, str(reason_code))
            return
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _hung_up(self, reason: str) -> None:
        if not self._connected.done():
            self._connected.set_exception(
                HungUp(self._client.broken or reason, self._client.first, self._client.failure)
            )
            self._connected.exception()

    def _note(self, properties: Properties | None) -> None:
        said = getattr(properties, "ReasonString", None)
        if said:
            self.said = "".join(each for each in str(said)[:_MAX_SAID] if each.isprintable())

    # --- the socket in the event loop ---

    def _on_socket_open(self, client: Any, userdata: Any, sock: Any) -> None:
        """Called by the thread that connects, as the library's own; but what has been closed meanwhile is not watched."""

        def start() -> None:
            if client.socket() is sock:
                self._loop.add_reader(sock.fileno(), self._work, client.loop_read)
                self._misc_task = self._loop.create_task(self._misc_loop())

        self._loop.call_soon_threadsafe(start)

    def _on_socket_close(self, client: Any, userdata: Any, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
        if self._misc_task is not None:
            self._misc_task.cancel()

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        self._loop.call_soon_threadsafe(self._watch_writing, sock)

    def _on_socket_unregister_write(self, client: Any, userdata: Any, sock: Any) -> None:
        self._loop.call_soon_threadsafe(self._watch_writing, sock)

    def _watch_writing(self, sock: Any) -> None:
        """As paho wants it now: it may have changed its mind."""
        if self._client.socket() is not sock:
            return
        if self._client._registered_write:
            self._loop.add_writer(sock.fileno(), self._work, self._client.loop_write)
        else:
            self._loop.remove_writer(sock.fileno())

    def _work(self, some: Callable[[], Any]) -> None:
        """Read or write; an error ends the connection."""
        try:
            some()
            while self._decrypted():  # what TLS has read already, no selector tells of
                self._client.loop_read()
        except (OSError, *_BROKEN) as error:
            if not self._disconnected.done():
                self._disconnected.set_exception(error)

    def _decrypted(self) -> bool:
        sock = self._client.socket()
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    # --- waiting ---

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109 - the library's own
        """As the library's own, but it ends with the connection, and loses no cancellation."""
        limit_s = self.timeout if timeout is None else timeout
        waiting, end = asyncio.ensure_future(fut), self._disconnected
        both: set[asyncio.Future[Any]] = {waiting, end}
        try:
            await asyncio.wait(
                both,
                timeout=None if limit_s == math.inf else limit_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            if waiting is not fut and not waiting.done():
                waiting.cancel()
        if waiting.done() and not waiting.cancelled():
            return waiting.result()
        if end.done():
            raise aiomqtt.MqttError("the connection has ended") from end.exception()
        raise Unanswered(f"no answer within {limit_s:g} s")

    # --- out ---

    async def put(
        self, sent: Sent, topic: str, payload: bytes, *, qos: int, retain: bool, properties: Properties | None = None
    ) -> None:
        """Publish, and with QoS 1 wait for the broker's word. Raises Refused or another MqttError."""
        async with self._turn:
            self.in_hand = sent
            self._reasons.clear()
            await self.publish(topic, payload, qos=qos, retain=retain, properties=properties)
            self.in_hand = None
            for reason in self._reasons:
                if reason.is_failure:
                    raise Refused(f"the broker refuses {topic}: {reason}")

    async def follow(self, sent: Sent, topic_filter: str) -> None:
        """Subscribe with QoS 1. Raises Refused or another MqttError."""
        async with self._turn:
            self.in_hand = sent
            codes = await self.subscribe(topic_filter, 1)
            self.in_hand = None
        for code in codes:
            if code.is_failure if isinstance(code, ReasonCode) else code >= 0x80:
                reason = f": {code}" if isinstance(code, ReasonCode) else ""
                raise Refused(f"the broker does not let us subscribe to {topic_filter}{reason}")

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        if mid in self._pending_publishes:
            self._reasons.append(reason_code)
        super()._on_publish(client, userdata, mid, reason_code, properties)

    # --- in ---

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        if self._queue.full():  # the library would log each
            self._dropped()
            return
        super()._on_message(client, userdata, message)

    def _on_subscribe(
        self, client: Any, userdata: Any, mid: int, reason_codes: list[ReasonCode], properties: Properties | None = None
    ) -> None:
        if mid not in self._pending_subscribes:  # the library would log each with a traceback
            raise ValueError("an answer to a subscription that was not made")
        super()._on_subscribe(client, userdata, mid, reason_codes, properties)

    def _on_unsubscribe(
        self, client: Any, userdata: Any, mid: int, reason_codes: list[ReasonCode], properties: Properties | None = None
    ) -> None:
        if mid not in self._pending_unsubscribes:
            raise ValueError("an answer to a subscription that was not ended")
        super()._on_unsubscribe(client, userdata, mid, reason_codes, properties)


def what_we_take() -> Properties:
    """What an MQTT 5 broker is told on connecting: larger packets are not for us."""
    properties = Properties(PacketTypes.CONNECT)
    properties.MaximumPacketSize = MAX_PACKET_BYTES
    properties.ReceiveMaximum = 64
    return properties


def packet_bytes(topic: str, payload: bytes, properties: Properties | None = None) -> int:
    """How large the packet becomes at most: the longest header is reckoned with."""
    return 16 + len(topic.encode()) + len(payload) + (0 if properties is None else len(properties.pack()))


def _limits(properties: Properties | None) -> Limits:
    def said(name: str, otherwise: Any) -> Any:
        return getattr(properties, name, otherwise)

    return Limits(
        max_packet_bytes=said("MaximumPacketSize", None) or None,
        max_qos=min(1, said("MaximumQoS", 1)),
        retain=bool(said("RetainAvailable", 1)),
        wildcards=bool(said("WildcardSubscriptionAvailable", 1)),
    )
