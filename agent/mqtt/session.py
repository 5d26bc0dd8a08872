"""A session: what is done over one connection to the broker, from the first subscription to the final "offline".

One task listens for commands and questions. Another repeats a turn: subscribe, deliver the outbox, then publish the retained
state (`agent/mqtt/state.py`); an event that is committed meanwhile is published first. Messages are published one by one, each
confirmed before the next, so events keep their order. A message that the broker does not accept is left out and noted for the
operator, and the others go on. When the connection ends, the session raises aiomqtt.MqttError.
"""

import asyncio
import logging
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress

import aiomqtt
from paho.mqtt.properties import Properties

from agent.alerts.event import shortened
from agent.alerts.outbox import MQTT, Outgoing
from agent.errors import Problem
from agent.mqtt.asking import Asking
from agent.mqtt.context import Context
from agent.mqtt.publisher import EVENT, EVENT_RETRY_S, Publisher, SetAside, TooLarge
from agent.mqtt.state import RetainedState
from agent.mqtt.topics import OFF, ON, ONLINE, Command, Topics
from agent.mqtt.wire import Client, Refused
from agent.runtime import pools
from agent.runtime.supervisor import contained
from memory.errors import StorageError

log = logging.getLogger(__name__)

TICK_S = 1.0  # between two turns; a new alert event begins one at once
GOODBYE_S = 2.0
REANNOUNCE_S = (0.5, 3.0)  # bounds of a random pause after a start of Home Assistant, which announces all devices
MAX_SNOOZE_MINUTES = 366 * 24 * 60
DELIVERIES = 16  # events published in one turn
MAX_ANSWERS = 64  # questions being answered, busy errors included; beyond it questions are dropped
UNBLAMED = ""  # name of answers: they are sent only once, so it is useless to blame one for the end of a connection
HOLD_S = 60.0  # pause before events of a topic that the broker refused are tried again


class Session:
    """The session of one connection."""

    def __init__(
        self,
        client: Client,
        context: Context,
        reannounce_s: tuple[float, float] = REANNOUNCE_S,
        will_retained: bool = True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """will_retained: whether the connection's last will is retained. now: returns monotonic seconds."""
        self._client, self._context, self._now = client, context, now
        self._topics = Topics(context.settings.prefix)
        self._reannounce_s, self._will_retained = reannounce_s, will_retained
        self._cautious, context.ended_early = context.ended_early, True
        self._out = Publisher(client, context.refusals, context.notes, now)
        self._state = RetainedState(self._out, context, now)
        self._subscribed: set[str] = set()  # topic filters tried, refused ones included
        self._answers: set[asyncio.Task[None]] = set()
        self._announcing = False  # a task is waiting to announce everything again

    async def run(self) -> None:
        """Run until cancelled, then publish "offline". Raises aiomqtt.MqttError when the connection ends."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(tasks), name="mqtt listens")
                await self._keep()
        except asyncio.CancelledError:
            try:
                async with asyncio.timeout(GOODBYE_S):
                    await self._state.offline()
            except (aiomqtt.MqttError, TimeoutError) as error:
                log.warning("mqtt: could not say goodbye", extra={"error": str(error)})
            raise
        except BaseExceptionGroup as group:
            faults = [each for each in group.exceptions if not isinstance(each, aiomqtt.MqttError)]
            raise (faults or group.exceptions)[0] from None

    async def _keep(self) -> None:
        context = self._context
        while True:
            context.wake.clear()
            with context.turn():
                for step in (self._tidy, self._turn):  # the second runs even if the first fails
                    try:
                        await step()
                    except (StorageError, sqlite3.Error) as error:
                        context.disk_refuses(error)
            context.ended_early = False
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await context.wake.wait()

    async def _tidy(self) -> None:
        await pools.alerts(self._context.alert_store.outbox.tidy)

    async def _turn(self) -> None:
        """Publish and subscribe whatever is due, the most important first.

        Raises StorageError, sqlite3.Error or MqttError.
        """
        if not self._cautious:  # subscribe before publishing "online", so that clients may ask at once after it
            await self._subscribe()
        await self._state.online()
        await self._deliver()
        await self._subscribe()
        if not self._will_retained and self._context.refusals.retained_confirmed and self._out.retains:
            raise aiomqtt.MqttError("connecting again, with a last will that is retained")
        await self._state.read()
        await self._subscribe()
        await self._state.publish(self._deliver)

    # --- events ---

    async def _deliver(self) -> None:
        """Publish the oldest alert events that wait in the outbox.

        Each is read just before it is published, so that no erased event is sent.
        """
        for _ in range(DELIVERIES):
            entry = await pools.alerts(self._next)
            if entry is None:
                return
            await self._deliver_one(entry)
        self._context.wake.set()  # there may be more entries: begin the next turn at once

    def _next(self) -> Outgoing | None:
        """Return the oldest waiting alert event (an entry of the outbox) that is to be published now, or None."""
        context, outbox, now = self._context, self._context.alert_store.outbox, self._now()
        for place in [place for place, until in context.held.items() if until <= now]:
            del context.held[place]
            if not outbox.waits(MQTT, *place):  # they were erased meanwhile, so the problem no longer exists
                context.notes.clear(self._topics.event(*place))
        if context.aside:
            stored = outbox.existing(context.aside)
            for seq, (until, about) in list(context.aside.items()):
                if seq not in stored:
                    context.notes.clear(about)
                if until <= now or seq not in stored:
                    del context.aside[seq]
        return outbox.next(MQTT, except_rules=context.held, except_seqs=context.aside)

    async def _deliver_one(self, entry: Outgoing) -> None:
        """Publish the alert event in `entry`, and before it the alert's picture.

        An event that the broker refuses is tried later.
        """
        context, topic = self._context, self._topics.event(entry.camera, entry.rule)
        if entry.snapshot is not None and context.settings.snapshots:
            place = self._topics.snapshot(entry.camera, entry.rule)
            await self._state.show_picture(place, entry.event_id.rpartition("-")[0], entry.snapshot)
        room, payload, name = self._out.room(topic), entry.payload, EVENT + entry.event_id
        if room is not None and len(payload) > room:
            payload = shortened(payload, room) or payload
        try:
            await self._out.put(topic, payload, retain=False, name=name)
        except (TooLarge, SetAside) as refused:  # only this event waits; later ones are sent
            self._out.note(name, refused)
            context.aside[entry.seq] = self._now() + EVENT_RETRY_S, name
        except Refused as refused:  # all events of this topic wait, in their order
            self._out.note(topic, refused)
            context.held[entry.camera, entry.rule] = self._now() + HOLD_S
        else:
            context.notes.clear(topic)
            context.notes.clear(name)
            try:
                await pools.alerts(context.alert_store.outbox.done, entry)
            except sqlite3.Error as error:  # the outbox marks it as finished, so it is not sent again
                context.disk_refuses(error)

    # --- commands and questions ---

    def _filters(self) -> list[str]:
        """Return the topic filters to subscribe to. If the broker accepts no wildcards, there are two for every rule."""
        topics, settings = self._topics, self._context.settings
        filters = list(topics.commands)
        if not self._out.wildcards:
            places = sorted(self._state.rules)
            filters = [topic(*place) for place in places for topic in (topics.set_enabled, topics.set_snooze)]
        if settings.discovery:
            filters.append(f"{settings.discovery_prefix}/status")
        if self._context.asking is not None:
            filters.append(topics.ask)
        return filters

    async def _subscribe(self) -> None:
        """Subscribe to the new filters, one by one, so that a refusal can be attributed to its filter."""
        for each in self._filters():
            if each not in self._subscribed:
                self._subscribed.add(each)
                await self._out.subscribe(each)

    async def _listen(self, tasks: asyncio.TaskGroup) -> None:
        async for message in self._client.messages:
            topic = str(message.topic)
            if topic == self._topics.ask:
                self._ask(message, tasks)
            elif topic == f"{self._context.settings.discovery_prefix}/status":
                # a retained message arrives at the start of a connection, when everything is announced anyway
                if message.payload == ONLINE.encode() and not message.retain and not self._announcing:
                    self._announcing = True
                    tasks.create_task(self._announce_again(), name="mqtt announces again")
            elif (command := self._topics.command(topic)) is None:
                self._context.counts["unknown_topic"] += 1
            elif not message.retain:
                await self._obey(command, message.payload)

    async def _announce_again(self) -> None:
        await asyncio.sleep(random.uniform(*self._reannounce_s))
        self._announcing = False
        self._state.announce_again()
        self._context.wake.set()

    def _ask(self, message: aiomqtt.Message, tasks: asyncio.TaskGroup) -> None:
        if self._context.asking is None:
            return
        if len(self._answers) >= MAX_ANSWERS:
            self._context.counts["question_dropped"] += 1
            return
        task = tasks.create_task(self._answer(self._context.asking, message), name="mqtt answers")
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, asking: Asking, message: aiomqtt.Message) -> None:
        async def publish(topic: str, payload: bytes, properties: Properties | None) -> None:
            await self._out.try_put(topic, payload, retain=False, properties=properties, name=UNBLAMED)

        await asking.handle(message, publish)

    async def _obey(self, command: Command, payload: object) -> None:
        """Carry out one command. An invalid or failed command is counted and logged, and changes nothing."""
        text = payload.decode("utf-8", "replace").strip() if isinstance(payload, bytes | bytearray) else ""
        try:
            with contained("command over MQTT", Problem, ValueError, StorageError, sqlite3.Error):
                await pools.alerts(self._do, command, text)
        except (Problem, ValueError, StorageError, sqlite3.Error) as error:
            self._context.counts["command_failed"] += 1
            extra = {"about": f"{command.camera}/{command.rule}", "error": str(error)}
            log.warning(f"mqtt: {command.action}/set was not done", extra=extra)
        self._context.wake.set()

    def _do(self, command: Command, text: str) -> None:
        """Carry out a command with the payload `text`. Raises ValueError for an invalid payload."""
        rules = self._context.rules
        if command.action == "enabled":
            if text.upper() not in (ON, OFF):
                raise ValueError("the payload is ON or OFF")
            rules.set_enabled(command.rule, command.camera, text.upper() == ON)
            return
        try:
            minutes = float(text)
        except ValueError:
            minutes = float("nan")
        if not 0 <= minutes <= MAX_SNOOZE_MINUTES:
            raise ValueError(f"the payload is minutes, a number from 0 to {MAX_SNOOZE_MINUTES}")
        rules.snooze(command.rule, command.camera, self._context.clock() + 60 * minutes if minutes else 0.0)
