"""aiomqtt's client, hardened against brokers that misbehave. Only this file uses private names of aiomqtt and paho.

Checked against aiomqtt 2.5.1 and paho-mqtt 2.2.0. tests/agent/mqtt/test_mqtt_wire.py fails if one of these names is gone.

Added: a packet that breaks the protocol ends the connection (paho would handle it again and again); the announced length of a
packet is checked before the packet is stored; every wait ends when the connection ends; the socket is always closed; the
broker's limits and its reason for ending the connection are stored. Does not depend on settings or topics.
"""

import asyncio
import logging
import math
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt import MQTTException
from paho.mqtt.client import ConnectFlags, DisconnectFlags
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

log = logging.getLogger(__name__)

MAX_PACKET_BYTES = 256 << 10  # largest packet accepted from the broker; questions have at most a quarter of that
MAX_SKIPPED = 16  # larger packets that are skipped; then the connection is closed, so that the broker drops them
MAX_UNSENT = 1000  # packets waiting to be sent because the broker does not read
_CHUNK_BYTES = 64 << 10
_MAX_SAID = 200  # characters that are stored of a text from the broker
_CONNACK, _PUBLISH, _PINGREQ, _PACKET_TYPE, _QOS_2 = 0x20, 0x30, 0xC0, 0xF0, 0x04
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, AssertionError, struct.error, MQTTException)

T = TypeVar("T")
_Props: TypeAlias = Properties | None
_Codes: TypeAlias = list[ReasonCode]


class Refused(aiomqtt.MqttError):
    """The broker refuses one message or subscription. The connection can still be used."""


class HungUp(aiomqtt.MqttError):
    """The connection ended before the broker had accepted it.

    first: the first byte the broker sent, or None. failure: the error of the socket, if any.
    """

    def __init__(self, message: str, first: int | None, failure: OSError | None) -> None:
        super().__init__(message)
        self.first = first
        self.failure = failure


class Unanswered(aiomqtt.MqttError):
    """The broker does not answer in time, but keeps the connection open."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the broker accepts, as it announces on connecting (MQTT 5). The defaults are for 3.1.1, which announces nothing."""

    max_packet_bytes: int | None = None
    max_qos: int = 1  # the broker may accept 2, which is not used
    retain: bool = True
    wildcards: bool = True


@dataclass(frozen=True, slots=True)
class Sent:
    """A message or subscription that is being sent. `name` identifies it, and stays the same when it is sent again."""

    name: str
    num_bytes: int
    retain: bool = False


class _Guarded(paho.Client):
    """paho's client with checks on everything it reads."""

    first: int | None = None  # the first byte that arrived
    num_skipped = 0
    broken: str | None = None  # what was wrong with a packet from the broker
    failure: OSError | None = None  # of the socket
    home: tuple[asyncio.AbstractEventLoop, int]  # the event loop, and the id of its thread

    def _sock_close(self) -> None:
        """Close the socket in the event loop's thread. If another thread closed it, the loop would go on watching its
        file descriptor, which may by then belong to another file."""
        loop, thread = self.home
        if threading.get_ident() == thread:
            super()._sock_close()
        elif self._sock is not None:
            loop.call_soon_threadsafe(self._close_that, self._sock)

    def _close_that(self, sock: socket.socket) -> None:
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
        except OSError as error:  # paho only logs it
            self.failure = error
            raise
        if self.first is None and data:
            self.first = data[0]
        return data

    def _skip(self, packet: dict[str, Any]) -> bytes:
        """Discard part of a packet that is too large. Return b"" when the connection has ended, else raise an error."""
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
        raise BlockingIOError  # tells paho that there is nothing to handle yet

    def _packet_handle(self) -> paho.MQTTErrorCode:
        try:
            self.broken = self._fault()
            return paho.MQTT_ERR_PROTOCOL if self.broken else super()._packet_handle()
        except _BROKEN as error:
            self.broken = f"it breaks the protocol ({type(error).__name__}: {str(error)[:_MAX_SAID]})"
            return paho.MQTT_ERR_PROTOCOL

    def _fault(self) -> str | None:
        """Return what is wrong with the current packet beyond paho's own checks, or None."""
        command, accepted = self._in_packet["command"], self.is_connected()
        kind = command & _PACKET_TYPE
        if accepted == (kind == _CONNACK):
            return (
                "it accepts the connection twice"
                if accepted
                else "it sends packets before it has accepted the connection"
            )
        if kind == _PUBLISH and command & _QOS_2:  # never subscribed with, and paho would store such messages
            return "it sends with QoS 2, which was not requested"
        if kind == _PINGREQ:
            return "it sends what only clients may send"
        if len(self._out_packet) > MAX_UNSENT:
            return "it does not read the packets it gets"
        return None

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> Any:
        """Do the TLS handshake like paho's method, but close the socket when it fails. Returns the TLS socket."""
        wrapped = self._ssl_context.wrap_socket(tcp_sock, server_hostname=self._host, do_handshake_on_connect=False)
        try:
            wrapped.settimeout(self._connect_timeout)
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()
            raise
        return wrapped


class Client(aiomqtt.Client):
    """One connection to the broker. dropped: called for every incoming message that is dropped because the queue is full."""

    def __init__(self, *args: Any, connect_timeout_s: float, dropped: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._client.__class__ = _Guarded
        self._client.home = (self._loop, threading.get_ident())
        self._client.connect_timeout = connect_timeout_s
        self.limits = Limits()
        self.in_hand: Sent | None = None  # what is not confirmed yet; if the connection has ended, probably the cause
        self.said: str | None = None  # the broker's text on a refusal or on the end of the connection
        self.farewell: ReasonCode | None = None  # the broker's reason for ending the connection (MQTT 5)
        self._dropped = dropped
        self._turn = asyncio.Lock()
        self._reasons: list[ReasonCode] = []  # the broker's answers to the current publication
        self._watch_end()

    # --- connecting and leaving ---

    async def enter(self) -> None:
        """Connect; on failure the socket is closed. Raises aiomqtt.MqttError (HungUp, Unanswered), to which the text
        that the broker sent is added as a note."""
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
        self._watch_end()  # aiomqtt may have created a new future

    async def leave(self, timeout_s: float) -> None:
        """Disconnect from the broker and close the socket, within `timeout_s` even if the broker does not answer."""
        self.timeout = timeout_s
        try:
            with suppress(aiomqtt.MqttError):
                await self.__aexit__(None, None, None)
        finally:
            self._client._sock_close()

    @property
    def why(self) -> BaseException | str | None:
        """Why the connection ended: a text, an exception, or None if unknown."""
        known: str | OSError | None = self._client.broken or self._client.failure
        return known or (self._disconnected.exception() if self._disconnected.done() else None)

    def _watch_end(self) -> None:
        def ended(end: asyncio.Future[None]) -> None:
            if not end.cancelled():
                end.exception()  # marks the exception as retrieved
            self._client._sock_close()  # aiomqtt leaves it open, and the loop would report its data again and again

        self._disconnected.add_done_callback(ended)

    def _on_connect(
        self, client: paho.Client, userdata: object, flags: ConnectFlags, code: ReasonCode, props: _Props = None
    ) -> None:
        self.limits = _limits(props)
        self._note(props)
        super()._on_connect(client, userdata, flags, code, props)

    def _on_disconnect(
        self, client: paho.Client, userdata: object, flags: DisconnectFlags, code: ReasonCode, props: _Props = None
    ) -> None:
        self._note(props)
        if flags.is_disconnect_packet_from_server and self.farewell is None:
            self.farewell = code
        if not self._connected.done():  # aiomqtt would go on waiting; this may be another thread
            self._loop.call_soon_threadsafe(self._hung_up, str(code))
            return
        super()._on_disconnect(client, userdata, flags, code, props)

    def _hung_up(self, reason: str) -> None:
        if not self._connected.done():
            paho_client = self._client
            self._connected.set_exception(HungUp(paho_client.broken or reason, paho_client.first, paho_client.failure))
            self._connected.exception()

    def _note(self, properties: Properties | None) -> None:
        said = getattr(properties, "ReasonString", None)
        if said:
            self.said = "".join(each for each in str(said)[:_MAX_SAID] if each.isprintable())

    # --- the socket in the event loop ---

    def _on_socket_open(self, client: paho.Client, userdata: object, sock: socket.socket) -> None:
        """Let the event loop watch the new socket, unless it is closed meanwhile. Called by the thread that connects."""

        def start() -> None:
            if client.socket() is sock:
                self._loop.add_reader(sock.fileno(), self._work, client.loop_read)
                self._misc_task = self._loop.create_task(self._misc_loop())

        self._loop.call_soon_threadsafe(start)

    def _on_socket_close(self, client: paho.Client, userdata: object, sock: socket.socket) -> None:
        if sock.fileno() >= 0:
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
        if self._misc_task is not None:
            self._misc_task.cancel()

    def _on_socket_register_write(self, client: paho.Client, userdata: object, sock: socket.socket) -> None:
        self._loop.call_soon_threadsafe(self._watch_writing, sock)

    _on_socket_unregister_write = _on_socket_register_write

    def _watch_writing(self, sock: socket.socket) -> None:
        """Watch the socket for writing if paho still has something to write."""
        if self._client.socket() is not sock:
            return
        if self._client._registered_write:
            self._loop.add_writer(sock.fileno(), self._work, self._client.loop_write)
        else:
            self._loop.remove_writer(sock.fileno())

    def _work(self, some: Callable[[], object]) -> None:
        """Call paho's function `some`, which reads or writes. An error in it ends the connection."""
        try:
            some()
            while self._decrypted():  # data that TLS has already read: the selector does not report it
                self._client.loop_read()
        except (OSError, *_BROKEN) as error:
            if not self._disconnected.done():
                self._disconnected.set_exception(error)

    def _decrypted(self) -> bool:
        sock = self._client.socket()
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    # --- waiting ---

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109 - as in aiomqtt
        """Return the result of `fut`, like aiomqtt's method, but end with the connection, and never swallow a cancellation."""
        limit_s = self.timeout if timeout is None else timeout
        waiting, end = asyncio.ensure_future(fut), self._disconnected
        both: set[asyncio.Future[Any]] = {waiting, end}
        try:
            timeout_s = None if limit_s == math.inf else limit_s
            await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
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
        """Publish, and with QoS 1 wait for the broker's confirmation. Raises Refused or another MqttError."""
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
                raise Refused(f"the broker refuses the subscription to {topic_filter}{reason}")

    def _on_publish(
        self, client: paho.Client, userdata: object, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        if mid in self._pending_publishes:
            self._reasons.append(reason_code)
        super()._on_publish(client, userdata, mid, reason_code, properties)

    # --- in ---

    def _on_message(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        if self._queue.full():  # aiomqtt would log each one
            self._dropped()
            return
        super()._on_message(client, userdata, message)

    def _on_subscribe(
        self, client: paho.Client, userdata: object, mid: int, codes: _Codes, props: _Props = None
    ) -> None:
        if mid not in self._pending_subscribes:  # aiomqtt would log each one with a traceback
            raise ValueError("an answer to a subscription that was not requested")
        super()._on_subscribe(client, userdata, mid, codes, props)

    def _on_unsubscribe(
        self, client: paho.Client, userdata: object, mid: int, codes: _Codes, props: _Props = None
    ) -> None:
        if mid not in self._pending_unsubscribes:
            raise ValueError("an answer to an unsubscription that was not requested")
        super()._on_unsubscribe(client, userdata, mid, codes, props)


def what_we_take() -> Properties:
    """Return the properties of the CONNECT packet (MQTT 5), which limit what the broker may send."""
    properties = Properties(PacketTypes.CONNECT)
    properties.MaximumPacketSize = MAX_PACKET_BYTES
    properties.ReceiveMaximum = 64
    return properties


def packet_bytes(topic: str, payload: bytes, properties: Properties | None = None) -> int:
    """Return an upper bound of the size in bytes of the PUBLISH packet."""
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
