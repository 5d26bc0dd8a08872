"""An alert event as others receive it: over MQTT, webhooks, `/v1/alerts` and its stream.

The payload is made once, when the alert is committed, and kept; whoever sends it twice sends the same bytes. Field
names and units are those of docs/alerts.md. Does not know rules, models, or where an event goes.
"""

import json
import secrets
from dataclasses import dataclass
from typing import Literal

EventType = Literal["on", "off"]


@dataclass(frozen=True, slots=True)
class EventFrame:
    """A frame that the verdict rests on."""

    id: int
    time: float  # unix seconds
    url: str  # signed, expires


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """An alert began (`on`) or ended (`off`). Times in unix seconds."""

    event_type: EventType
    id: str  # what a consumer tells duplicates by: see `event_id`
    rule: str
    camera: str
    condition: str
    message: str
    start_time: float  # of the first frame that spoke for the condition
    time: float  # of the frame with which it was decided
    end_time: float | None  # None while it lasts
    confirmations: tuple[int, int]  # n of the last m verdicts
    score: float  # of the gate at `time`
    model: str
    latency_s: float  # from the frame at `time` to the commit of this event
    frames: tuple[EventFrame, ...]
    clip_url: str  # what the camera showed around it, as a ZIP; signed, expires
    image_topic: str | None  # where the snapshot goes over MQTT; None: there is none

    def payload(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8. The same event gives the same bytes."""
        plain = {
            "event_type": self.event_type,
            "id": self.id,
            "rule": self.rule,
            "camera": self.camera,
            "condition": self.condition,
            "message": self.message,
            "start_time": self.start_time,
            "time": self.time,
            "end_time": self.end_time,
            "confirmations": list(self.confirmations),
            "score": self.score,
            "model": self.model,
            "latency_s": self.latency_s,
            "frames": [{"id": frame.id, "time": frame.time, "url": frame.url} for frame in self.frames],
            "clip_url": self.clip_url,
            "image_topic": self.image_topic,
        }
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")


def new_alert_id() -> str:
    """An id for an alert, never given before."""
    return secrets.token_hex(8)


def event_id(alert_id: str, event_type: EventType) -> str:
    """The id of an alert's event: event_id("9f", "on") = "9f-on"."""
    return f"{alert_id}-{event_type}"


def shortened(payload: bytes, max_bytes: int) -> bytes | None:
    """An event's payload within `max_bytes`: without its links where they do not fit, the oldest frame first, the clip last.

    The same payload and limit give the same bytes. None: it does not fit without them either.
    """
    plain = json.loads(payload)
    while len(payload) > max_bytes:
        if plain["frames"]:
            plain["frames"].pop(0)
        elif plain["clip_url"]:
            plain["clip_url"] = ""
        else:
            return None
        payload = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    return payload
