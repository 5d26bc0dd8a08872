"""The demo's alert rules, and a subscriber that receives their alerts over MQTT.

The rules are chosen from what will come by in the drawn world, so that there are alerts to see; the server gets only
their wording. The world's clock runs fast, so the seconds in the rules are divided by its speed.
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
HORIZON_S = 300.0  # later alerts are printed without the truth
NUM_DRAWS = 8  # draws of kinds and colours to choose the rules from
WARM_S = 45.0  # world seconds in which a gate learns the background
MIN_VIEW_S = 8.0  # shorter visits may end before two verdicts
RETRY_S = 0.3
MAX_PER_MINUTE = 600.0


@dataclass(frozen=True, slots=True)
class Received:
    """A received alert."""

    rule: str
    message: str
    time: float  # unix seconds, of the frame that decided it
    latency_s: float
    picture: Path | None


@dataclass(slots=True)
class Subscriber:
    """The alerts received so far."""

    out: Path
    received: list[Received] = field(default_factory=list)
    num_correct: int = 0
    _pictures: dict[str, bytes] = field(default_factory=dict)

    def receive(self, topic: str, payload: bytes) -> Received | None:
        """Take one MQTT message and return the alert that it begins, if any. Raises OSError when a picture cannot be saved."""
        if topic.endswith("/snapshot"):
            self._pictures[topic] = payload
            return None
        event = json.loads(payload)
        if event["event_type"] == "off":
            return None
        jpeg = self._pictures.get(event["image_topic"] or "")
        path = self.out / f"alert-{len(self.received) + 1}.jpg" if jpeg else None
        if path is not None and jpeg is not None:
            path.write_bytes(jpeg)
        self.received.append(Received(event["rule"], event["message"], event["time"], event["latency_s"], path))
        return self.received[-1]

    def summary(self) -> str:
        """Return one line that counts the alerts."""
        if not self.received:
            return "no alert was received over MQTT"
        with_pictures = sum(alert.picture is not None for alert in self.received)
        return (
            f"alerts received over MQTT: {len(self.received)}, with their picture: {with_pictures} "
            f"({self.out / 'alert-*.jpg'}), right: {self.num_correct}"
        )


def pick_rules(scene: Scene, until: float) -> dict[str, Armed]:
    """Return at most NUM_RULES alert rules by name, about the coloured things that are in view longest before `until`.

    until: a second of the drawn world. Each rule comes with the events for which it should raise an alert, also those
    up to HORIZON_S seconds later.
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
    """Return the part of the server's configuration for alerts: an embedded broker on the port `broker`, and the rules."""
    mqtt = {"url": "embedded", "embedded_port": broker}
    return {"mqtt": mqtt, "rules": {name: rule_config(armed, speed) for name, armed in rules.items()}}


def rules_line(rules: Mapping[str, Armed], broker: int) -> str:
    """Return one line of text with the rules' conditions and the address of the MQTT broker."""
    conditions = ", ".join(f'"{armed.condition}"' for armed in rules.values()) or "none"
    return f"Alert rules: {conditions}; their alerts arrive over MQTT from mqtt://127.0.0.1:{broker}."


def alert_line(alert: Received, truth: tuple[bool, str] | None, world_s: float) -> str:
    """Return one line of text with the alert, and whether it is correct if that is known."""
    picture = f"picture {alert.picture}" if alert.picture else "no picture"
    known = f"; truth: {truth[1]} -> {'right' if truth[0] else 'wrong'}" if truth else ""
    return (
        f"  ALERT  {alert.message}  (world {world_s:.0f} s, {alert.latency_s:.1f} s after the frame; {picture}{known})"
    )


def rule_config(armed: Armed, speed: float) -> dict[str, Any]:
    """Return the rule for the server's configuration, with its seconds divided by the world's `speed`."""
    rule = RuleSettings(condition=armed.condition)
    judge = _faster(rule.judge, speed)
    judge["per_minute"] = min(MAX_PER_MINUTE, rule.judge.per_minute * speed)
    judge["window_s"] = max(1.0, judge["window_s"])  # its lower limit
    return {"condition": rule.condition, "gate": _faster(rule.gate, speed), "judge": judge, **_faster(rule, speed)}


def _faster(settings: Part, speed: float) -> dict[str, Any]:
    """Return those of the settings that are a number of seconds, each divided by `speed`."""
    return {name: getattr(settings, name) / speed for name in type(settings).model_fields if name.endswith("_s")}


def free_port() -> int:
    """Return a free TCP port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def listen(port: int, subscriber: Subscriber, on_alert: Callable[[Received], None]) -> None:
    """Subscribe to all alerts, for ever, and call `on_alert` with each."""
    while True:
        try:
            async with aiomqtt.Client("127.0.0.1", port) as client:
                for end in ("snapshot", "event"):
                    await client.subscribe(f"vilamp/+/alert/+/{end}", qos=1)
                async for message in client.messages:
                    if isinstance(message.payload, bytes) and (
                        received := subscriber.receive(str(message.topic), message.payload)
                    ):
                        on_alert(received)
        except aiomqtt.MqttError:  # the broker has not started yet, or has stopped
            await asyncio.sleep(RETRY_S)


def truth_of(armed: Armed, world_s: float) -> tuple[bool, str]:
    """Return whether an alert about the drawn world's second `world_s` is correct, and a text that says why."""
    about = [event for event in armed.truth.events if event.first_s <= world_s <= event.last_s]
    if about:
        return True, f"in view from world second {about[0].start_s:.0f} on"
    doubtful = any(first <= world_s <= last for first, last in armed.truth.doubtful)
    return doubtful, "in view in part" if doubtful else "not in view"
