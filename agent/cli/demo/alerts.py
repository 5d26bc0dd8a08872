"""The demo's standing questions: rules about what is going to come by, and a subscriber that waits for their alerts.

The rules are chosen from what the drawn world has in store, so that there is something to tell; the server is told their
words alone. The subscriber is a client of the server's embedded broker like any other. The world's clock runs faster than
ours, so seconds in the rules' settings are shorter by as much.
"""

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import numpy as np

from agent.evaluation.alert_truth import Armed, arm
from agent.settings.rules import RuleSettings
from agent.settings.types import Part
from model.world.scene import Scene

NUM_RULES = 2
HORIZON_S = 300.0  # what comes later is told without its truth
NUM_DRAWS = 8  # of kinds and colours to choose the rules from
WARM_S = 45.0  # seconds of the world in which a gate learns what is usual
MIN_VIEW_S = 8.0  # what is in view for less may be gone before two verdicts
RETRY_S = 0.3
MAX_PER_MINUTE = 600.0


@dataclass(frozen=True, slots=True)
class Told:
    """An alert as it was received."""

    rule: str
    message: str
    time: float  # unix seconds, of the frame that decided it
    latency_s: float
    picture: Path | None


@dataclass(slots=True)
class Ears:
    """What the subscriber has heard."""

    out: Path
    told: list[Told] = field(default_factory=list)
    num_right: int = 0  # of those told
    _pictures: dict[str, bytes] = field(default_factory=dict)

    def hear(self, topic: str, payload: bytes) -> Told | None:
        """One message; the alert that it begins, if any. Raises OSError when the picture cannot be saved."""
        if topic.endswith("/snapshot"):
            self._pictures[topic] = payload
            return None
        event = json.loads(payload)
        if event["event_type"] == "off":
            return None
        jpeg = self._pictures.get(event["image_topic"] or "")
        path = self.out / f"alert-{len(self.told) + 1}.jpg" if jpeg else None
        if path is not None and jpeg is not None:
            path.write_bytes(jpeg)
        self.told.append(Told(event["rule"], event["message"], event["time"], event["latency_s"], path))
        return self.told[-1]

    def summary(self) -> str:
        """One line on all of it."""
        if not self.told:
            return "no alert was received over MQTT"
        with_pictures = sum(told.picture is not None for told in self.told)
        return (
            f"alerts received over MQTT: {len(self.told)}, with their picture: {with_pictures} "
            f"({self.out / 'alert-*.jpg'}), right: {self.num_right}"
        )


def pick_rules(scene: Scene, until: float) -> dict[str, Armed]:
    """At most NUM_RULES rules by name, about a coloured thing each: what is longest in view before world second `until`.

    Their truth reaches HORIZON_S further.
    """
    times = np.arange(0.5, min(until + HORIZON_S, scene.duration_s), 1.0)
    armed = {
        each.condition: each for draw in range(NUM_DRAWS) for each in arm(scene, times, np.random.default_rng(draw))
    }

    def in_view_s(each: Armed) -> float:
        spans = [e.last_s - e.start_s for e in each.truth.events if e.start_s > WARM_S and e.last_s < until]
        return sum(span for span in spans if span > MIN_VIEW_S)

    best: dict[str, Armed] = {}
    for each in sorted(armed.values(), key=in_view_s, reverse=True):
        if each.type.coloured and in_view_s(each) and len(best) < NUM_RULES:
            best.setdefault(each.type.name.replace(" ", "-"), each)
    return best


def alerts_config(rules: Mapping[str, Armed], speed: float, broker: int) -> dict[str, Any]:
    """What the server's configuration says of alerts: an embedded broker on the port `broker`, and the rules."""
    mqtt = {"url": "embedded", "embedded_port": broker}
    return {"mqtt": mqtt, "rules": {name: rule_config(armed, speed) for name, armed in rules.items()}}


def armed_in_words(rules: Mapping[str, Armed], broker: int) -> str:
    """What is watched for, and where it is told."""
    conditions = ", ".join(f'"{armed.condition}"' for armed in rules.values()) or "none"
    return f"Standing questions: {conditions}; their alerts arrive over MQTT from mqtt://127.0.0.1:{broker}."


def told_in_words(told: Told, truth: tuple[bool, str] | None, world_s: float) -> str:
    """An alert on one line, with the truth where it is known."""
    picture = f"picture {told.picture}" if told.picture else "no picture"
    known = f"; truth: {truth[1]} -> {'right' if truth[0] else 'wrong'}" if truth else ""
    return f"  ALERT  {told.message}  (world {world_s:.0f} s, {told.latency_s:.1f} s after the frame; {picture}{known})"


def rule_config(armed: Armed, speed: float) -> dict[str, Any]:
    """The rule as a server's configuration has it, its seconds those of a world that is `speed` times as fast."""
    rule = RuleSettings(condition=armed.condition)
    judge = _faster(rule.judge, speed)
    judge["per_minute"] = min(MAX_PER_MINUTE, rule.judge.per_minute * speed)
    judge["window_s"] = max(1.0, judge["window_s"])  # shorter ones are refused
    return {"condition": rule.condition, "gate": _faster(rule.gate, speed), "judge": judge, **_faster(rule, speed)}


def _faster(settings: Part, speed: float) -> dict[str, Any]:
    """Those settings whose names say that they are seconds, divided by `speed`."""
    return {name: getattr(settings, name) / speed for name in type(settings).model_fields if name.endswith("_s")}


def free_port() -> int:
    """A TCP port of this machine that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def listen(port: int, ears: Ears, tell: Callable[[Told], None]) -> None:
    """Subscribed to every alert at the broker, for ever; `tell` is called as each arrives."""
    while True:
        try:
            async with aiomqtt.Client("127.0.0.1", port) as client:
                for end in ("snapshot", "event"):
                    await client.subscribe(f"vilamp/+/alert/+/{end}", qos=1)
                async for message in client.messages:
                    if isinstance(message.payload, bytes) and (told := ears.hear(str(message.topic), message.payload)):
                        tell(told)
        except aiomqtt.MqttError:  # the broker is not there yet, or no more
            await asyncio.sleep(RETRY_S)


def truth_of(armed: Armed, world_s: float) -> tuple[bool, str]:
    """Is the alert about something that was there at `world_s`, and what was."""
    about = [event for event in armed.truth.events if event.first_s <= world_s <= event.last_s]
    if about:
        return True, f"in view from world second {about[0].start_s:.0f} on"
    doubtful = any(first <= world_s <= last for first, last in armed.truth.doubtful)
    return doubtful, "in view in part" if doubtful else "not in view"
