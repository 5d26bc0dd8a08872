"""A mosquitto broker on a free port, and a subscriber that records every message."""

import asyncio
import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from tests.support.network import free_port

INSTALL = "mosquitto is not installed: apt-get install mosquitto (or make tools)"
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason=INSTALL)


@dataclass
class Mosquitto:
    """A broker process that can be stopped and started again on the same port."""

    folder: Path
    port: int
    lines: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert MOSQUITTO is not None
        config = self.folder / "mosquitto.conf"
        shared = (
            "persistence true",
            f"persistence_location {self.folder}/",
            "log_type all",
            f"user {getpass.getuser()}",
        )
        listener = (f"listener {self.port} 127.0.0.1", *(self.lines or ("allow_anonymous true",)))
        config.write_text("\n".join([*shared, *listener]) + "\n")
        log = (self.folder / "mosquitto.log").open("ab")
        with log:
            self.process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "mosquitto.log").read_text()
            assert time.monotonic() < deadline, "mosquitto did not start"
            time.sleep(0.05)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def num_unread(self) -> int:
        """Return how many bytes wait in the broker's receive queues."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(int(row[4].split(":")[1], 16) for row in rows if row[1].endswith(f":{self.port:04X}"))

    def stop(self) -> None:
        """Stop the broker with SIGTERM, so that it saves its retained messages."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


@contextmanager
def mosquitto(folder: Path, *lines: str) -> Iterator[Mosquitto]:
    """Run a broker. `lines` are added to its configuration after the listener."""
    place = folder / "broker"
    place.mkdir(exist_ok=True)
    broker = Mosquitto(place, free_port(), lines)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@dataclass
class Heard:
    """The messages that a subscriber received, in order."""

    client: aiomqtt.Client
    messages: list[aiomqtt.Message] = field(default_factory=list)

    def payloads(self, topic: str) -> list[bytes]:
        return [bytes(message.payload) for message in self.messages if str(message.topic) == topic]

    def newest(self) -> dict[str, bytes]:
        """Return the last payload of each topic."""
        return {str(message.topic): bytes(message.payload) for message in self.messages}

    async def until(self, condition: Callable[["Heard"], Any], timeout_s: float = 60.0) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not condition(self):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            heard = [(str(each.topic), bytes(each.payload)[:200], each.retain) for each in self.messages]
            raise AssertionError(f"not heard in time; heard: {heard}") from None

    async def fence(self) -> None:
        """Wait until all earlier messages arrived: publish one more and wait for it. Needs the subscription "#"."""
        topic = f"fence/{len(self.messages)}"
        await self.client.publish(topic, "", qos=1)
        await self.until(lambda heard: topic in heard.newest())


@asynccontextmanager
async def listening(port: int, *filters: str, **options: Any) -> AsyncIterator[Heard]:
    """Subscribe to `filters`, by default to every topic."""
    async with aiomqtt.Client("127.0.0.1", port, **options) as client:
        heard = Heard(client)
        for each in filters or ("#",):
            await client.subscribe(each, qos=1)

        async def listen() -> None:
            async for message in client.messages:
                heard.messages.append(message)

        task = asyncio.create_task(listen())
        try:
            yield heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
