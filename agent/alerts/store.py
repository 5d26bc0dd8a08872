"""The alert store: one SQLite file with the rules made over REST, switches, rule states, alerts and suppressed alerts.

A switch is what an operator set for a rule at one camera or at all: enabled or disabled, or snoozed until a time.
One transaction commits a rule's new state, its alert and the outbox entries of that alert; an alert is published only
after that commit. A committed row survives a kill of the process at any instant (WAL, synchronous=NORMAL). The tables
of alerts and of suppressed alerts are bounded: beyond the limit the oldest rows are deleted.

Thread-safe: one lock serialises all calls. Reads no wall clock. Does not depend on models, on MQTT, or on the checks
("gates") that decide when the judge, a language model, is asked.
"""

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.alerts.event import AlertEvent
from agent.alerts.outbox import Outbox
from memory.errors import StorageError, make_private, storage_errors

ALERTS_FILE = "alerts.sqlite"
EVERY_CAMERA = "*"  # camera of a switch for all cameras without a switch of their own; "*" is no valid camera name

MAX_OUTBOX = 1000  # events that may wait for each receiver: a day of alerts of a busy site
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS rules (name TEXT PRIMARY KEY, settings TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS switches (
  rule TEXT NOT NULL, camera TEXT NOT NULL, enabled INTEGER, snoozed_until REAL,
  PRIMARY KEY (rule, camera)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS states (
  rule TEXT NOT NULL, camera TEXT NOT NULL, state TEXT NOT NULL,
  PRIMARY KEY (rule, camera)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alerts (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, rule TEXT NOT NULL, camera TEXT NOT NULL,
  start_time REAL NOT NULL, time REAL NOT NULL, end_time REAL, on_event BLOB NOT NULL, off_event BLOB,
  snapshot BLOB) STRICT;
CREATE INDEX IF NOT EXISTS alerts_by_time ON alerts (time);
CREATE INDEX IF NOT EXISTS alerts_with_snapshot ON alerts (rule, camera, seq, id) WHERE snapshot IS NOT NULL;
CREATE TABLE IF NOT EXISTS events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, alert INTEGER NOT NULL REFERENCES alerts (seq) ON DELETE CASCADE,
  event_type TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS events_by_alert ON events (alert);
CREATE TABLE IF NOT EXISTS suppressed (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, rule TEXT NOT NULL, camera TEXT NOT NULL, time REAL NOT NULL,
  reason TEXT NOT NULL, score REAL NOT NULL, frame_id INTEGER) STRICT;
CREATE INDEX IF NOT EXISTS suppressed_by_time ON suppressed (time);
"""
_ALERT_COLUMNS = "seq, id, rule, camera, start_time, time, end_time, on_event, off_event, snapshot IS NOT NULL"
NEWEST_SNAPSHOTS = "SELECT rule, camera, id, max(seq) FROM alerts WHERE snapshot IS NOT NULL GROUP BY rule, camera"
_HELP = "move it away to begin with an empty one: rules made over REST and past alerts are in it"


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that has begun, and perhaps ended. Times in unix seconds."""

    seq: int  # rising, never reused; used as the cursor of paging
    id: str
    rule: str
    camera: str
    start_time: float
    time: float
    end_time: float | None  # None while it is active
    on_event: bytes  # payload of the AlertEvent
    off_event: bytes | None
    has_snapshot: bool


@dataclass(frozen=True, slots=True)
class Event:
    """A committed event of an alert that began or ended."""

    seq: int  # rising in commit order, never reused
    rule: str
    camera: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A suppressed alert, and why it was suppressed. `seq` is 0 until it is stored."""

    rule: str
    camera: str
    time: float  # unix seconds, of the frame
    reason: str
    score: float  # of the gate
    frame_id: int | None = None
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Switch:
    """What an operator set for a rule at one camera, or at all cameras. None: not set here."""

    enabled: bool | None = None
    snoozed_until: float | None = None  # unix seconds


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows of a table to list, newest first. cursor: only rows with a lower `seq`, for the next page."""

    rule: str | None = None
    camera: str | None = None
    after: float | None = None  # unix seconds, both included
    before: float | None = None
    cursor: int | None = None
    limit: int = 100

    def sql(self) -> tuple[str, list[object]]:
        """Return the WHERE, ORDER BY and LIMIT clauses of a SELECT, and the values of their placeholders."""
        terms = {"rule = ?": self.rule, "camera = ?": self.camera, "time >= ?": self.after, "time <= ?": self.before}
        given = {term: value for term, value in {**terms, "seq < ?": self.cursor}.items() if value is not None}
        where = f" WHERE {' AND '.join(given)}" if given else ""
        return f"{where} ORDER BY seq DESC LIMIT ?", [*given.values(), self.limit]


class AlertStore:
    """The alert store of one data folder. Only one process may have it open."""

    def __init__(
        self,
        path: Path,
        *,
        max_alerts: int = 10_000,
        max_suppressed: int = 10_000,
        max_outbox: int = MAX_OUTBOX,
        steady: Callable[[], float] = time.monotonic,
    ):
        """Open or create the file. Raises StorageError when it is damaged or of another version.

        steady: returns monotonic seconds, for the ages of outbox entries.
        """
        self.path = path
        self.lock = threading.RLock()
        self.sinks: tuple[str, ...] = ()  # receivers of every event: "mqtt", "webhook:<name>"
        self._max_alerts, self._max_suppressed = max_alerts, max_suppressed
        self._listeners: list[Callable[[], None]] = []
        make_private(path)
        with _storage_errors(path):
            self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
                self.outbox = Outbox(self.connection, self.lock, max_entries=max_outbox, steady=steady)
            except BaseException:
                self.connection.close()
                raise

    def _prepare(self) -> None:
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = NORMAL")
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.connection.execute("PRAGMA secure_delete = ON")  # overwrites erased pictures in free pages
        if self.connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise StorageError(f"{self.path} is damaged: {_HELP}")
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, _SCHEMA_VERSION):
            raise StorageError(f"{self.path} was written by another version (schema {version}): {_HELP}")
        self.connection.executescript(_SCHEMA)
        self.connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the database. Idempotent."""
        with self.lock:
            self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Context manager: run the block in one transaction, under the lock. Yields the connection. Raises StorageError."""
        with self.lock, _storage_errors(self.path):
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    # --- rules and switches ---

    def rules(self) -> dict[str, dict[str, object]]:
        """Return the settings of every rule made over REST, by name."""
        return {name: json.loads(settings) for name, settings in self._read("SELECT name, settings FROM rules")}

    def put_rule(self, name: str, settings: Mapping[str, object]) -> None:
        """Store a rule, replacing one of the same name."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO rules VALUES (?, ?)", (name, json.dumps(settings)))

    def remove_rule(self, name: str) -> None:
        """Delete the rule and its switches, but not its alerts and its states (see `commit`)."""
        with self.transaction() as db:
            db.execute("DELETE FROM rules WHERE name = ?", (name,))
            db.execute("DELETE FROM switches WHERE rule = ?", (name,))

    def switches(self) -> dict[tuple[str, str], Switch]:
        """Return all switches by (rule, camera); the camera may be EVERY_CAMERA."""
        found = self._read("SELECT rule, camera, enabled, snoozed_until FROM switches")
        return {
            (rule, camera): Switch(None if enabled is None else bool(enabled), until)
            for rule, camera, enabled, until in found
        }

    def put_switches(self, switches: Mapping[tuple[str, str], Switch]) -> None:
        """Store these switches, replacing those with the same keys. A switch in which nothing is set is deleted."""
        with self.transaction() as db:
            for (rule, camera), switch in switches.items():
                if switch == Switch():
                    db.execute("DELETE FROM switches WHERE rule = ? AND camera = ?", (rule, camera))
                else:
                    row = (rule, camera, switch.enabled, switch.snoozed_until)
                    db.execute("INSERT OR REPLACE INTO switches VALUES (?, ?, ?, ?)", row)

    # --- states, alerts and suppressed alerts ---

    def states(self) -> dict[tuple[str, str], dict[str, object]]:
        """Return the committed states of the rules by (rule, camera)."""
        found = self._read("SELECT rule, camera, state FROM states")
        return {(rule, camera): json.loads(state) for rule, camera, state in found}

    def put_states(self, states: Mapping[tuple[str, str], Mapping[str, object]]) -> None:
        """Store these states by (rule, camera), replacing those with the same keys."""
        with self.transaction() as db:
            for (rule, camera), state in states.items():
                self._put_state(db, rule, camera, state)

    def commit(
        self,
        rule: str,
        camera: str,
        state: Mapping[str, object] | None,
        *,
        event: AlertEvent | None = None,
        snapshot: bytes | None = None,
        suppressed: Sequence[Suppressed] = (),
        now: float,
    ) -> None:
        """Store the state (None: delete it), the event with its outbox entries, and the suppressed alerts.

        An `on` event creates the alert, an `off` event ends it: `event.id` is `<alert id>-on` or `-off`. Listeners are
        called after the commit. On StorageError nothing has changed.
        """
        with self.transaction() as db:
            if state is None:
                db.execute("DELETE FROM states WHERE rule = ? AND camera = ?", (rule, camera))
            else:
                self._put_state(db, rule, camera, state)
            if event is not None:
                self._put_event(db, event, snapshot, now)
            for each in suppressed:
                row = (each.rule, each.camera, each.time, each.reason, each.score, each.frame_id)
                db.execute(
                    "INSERT INTO suppressed (rule, camera, time, reason, score, frame_id) VALUES (?,?,?,?,?,?)", row
                )
            if suppressed:
                _cut(db, "suppressed", self._max_suppressed)
        if event is not None or suppressed:
            for listener in self._listeners:
                listener()

    def listen(self, notify: Callable[[], None]) -> None:
        """Have `notify` called after every commit of an alert event or suppressed alert, in the thread that commits."""
        self._listeners.append(notify)

    @contextmanager
    def waking(self, event: asyncio.Event) -> Iterator[None]:
        """Context manager: inside the block, each commit of an alert event or suppressed alert sets the asyncio `event`."""
        loop = asyncio.get_running_loop()

        def notify() -> None:
            loop.call_soon_threadsafe(event.set)

        self._listeners.append(notify)
        try:
            yield
        finally:
            self._listeners.remove(notify)

    def _put_state(self, db: sqlite3.Connection, rule: str, camera: str, state: Mapping[str, object]) -> None:
        db.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?)", (rule, camera, json.dumps(state)))

    def _put_event(self, db: sqlite3.Connection, event: AlertEvent, snapshot: bytes | None, now: float) -> None:
        alert_id, payload = event.id.rpartition("-")[0], event.payload()
        if event.event_type == "on":
            db.execute(
                "INSERT INTO alerts (id, rule, camera, start_time, time, on_event, snapshot) VALUES (?,?,?,?,?,?,?)",
                (alert_id, event.rule, event.camera, event.start_time, event.time, payload, snapshot),
            )
            _cut(db, "alerts", self._max_alerts)
        else:
            db.execute(
                "UPDATE alerts SET end_time = ?, off_event = ? WHERE id = ?", (event.end_time, payload, alert_id)
            )
        db.execute(
            "INSERT INTO events (alert, event_type) SELECT seq, ? FROM alerts WHERE id = ?",
            (event.event_type, alert_id),
        )
        for sink in self.sinks:
            self.outbox.put(sink, event.id, event.camera, event.rule, event.event_type, payload, snapshot, now)

    # --- reading ---

    def alerts(self, wanted: Filter) -> list[Alert]:
        """Return the wanted alerts, newest first; the `seq` of the last one is the cursor of the next page."""
        end, values = wanted.sql()
        return [_alert(row) for row in self._read(f"SELECT {_ALERT_COLUMNS} FROM alerts{end}", values)]  # noqa: S608

    def alert(self, alert_id: str) -> Alert | None:
        """Return the alert with that id, or None."""
        found = self._read(f"SELECT {_ALERT_COLUMNS} FROM alerts WHERE id = ?", [alert_id])  # noqa: S608
        return _alert(found[0]) if found else None

    def snapshot(self, alert_id: str) -> bytes | None:
        """Return the alert's picture (JPEG), or None."""
        found = self._read("SELECT snapshot FROM alerts WHERE id = ?", [alert_id])
        return found[0][0] if found else None

    def newest_snapshots(self) -> dict[tuple[str, str], str]:
        """Return the id of the newest alert with a picture, by (rule, camera)."""
        return {(rule, camera): alert_id for rule, camera, alert_id, _ in self._read(NEWEST_SNAPSHOTS)}

    def events(self, after_seq: int, limit: int = 100) -> list[Event]:
        """Return the events with a `seq` above `after_seq`, in order, at most `limit`. Those of erased alerts are gone."""
        joined = (
            "SELECT events.seq, alerts.rule, alerts.camera, CASE event_type WHEN 'on' THEN on_event ELSE off_event END "
            "FROM events JOIN alerts ON alerts.seq = events.alert WHERE events.seq > ? ORDER BY events.seq LIMIT ?"
        )
        return [Event(*row) for row in self._read(joined, [after_seq, limit])]

    def newest_event(self) -> int:
        """Return the `seq` of the newest event; 0 if there is none."""
        return int(self._read("SELECT coalesce(max(seq), 0) FROM events")[0][0])

    def suppressed(self, wanted: Filter) -> list[Suppressed]:
        """Return the wanted suppressed alerts, newest first; paged like `alerts`."""
        end, values = wanted.sql()
        columns = "rule, camera, time, reason, score, frame_id, seq"
        return [Suppressed(*row) for row in self._read(f"SELECT {columns} FROM suppressed{end}", values)]  # noqa: S608

    def erase(self, camera: str, after: float, before: float) -> int:
        """Delete the alerts (with pictures), suppressed alerts and outbox entries of `camera` that overlap [after,
        before]. Return the number of deleted alerts."""
        with self.transaction() as db:
            gone = db.execute(
                "DELETE FROM alerts WHERE camera = ? AND start_time <= ? AND coalesce(end_time, time) >= ?",
                (camera, before, after),
            )
            db.execute("DELETE FROM suppressed WHERE camera = ? AND time BETWEEN ? AND ?", (camera, after, before))
            self.outbox.erase(camera, after, before)
            return gone.rowcount

    def _read(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self.lock, _storage_errors(self.path):
            return self.connection.execute(query, values).fetchall()


def _alert(row: tuple[Any, ...]) -> Alert:
    return replace(Alert(*row), has_snapshot=bool(row[-1]))


def _cut(db: sqlite3.Connection, table: str, limit: int) -> None:
    """Delete all rows of the table but the newest `limit`."""
    db.execute(
        f"DELETE FROM {table} WHERE seq <= (SELECT seq FROM {table} ORDER BY seq DESC LIMIT 1 OFFSET ?)",  # noqa: S608
        (limit,),
    )


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        with storage_errors(path, "read or write it", damage_help=_HELP):
            yield
    except sqlite3.Error as error:  # a constraint, or a closed store
        raise StorageError(f"{path}: {error}") from error


def erase_from_alerts(alert_store: AlertStore) -> Callable[[str, float, float], int]:
    """Return a function for `agent.keep.erasing.Erasing` that erases a camera's alerts and overwrites them in the file.
    It takes (camera, after, before) and returns the number of erased alerts."""

    def erase(camera: str, after: float, before: float) -> int:
        count = alert_store.erase(camera, after, before)
        with alert_store.lock, storage_errors(alert_store.path, "erase in it"):
            alert_store.connection.execute("VACUUM")  # removes the copies of rows that page splits left behind
            busy = alert_store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise OSError(f"{alert_store.path}: another connection is reading")
        return count

    return erase
