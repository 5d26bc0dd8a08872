"""What the broker is to hold: every retained message as a function of the present, and which may lie there from before.

`wanted` is pure. `Marks` remembers on disk every topic that may hold one of our retained messages, so that what is no
longer wanted (a deleted rule, an erased picture, a camera that is gone) is cleared even when the broker was away, or the
agent was restarted, in between.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from threading import RLock
from typing import Literal

from agent.alerts.rules import RuleView
from agent.mqtt.topics import OFF, ON, Topics

CameraStatus = Literal["online", "offline", "disabled"]


@dataclass(frozen=True, slots=True)
class CameraView:
    """One camera."""

    camera: str
    status: CameraStatus


@dataclass(frozen=True, slots=True)
class MemoryView:
    """What is remembered of one camera. Times in unix seconds, None while there is no frame."""

    camera: str
    frames: int
    oldest: float | None
    newest: float | None
    ingest_fps: float

    def payload(self) -> bytes:
        """The JSON of the memory topic."""
        plain = {"frames": self.frames, "oldest": self.oldest, "newest": self.newest, "ingest_fps": self.ingest_fps}
        return json.dumps(plain).encode()


def wanted(
    topics: Topics,
    cameras: Iterable[CameraView],
    rules: Iterable[RuleView],
    memories: Iterable[MemoryView],
    now: float,
) -> dict[str, bytes]:
    """Topic -> payload of what the present asks for, without pictures and announcements."""
    return {topic: payload.encode() for topic, payload in _texts(topics, cameras, rules, now)} | {
        topics.memory(memory.camera): memory.payload() for memory in memories
    }


def _texts(
    topics: Topics, cameras: Iterable[CameraView], rules: Iterable[RuleView], now: float
) -> Iterator[tuple[str, str]]:
    for camera in cameras:
        yield topics.camera_status(camera.camera), camera.status
    for rule in rules:
        place = (rule.camera, rule.rule)
        yield topics.state(*place), ON if rule.on else OFF
        yield topics.enabled(*place), ON if rule.enabled else OFF
        yield topics.snooze(*place), f"{rule.snoozed_until:.0f}" if rule.snoozed_until > now else "0"


class Marks:
    """The table of topics. Its connection and lock belong to the AlertStore. Raises sqlite3.Error."""

    def __init__(self, connection: sqlite3.Connection, lock: RLock) -> None:
        self._connection = connection
        self._lock = lock
        with lock:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS mqtt_retained (topic TEXT PRIMARY KEY, note TEXT NOT NULL) STRICT, WITHOUT ROWID"
            )
            self._notes: dict[str, str] = dict(connection.execute("SELECT topic, note FROM mqtt_retained"))

    def topics(self) -> list[str]:
        """Topics that may hold a retained message of ours."""
        return list(self._notes)

    def note(self, topic: str) -> str:
        """What was noted beside `topic`; "" if nothing."""
        return self._notes.get(topic, "")

    def add(self, topic: str, note: str = "") -> None:
        """Before a retained message is published there."""
        if self._notes.get(topic) == note:
            return
        with self._lock, self._connection:
            self._connection.execute("INSERT OR REPLACE INTO mqtt_retained VALUES (?, ?)", (topic, note))
        self._notes[topic] = note

    def remove(self, topic: str) -> None:
        """After the broker has confirmed that it is cleared."""
        with self._lock, self._connection:
            self._connection.execute("DELETE FROM mqtt_retained WHERE topic = ?", (topic,))
        self._notes.pop(topic, None)
