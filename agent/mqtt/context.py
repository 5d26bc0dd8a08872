"""What all connections to the broker share: what is shown there, who answers, and what was learnt about the broker."""

import asyncio
import json
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import Literal, Protocol

from agent.alerts.rules import RuleView
from agent.alerts.store import AlertStore
from agent.mqtt.asking import Asking
from agent.mqtt.publisher import Notes, Refusals
from agent.settings.mqtt import MqttSettings

log = logging.getLogger(__name__)

CameraStatus = Literal["online", "offline", "disabled"]


@dataclass(frozen=True, slots=True)
class CameraView:
    """A camera and its status."""

    camera: str
    status: CameraStatus


@dataclass(frozen=True, slots=True)
class MemoryView:
    """The numbers of one camera's memory. Times in unix seconds, None while there is no frame."""

    camera: str
    frames: int
    oldest: float | None
    newest: float | None
    ingest_fps: float

    def payload(self) -> bytes:
        """Return the JSON of the memory topic."""
        plain = {"frames": self.frames, "oldest": self.oldest, "newest": self.newest, "ingest_fps": self.ingest_fps}
        return json.dumps(plain).encode()


class Rules(Protocol):
    """The rules, as MQTT shows and switches them. Every call may block, and may raise Problem or StorageError."""

    def views(self) -> Sequence[RuleView]:
        """Every rule at every camera it watches."""

    def set_enabled(self, rule: str, camera: str, enabled: bool) -> None:
        """Enable or disable a rule at a camera."""

    def snooze(self, rule: str, camera: str, until: float) -> None:
        """Let no alert begin before `until` (unix seconds); a past time ends the snooze."""


class RetainedTopics:
    """The topics that may hold a retained message of ours, with a note each, in the alert store's database.

    With this table a retained message that is no longer wanted (a removed rule, an erased picture, a camera that is gone)
    is cleared even after the broker was away or the agent restarted. Raises sqlite3.Error.
    """

    def __init__(self, connection: sqlite3.Connection, lock: RLock) -> None:
        self._connection = connection
        self._lock = lock
        with lock:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS mqtt_retained (topic TEXT PRIMARY KEY, note TEXT NOT NULL) "
                "STRICT, WITHOUT ROWID"
            )
            self._notes: dict[str, str] = dict(connection.execute("SELECT topic, note FROM mqtt_retained"))

    def topics(self) -> list[str]:
        """Return all topics of the table."""
        return list(self._notes)

    def note(self, topic: str) -> str:
        """Return the note of `topic`, or ""."""
        return self._notes.get(topic, "")

    def add(self, topic: str, note: str = "") -> None:
        """Add a topic; call it before a retained message is published there."""
        if self._notes.get(topic) == note:
            return
        with self._lock, self._connection:
            self._connection.execute("INSERT OR REPLACE INTO mqtt_retained VALUES (?, ?)", (topic, note))
        self._notes[topic] = note

    def remove(self, topic: str) -> None:
        """Remove a topic; call it after the broker has confirmed that the message is cleared."""
        with self._lock, self._connection:
            self._connection.execute("DELETE FROM mqtt_retained WHERE topic = ?", (topic,))
        self._notes.pop(topic, None)


@dataclass(slots=True)
class Context:
    """The agent's side of the MQTT connection. It outlives every single connection."""

    settings: MqttSettings
    alert_store: AlertStore
    retained: RetainedTopics
    rules: Rules
    cameras: Callable[[], Iterable[CameraView]]
    memories: Callable[[float], Iterable[MemoryView]]  # at unix seconds
    clock: Callable[[], float]
    version: str
    asking: Asking | None = None
    health: Callable[[], bytes] | None = None  # returns the JSON of the health topic; reads files
    counts: Counter[str] = field(default_factory=Counter)  # what was not done, by reason
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    refusals: Refusals = field(default_factory=Refusals)
    held: dict[tuple[str, str], float] = field(default_factory=dict)  # (camera, rule) -> not tried until (monotonic)
    aside: dict[int, tuple[float, str]] = field(default_factory=dict)  # seq -> not tried until (monotonic), its note
    ended_early: bool = False  # the last connection ended during its first turn, perhaps over a message that came in
    storage_problem: str | None = None  # in words for an operator
    notes: Notes = field(init=False)
    _refused: str | None = None  # by the disk, in this turn

    def __post_init__(self) -> None:
        self.notes = Notes(self.counts)

    @property
    def problem(self) -> str | None:
        """What is wrong besides the connection, in words, or None."""
        late = f"{len(self.aside)} alert events wait: the broker does not accept them; " if self.aside else ""
        first = self.storage_problem or self.notes.first
        return late + first if first else late.removesuffix("; ") or None

    def disk_refuses(self, error: Exception) -> None:
        """Note that the disk refused to write in this turn."""
        self._refused = f"MQTT deliveries cannot be recorded: {error}"
        log.warning("mqtt: the disk refuses", extra={"error": str(error)})

    @contextmanager
    def turn(self) -> Iterator[None]:
        """After the block, set `storage_problem` to what the disk refused inside it, or None."""
        self._refused = None
        yield
        self.storage_problem = self._refused
