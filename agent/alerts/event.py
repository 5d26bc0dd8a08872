"""The event of an alert that begins or ends, as MQTT, webhooks, `/v1/alerts` and its event stream deliver it.

The payload is built once, when the alert is committed, and stored, so an event that is delivered twice has the same
bytes both times. Field names and units are those of docs/alerts.md. Does not depend on rules, models or receivers.
"""

import json
import secrets
from dataclasses import asdict, dataclass
from typing import Literal
from urllib.parse import urlencode

EventType = Literal["on", "off"]

CLIP_BEFORE_S, CLIP_AFTER_S = 10.0, 5.0
MAX_CLIP_S = 600.0  # at 30 frames a second still below the limit of one export


@dataclass(frozen=True, slots=True)
class EventFrame:
    """A frame that a verdict of the alert is based on."""

    id: int
    time: float  # unix seconds
    url: str  # signed, expires


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """The event that an alert began (`on`) or ended (`off`). Times in unix seconds."""

    event_type: EventType
    id: str  # as `event_id` returns it; the same when the event is delivered twice
    rule: str
    camera: str
    condition: str
    message: str
    start_time: float  # of the first frame judged yes
    time: float  # of the frame that decided it
    end_time: float | None  # None while it is active
    confirmations: tuple[int, int]  # n of the last m verdicts
    score: float  # of the gate at `time`
    model: str
    latency_s: float  # from the frame at `time` to the commit of this event
    frames: tuple[EventFrame, ...]
    clip_url: str  # ZIP of the camera's frames around the alert; signed, expires
    image_topic: str | None  # MQTT topic of the snapshot; None: no snapshot

    def payload(self) -> bytes:
        """Return canonical JSON (sorted keys, no spaces, UTF-8): the same event gives the same bytes."""
        return _canonical(asdict(self))


def new_alert_id() -> str:
    """Return a new random id for an alert."""
    return secrets.token_hex(8)


def event_id(alert_id: str, event_type: EventType) -> str:
    """Return the id of an alert's event: event_id("9f", "on") is "9f-on"."""
    return f"{alert_id}-{event_type}"


def clip_path(camera: str, start_time: float, end_time: float) -> str:
    """Return the URL path and query that export the frames around an alert. A longer clip is cut to its first MAX_CLIP_S.

    clip_path("yard", 1000.0, 1002.0) is "/v1/cameras/yard/export?after=990.000&before=1007.000".
    """
    after = start_time - CLIP_BEFORE_S
    before = min(end_time + CLIP_AFTER_S, after + MAX_CLIP_S)
    return f"/v1/cameras/{camera}/export?" + urlencode({"after": f"{after:.3f}", "before": f"{before:.3f}"})


def shortened(payload: bytes, max_bytes: int) -> bytes | None:
    """Return an event's payload, cut to `max_bytes` by leaving out frames, the oldest first, and last the clip's URL.

    The same arguments give the same bytes. None: the payload is too long even without frames and clip.
    """
    plain = json.loads(payload)
    while len(payload) > max_bytes:
        if plain["frames"]:
            plain["frames"].pop(0)
        elif plain["clip_url"]:
            plain["clip_url"] = ""
        else:
            return None
        payload = _canonical(plain)
    return payload


def _canonical(plain: dict[str, object]) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
