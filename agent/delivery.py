"""Everything that leaves for others by itself: the MQTT bridge and the webhooks of an agent, over one outbox.

Joins the parts: what the broker is shown comes from the agent, events from the alert store. Nothing here keeps a frame or a
question waiting.
"""

import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from agent.alerts.outbox import MQTT, webhook_sink
from agent.alerts.webhooks import Webhook
from agent.metrics import Reader, Reading
from agent.mqtt.asking import Asking
from agent.mqtt.bridge import Bridge
from agent.mqtt.session import Desk
from agent.mqtt.state import CameraStatus, CameraView, Marks, MemoryView
from agent.mqtt.topics import Topics
from agent.runtime.supervisor import Work

if TYPE_CHECKING:
    from agent.app import Agent


class Delivery:
    """See the module. Made before the agent runs: it tells the alert store which sinks there are."""

    def __init__(self, agent: "Agent") -> None:
        settings = agent.settings
        self._agent = agent
        self._rates: dict[str, tuple[float, int]] = {}  # camera -> (unix seconds, frames remembered until then)
        self.bridge = None if settings.mqtt.url is None else Bridge(self._desk())
        self.webhooks = [
            Webhook(name, each, agent.alert_store, agent.clock) for name, each in settings.webhooks.items()
        ]
        agent.alert_store.sinks = (*((MQTT,) if self.bridge else ()), *map(webhook_sink, settings.webhooks))
        if self.bridge is not None and settings.mqtt.snapshots:
            topics = Topics(settings.mqtt.prefix)
            agent.alerts.watcher.recorder.image_topic = topics.snapshot
        agent.metrics.watch(self._readers())

    def tasks(self) -> list[tuple[str, Work]]:
        """What runs as long as the agent does, by name. Each may be run again after a failure."""
        parts: list[tuple[str, Work]] = [(webhook.sink, webhook.run) for webhook in self.webhooks]
        return parts if self.bridge is None else [(MQTT, self.bridge.run), *parts]

    def problems(self) -> dict[str, str | None]:
        """By part: what an operator should know; None: all is well. The agent is ready all the same."""
        parts: dict[str, str | None] = {webhook.sink: webhook.problem for webhook in self.webhooks}
        return parts if self.bridge is None else {MQTT: self.bridge.problem, **parts}

    # --- what the broker is shown ---

    def _desk(self) -> Desk:
        agent = self._agent
        return Desk(
            settings=agent.settings.mqtt,
            alert_store=agent.alert_store,
            marks=Marks(agent.alert_store.connection, agent.alert_store.lock),
            rules=agent.alerts.watcher,
            cameras=self._cameras,
            memories=self._memories,
            clock=agent.clock,
            version=_version(),
            health=self._health,
            asking=self._asking() if agent.settings.mqtt.allow_ask else None,
        )

    def _health(self) -> bytes:
        return json.dumps(self._agent.state.health().private(), sort_keys=True).encode()

    def _asking(self) -> Asking:
        agent = self._agent
        return Asking(
            Topics(agent.settings.mqtt.prefix),
            agent.answering,
            existing=agent.existing,
            zone_of=agent.zone_of,
            sign=lambda path: agent.alerts.watcher.recorder.link(path),
            model=str(agent.model_card()["id"]),
        )

    def _cameras(self) -> Iterator[CameraView]:
        for camera in self._agent.cameras():
            yield CameraView(camera, self._status(camera))

    def _status(self, camera: str) -> CameraStatus:
        if not self._agent.settings.camera(camera).enabled:
            return "disabled"
        return "online" if self._agent.state.camera(camera) == "live" else "offline"

    def _memories(self, now: float) -> Iterator[MemoryView]:
        cameras = self._agent.cameras()
        for gone in set(self._rates) - set(cameras):
            del self._rates[gone]
        for camera in cameras:
            stats, intake = self._agent.store.stats(camera), self._agent.intakes.get(camera)
            remembered = 0 if intake is None else intake.counters.remembered
            since, before = self._rates.get(camera, (now, remembered))
            self._rates[camera] = (now, remembered)
            rate = (remembered - before) / (now - since) if now > since else 0.0
            yield MemoryView(camera, stats.frames, stats.oldest, stats.newest, round(rate, 3))

    # --- metrics ---

    def _readers(self) -> list[Reader]:
        return [
            Reader("vilamp_mqtt_connected", "1 while the broker has accepted the connection.", (), self._connected),
            Reader("vilamp_mqtt_connections_total", "Connections that the broker accepted.", (), self._connections),
            Reader("vilamp_mqtt_refused_total", "What was not done over MQTT.", ("reason",), self._refused),
            Reader("vilamp_outbox_entries", "Events that wait for their sink.", ("stage",), self._waiting),
            Reader("vilamp_outbox_dropped_total", "Events given up.", ("stage", "reason"), self._dropped),
            Reader("vilamp_webhook_delivered_total", "Events that a webhook took.", ("stage",), self._taken),
        ]

    def _connected(self) -> list[Reading]:
        return [] if self.bridge is None else [({}, float(self.bridge.status.connected))]

    def _connections(self) -> list[Reading]:
        return [] if self.bridge is None else [({}, float(self.bridge.status.num_connections))]

    def _refused(self) -> list[Reading]:
        if self.bridge is None:
            return []
        desk = self.bridge.desk
        counts = desk.counts + desk.asking.num_ignored if desk.asking is not None else desk.counts
        return [({"reason": reason}, float(count)) for reason, count in dict(counts).items()]

    def _waiting(self) -> list[Reading]:
        alert_store = self._agent.alert_store
        with alert_store.lock:
            return [({"stage": sink}, float(alert_store.outbox.count(sink))) for sink in alert_store.sinks]

    def _dropped(self) -> list[Reading]:
        dropped = dict(self._agent.alert_store.outbox.num_dropped)
        return [({"stage": sink, "reason": reason}, float(count)) for (sink, reason), count in dropped.items()]

    def _taken(self) -> list[Reading]:
        return [({"stage": webhook.sink}, float(webhook.num_delivered)) for webhook in self.webhooks]


def _version() -> str:
    try:
        return version("vilamp-live")
    except PackageNotFoundError:  # run from a folder, not installed
        return "0"
