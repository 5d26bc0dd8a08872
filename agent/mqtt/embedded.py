"""A broker inside the agent's process (amqtt, MQTT 3.1.1), to try the agent without installing a broker.

It keeps retained messages only in memory and has no access lists, so it listens on loopback unless a user and a
password are set. Overload policy: connections beyond MAX_CONNECTIONS are closed at once, and so is a connection that
announces a packet much larger than the largest picture that the agent sends.
"""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import BaseContext
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from agent.mqtt.causes import BrokerFailed
from agent.mqtt.state import MAX_SNAPSHOT_BYTES
from agent.runtime import pools
from agent.settings.mqtt import MqttSettings

MAX_CONNECTIONS = 64
MIN_PACKET_BYTES = 1 << 20  # accepted on top of the largest picture
_LISTENER = "default"


class OneUser(BaseAuthPlugin):
    """Authentication plugin of amqtt, which loads it by name. It accepts only the configured user and password."""

    @dataclass
    class Config:
        """The plugin's configuration."""

        user: str
        password: str = field(repr=False)

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._expected = f"{self.config.user}\0{self.config.password}".encode()

    async def authenticate(self, *, session: Session) -> bool | None:
        """Return True for the right user and password, compared in constant time."""
        given = f"{session.username or ''}\0{session.password or ''}".encode()
        return hmac.compare_digest(given, self._expected)


@asynccontextmanager
async def embedded_broker(settings: MqttSettings) -> AsyncIterator[tuple[str, int]]:
    """Context manager: run the broker inside the block. Yields its host and port. Raises BrokerFailed."""
    logging.getLogger("amqtt").setLevel(logging.ERROR)  # it logs every client that goes away
    logging.getLogger("transitions").setLevel(logging.ERROR)
    # connections are accepted here, not by amqtt, to count them and to allow port 0 (any free port)
    plugins = await pools.alerts(_plugins, settings)
    broker = Broker({"listeners": {_LISTENER: {"type": "external"}}, "plugins": plugins})
    most_bytes = MIN_PACKET_BYTES + MAX_SNAPSHOT_BYTES
    connections: set[asyncio.Task[None]] = set()

    class Bounded(StreamReaderAdapter):
        """Reads packets from a connection, and closes it when the announced length of a packet is too large."""

        def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            super().__init__(reader)
            self._writer = writer

        async def read(self, n: int = -1) -> bytes:
            if not 0 <= n <= most_bytes:
                self._writer.transport.abort()  # amqtt alone would go on reading
                raise ConnectionResetError(f"a packet of {n} bytes")
            return bytes(await super().read(n))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await broker.external_connected(Bounded(reader, writer), StreamWriterAdapter(writer), _LISTENER)
        except (OSError, EOFError):
            pass  # the client went away
        finally:
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(connections) >= MAX_CONNECTIONS:
            writer.close()
            return
        task = asyncio.create_task(serve(reader, writer), name="embedded broker's client")
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await _listen(connected, settings)
    await broker.start()
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
        await broker.shutdown()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _listen(
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None], settings: MqttSettings
) -> asyncio.Server:
    where = f"{settings.embedded_host}:{settings.embedded_port}"
    try:
        return await asyncio.start_server(connected, settings.embedded_host, settings.embedded_port)
    except OSError as error:
        raise BrokerFailed(
            f"the embedded broker cannot listen on {where} ({error.strerror}): choose another mqtt.embedded_port"
        ) from error


def _plugins(settings: MqttSettings) -> dict[str, dict[str, object]]:
    if not settings.has_password:
        return {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    try:
        return {"agent.mqtt.embedded.OneUser": {"user": settings.user, "password": settings.secret()}}
    except (OSError, UnicodeDecodeError) as error:
        raise BrokerFailed(f"mqtt.password_file cannot be read: {error}") from error
