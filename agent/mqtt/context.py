"""What the MQTT sessions of one agent share: access to cameras, rules and answers, and what was learnt about the broker."""

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
    """A camera and its status, as published."""

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
        """Return the numbers as JSON, for the topic of the camera's memory."""
        plain = {"frames": self.frames, "oldest": self.oldest, "newest": self.newest, "ingest_fps": self.ingest_fps}
        return json.dumps(plain).encode()


class Rules(Protocol):
    """The part of the rules that MQTT uses. Every call may block, and may raise Problem or StorageError."""

    def views(self) -> Sequence[RuleView]:
        """Return the state of every rule at every camera that it watches."""

    def set_enabled(self, rule: str, camera: str, enabled: bool) -> None:
        """Enable or disable a rule at a camera."""

    def snooze(self, rule: str, camera: str, until: float) -> None:
        """Snooze a rule at a camera: no alert begins before `until` (unix seconds). A past time ends the snooze."""


class RetainedTopics:
    """A table, in the alert store's database, of the topics on which the broker may hold a retained message of this agent.

    It lets the agent clear a retained message that no longer applies (a removed rule, an erased picture, a removed
    camera) even after the broker was unreachable or the agent restarted. A note may be stored with each topic. Methods
    raise sqlite3.Error.
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
        """Return the text stored with `topic` in the table, or ""."""
        return self._notes.get(topic, "")

    def add(self, topic: str, note: str = "") -> None:
        """Add a topic, or change its note. Call this before publishing a retained message on the topic."""
        if self._notes.get(topic) == note:
            return
        with self._lock, self._connection:
            self._connection.execute("INSERT OR REPLACE INTO mqtt_retained VALUES (?, ?)", (topic, note))
        self._notes[topic] = note

    def remove(self, topic: str) -> None:
        """Remove a topic. Call this after the broker has confirmed that the retained message is cleared."""
        with self._lock, self._connection:
            self._connection.execute("DELETE FROM mqtt_retained WHERE topic = ?", (topic,))
        self._notes.pop(topic, None)


@dataclass(slots=True)
class Context:
    """What the agent passes to every MQTT session, and what has to outlive a session (one connection to the broker)."""

    settings: MqttSettings
    alert_store: AlertStore
    retained: RetainedTopics
    rules: Rules
    cameras: Callable[[], Iterable[CameraView]]
    memories: Callable[[float], Iterable[MemoryView]]  # its argument is the time in unix seconds
    clock: Callable[[], float]
    version: str
    asking: Asking | None = None
    health: Callable[[], bytes] | None = None  # returns the JSON of the health topic; reads files
    counts: Counter[str] = field(default_factory=Counter)  # commands, questions and messages not carried out, by reason
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    refusals: Refusals = field(default_factory=Refusals)
    # events that the broker did not accept are not sent again before a time (monotonic seconds):
    held: dict[tuple[str, str], float] = field(default_factory=dict)  # all events of a (camera, rule)
    aside: dict[int, tuple[float, str]] = field(default_factory=dict)  # single events by seq, with their note's subject
    ended_early: bool = False  # the last session ended in its first turn, perhaps because of an incoming message
    storage_problem: str | None = None  # text for the operator
    notes: Notes = field(init=False)
    _refused: str | None = None  # the disk's error in this turn

    def __post_init__(self) -> None:
        self.notes = Notes(self.counts)

    @property
    def problem(self) -> str | None:
        """What is wrong besides the connection, as text for the operator. None: nothing."""
        late = f"{len(self.aside)} alert events wait: the broker does not accept them; " if self.aside else ""
        first = self.storage_problem or self.notes.first
        return late + first if first else late.removesuffix("; ") or None

    def disk_refuses(self, error: Exception) -> None:
        """Record `error`, a failed write to disk, so that `storage_problem` reports it."""
        self._refused = f"MQTT deliveries cannot be recorded: {error}"
        log.warning("mqtt: the disk refuses", extra={"error": str(error)})

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Context manager for one turn of a session, in which everything that is due is published.

        After the block, `storage_problem` is the last error of the disk inside it, or None.
        """
        self._refused = None
        yield
        self.storage_problem = self._refused
