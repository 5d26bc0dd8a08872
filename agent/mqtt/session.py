"""One connection to the broker, from the first subscription to the last "offline".

One task listens; the other, in a loop, delivers the outbox and makes what the broker holds equal to the present
(`agent/mqtt/state.py`). Publishing is one message after the other, each confirmed before the next: the order of events
is that of their commits. Subscriptions go first, then events (the other way round after a connection that ended early),
states, pictures, and announcements last; an event that comes meanwhile goes before the next of these. What the broker does
not take is left out and said, and holds up nothing else.

Retained messages show the present only; what happened while the broker was away arrives as events. Does not know how to
connect, nor what to do when the connection ends: it raises aiomqtt.MqttError.
"""

import asyncio
import json
import logging
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import aiomqtt
from paho.mqtt.properties import Properties

from agent.alerts.event import shortened
from agent.alerts.outbox import MQTT, Outgoing, Sink
from agent.alerts.rules import RuleView
from agent.alerts.store import AlertStore
from agent.ask.remote import fitted
from agent.errors import Problem
from agent.mqtt.asking import Asking
from agent.mqtt.discovery import agent_payload, agent_topic, config_payload, config_topic, platforms
from agent.mqtt.publisher import Notes, Publisher, SetAside, TooLarge
from agent.mqtt.refusals import EVENT, EVENT_RETRY_S, Refusals
from agent.mqtt.state import CameraView, Marks, MemoryView, wanted
from agent.mqtt.topics import OFF, OFFLINE, ON, ONLINE, Command, Topics
from agent.mqtt.wire import Client, Refused
from agent.runtime import pools
from agent.runtime.supervisor import contained
from agent.settings.mqtt import MqttSettings
from memory.errors import StorageError

log = logging.getLogger(__name__)

HEALTH_S = 5.0  # the state of the whole agent is looked at so often
TICK_S = 1.0  # the present is looked at so often, and at once after an alert
GOODBYE_S = 2.0
REANNOUNCE_S = (0.5, 3.0)  # Home Assistant has just started: not everything at once
MAX_SNAPSHOT_WIDTH = 1920
MAX_SNAPSHOT_BYTES = 256 * 2**10  # larger pictures of alerts are scaled down: a phone shows no more
STATS_INTERVAL_S = 30.0  # between two messages on how much a camera's memory holds: it changes slowly
MAX_SNOOZE_MINUTES = 366 * 24 * 60
DELIVERIES = 16  # events published between two looks at the present
MAX_ANSWERS = 64  # questions in work, refused ones included; beyond it they are dropped
UNBLAMED = ""  # answers are sent once: nothing would be gained by blaming them for an end of the connection
PICTURES = "pictures"  # how they are blamed for an end of the connection, all together: it is their size
MIN_PICTURE_BYTES = 2048  # where there is less room than that, pictures are left out
HOLD_S = 60.0  # events of a topic that the broker refuses are tried again so often


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
    alert_store: AlertStore
    marks: Marks
    rules: Rules
    cameras: Callable[[], Iterable[CameraView]]
    memories: Callable[[float], Iterable[MemoryView]]  # at unix seconds
    clock: Callable[[], float]
    version: str
    asking: Asking | None = None
    health: Callable[[], bytes] | None = None  # the JSON of the health topic; reads files
    counts: Counter[str] = field(default_factory=Counter)  # what was not done, by reason
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    refusals: Refusals = field(default_factory=Refusals)
    held: dict[tuple[str, str], float] = field(default_factory=dict)  # camera, rule -> refused until (monotonic)
    aside: dict[int, tuple[float, str]] = field(default_factory=dict)  # entry -> not tried until (monotonic), its note
    storage_problem: str | None = None  # in words for an operator
    ended_early: bool = False  # the last connection, before its first turn was done: perhaps over what came in
    notes: Notes = field(init=False)
    sink: Sink = field(init=False)

    def __post_init__(self) -> None:
        self.notes = Notes(self.counts)
        self.sink = Sink(self.alert_store.outbox, self.alert_store.lock, MQTT)

    @property
    def problem(self) -> str | None:
        """What is wrong beside the connection."""
        late = f"{len(self.aside)} alert events wait: the broker does not take them; " if self.aside else ""
        first = self.storage_problem or self.notes.first
        return late + first if first else late.removesuffix("; ") or None


class Session:
    """See the module. `will_retained`: the last will of this connection is."""

    def __init__(
        self,
        client: Client,
        desk: Desk,
        reannounce_s: tuple[float, float] = REANNOUNCE_S,
        will_retained: bool = True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._desk = desk
        self._topics = Topics(desk.settings.prefix)
        self._reannounce_s = reannounce_s
        self._will_retained = will_retained
        self._cautious, desk.ended_early = desk.ended_early, True
        self._now = now
        self._out = Publisher(client, desk.refusals, desk.notes, now)
        self._followed: set[str] = set()  # filters, refused ones included
        self._shown: dict[str, bytes] = {}  # as published on this connection
        self._pictures: dict[str, str] = {}  # topic -> id of the alert whose picture it shows
        self._uncleared: set[str] = set()  # topics that the broker does not let us clear
        self._rules: set[tuple[str, str]] = set()  # camera, rule
        self._wanted: set[str] = set()  # topics, as of the last look
        self._storage_trouble: str | None = None  # in this turn
        self._memories: list[MemoryView] = []
        self._memories_due = float("-inf")  # monotonic
        self._health: bytes | None = None
        self._health_due = float("-inf")  # monotonic
        self._answers: set[asyncio.Task[None]] = set()
        self._announcing = False  # again, soon: however often it is asked for until then

    async def run(self) -> None:
        """Work until cancelled, then say "offline". Raises aiomqtt.MqttError."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(tasks), name="mqtt listens")
                await self._keep()
        except asyncio.CancelledError:
            await self._goodbye()
            raise
        except BaseExceptionGroup as group:
            faults = [each for each in group.exceptions if not isinstance(each, aiomqtt.MqttError)]
            raise (faults or group.exceptions)[0] from None

    # --- out ---

    async def _keep(self) -> None:
        while True:
            self._desk.wake.clear()
            self._storage_trouble = None
            for step in (self._tidy, self._turn):  # the second whatever becomes of the first
                try:
                    await step()
                except (StorageError, sqlite3.Error) as error:
                    self._disk_refuses(error)
            self._desk.storage_problem = self._storage_trouble
            self._desk.ended_early = False
            try:
                async with asyncio.timeout(TICK_S):
                    await self._desk.wake.wait()
            except TimeoutError:
                pass

    async def _tidy(self) -> None:
        await pools.alerts(self._desk.sink.tidy)

    async def _turn(self) -> None:
        """Everything that is due, the most important first. Raises StorageError or sqlite3.Error beside MqttError."""
        if not self._cautious:  # who hears "online" may ask at once
            await self._follow()
        # the smallest retained message goes first: by it the broker shows whether it takes any
        await self._retain(self._topics.status, ONLINE.encode())
        await self._deliver()
        await self._follow()
        if not self._will_retained and self._desk.refusals.retained_confirmed and self._out.retains:
            raise aiomqtt.MqttError("connecting again, with a last will that is retained")
        await self._show_present()
        await self._clear_leftovers(await self._show_pictures())

    def _disk_refuses(self, error: Exception) -> None:
        self._storage_trouble = f"what mqtt has done cannot be written down: {error}"
        log.warning("mqtt: the disk refuses", extra={"error": str(error)})

    async def _show_present(self) -> None:
        states, announcements = await pools.alerts(self._present)
        self._wanted = {self._topics.status, *states, *announcements}
        await self._follow()
        for topic, payload in (states | announcements).items():
            if self._shown.get(topic) != payload:
                if self._desk.wake.is_set():  # an event may have come
                    self._desk.wake.clear()
                    await self._deliver()
                await self._retain(topic, payload)

    def _present(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """What the broker is to hold: states and numbers, and announcements."""
        desk, now = self._desk, self._desk.clock()
        if self._now() >= self._memories_due:
            self._memories, self._memories_due = list(desk.memories(now)), self._now() + STATS_INTERVAL_S
        if desk.health is not None and self._now() >= self._health_due:
            self._health, self._health_due = desk.health(), self._now() + HEALTH_S
        cameras, rules = list(desk.cameras()), list(desk.rules.views())
        self._rules = {(view.camera, view.rule) for view in rules}
        names = {camera.camera for camera in cameras}
        memories = [memory for memory in self._memories if memory.camera in names]
        announced = self._announcements([camera.camera for camera in cameras]) if desk.settings.discovery else {}
        states = wanted(self._topics, cameras, rules, memories, now)
        return states if self._health is None else {**states, self._topics.health: self._health}, announced

    def _announcements(self, cameras: Sequence[str]) -> dict[str, bytes]:
        settings = self._desk.settings
        payloads = {}
        if self._desk.health is not None:
            payloads[agent_topic(settings.discovery_prefix, self._topics)] = agent_payload(
                self._topics, version=self._desk.version
            )
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
        if self._shown.get(topic) == payload:
            return
        try:
            await pools.alerts(self._desk.marks.add, topic, self._desk.marks.note(topic))
        except (StorageError, sqlite3.Error) as error:  # what is not noted could not be cleared later
            self._disk_refuses(error)
            return
        self._shown[topic] = payload
        if not await self._put(topic, payload, retain=True):
            return
        if topic.startswith(f"{self._desk.settings.discovery_prefix}/device/"):
            await pools.alerts(self._desk.marks.add, topic, json.dumps(platforms(payload), sort_keys=True))

    async def _put(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool,
        name: str | None = None,
        properties: Properties | None = None,
    ) -> bool:
        """Publish; False when the broker does not take it, which is said."""
        try:
            await self._out.put(topic, payload, retain=retain, name=name, properties=properties)
        except Refused as refused:
            self._refused(topic, refused)
            return False
        self._desk.notes.clear(topic)
        return True

    def _refused(self, about: str, refused: Refused) -> None:
        reason = {TooLarge: "too_large", SetAside: "set_aside"}.get(type(refused), "refused")
        self._desk.notes.say(about, str(refused), reason)

    # --- events ---

    async def _deliver(self) -> None:
        """The oldest entries of the outbox, each looked up when its turn comes: what was erased meanwhile stays here.

        More of them at the next turn of the loop, which then comes at once.
        """
        for _ in range(DELIVERIES):
            entry = await pools.alerts(self._next)
            if entry is None:
                return
            await self._deliver_one(entry)
        self._desk.wake.set()

    def _next(self) -> Outgoing | None:
        """The oldest entry that the broker may take now."""
        desk, now = self._desk, self._now()
        for place in [place for place, until in desk.held.items() if until <= now]:
            del desk.held[place]
            if not desk.sink.waits(*place):  # erased meanwhile: nothing is wrong any more
                desk.notes.clear(self._topics.event(*place))
        if desk.aside:
            there = desk.sink.existing(desk.aside)
            for seq, (until, about) in list(desk.aside.items()):
                if seq not in there:
                    desk.notes.clear(about)
                if until <= now or seq not in there:
                    del desk.aside[seq]
        return desk.sink.next(except_rules=desk.held, except_seqs=desk.aside)

    async def _deliver_one(self, entry: Outgoing) -> None:
        """The picture first, so that it is there when the event comes. What the broker does not take waits, and is said."""
        desk, topic = self._desk, self._topics.event(entry.camera, entry.rule)
        if entry.snapshot is not None and desk.settings.snapshots:
            place = self._topics.snapshot(entry.camera, entry.rule)
            await self._show_picture(place, entry.event_id.rpartition("-")[0], entry.snapshot)
        room, payload, name = self._out.room(topic), entry.payload, EVENT + entry.event_id
        if room is not None and len(payload) > room:
            payload = shortened(payload, room) or payload
        try:
            await self._out.put(topic, payload, retain=False, name=name)
        except (TooLarge, SetAside) as refused:  # only this one: those behind it go on
            self._refused(name, refused)
            desk.aside[entry.seq] = self._now() + EVENT_RETRY_S, name
        except Refused as refused:  # all of this topic, in their order
            self._refused(topic, refused)
            desk.held[entry.camera, entry.rule] = self._now() + HOLD_S
        else:
            desk.notes.clear(topic)
            desk.notes.clear(name)
            try:
                await pools.alerts(desk.sink.done, entry)
            except (StorageError, sqlite3.Error) as error:  # remembered: it is not sent again
                self._disk_refuses(error)

    # --- pictures ---

    async def _show_pictures(self) -> set[str]:
        """The newest picture of every rule, where this connection has not published it yet. Their topics."""
        newest = await pools.alerts(self._newest_pictures)
        for topic, alert_id in newest.items():
            if self._pictures.get(topic) != alert_id:
                jpeg = await pools.alerts(self._desk.alert_store.snapshot, alert_id)
                if jpeg is not None:
                    await self._show_picture(topic, alert_id, jpeg)
        return set(newest)

    def _newest_pictures(self) -> dict[str, str]:
        if not self._desk.settings.snapshots:
            return {}
        newest = self._desk.alert_store.newest_snapshots()
        return {
            self._topics.snapshot(camera, rule): alert_id
            for (rule, camera), alert_id in newest.items()
            if (camera, rule) in self._rules
        }

    async def _show_picture(self, topic: str, alert_id: str, jpeg: bytes) -> None:
        """One picture, as large as the broker takes it."""
        self._pictures[topic] = alert_id
        room = self._picture_room(topic)
        try:
            if room < MIN_PICTURE_BYTES:
                raise TooLarge(f"pictures are left out: the broker takes {room} bytes at most; raise its limit")
            small = await pools.alerts(fitted, jpeg, MAX_SNAPSHOT_WIDTH, room)
            if len(small) > room:
                raise TooLarge(f"a picture on {topic} is left out: the broker takes {room} bytes at most")
            await pools.alerts(self._desk.marks.add, topic)
            await self._out.put(topic, small, retain=True, name=PICTURES)
        except Refused as refused:
            self._refused(PICTURES, refused)
            self._desk.counts["picture_left_out"] += 1
        except OSError as error:
            log.warning("picture of an alert is damaged", extra={"error": str(error)})
        except (StorageError, sqlite3.Error) as error:
            self._disk_refuses(error)
        else:
            self._desk.notes.clear(PICTURES)

    def _picture_room(self, topic: str) -> int:
        """Bytes that a picture may have: by the settings, by what the broker says, and by what it did not take before."""
        learnt = self._desk.refusals.size_to_try(PICTURES, self._now())
        limits = (MAX_SNAPSHOT_BYTES, self._out.room(topic), learnt)
        return min(each for each in limits if each is not None)

    async def _clear_leftovers(self, pictures: set[str]) -> None:
        """Retained messages of what is no more: an empty one takes their place, and only then they are forgotten here."""
        for topic in self._desk.marks.topics():
            if topic in self._wanted or topic in pictures or topic in self._uncleared:
                continue
            if not await self._put(topic, b"", retain=True):
                self._uncleared.add(topic)  # until the next connection
                continue
            self._shown.pop(topic, None)
            self._pictures.pop(topic, None)
            await pools.alerts(self._desk.marks.remove, topic)

    async def _goodbye(self) -> None:
        cameras = [self._topics.camera_status(camera.camera) for camera in self._desk.cameras()]
        try:
            async with asyncio.timeout(GOODBYE_S):
                for topic in [self._topics.status, *(topic for topic in cameras if topic in self._shown)]:
                    await self._put(topic, OFFLINE.encode(), retain=True)
        except (aiomqtt.MqttError, TimeoutError) as error:
            log.warning("mqtt: could not say goodbye", extra={"error": str(error)})

    # --- in ---

    def _filters(self) -> list[str]:
        """What is listened to; one by one where the broker knows no wildcards."""
        filters = list(self._topics.commands)
        if not self._out.wildcards:
            places = sorted(self._rules)
            filters = [
                topic(*place) for place in places for topic in (self._topics.set_enabled, self._topics.set_snooze)
            ]
        if self._desk.settings.discovery:
            filters.append(f"{self._desk.settings.discovery_prefix}/status")
        if self._desk.asking is not None:
            filters.append(self._topics.ask)
        return filters

    async def _follow(self) -> None:
        """Subscribe to what is not subscribed to yet: one after the other, so that it shows which is refused."""
        for each in self._filters():
            if each not in self._followed:
                self._followed.add(each)
                try:
                    await self._out.follow(each)
                    self._desk.notes.clear(f"subscription {each}")
                except Refused as refused:
                    self._refused(f"subscription {each}", refused)

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
            elif (command := self._topics.command(topic)) is None:
                self._desk.counts["unknown_topic"] += 1
            elif not message.retain:
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
            await self._put(topic, payload, retain=False, properties=properties, name=UNBLAMED)

        await asking.handle(message, publish)

    async def _obey(self, command: Command, payload: object) -> None:
        """One command. One that cannot be understood or done is counted and logged, and changes nothing."""
        text = payload.decode("utf-8", "replace").strip() if isinstance(payload, bytes | bytearray) else ""
        try:
            with contained("command over MQTT", Problem, ValueError, StorageError, sqlite3.Error):
                await pools.alerts(self._do, command, text)
        except (Problem, ValueError, StorageError, sqlite3.Error) as error:
            self._desk.counts["command_failed"] += 1
            extra = {"about": f"{command.camera}/{command.rule}", "error": str(error)}
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
