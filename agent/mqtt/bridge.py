"""The connection to the broker, kept for ever: connect, work, and when it ends try again after a growing, jittered pause.

A broker that is absent, slow or refuses costs nothing but the wait: events stay in the outbox, frames go their way. What
is wrong is said in `status`. Does not know what is published (`agent/mqtt/session.py`).
"""

import asyncio
import logging
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.reasoncodes import ReasonCode

from agent.mqtt.client import connected
from agent.mqtt.embedded import BrokerFailed, embedded_broker
from agent.mqtt.session import REANNOUNCE_S, Desk, Session
from agent.mqtt.settings import EMBEDDED
from agent.mqtt.topics import OFFLINE, Topics
from memory.errors import StorageError

log = logging.getLogger(__name__)

STABLE_S = 10.0  # a connection that stood so long is no failure: the next pause is the first again
_ADVICE = {
    "Unsupported protocol version": 'set mqtt.version to "3.1.1"',
    "Bad user name or password": "check mqtt.user and mqtt.password",
    "Not authorized": "check mqtt.user and mqtt.password, and the broker's access list",
    "Client identifier not valid": "check mqtt.client_id",
}


@dataclass(slots=True)
class Status:
    """How it stands with the broker."""

    connected: bool = False
    problem: str | None = "not connected yet"  # in words for an operator
    address: tuple[str, int] | None = None
    num_connections: int = 0


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

    @property
    def problem(self) -> str | None:
        """What an operator should know, in words; None: all is well."""
        return self.status.problem or (self.desk.notes[0] if self.desk.notes else None)

    async def run(self) -> None:
        """For ever. When cancelled, the broker is told "offline" first."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self.desk.wake.set)

        self.desk.book.listen(wake)
        while True:
            try:
                async with self._broker() as address:
                    self.status.address = address
                    while True:
                        await self._connection(address)
                        await asyncio.sleep(self._pauses.after(self._num_failures))
            except BrokerFailed as error:
                self._failed(str(error))
                await asyncio.sleep(self._pauses.after(self._num_failures))

    @asynccontextmanager
    async def _broker(self) -> AsyncIterator[tuple[str, int]]:
        """Where the broker listens."""
        if self.desk.settings.url != EMBEDDED:
            yield self.desk.settings.address()
            return
        async with embedded_broker(self.desk.settings) as address:
            yield address

    async def _connection(self, address: tuple[str, int]) -> None:
        """One try, until it ends. Returns; what went wrong is in `status`."""
        loop = asyncio.get_running_loop()
        began = float("inf")
        will = aiomqtt.Will(Topics(self.desk.settings.prefix).status, OFFLINE, qos=1, retain=True)
        try:
            async with connected(self.desk.settings, address, will) as client:
                began = loop.time()
                self._connected(address)
                await Session(client, self.desk, self._reannounce_s).run()
        except (aiomqtt.MqttError, StorageError, sqlite3.Error, OSError, ValueError) as error:
            if loop.time() - began >= STABLE_S:
                self._num_failures = 0
            self._failed(_in_words(error, address))
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the connection broke while we were leaving
                raise asyncio.CancelledError from None
        finally:
            self.status.connected = False

    def _connected(self, address: tuple[str, int]) -> None:
        self.status.connected, self.status.problem = True, None
        self.status.num_connections += 1
        self.desk.notes.clear()
        log.info("mqtt connected", extra={"host": address[0], "port": address[1]})

    def _failed(self, problem: str) -> None:
        self._num_failures += 1
        if problem != self.status.problem:  # said once, not at every try
            log.warning("mqtt not connected", extra={"error": problem})
        self.status.connected, self.status.problem = False, problem


def _in_words(error: Exception, address: tuple[str, int]) -> str:
    where = f"the broker at {address[0]}:{address[1]}"
    if isinstance(error, MqttConnectError):
        reason = str(error.rc) if isinstance(error.rc, ReasonCode) else str(error)
        advice = _ADVICE.get(reason)
        return f"{where} refuses the connection: {reason}" + (f" ({advice})" if advice else "")
    if isinstance(error, aiomqtt.MqttError):
        return f"no connection to {where}: {error}"
    if isinstance(error, OSError) and not isinstance(error, StorageError):
        return f"a file that mqtt needs cannot be read: {error}"
    return f"mqtt stopped: {error}"
