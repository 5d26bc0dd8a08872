"""An MQTT broker that sends raw bytes, to try packets that no real broker sends."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

CONNECT, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 8, 10, 12, 14


def length(number: int) -> bytes:
    """Encode `number` as MQTT encodes packet lengths: length(321) is b"\\xc1\\x02"."""
    written = bytearray()
    while True:
        number, digit = divmod(number, 128)
        written.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(written)


def packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + length(len(body)) + body


def text(given: bytes | str) -> bytes:
    plain = given.encode() if isinstance(given, str) else given
    return struct.pack("!H", len(plain)) + plain


@dataclass
class Client:
    """A connected client, as seen by the broker."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    version: int = 4
    published: list[tuple[str, bytes, bool]] = field(default_factory=list)  # topic, payload, retain
    filters: list[str] = field(default_factory=list)

    def send(self, raw: bytes) -> None:
        if not self.writer.is_closing():
            self.writer.write(raw)

    def properties(self, raw: bytes = b"") -> bytes:
        return length(len(raw)) + raw if self.version == 5 else b""

    def connack(self, reason: int = 0, properties: bytes = b"") -> None:
        self.send(packet(0x20, bytes([0, reason]) + self.properties(properties)))

    def publish(self, topic: bytes | str, payload: bytes = b"", *, first: int = 0x30, properties: bytes = b"") -> None:
        number = b"\x00\x07" if first & 0x06 else b""
        self.send(packet(first, text(topic) + number + self.properties(properties) + payload))

    async def read(self) -> tuple[int, bytes]:
        """Read the next packet; return its first byte and its body."""
        first = (await self.reader.readexactly(1))[0]
        size, shift = 0, 0
        while True:
            digit = (await self.reader.readexactly(1))[0]
            size, shift = size | (digit & 0x7F) << shift, shift + 7
            if not digit & 0x80:
                return first, await self.reader.readexactly(size)


Script = Callable[
    [Client, int, bytes], Awaitable[bool]
]  # handles a packet; returns whether the broker must not answer it itself


@dataclass
class OddBroker:
    """A broker that lets `script` handle each packet first, and else answers as MQTT demands."""

    script: Script
    port: int = 0
    clients: list[Client] = field(default_factory=list)
    gone: int = 0  # how many clients have disconnected

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def published(self) -> list[tuple[str, bytes, bool]]:
        return [each for client in self.clients for each in client.published]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(reader, writer)
        self.clients.append(client)
        try:
            while True:
                first, body = await client.read()
                if first >> 4 == CONNECT:
                    client.version = body[6]
                if not await self.script(client, first, body):
                    self.answer(client, first, body)
        except (EOFError, OSError):
            pass
        finally:
            self.gone += 1
            writer.close()

    def answer(self, client: Client, first: int, body: bytes) -> None:
        kind = first >> 4
        if kind == CONNECT:
            client.connack()
        elif kind == PUBLISH:
            size = struct.unpack("!H", body[:2])[0]
            number, rest = body[2 + size : 4 + size], body[4 + size :]
            payload = rest[1 + rest[0] :] if client.version == 5 else rest
            client.published.append((body[2 : 2 + size].decode(), payload, bool(first & 1)))
            client.send(packet(0x40, number))
        elif kind == SUBSCRIBE:
            rest = body[2 + (1 + body[2] if client.version == 5 else 0) :]
            client.filters.append(rest[2:-1].decode())
            client.send(packet(0x90, body[:2] + client.properties() + b"\x01"))
        elif kind == PINGREQ:
            client.send(b"\xd0\x00")


@asynccontextmanager
async def odd_broker(script: Script) -> AsyncIterator[OddBroker]:
    broker, tasks = OddBroker(script), set[asyncio.Task[None]]()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(broker.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    broker.port = server.sockets[0].getsockname()[1]
    try:
        yield broker
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def after_subscribing(act: Callable[[Client], object]) -> Script:
    """Behave correctly until the client subscribes to `.../snooze/set`, then call `act`."""

    async def script(client: Client, first: int, body: bytes) -> bool:
        if first >> 4 == SUBSCRIBE and b"snooze" in body:
            client.send(packet(0x90, body[:2] + client.properties() + b"\x01"))
            act(client)
            return True
        return False

    return script
