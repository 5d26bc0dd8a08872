"""The connection to the broker, kept for ever: connect, work, and when it ends try again after a growing, jittered pause.

A broker that is absent, slow or refuses costs nothing but the wait: events stay in the outbox, frames go their way. What
is wrong is said in `status`. Does not know what is published (`agent/mqtt/session.py`).
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.reasoncodes import ReasonCode

from agent.mqtt.causes import in_words
from agent.mqtt.client import Called, SettingsWrong, connected, new_client_id
from agent.mqtt.embedded import BrokerFailed, embedded_broker
from agent.mqtt.session import REANNOUNCE_S, Desk, Session
from agent.mqtt.topics import OFFLINE, Topics
from agent.mqtt.wire import Client, HungUp, Limits
from agent.settings.mqtt import EMBEDDED

log = logging.getLogger(__name__)

TWIN_S = 120.0  # so long it is said that another client has our name
_TWIN = (
    "another client connects to the broker with the same name, and the two take turns: give each its own mqtt.client_id"
)
STABLE_S = 10.0  # a connection that stood so long is no failure: the next pause is the first again


@dataclass(slots=True)
class Status:
    """How it stands with the broker."""

    connected: bool = False
    problem: str | None = "not connected yet"  # in words for an operator
    address: tuple[str, int] | None = None
    num_connections: int = 0


_WILLS = ((True, 1), (False, 1), (True, 0), (False, 0))  # retained, QoS: the last wills to try, the best first


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds between tries: first, doubling up to last, each shortened by up to a half at random."""

    first_s: float = 0.5
    last_s: float = 60.0

    def after(self, num_failures: int) -> float:
        """The pause after so many failures in a row: after(3) lies between 1 and 2."""
        return float(min(self.first_s * 2 ** min(num_failures - 1, 20), self.last_s)) * random.uniform(0.5, 1.0)


class Bridge:
    """See the module."""

    def __init__(
        self, desk: Desk, pauses: Pauses | None = None, reannounce_s: tuple[float, float] = REANNOUNCE_S
    ) -> None:
        self.desk = desk
        self.status = Status()
        self._pauses = pauses or Pauses()
        self._reannounce_s = reannounce_s
        self._num_failures = 0
        self._twin_until = float("-inf")
        # the same at every connection: the broker then ends an old one at once, whose last will would come after our "online"
        self._client_id = desk.settings.client_id or new_client_id()
        self._will_retain, self._will_qos = True, 1  # learnt, where the broker does not take it so

    @property
    def problem(self) -> str | None:
        """What an operator should know, in words; None: all is well."""
        if time.monotonic() < self._twin_until:
            return _TWIN
        return self.status.problem or self.desk.problem

    async def run(self) -> None:
        """For ever. When cancelled, the broker is told "offline" first. May be run again after an error."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self.desk.wake.set)

        self.desk.alert_store.listen(wake)
        try:
            while True:
                try:
                    async with self._broker() as address:
                        self.status.address = address
                        while True:
                            await self._connection(address)
                            await asyncio.sleep(self._pauses.after(self._num_failures))
                except (BrokerFailed, SettingsWrong) as error:  # the operator's to mend: no hurry
                    self._failed(str(error))
                    await asyncio.sleep(self._pauses.last_s)
        finally:
            self.desk.alert_store.unlisten(wake)
            self.status.connected = False

    @asynccontextmanager
    async def _broker(self) -> AsyncIterator[tuple[str, int]]:
        """Where the broker listens."""
        if self.desk.settings.url != EMBEDDED:
            yield self.desk.settings.address()
            return
        async with embedded_broker(self.desk.settings) as address:
            yield address

    async def _connection(self, address: tuple[str, int]) -> None:
        """One try, until it ends. Returns; what went wrong is in `status`. Raises SettingsWrong."""
        loop, client = asyncio.get_running_loop(), None
        began = float("inf")
        try:
            async with connected(self.desk.settings, address, self._called(), self._dropped) as client:
                began = loop.time()
                client.limits = self._learnt(client.limits)
                self._connected(address)
                await Session(client, self.desk, self._reannounce_s, self._will_retain).run()
        except SettingsWrong:
            raise
        except aiomqtt.MqttError as error:
            if loop.time() - began >= STABLE_S:
                self._num_failures = 0
            self._learn(error, client, loop.time())
            self._failed(in_words(error, self.desk.settings, address, client))
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the connection broke while we were leaving
                raise asyncio.CancelledError from None
        finally:
            self.status.connected = False

    def _called(self) -> Called:
        topic = Topics(self.desk.settings.prefix).status
        return Called(self._client_id, aiomqtt.Will(topic, OFFLINE, qos=self._will_qos, retain=self._will_retain))

    def _learnt(self, limits: Limits) -> Limits:
        """What the broker takes, with what it took of our last will: MQTT 3.1.1 does not say, nor confirms QoS 0."""
        retain = limits.retain and (self._will_retain or self._will_qos == 1)
        return replace(limits, max_qos=min(limits.max_qos, self._will_qos), retain=retain)

    def _dropped(self) -> None:
        """The broker sends faster than it is listened to."""
        self.desk.counts["message_dropped"] += 1
        log.warning("mqtt: messages come faster than they are taken, and are dropped")

    def _learn(self, error: aiomqtt.MqttError, client: Client | None, now: float) -> None:
        """What to leave out at the next try."""
        desk = self.desk
        if client is not None:
            sent = client.in_hand
            if sent is not None and sent.name and desk.refusals.lost(sent, now):
                words = f"the broker ends the connection over {sent.name[:200]} ({sent.num_bytes} bytes): set aside for a while"
                log.warning("mqtt", extra={"error": words})
            if str(client.farewell) == "Session taken over":
                self._twin_until = time.monotonic() + TWIN_S
            self._will_retain = self._will_retain or desk.refusals.retained_confirmed
        elif isinstance(error, MqttConnectError) and isinstance(error.rc, ReasonCode):
            self._will_retain = self._will_retain and error.rc.getName() != "Retain not supported"
            self._will_qos = 0 if error.rc.getName() == "QoS not supported" else self._will_qos
        elif isinstance(error, HungUp) and desk.settings.version != "5" and not desk.refusals.retained_confirmed:
            # MQTT 3.1.1 has no words for it: perhaps it was the last will, being retained or having QoS 1
            next_will = _WILLS.index((self._will_retain, self._will_qos)) + 1
            self._will_retain, self._will_qos = _WILLS[next_will % len(_WILLS)]

    def _connected(self, address: tuple[str, int]) -> None:
        self.status.connected, self.status.problem = True, None
        self.status.num_connections += 1
        log.info("mqtt connected", extra={"host": address[0], "port": address[1]})

    def _failed(self, problem: str) -> None:
        self._num_failures += 1
        if problem != self.status.problem:  # said once, not at every try
            log.warning("mqtt not connected", extra={"error": problem})
        self.status.connected, self.status.problem = False, problem
