"""The MQTT bridge: keep the agent connected to the broker, and reconnect after a growing pause.

When the broker is absent, slow or refuses the connection, events wait in the outbox and nothing is lost.
`Bridge.problem` says what is wrong. What is published over a connection is up to `agent/mqtt/session.py`.
"""

import asyncio
import json
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.reasoncodes import ReasonCode

from agent.alerts.store import AlertStore
from agent.alerts.watcher import Watcher
from agent.ask.answer import Answering
from agent.health import HealthChecks
from agent.ingest.cameras import Cameras
from agent.metrics import Metrics, Reader, Reading
from agent.mqtt.asking import Asking
from agent.mqtt.causes import BrokerFailed, SettingsWrong, in_words
from agent.mqtt.client import Identity, connected
from agent.mqtt.context import CameraView, Context, MemoryView, RetainedTopics
from agent.mqtt.session import REANNOUNCE_S, Session
from agent.mqtt.topics import OFFLINE, Topics
from agent.mqtt.wire import Client, HungUp, Limits
from agent.settings.mqtt import EMBEDDED
from agent.settings.settings import Settings
from memory.store import MemoryStore
from streaming.backoff import backoff_s

log = logging.getLogger(__name__)

PAUSES_S = (0.5, 60.0)  # between tries: the first, and the longest
STABLE_S = 10.0  # a connection that lasted this long resets the pause
TWIN_S = 120.0  # how long the problem "another client uses the same client id" is reported after it was noticed
_TWIN = "another client uses the same client id, and each disconnects the other: give each its own mqtt.client_id"
_WILLS = ((True, 1), (False, 1), (True, 0), (False, 0))  # (retained, QoS) of the last will, in the order of tries


@dataclass(slots=True)
class Status:
    """The state of the connection to the broker."""

    connected: bool = False
    problem: str | None = "not connected yet"  # text for the operator
    address: tuple[str, int] | None = None
    num_connections: int = 0


class Bridge:
    """Keeps up the connection to the broker.

    pauses_s: the first and the longest pause between tries to connect. reannounce_s: the range of the random pause
    after Home Assistant has started. Both in seconds.
    """

    def __init__(
        self,
        context: Context,
        pauses_s: tuple[float, float] = PAUSES_S,
        reannounce_s: tuple[float, float] = REANNOUNCE_S,
    ) -> None:
        self.context = context
        self.status = Status()
        self._pauses_s, self._reannounce_s = pauses_s, reannounce_s
        self._num_failures = 0
        self._twin_until = float("-inf")  # monotonic seconds
        # The client id is the same at every connection. So the broker ends an old connection at once, and the old last
        # will ("offline") is not published after the new "online". Not every broker assigns an id to a client without
        # one, and all accept 23 letters and digits.
        self._client_id = context.settings.client_id or f"vilamp{secrets.token_hex(8)}"
        self._will_retain, self._will_qos = True, 1  # lowered for brokers that do not accept it

    @property
    def problem(self) -> str | None:
        """What is wrong with the connection or its deliveries, as text for the operator. None: nothing."""
        if time.monotonic() < self._twin_until:
            return _TWIN
        return self.status.problem or self.context.problem

    async def run(self) -> None:
        """Stay connected until cancelled, then publish "offline". May be called again after an error."""
        with self.context.alert_store.waking(self.context.wake):
            try:
                while True:
                    try:
                        async with self._broker() as address:
                            self.status.address = address
                            while True:
                                await self._connection(address)
                                await asyncio.sleep(self._pause_s())
                    except (BrokerFailed, SettingsWrong) as error:  # lasts until the operator acts: try seldom
                        self._failed(str(error))
                        await asyncio.sleep(self._pauses_s[1])
            finally:
                self.status.connected = False

    def _pause_s(self) -> float:
        first_s, longest_s = self._pauses_s
        return backoff_s(max(0, self._num_failures - 1), random.random(), first_s=first_s, longest_s=longest_s)

    @asynccontextmanager
    async def _broker(self) -> AsyncIterator[tuple[str, int]]:
        """Context manager: yield the broker's host and port. If the settings ask for it, run the embedded broker."""
        if self.context.settings.url != EMBEDDED:
            yield self.context.settings.address()
            return
        from agent.mqtt.embedded import embedded_broker  # amqtt is large

        async with embedded_broker(self.context.settings) as address:
            yield address

    async def _connection(self, address: tuple[str, int]) -> None:
        """Connect, and run a session until the connection ends; `status` then says why. Raises SettingsWrong."""
        loop, client = asyncio.get_running_loop(), None
        began = float("inf")
        settings = self.context.settings
        will = aiomqtt.Will(Topics(settings.prefix).status, OFFLINE, qos=self._will_qos, retain=self._will_retain)
        try:
            async with connected(settings, address, Identity(self._client_id, will), self._dropped) as client:
                began = loop.time()
                client.limits = self._learnt(client.limits)
                self._connected(address)
                await Session(client, self.context, self._reannounce_s, self._will_retain).run()
        except SettingsWrong:
            raise
        except aiomqtt.MqttError as error:
            if loop.time() - began >= STABLE_S:
                self._num_failures = 0
            self._learn(error, client, loop.time())
            self._failed(in_words(error, settings, address, client))
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the connection broke after the task was cancelled
                raise asyncio.CancelledError from None
        finally:
            self.status.connected = False

    def _learnt(self, limits: Limits) -> Limits:
        """Return `limits`, lowered to what the broker has accepted so far.

        That is the QoS and the retain flag of the accepted last will, the message for when the connection is lost.

        This is needed for MQTT 3.1.1, where a broker does not announce its limits.
        """
        retain = limits.retain and (self._will_retain or self._will_qos == 1)
        return replace(limits, max_qos=min(limits.max_qos, self._will_qos), retain=retain)

    def _dropped(self) -> None:
        self.context.counts["message_dropped"] += 1
        log.warning("mqtt: messages arrive faster than they are handled, and are dropped")

    def _learn(self, error: aiomqtt.MqttError, client: Client | None, now: float) -> None:
        """Decide, from the way the connection ended, what to leave out of the next one.

        client: None when the broker did not accept the connection. now: seconds on the event loop's clock.
        """
        refusals = self.context.refusals
        if client is not None:
            sent = client.in_hand
            if sent is not None and sent.name and refusals.lost(sent, now):
                words = f"the broker closes the connection over {sent.name[:200]} ({sent.num_bytes} bytes): set aside for a while"
                log.warning("mqtt", extra={"error": words})
            if str(client.farewell) == "Session taken over":
                self._twin_until = time.monotonic() + TWIN_S
            self._will_retain = self._will_retain or refusals.retained_confirmed
        elif isinstance(error, MqttConnectError) and isinstance(error.rc, ReasonCode):
            self._will_retain = self._will_retain and error.rc.getName() != "Retain not supported"
            self._will_qos = 0 if error.rc.getName() == "QoS not supported" else self._will_qos
        elif isinstance(error, HungUp) and self.context.settings.version != "5" and not refusals.retained_confirmed:
            # An MQTT 3.1.1 broker gives no reason: perhaps it refuses a last will that is retained or has QoS 1.
            next_will = _WILLS.index((self._will_retain, self._will_qos)) + 1
            self._will_retain, self._will_qos = _WILLS[next_will % len(_WILLS)]

    def _connected(self, address: tuple[str, int]) -> None:
        self.status.connected, self.status.problem = True, None
        self.status.num_connections += 1
        log.info("mqtt connected", extra={"host": address[0], "port": address[1]})

    def _failed(self, problem: str) -> None:
        self._num_failures += 1
        if problem != self.status.problem:  # log it once, not at every try
            log.warning("mqtt not connected", extra={"error": problem})
        self.status.connected, self.status.problem = False, problem


# --- the bridge of an agent ---


def open_bridge(
    settings: Settings,
    store: MemoryStore,
    alert_store: AlertStore,
    watcher: Watcher,
    cameras: Cameras,
    answering: Answering,
    health: HealthChecks,
    metrics: Metrics,
    *,
    clock: Callable[[], float],
    model: str,
) -> Bridge | None:
    """Return the bridge, not connected yet, or None when no broker is configured. model: the model's name in answers."""
    if settings.mqtt.url is None:
        return None
    topics = Topics(settings.mqtt.prefix)
    asking = Asking(
        topics,
        answering,
        existing=cameras.existing,
        zone_of=cameras.zone_of,
        sign=lambda path: watcher.recorder.link(path),
        model=model,
    )
    views = _Views(settings, store, cameras)
    bridge = Bridge(
        Context(
            settings=settings.mqtt,
            alert_store=alert_store,
            retained=RetainedTopics(alert_store.connection, alert_store.lock),
            rules=watcher,
            cameras=views.cameras,
            memories=views.memories,
            clock=clock,
            version=_version(),
            health=lambda: json.dumps(health.run().private(), sort_keys=True).encode(),
            asking=asking if settings.mqtt.allow_ask else None,
        )
    )
    if settings.mqtt.snapshots:
        watcher.recorder.image_topic = topics.snapshot
    metrics.watch(_readers(bridge))
    return bridge


class _Views:
    """Reads the data that is published about the cameras: their states, and how much of each is stored."""

    def __init__(self, settings: Settings, store: MemoryStore, cameras: Cameras) -> None:
        self._settings = settings
        self._store = store
        self._cameras = cameras
        self._rates: dict[str, tuple[float, int]] = {}  # by camera: time of the last call, and frames stored by then

    def cameras(self) -> Iterator[CameraView]:
        """Yield every camera with its status."""
        for camera in self._cameras.names():
            if not self._settings.camera(camera).enabled:
                yield CameraView(camera, "disabled")
            else:
                yield CameraView(camera, "online" if self._cameras.state(camera) == "live" else "offline")

    def memories(self, now: float) -> Iterator[MemoryView]:
        """Yield the numbers of every camera's memory, with the frame rate since the last call. now: unix seconds."""
        cameras = self._cameras.names()
        for gone in set(self._rates) - set(cameras):
            del self._rates[gone]
        for camera in cameras:
            stats, intake = self._store.stats(camera), self._cameras.intakes.get(camera)
            remembered = 0 if intake is None else intake.counters.remembered
            since, before = self._rates.get(camera, (now, remembered))
            self._rates[camera] = (now, remembered)
            rate = (remembered - before) / (now - since) if now > since else 0.0
            yield MemoryView(camera, stats.frames, stats.oldest, stats.newest, round(rate, 3))


def _readers(bridge: Bridge) -> list[Reader]:
    def connected() -> list[Reading]:
        return [({}, float(bridge.status.connected))]

    def connections() -> list[Reading]:
        return [({}, float(bridge.status.num_connections))]

    def refused() -> list[Reading]:
        asking, counts = bridge.context.asking, bridge.context.counts
        counts = counts if asking is None else counts + asking.num_ignored
        return [({"reason": reason}, float(count)) for reason, count in dict(counts).items()]

    return [
        Reader("vilamp_mqtt_connected", "1 while the broker has accepted the connection.", (), connected),
        Reader("vilamp_mqtt_connections_total", "Connections that the broker accepted.", (), connections),
        Reader("vilamp_mqtt_refused_total", "MQTT requests that were not carried out.", ("reason",), refused),
    ]


def _version() -> str:
    try:
        return version("vilamp-live")
    except PackageNotFoundError:  # run from a folder, not installed
        return "0"
