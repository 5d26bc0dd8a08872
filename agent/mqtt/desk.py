"""Open the MQTT bridge of an agent: what it shows the broker of cameras, memory and health, and whom it asks."""

import json
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from agent.alerts.store import AlertStore
from agent.alerts.watcher import Watcher
from agent.ask.answer import Answering
from agent.health import HealthChecks
from agent.ingest.cameras import Cameras
from agent.metrics import Metrics, Reader, Reading
from agent.mqtt.asking import Asking
from agent.mqtt.bridge import Bridge
from agent.mqtt.session import Desk
from agent.mqtt.state import CameraView, Marks, MemoryView
from agent.mqtt.topics import Topics
from agent.settings.settings import Settings
from memory.store import MemoryStore


def open_bridge(
    settings: Settings,
    store: MemoryStore,
    alert_store: AlertStore,
    watcher: Watcher,
    cameras: Cameras,
    answering: Answering,
    health: HealthChecks,
    metrics: Metrics,
    *,
    clock: Callable[[], float],
    model: str,
) -> Bridge | None:
    """Return the bridge, not yet connected; None if no broker is configured. `model`: its name, given with answers."""
    if settings.mqtt.url is None:
        return None
    topics = Topics(settings.mqtt.prefix)
    asking = Asking(
        topics,
        answering,
        existing=cameras.existing,
        zone_of=cameras.zone_of,
        sign=lambda path: watcher.recorder.link(path),
        model=model,
    )
    views = _Views(settings, store, cameras)
    bridge = Bridge(
        Desk(
            settings=settings.mqtt,
            alert_store=alert_store,
            marks=Marks(alert_store.connection, alert_store.lock),
            rules=watcher,
            cameras=views.cameras,
            memories=views.memories,
            clock=clock,
            version=_version(),
            health=lambda: json.dumps(health.run().private(), sort_keys=True).encode(),
            asking=asking if settings.mqtt.allow_ask else None,
        )
    )
    if settings.mqtt.snapshots:
        watcher.recorder.image_topic = topics.snapshot
    metrics.watch(_readers(bridge))
    return bridge


class _Views:
    """The state of cameras and memory as the broker's retained messages show it."""

    def __init__(self, settings: Settings, store: MemoryStore, cameras: Cameras) -> None:
        self._settings = settings
        self._store = store
        self._cameras = cameras
        self._rates: dict[str, tuple[float, int]] = {}  # by camera: unix seconds, and frames remembered until then

    def cameras(self) -> Iterator[CameraView]:
        """Yield the view of every camera."""
        for camera in self._cameras.names():
            if not self._settings.camera(camera).enabled:
                yield CameraView(camera, "disabled")
            else:
                yield CameraView(camera, "online" if self._cameras.state(camera) == "live" else "offline")

    def memories(self, now: float) -> Iterator[MemoryView]:
        """Yield what is stored of every camera. Its frame rate is that since the last call. `now`: unix seconds."""
        cameras = self._cameras.names()
        for gone in set(self._rates) - set(cameras):
            del self._rates[gone]
        for camera in cameras:
            stats, intake = self._store.stats(camera), self._cameras.intakes.get(camera)
            remembered = 0 if intake is None else intake.counters.remembered
            since, before = self._rates.get(camera, (now, remembered))
            self._rates[camera] = (now, remembered)
            rate = (remembered - before) / (now - since) if now > since else 0.0
            yield MemoryView(camera, stats.frames, stats.oldest, stats.newest, round(rate, 3))


def _readers(bridge: Bridge) -> list[Reader]:
    def connected() -> list[Reading]:
        return [({}, float(bridge.status.connected))]

    def connections() -> list[Reading]:
        return [({}, float(bridge.status.num_connections))]

    def refused() -> list[Reading]:
        desk = bridge.desk
        counts = desk.counts + desk.asking.num_ignored if desk.asking is not None else desk.counts
        return [({"reason": reason}, float(count)) for reason, count in dict(counts).items()]

    return [
        Reader("vilamp_mqtt_connected", "1 while the broker has accepted the connection.", (), connected),
        Reader("vilamp_mqtt_connections_total", "Connections that the broker accepted.", (), connections),
        Reader("vilamp_mqtt_refused_total", "MQTT requests that were not carried out.", ("reason",), refused),
    ]


def _version() -> str:
    try:
        return version("vilamp-live")
    except PackageNotFoundError:  # run from a folder, not installed
        return "0"
