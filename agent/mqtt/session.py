"""One connection to the broker, from the first subscription to the last "offline".

One task listens; the other, in a loop, makes what the broker holds equal to the present (`agent/mqtt/retained.py`) and
delivers the outbox. Publishing is one message after the other, each confirmed before the next: the order of events is
that of their commits. Retained messages show the present only; what happened while the broker was away arrives as events.

Does not know how to connect, nor what to do when the connection ends: it raises aiomqtt.MqttError.
"""

import asyncio
import json
import logging
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import aiomqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent import pools
from agent.alerts.book import Book
from agent.alerts.outbox import MQTT, Outgoing
from agent.mqtt.asking import Asking
from agent.mqtt.client import Client, Refused
from agent.mqtt.discovery import config_payload, config_topic, platforms
from agent.mqtt.retained import CameraView, Marks, MemoryView, RuleView, wanted
from agent.mqtt.settings import MqttSettings
from agent.mqtt.topics import OFF, OFFLINE, ON, ONLINE, Command, Topics
from agent.problems import Problem
from agent.remote import fitted
from memory.errors import StorageError

log = logging.getLogger(__name__)

TICK_S = 1.0  # the present is looked at so often, and at once after an alert
GOODBYE_S = 2.0
REANNOUNCE_S = (0.5, 3.0)  # Home Assistant has just started: not everything at once
MAX_SNAPSHOT_WIDTH = 1920
MAX_SNOOZE_MINUTES = 366 * 24 * 60
DELIVERIES = 16  # events published between two looks at the present
MAX_ANSWERS = 64  # questions in work, refused ones included; beyond it they are dropped
PICTURE_TRIES = 2  # a broker that ends the connection at a picture is not sent it again: the event must get through


class Rules(Protocol):
    """What the session needs of the rules. Every call may block, and may raise Problem or StorageError."""

    def views(self) -> Sequence[RuleView]:
        """Every rule at every camera that it watches."""

    def set_enabled(self, rule: str, camera: str, enabled: bool) -> None:
        """Switch it, for good."""

    def snooze(self, rule: str, camera: str, until: float) -> None:
        """Silence it until `until` (unix seconds); a time that has passed ends the silence."""


@dataclass(slots=True)
class Desk:
    """What there is to show, and who answers: all that sessions share."""

    settings: MqttSettings
    book: Book
    marks: Marks
    rules: Rules
    cameras: Callable[[], Iterable[CameraView]]
    memories: Callable[[float], Iterable[MemoryView]]  # at unix seconds
    clock: Callable[[], float]
    version: str
    asking: Asking | None = None
    counts: Counter[str] = field(default_factory=Counter)  # what was not done, by reason
    tries: Counter[str] = field(default_factory=Counter)  # of pictures that the connection did not survive, by alert
    notes: list[str] = field(default_factory=list)  # what the broker refuses, in words for an operator
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Session:
    """See the module."""

    def __init__(self, client: Client, desk: Desk, reannounce_s: tuple[float, float] = REANNOUNCE_S) -> None:
        self._client = client
        self._desk = desk
        self._topics = Topics(desk.settings.prefix)
        self._reannounce_s = reannounce_s
        self._shown: dict[str, bytes] = {}  # as published on this connection
        self._pictures: dict[str, str] = {}  # topic -> id of the alert whose picture it shows
        self._rules: set[tuple[str, str]] = set()  # camera, rule
        self._wanted: set[str] = set()  # topics, as of the last look
        self._memories: list[MemoryView] = []
        self._memories_due = float("-inf")
        self._answers: set[asyncio.Task[None]] = set()
        self._announcing = False  # again, soon: however often it is asked for until then

    async def run(self) -> None:
        """Work until cancelled, then say "offline". Raises aiomqtt.MqttError, StorageError or sqlite3.Error."""
        try:
            await self._subscribe()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(tasks), name="mqtt listens")
                await self._keep()
        except asyncio.CancelledError:
            await self._goodbye()
            raise
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    # --- out ---

    async def _keep(self) -> None:
        await self._retain(self._topics.status, ONLINE.encode())
        while True:
            self._desk.wake.clear()
            await self._show_present()
            await self._deliver()
            await self._clear_leftovers(await self._show_pictures())
            try:
                async with asyncio.timeout(TICK_S):
                    await self._desk.wake.wait()
            except TimeoutError:
                pass

    async def _show_present(self) -> None:
        present = await pools.alerts(self._present)
        self._wanted = {self._topics.status, *present}
        for topic, payload in present.items():
            if self._shown.get(topic) != payload:
                await self._retain(topic, payload)

    def _present(self) -> dict[str, bytes]:
        desk, now = self._desk, self._desk.clock()
        if now >= self._memories_due:
            self._memories, self._memories_due = list(desk.memories(now)), now + desk.settings.stats_interval_s
        cameras, rules = list(desk.cameras()), list(desk.rules.views())
        self._rules = {(view.camera, view.rule) for view in rules}
        announced = self._announcements([camera.camera for camera in cameras]) if desk.settings.discovery else {}
        return announced | wanted(self._topics, cameras, rules, self._memories, now)

    def _announcements(self, cameras: Sequence[str]) -> dict[str, bytes]:
        settings = self._desk.settings
        payloads = {}
        for camera in cameras:
            topic = config_topic(settings.discovery_prefix, self._topics, camera)
            payloads[topic] = config_payload(
                self._topics,
                camera,
                [rule for at, rule in self._rules if at == camera],
                version=self._desk.version,
                snapshots=settings.snapshots,
                announced=json.loads(self._desk.marks.note(topic) or "{}"),
            )
        return payloads

    async def _retain(self, topic: str, payload: bytes) -> None:
        """Publish a retained message, noted before. One that the broker refuses is said and not tried again."""
        note = self._desk.marks.note(topic)
        await pools.alerts(self._desk.marks.add, topic, note)
        try:
            await self._put(topic, payload, retain=True)
        except Refused as refused:
            self._refused(refused)
        self._shown[topic] = payload
        if topic.startswith(f"{self._desk.settings.discovery_prefix}/device/"):
            await pools.alerts(self._desk.marks.add, topic, json.dumps(platforms(payload), sort_keys=True))

    async def _put(self, topic: str, payload: bytes, *, retain: bool, properties: Properties | None = None) -> None:
        await self._client.put(topic, payload, retain=retain, properties=properties)
        _unless_cancelled()

    def _refused(self, refused: Refused) -> None:
        self._desk.counts["refused"] += 1
        if not self._desk.notes:
            log.warning("mqtt", extra={"error": str(refused)})
            self._desk.notes.append(str(refused))

    async def _deliver(self) -> None:
        """The oldest entries of the outbox, each looked up when its turn comes: what was erased meanwhile stays here.

        More of them at the next turn of the loop, which then comes at once.
        """
        for _ in range(DELIVERIES):
            entries = await pools.alerts(self._pending)
            if not entries:
                return
            await self._deliver_one(entries[0])
        self._desk.wake.set()

    def _pending(self) -> list[Outgoing]:
        with self._desk.book.lock:
            return self._desk.book.outbox.pending(MQTT, 1)

    def _done(self, seq: int) -> None:
        with self._desk.book.lock:
            self._desk.book.outbox.done(seq)

    async def _deliver_one(self, entry: Outgoing) -> None:
        """The picture first, so that it is there when the event comes."""
        if entry.snapshot is not None and self._desk.settings.snapshots:
            topic = self._topics.snapshot(entry.camera, entry.rule)
            await self._show_picture(topic, entry.event_id.rpartition("-")[0], entry.snapshot)
        await self._put(self._topics.event(entry.camera, entry.rule), entry.payload, retain=False)
        await pools.alerts(self._done, entry.seq)

    async def _show_pictures(self) -> set[str]:
        """The newest picture of every rule, where this connection has not published it yet. Their topics."""
        newest = await pools.alerts(self._newest_pictures)
        for topic, alert_id in newest.items():
            if self._pictures.get(topic) != alert_id:
                jpeg = await pools.alerts(self._desk.book.snapshot, alert_id)
                if jpeg is not None:
                    await self._show_picture(topic, alert_id, jpeg)
        for alert_id in set(self._desk.tries) - set(newest.values()):
            del self._desk.tries[alert_id]
        return set(newest)

    def _newest_pictures(self) -> dict[str, str]:
        if not self._desk.settings.snapshots:
            return {}
        newest = self._desk.book.newest_snapshots()
        return {
            self._topics.snapshot(camera, rule): alert_id
            for (rule, camera), alert_id in newest.items()
            if (camera, rule) in self._rules
        }

    async def _show_picture(self, topic: str, alert_id: str, jpeg: bytes) -> None:
        """One picture, unless the connection has ended over it before."""
        self._pictures[topic] = alert_id
        if self._desk.tries[alert_id] >= PICTURE_TRIES:
            self._desk.counts["picture_left_out"] += 1
            return
        try:
            small = await pools.alerts(fitted, jpeg, MAX_SNAPSHOT_WIDTH, int(self._desk.settings.max_snapshot_bytes))
        except OSError as error:
            log.warning("picture of an alert is damaged", extra={"error": str(error)})
            return
        await pools.alerts(self._desk.marks.add, topic)
        self._desk.tries[alert_id] += 1
        try:
            await self._put(topic, small, retain=True)
        except Refused as refused:
            self._refused(refused)
        del self._desk.tries[alert_id]

    async def _clear_leftovers(self, pictures: set[str]) -> None:
        """Retained messages of what is no more: an empty one takes their place, and only then they are forgotten here."""
        for topic in self._desk.marks.topics():
            if topic not in self._wanted and topic not in pictures:
                try:
                    await self._put(topic, b"", retain=True)
                except Refused as refused:
                    self._refused(refused)
                self._shown.pop(topic, None)
                self._pictures.pop(topic, None)
                await pools.alerts(self._desk.marks.remove, topic)

    async def _goodbye(self) -> None:
        cameras = [self._topics.camera_status(camera.camera) for camera in self._desk.cameras()]
        try:
            async with asyncio.timeout(GOODBYE_S):
                for topic in [*(topic for topic in cameras if topic in self._shown), self._topics.status]:
                    await self._client.put(topic, OFFLINE.encode(), retain=True)
        except (aiomqtt.MqttError, TimeoutError) as error:
            log.warning("mqtt: could not say goodbye", extra={"error": str(error)})

    # --- in ---

    async def _subscribe(self) -> None:
        filters = list(self._topics.commands)
        if self._desk.settings.discovery:
            filters.append(f"{self._desk.settings.discovery_prefix}/status")
        if self._desk.asking is not None:
            filters.append(self._topics.ask)
        codes = await self._client.subscribe([(each, 1) for each in filters])
        _unless_cancelled()
        for each, code in zip(filters, codes, strict=True):
            if code.is_failure if isinstance(code, ReasonCode) else code >= 0x80:
                self._refused(Refused(f"the broker does not let us subscribe to {each}"))

    async def _listen(self, tasks: asyncio.TaskGroup) -> None:
        async for message in self._client.messages:
            topic = str(message.topic)
            if topic == self._topics.ask:
                self._ask(message, tasks)
            elif topic == f"{self._desk.settings.discovery_prefix}/status":
                # at the start of a connection everything is announced anyway
                if message.payload == ONLINE.encode() and not message.retain and not self._announcing:
                    self._announcing = True
                    tasks.create_task(self._announce_again(), name="mqtt announces again")
            elif (command := self._topics.command(topic)) is not None and not message.retain:
                await self._obey(command, message.payload)

    async def _announce_again(self) -> None:
        await asyncio.sleep(random.uniform(*self._reannounce_s))
        self._announcing = False
        self._shown.clear()
        self._pictures.clear()
        self._desk.wake.set()

    def _ask(self, message: aiomqtt.Message, tasks: asyncio.TaskGroup) -> None:
        if self._desk.asking is None:
            return
        if len(self._answers) >= MAX_ANSWERS:
            self._desk.counts["question_dropped"] += 1
            return
        task = tasks.create_task(self._answer(self._desk.asking, message), name="mqtt answers")
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, asking: Asking, message: aiomqtt.Message) -> None:
        async def publish(topic: str, payload: bytes, properties: Properties | None) -> None:
            await self._put(topic, payload, retain=False, properties=properties)

        try:
            await asking.handle(message, publish)
        except Refused as refused:
            self._refused(refused)

    async def _obey(self, command: Command, payload: object) -> None:
        """One command. One that cannot be understood or done is counted and logged, and changes nothing."""
        text = payload.decode("utf-8", "replace").strip() if isinstance(payload, bytes | bytearray) else ""
        try:
            await pools.alerts(self._do, command, text)
        except (Problem, ValueError, StorageError, sqlite3.Error) as error:
            self._desk.counts["command_failed"] += 1
            extra = {"camera": command.camera, "rule": command.rule, "error": str(error)}
            log.warning(f"mqtt: {command.action}/set was not done", extra=extra)
        self._desk.wake.set()

    def _do(self, command: Command, text: str) -> None:
        """Raises ValueError for a payload that says nothing."""
        if command.action == "enabled":
            if text.upper() not in (ON, OFF):
                raise ValueError("the payload is ON or OFF")
            self._desk.rules.set_enabled(command.rule, command.camera, text.upper() == ON)
            return
        try:
            minutes = float(text)
        except ValueError:
            minutes = float("nan")
        if not 0 <= minutes <= MAX_SNOOZE_MINUTES:
            raise ValueError(f"the payload is minutes, a number from 0 to {MAX_SNOOZE_MINUTES}")
        self._desk.rules.snooze(command.rule, command.camera, self._desk.clock() + 60 * minutes if minutes else 0.0)


def _unless_cancelled() -> None:
    """Python 3.11's `asyncio.wait_for`, under every call of aiomqtt, loses a cancellation that meets the answer."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
