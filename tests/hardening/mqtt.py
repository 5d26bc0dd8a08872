"""Fuzz the MQTT bridge: odd payloads on every subscribed topic, odd topics, properties and packets.

They come from a broker that sends raw bytes. Nothing may crash, memory may not grow, the log stays bounded, and after each
batch the bridge still obeys a command.
"""

import asyncio
import json
import logging
import random
import struct
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.ask.question import Question
from agent.errors import BadRequest, Busy
from agent.mqtt.asking import Asking
from agent.mqtt.bridge import Bridge
from agent.mqtt.topics import Topics
from agent.settings.mqtt import MqttSettings
from tests.hardening.command import Counts, main
from tests.hardening.fuzzing import ODD_TEXTS, Errors, Growth, Outcome, odd_json
from tests.support.bridges import Scene, commit, event
from tests.support.odd_brokers import PUBLISH, Client, OddBroker, length, odd_broker, packet, text
from tests.support.waiting import until

MOST_GROWN_BYTES = 24 << 20
BATCH = 100
MOST_LINES_PER_CONNECTION = 12
BAG = "vilamp/yard/alert/bag"
TOPICS = ("vilamp/ask", f"{BAG}/enabled/set", f"{BAG}/snooze/set", "homeassistant/status")
FIELDS = ("question", "id", "camera", "cameras", "after", "before", "x")
COMMANDS = ("ON", "OFF", "on", "0", "5", "nan", "inf", "-1", "1e309", "1_0", "٣", "9" * 5000, "online", "offline")


def fuzz(count: int, seed: int) -> Counts:
    """Send `count` messages."""
    return asyncio.run(_fuzz(count, seed)).told(MOST_GROWN_BYTES)


class Nobody:
    """Refuses every question, with one of two errors."""

    async def answer(self, question: Question) -> None:
        if len(question.text) % 2:
            raise Busy(1.0)
        raise BadRequest("nobody is here")


class Lines(logging.Handler):
    """Counts log records of warnings and errors."""

    number = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.number += 1


def payload(rng: random.Random) -> bytes:
    """Draw the payload of a question, of a command, or random data."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.randbytes(rng.choice((0, 1, 100, 70_000)))
    if kind < 3:
        return rng.choice((*COMMANDS, *ODD_TEXTS)).encode("utf-8", "replace")
    if kind < 4:
        return odd_json(rng).encode("utf-8", "replace")
    said = {name: odd_json(rng) for name in rng.sample(FIELDS, rng.randint(0, 4))}
    if kind < 7:
        said["question"] = json.dumps(rng.choice(("what is there?", *ODD_TEXTS)))
        said["id"] = json.dumps(rng.choice(("q1", "a/b", "", "x" * 65)))
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in said.items()) + "}").encode("utf-8", "replace")


def topic(rng: random.Random) -> bytes:
    """Draw a topic, mostly one that the agent subscribes to."""
    if rng.randrange(40):
        return rng.choice(TOPICS).encode()
    odd = rng.choice((*ODD_TEXTS, "+", "#", "a" * 60_000, "vilamp//alert//enabled/set")).encode("utf-8", "replace")
    return rng.choice((odd, b"vilamp/" + odd, b"vilamp/yard/alert/" + odd + b"/snooze/set")) or b"x"


def properties(rng: random.Random) -> bytes:
    """Draw MQTT 5 properties with odd values, some of them twice."""
    said = b""
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
        odd = rng.choice((*ODD_TEXTS, "vilamp/answer/x", "vilamp/answer/a/b", "vilamp/answer/+")).encode(
            "utf-8", "replace"
        )
        said += rng.choice(
            (
                b"\x08" + text(odd),
                b"\x09" + text(rng.randbytes(rng.choice((0, 3, 1025)))),
                b"\x26" + text(odd) + text(odd),
                b"\x03" + text(odd),
                b"\x01" + bytes([rng.randrange(3)]),
                b"\x02" + struct.pack("!I", rng.randrange(1 << 32)),
            )
        )
    return said


def changed(rng: random.Random, raw: bytes) -> bytes:
    """Change, drop or repeat some bytes of `raw`."""
    raw = bytes(raw[:4096])
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(raw) + 1)
        raw = rng.choice(
            (
                raw[:at] + rng.randbytes(1) + raw[at + 1 :],
                raw[:at],
                raw[:at] + raw[at + rng.randint(1, 9) :],
                raw[:at] + rng.randbytes(rng.randint(1, 9)) + raw[at:],
                raw[:at] + raw,
            )
        )
    return raw


def odd_packet(rng: random.Random, client: Client) -> bytes:
    """Draw a packet that a broker may send, often damaged, or one that no broker sends."""
    odd = client.properties(properties(rng))
    whole = (
        packet(0x30 | rng.randrange(16), text(topic(rng)) + odd + payload(rng)[:1000]),
        packet(0x20, bytes([rng.randrange(2), rng.randrange(256)]) + odd),
        packet(0x40, rng.randbytes(2) + rng.randbytes(1) + odd),
        packet(0x90, rng.randbytes(2) + odd + rng.randbytes(1)),
        packet(0xB0, rng.randbytes(2) + odd + rng.randbytes(1)),
        packet(0xE0, rng.randbytes(1) + odd),
        packet(rng.randrange(256), rng.randbytes(rng.randrange(20))),
        bytes([0x30]) + length(rng.choice((1 << 18, 1 << 27))) + rng.randbytes(100),
        b"\xd0\x00",
    )
    chosen = rng.choice(whole)
    return changed(rng, chosen) if rng.randrange(2) else chosen


@dataclass
class At:
    """A bridge connected to a broker that the fuzzer controls."""

    scene: Scene
    bridge: Bridge
    broker: OddBroker
    lines: Lines = field(default_factory=Lines)

    async def client(self) -> Client:
        """Wait for a connected and subscribed client; return the newest."""
        await until(self._listens, timeout_s=60)
        return self.broker.clients[-1]

    def _listens(self) -> bool:
        client = self.broker.clients[-1] if self.broker.clients else None
        return client is not None and "vilamp/ask" in client.filters and not client.writer.is_closing()


@asynccontextmanager
async def working(version: str) -> AsyncIterator[At]:
    async def script(client: Client, first: int, body: bytes) -> bool:
        if first >> 4 == PUBLISH:
            client.published = client.published[-50:]
        return False

    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        async with odd_broker(script) as broker:
            context = scene.context(MqttSettings(url=broker.url, version=version, discovery=True))
            context.asking = Asking(
                Topics("vilamp"),
                Nobody(),  # type: ignore[arg-type]
                existing=lambda named: named,
                zone_of=lambda camera: "UTC",
                sign=lambda path: path,
                model="none",
            )
            bridge = Bridge(context, (0.001, 0.01), reannounce_s=(0.0, 0.01))
            task = asyncio.create_task(bridge.run())
            try:
                yield At(scene, bridge, broker)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():
            raise AssertionError("the bridge ended") from task.exception()
        scene.alert_store.close()


async def _fuzz(count: int, seed: int) -> Outcome:
    rng, outcome, growth, errors = random.Random(seed), Outcome(), Growth(count), Errors()
    logging.getLogger().addHandler(errors)
    try:
        for number, version in enumerate(("5", "3.1.1")):
            part = range(number * count // 2, (number + 1) * count // 2)
            async with working(version) as at:
                await _part(at, rng, part, outcome, growth)
        outcome.grown_bytes = growth.bytes()
    finally:
        logging.getLogger().removeHandler(errors)
    outcome.failures += errors.texts
    return outcome


async def _part(at: At, rng: random.Random, numbers: range, outcome: Outcome, growth: Growth) -> None:
    logging.getLogger().addHandler(at.lines)
    try:
        for first in range(numbers.start, numbers.stop, BATCH):
            size = min(BATCH, numbers.stop - first)
            if rng.randrange(5):
                await _messages(at, rng, size, outcome)
            else:
                await _packets(at, rng, size, outcome)
            growth.note(first)
        await _still_works(at, outcome)
    finally:
        logging.getLogger().removeHandler(at.lines)
    most = numbers.stop - numbers.start + MOST_LINES_PER_CONNECTION * (len(at.broker.clients) + 10)
    if at.lines.number > most:
        outcome.failures.append(f"{at.lines.number} lines of log for {len(at.broker.clients)} connections")
    outcome.counts["connections"] += len(at.broker.clients)
    outcome.counts.update({f"not done: {reason}": number for reason, number in _reasons(at).items()})


def _reasons(at: At) -> Counter[str]:
    asking = at.bridge.context.asking
    return at.bridge.context.counts + (asking.num_ignored if asking is not None else Counter())


async def _messages(at: At, rng: random.Random, size: int, outcome: Outcome) -> None:
    """Send valid packets with odd contents, then a command that must be obeyed."""
    for _ in range(size):
        client = await at.client()
        first = 0x30 | rng.choice((0, 2)) | rng.choice((0, 0, 0, 1))
        client.publish(topic(rng), payload(rng), first=first, properties=properties(rng))
        outcome.counts["messages"] += 1
        await asyncio.sleep(0.001)  # time to read it, and perhaps to close the connection
    await _obeyed(at)


async def _packets(at: At, rng: random.Random, size: int, outcome: Outcome) -> None:
    """Send odd packets; when a packet ends the connection, continue on the next one."""
    for _ in range(size):
        client = await at.client()
        client.send(odd_packet(rng, client))
        outcome.counts["packets"] += 1
        await asyncio.sleep(rng.choice((0, 0.001, 0.002)))
    client = await at.client()
    client.writer.close()  # it may wait for the rest of a packet
    await until(lambda: at.broker.clients[-1] is not client, timeout_s=60)
    await _obeyed(at)


async def _obeyed(at: At) -> None:
    """Check that a command is still obeyed, perhaps over another connection."""
    rule, wanted = ("bag", "yard"), not at.scene.shelf.rules["bag", "yard"].enabled
    for _ in range(600):
        client = await at.client()
        client.publish(f"{BAG}/enabled/set", b"ON" if wanted else b"OFF")
        await asyncio.sleep(0.02)
        if at.scene.shelf.rules[rule].enabled is wanted:
            return
    raise AssertionError("a command is no longer obeyed")


async def _still_works(at: At, outcome: Outcome) -> None:
    at.bridge.context.aside.clear()
    at.bridge.context.held.clear()
    commit(at.scene.alert_store, event(10_000 + outcome.counts["messages"]))
    await until(lambda: at.scene.alert_store.outbox.count("mqtt") == 0, timeout_s=60)


if __name__ == "__main__":
    main(fuzz, count=50_000, about=__doc__ or "")
