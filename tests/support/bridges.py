"""An MQTT bridge over a real alert store, without cameras and a model."""

import asyncio
import io
import json
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiomqtt
import jsonschema
import numpy as np
from PIL import Image

from agent.alerts.event import AlertEvent, EventFrame, EventType
from agent.alerts.rules import RuleView
from agent.alerts.store import AlertStore
from agent.errors import NotFound
from agent.mqtt.bridge import Bridge
from agent.mqtt.context import CameraView, Context, MemoryView, RetainedTopics
from agent.settings.mqtt import MqttSettings
from tests.support.agents import START
from tests.support.events import EVENT
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
RULE = "vilamp/yard/alert/bag"  # begins the topics of the rule that is there from the start
QUICK = (0.05, 0.2)


def jpeg(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def event(number: int, kind: EventType = "on", rule: str = "bag", camera: str = "yard") -> AlertEvent:
    """Make event `kind` of alert `number`; alerts are one second apart."""
    at = START + number
    return replace(
        EVENT,
        event_type=kind,
        id=f"a{number}-{kind}",
        rule=rule,
        camera=camera,
        message=f"{camera}: a bag is left by the door",
        start_time=at - 1,
        time=at,
        end_time=at if kind == "off" else None,
        frames=(EventFrame(number + 1, at, f"http://127.0.0.1:8080/v1/frames/{number + 1}.jpg?exp=1&sig=x"),),
        clip_url=f"http://127.0.0.1:8080/v1/cameras/{camera}/export?after={at - 11:.3f}&before={at + 5:.3f}&exp=1&sig=x",
        image_topic=f"vilamp/{camera}/alert/{rule}/snapshot",
    )


def commit(alert_store: AlertStore, each: AlertEvent, picture: bytes | None = None) -> None:
    alert_store.commit(each.rule, each.camera, {}, event=each, snapshot=picture, now=each.time)


class Shelf:
    """Rules kept in memory."""

    def __init__(self, *rules: RuleView) -> None:
        self.rules = {(view.rule, view.camera): view for view in rules}

    def views(self) -> list[RuleView]:
        return list(self.rules.values())

    def set_enabled(self, rule: str, camera: str, enabled: bool) -> None:
        self._change(rule, camera, enabled=enabled)

    def snooze(self, rule: str, camera: str, until: float) -> None:
        self._change(rule, camera, snoozed_until=until)

    def _change(self, rule: str, camera: str, **changes: Any) -> None:
        if (rule, camera) not in self.rules:
            raise NotFound(f"There is no rule '{rule}' at camera '{camera}'.")
        self.rules[rule, camera] = replace(self.rules[rule, camera], **changes)


class Scene:
    """The state that a bridge publishes. Tests change it and look at the broker."""

    def __init__(self, folder: Path) -> None:
        self.alert_store = AlertStore(folder / "alerts.sqlite")
        self.alert_store.sinks = ("mqtt",)
        self.shelf = Shelf(RuleView("bag", "yard", False, True, 0.0))
        self.cameras = [CameraView("yard", "online"), CameraView("gate", "offline")]
        self.memories = [MemoryView("yard", 3, START, START + 2, 1.0)]

    def context(self, settings: MqttSettings) -> Context:
        return Context(
            settings=settings,
            alert_store=self.alert_store,
            retained=RetainedTopics(self.alert_store.connection, self.alert_store.lock),
            rules=self.shelf,
            cameras=lambda: self.cameras,
            memories=lambda now: self.memories,
            clock=time.time,
            version="0.1.0",
        )


@asynccontextmanager
async def bridged(
    scene: Scene, url: str, *, reannounce_s: tuple[float, float] = (0.0, 0.05), **settings: Any
) -> AsyncIterator[Bridge]:
    """Run a bridge; cancel it at the end, as the agent does."""
    context = scene.context(MqttSettings.model_validate({"url": url, **settings}))
    bridge = Bridge(context, QUICK, reannounce_s=reannounce_s)
    task = asyncio.create_task(bridge.run())
    try:
        yield bridge
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until_subscribed(bridge: Bridge) -> None:
    """Wait until the bridge is connected and has done its first turn, in which it subscribes."""
    await until(lambda: bridge.status.connected and not bridge.context.ended_early)


# --- the documented payloads ---


def documented(prefix: str = "vilamp") -> dict[str, tuple[re.Pattern[str], dict[str, Any] | None]]:
    """Return for each topic of docs/mqtt.md a pattern of its names and the schema of its payload (None: JPEG)."""
    text = (ROOT / "docs" / "mqtt.md").read_text()
    listed = {}
    for topic, payload in re.findall(r"^\| `([^`]+/[^`]+)` \| ([^|]+) \|", text, re.MULTILINE):
        pattern = re.sub(r"<\w+>", "[A-Za-z0-9_.-]+", topic.replace("P/", f"{prefix}/", 1))
        link = re.search(r"\((schemas/[\w-]+\.json)\)", payload)
        schema = json.loads((ROOT / "docs" / link[1]).read_text()) if link else None
        listed[topic] = (re.compile(pattern), schema)
    return listed


def check_documented(messages: Iterable[aiomqtt.Message]) -> set[str]:
    """Assert that docs/mqtt.md lists every message and that payloads match their schemas. Returns the topics seen."""
    listed, seen = documented(), set()
    for message in messages:
        topic, payload = str(message.topic), bytes(message.payload)
        matching = [name for name, (pattern, _) in listed.items() if pattern.fullmatch(topic)]
        assert len(matching) == 1, f"{topic} is documented {len(matching)} times"
        seen.add(matching[0])
        schema = listed[matching[0]][1]
        if schema is None:
            with Image.open(io.BytesIO(payload)) as picture:
                assert picture.format == "JPEG"
            continue
        text = payload.decode()
        value = text if schema.get("type") == "string" else json.loads(text)
        jsonschema.Draft202012Validator(schema).validate(value)
    return seen
