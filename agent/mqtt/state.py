"""The retained messages: keep those that the broker holds equal to the agent's current state.

The current state is: states of cameras and rules, numbers of the memories, the newest picture of every rule, and the
announcements to Home Assistant. The message of a rule, camera or picture that no longer exists is cleared. A message
that the broker does not accept is left out and noted for the operator.
"""

import json
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence

from agent.alerts.rules import RuleView
from agent.ask.pictures import fitted
from agent.mqtt.context import CameraView, Context, MemoryView
from agent.mqtt.discovery import agent_payload, agent_topic, config_payload, config_topic, platforms
from agent.mqtt.publisher import Publisher, TooLarge
from agent.mqtt.topics import OFF, OFFLINE, ON, ONLINE, Topics
from agent.mqtt.wire import Refused
from agent.runtime import pools
from memory.errors import StorageError

log = logging.getLogger(__name__)

HEALTH_S = 5.0  # between two checks of the agent's health
STATS_INTERVAL_S = 30.0  # between two messages on the numbers of a camera's memory, which change slowly
MAX_SNAPSHOT_WIDTH = 1920
MAX_SNAPSHOT_BYTES = 256 * 2**10  # larger pictures of alerts are scaled down; enough for a phone's screen
PICTURES = "pictures"  # one name for all pictures: if a broker closes the connection over one, its size is the reason
MIN_PICTURE_BYTES = 2048  # if the limit is lower than this, pictures are left out


def states(
    topics: Topics,
    cameras: Iterable[CameraView],
    rules: Iterable[RuleView],
    memories: Iterable[MemoryView],
    now: float,
) -> dict[str, bytes]:
    """Return the payloads of the current states and numbers, by topic. now: unix seconds."""
    texts = {topics.camera_status(camera.camera): str(camera.status) for camera in cameras}
    for rule in rules:
        place = (rule.camera, rule.rule)
        texts[topics.state(*place)] = ON if rule.on else OFF
        texts[topics.enabled(*place)] = ON if rule.enabled else OFF
        texts[topics.snooze(*place)] = f"{rule.snoozed_until:.0f}" if rule.snoozed_until > now else "0"
    payloads = {topic: text.encode() for topic, text in texts.items()}
    return payloads | {topics.memory(memory.camera): memory.payload() for memory in memories}


class RetainedState:
    """Publishes the retained messages over one connection. now: returns monotonic seconds."""

    def __init__(self, out: Publisher, context: Context, now: Callable[[], float]) -> None:
        self.rules: set[tuple[str, str]] = set()  # (camera, rule), as of the last `read`
        self._out, self._context, self._now = out, context, now
        self._topics = Topics(context.settings.prefix)
        self._present: dict[str, bytes] = {}  # by topic: the payload to publish, as of the last `read`
        self._shown: dict[str, bytes] = {}  # by topic: the payload published on this connection
        self._pictures: dict[str, str] = {}  # by topic: id of the alert whose picture was published there
        self._uncleared: set[str] = set()  # topics that the broker refuses to clear
        self._memories: list[MemoryView] = []
        self._health: bytes | None = None
        self._memories_due = self._health_due = float("-inf")  # when to read them again, monotonic seconds

    async def online(self) -> None:
        """Publish that the agent is online. As this is the smallest retained message, it also tests whether the broker
        accepts retained messages at all."""
        await self._retain(self._topics.status, ONLINE.encode())

    async def offline(self) -> None:
        """Publish that the agent and its cameras are offline."""
        cameras = [self._topics.camera_status(camera.camera) for camera in self._context.cameras()]
        for topic in [self._topics.status, *(topic for topic in cameras if topic in self._shown)]:
            await self._out.try_put(topic, OFFLINE.encode(), retain=True)

    def announce_again(self) -> None:
        """Have everything published again in the session's next turn."""
        self._shown.clear()
        self._pictures.clear()

    async def read(self) -> None:
        """Read the current state from the agent, for `publish`. Raises StorageError or sqlite3.Error."""
        self._present = await pools.alerts(self._read)

    async def publish(self, first: Callable[[], Awaitable[None]]) -> None:
        """Publish the state that has changed, and clear the messages of what no longer exists.

        first: delivers new alert events; called before a message if there may be some. Raises StorageError,
        sqlite3.Error or MqttError.
        """
        for topic, payload in self._present.items():
            if self._shown.get(topic) != payload:
                if self._context.wake.is_set():
                    self._context.wake.clear()
                    await first()
                await self._retain(topic, payload)
        await self._clear_leftovers(await self._show_pictures())

    # --- states and announcements ---

    def _read(self) -> dict[str, bytes]:
        context, now = self._context, self._context.clock()
        if self._now() >= self._memories_due:
            self._memories = list(context.memories(now))
            self._memories_due = self._now() + STATS_INTERVAL_S
        if context.health is not None and self._now() >= self._health_due:
            self._health, self._health_due = context.health(), self._now() + HEALTH_S
        cameras, rules = list(context.cameras()), list(context.rules.views())
        self.rules = {(view.camera, view.rule) for view in rules}
        names = {camera.camera for camera in cameras}
        present = states(self._topics, cameras, rules, [each for each in self._memories if each.camera in names], now)
        if self._health is not None:
            present[self._topics.health] = self._health
        if context.settings.discovery:
            present |= self._announcements([camera.camera for camera in cameras])
        return present

    def _announcements(self, cameras: Sequence[str]) -> dict[str, bytes]:
        settings, version = self._context.settings, self._context.version
        payloads = {}
        if self._context.health is not None:
            payloads[agent_topic(settings.discovery_prefix, self._topics)] = agent_payload(
                self._topics, version=version
            )
        for camera in cameras:
            topic = config_topic(settings.discovery_prefix, self._topics, camera)
            payloads[topic] = config_payload(
                self._topics,
                camera,
                [rule for at, rule in self.rules if at == camera],
                version=version,
                snapshots=settings.snapshots,
                announced=json.loads(self._context.retained.note(topic) or "{}"),
            )
        return payloads

    async def _retain(self, topic: str, payload: bytes) -> None:
        """Publish a retained message unless this connection already has. One that the broker refuses is not tried again."""
        if self._shown.get(topic) == payload:
            return
        retained = self._context.retained
        try:
            await pools.alerts(retained.add, topic, retained.note(topic))
        except (StorageError, sqlite3.Error) as error:  # a message that is not in the table could not be cleared later
            self._context.disk_refuses(error)
            return
        self._shown[topic] = payload
        published = await self._out.try_put(topic, payload, retain=True)
        if published and topic.startswith(f"{self._context.settings.discovery_prefix}/device/"):
            await pools.alerts(retained.add, topic, json.dumps(platforms(payload), sort_keys=True))

    async def _clear_leftovers(self, pictures: set[str]) -> None:
        """Clear the retained messages of what no longer exists, and remove their topics from the table afterwards.

        pictures: the topics of pictures to keep.
        """
        for topic in self._context.retained.topics():
            if topic in self._present or topic in pictures or topic in self._uncleared or topic == self._topics.status:
                continue
            if not await self._out.try_put(topic, b"", retain=True):
                self._uncleared.add(topic)  # not tried again before the next connection
                continue
            self._shown.pop(topic, None)
            self._pictures.pop(topic, None)
            await pools.alerts(self._context.retained.remove, topic)

    # --- pictures ---

    async def _show_pictures(self) -> set[str]:
        """Publish the newest alert picture of every rule, unless this connection already has.

        Return the topics of all pictures.
        """
        newest = await pools.alerts(self._newest_pictures)
        for topic, alert_id in newest.items():
            if self._pictures.get(topic) != alert_id:
                jpeg = await pools.alerts(self._context.alert_store.snapshot, alert_id)
                if jpeg is not None:
                    await self.show_picture(topic, alert_id, jpeg)
        return set(newest)

    def _newest_pictures(self) -> dict[str, str]:
        if not self._context.settings.snapshots:
            return {}
        return {
            self._topics.snapshot(camera, rule): alert_id
            for (rule, camera), alert_id in self._context.alert_store.newest_snapshots().items()
            if (camera, rule) in self.rules
        }

    async def show_picture(self, topic: str, alert_id: str, jpeg: bytes) -> None:
        """Publish one picture of an alert, scaled down to a size that the broker accepts."""
        context = self._context
        self._pictures[topic] = alert_id
        room = self._picture_room(topic)
        try:
            if room < MIN_PICTURE_BYTES:
                raise TooLarge(f"pictures are left out: the broker accepts at most {room} bytes; raise its limit")
            small = await pools.alerts(fitted, jpeg, MAX_SNAPSHOT_WIDTH, room)
            if len(small) > room:
                raise TooLarge(f"a picture on {topic} is left out: the broker accepts at most {room} bytes")
            await pools.alerts(context.retained.add, topic)
            await self._out.put(topic, small, retain=True, name=PICTURES)
        except Refused as refused:
            self._out.note(PICTURES, refused)
            context.counts["picture_left_out"] += 1
        except OSError as error:
            log.warning("picture of an alert is damaged", extra={"error": str(error)})
        except (StorageError, sqlite3.Error) as error:
            context.disk_refuses(error)
        else:
            context.notes.clear(PICTURES)

    def _picture_room(self, topic: str) -> int:
        """Return the largest picture to send, in bytes, by MAX_SNAPSHOT_BYTES, the broker's limit and earlier refusals."""
        learnt = self._context.refusals.size_to_try(PICTURES, self._now())
        limits = (MAX_SNAPSHOT_BYTES, self._out.room(topic), learnt)
        return min(each for each in limits if each is not None)
