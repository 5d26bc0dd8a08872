"""The outbox: a table of the alert events that are committed but not yet delivered, in order.

A sink is a receiver of every event: "mqtt" or "webhook:<name>". An entry is written in the transaction that commits its
alert and removed when its sink has confirmed it, so every event is delivered at least once and in order, across outages
and restarts. The payload is stored as bytes, so an event that is delivered twice is the same both times. Overload
policy: when a sink has more than `max_entries` entries, its oldest entry is dropped and counted.

Uses the connection and the lock of the alert store (`agent/alerts/store.py`). Does not deliver anything itself.
"""

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from threading import RLock

MQTT = "mqtt"

_TABLE = """
CREATE TABLE IF NOT EXISTS outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    sink TEXT NOT NULL,
    event_id TEXT NOT NULL,
    camera TEXT NOT NULL,
    rule TEXT NOT NULL,
    event_type TEXT NOT NULL,
    payload BLOB NOT NULL,
    snapshot BLOB,
    created REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS outbox_by_sink ON outbox (sink, seq);
"""
_COLUMNS = "seq, sink, event_id, camera, rule, event_type, payload, snapshot, created"


def webhook_sink(name: str) -> str:
    """Return the name of a webhook as a receiver ("sink") of alert events: "webhook:pager" for "pager"."""
    return f"webhook:{name}"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One alert event that waits for delivery to one receiver ("sink")."""

    seq: int  # rising, never reused
    sink: str
    event_id: str
    camera: str
    rule: str
    event_type: str
    payload: bytes  # JSON
    snapshot: bytes | None  # JPEG
    created: float  # unix seconds


class Outbox:
    """The table of the alert events that wait for delivery.

    Thread-safe: every method takes the lock. Every method may raise sqlite3.Error.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        lock: RLock,
        *,
        max_entries: int,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """steady: a function that returns monotonic seconds, with which the ages of entries are measured."""
        if max_entries < 1:
            raise ValueError(f"max_entries must be at least 1, not {max_entries}")
        self.max_entries = max_entries
        self.num_dropped: Counter[tuple[str, str]] = Counter()  # by (sink, reason), since the start of the process
        self._connection, self._lock, self._steady = connection, lock, steady
        self._finished: set[int] = set()  # entries (seq) delivered or dropped, but not yet deleted from the table
        self._added: dict[int, float] = {}  # by seq: when the entry was added, by the steady clock
        for statement in filter(str.strip, _TABLE.split(";")):  # executescript would commit an open transaction
            connection.execute(statement)
        self._newest_at_start = int(connection.execute("SELECT coalesce(max(seq), 0) FROM outbox").fetchone()[0])

    def put(
        self,
        sink: str,
        event_id: str,
        camera: str,
        rule: str,
        event_type: str,
        payload: bytes,
        snapshot: bytes | None,
        now: float,
    ) -> None:
        """Append one event for the receiver `sink`, and drop the oldest of that receiver if there are too many.

        The caller commits.

        The snapshot is stored only for MQTT, as webhooks send none. now: unix seconds.
        """
        with self._lock:
            added = self._connection.execute(
                "INSERT INTO outbox (sink, event_id, camera, rule, event_type, payload, snapshot, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (sink, event_id, camera, rule, event_type, payload, snapshot if sink == MQTT else None, now),
            )
            self._added[added.lastrowid or 0] = self._steady()
            excess = self._connection.execute(
                "DELETE FROM outbox WHERE seq IN "
                "(SELECT seq FROM outbox WHERE sink = ? ORDER BY seq DESC LIMIT -1 OFFSET ?) RETURNING seq",
                (sink, self.max_entries),
            ).fetchall()
            self.num_dropped[sink, "full"] += len(excess)
            self._forget(seq for (seq,) in excess)

    def pending(
        self,
        sink: str,
        limit: int = 16,
        *,
        except_rules: Collection[tuple[str, str]] = (),
        except_seqs: Collection[int] = (),
    ) -> list[Outgoing]:
        """Return the oldest events that wait for the receiver `sink`, in order, at most `limit`.

        Leaves out the entries of the (camera, rule) pairs in `except_rules` and the entries in `except_seqs`.
        """
        with self._lock:
            rows = self._connection.execute(
                f"SELECT {_COLUMNS} FROM outbox WHERE sink = ? "  # noqa: S608 - a constant
                "AND camera || '/' || rule NOT IN (SELECT value FROM json_each(?)) "
                "AND seq NOT IN (SELECT value FROM json_each(?)) ORDER BY seq LIMIT ?",
                (
                    sink,
                    json.dumps(["/".join(each) for each in except_rules]),
                    json.dumps([*except_seqs, *self._finished]),
                    limit,
                ),
            ).fetchall()
        return [Outgoing(*row) for row in rows]

    def next(
        self, sink: str, *, except_rules: Collection[tuple[str, str]] = (), except_seqs: Collection[int] = ()
    ) -> Outgoing | None:
        """Return the oldest event that waits for the receiver `sink`, or None.

        except_rules: (camera, rule) pairs to leave out. except_seqs: entries to leave out.
        """
        found = self.pending(sink, 1, except_rules=except_rules, except_seqs=except_seqs)
        return found[0] if found else None

    def count(self, sink: str) -> int:
        """Return the number of events that wait for delivery to the receiver `sink`."""
        with self._lock:
            (number,) = self._connection.execute("SELECT count(*) FROM outbox WHERE sink = ?", (sink,)).fetchone()
        return int(number)

    def waits(self, sink: str, camera: str, rule: str) -> bool:
        """Return True when an event of `rule` at `camera` waits for delivery to the receiver `sink`."""
        query = "SELECT 1 FROM outbox WHERE sink = ? AND camera = ? AND rule = ? LIMIT 1"
        with self._lock:
            return self._connection.execute(query, (sink, camera, rule)).fetchone() is not None

    def existing(self, seqs: Iterable[int]) -> set[int]:
        """Return those of the entry numbers `seqs` whose entries are still stored."""
        query = "SELECT seq FROM outbox WHERE seq IN (SELECT value FROM json_each(?))"
        with self._lock:
            return {seq for (seq,) in self._connection.execute(query, (json.dumps(list(seqs)),))}

    # --- removing ---

    def done(self, entry: Outgoing) -> None:
        """Remove an event that its receiver has confirmed. Idempotent.

        If the disk fails, the entry stays marked as finished in memory: `pending` skips it, and `tidy` removes it later.
        """
        with self._lock:
            self._finished.add(entry.seq)
        self.tidy()

    def drop(self, entry: Outgoing, reason: str) -> None:
        """Remove an entry that will not be delivered, and count it under `reason`."""
        self.num_dropped[entry.sink, reason] += 1
        self.done(entry)

    def tidy(self) -> None:
        """Remove the finished entries that `done` could not remove because the disk failed."""
        with self._lock:
            for seq in list(self._finished):
                self._connection.execute("DELETE FROM outbox WHERE seq = ?", (seq,))
                self._finished.discard(seq)
                self._forget([seq])

    def erase(self, camera: str, after: float, before: float) -> int:
        """Remove the entries of `camera` whose evidence or times overlap [after, before]. Return how many were removed.

        The caller commits.
        """
        with self._lock:
            rows = self._connection.execute("SELECT seq, payload FROM outbox WHERE camera = ?", (camera,)).fetchall()
            touched = [(seq,) for seq, payload in rows if _touches(payload, after, before)]
            self._connection.executemany("DELETE FROM outbox WHERE seq = ?", touched)
            self._forget(seq for (seq,) in touched)
        return len(touched)

    # --- ages, measured with the steady clock: an entry does not get old when the wall clock is set to another year ---

    def age_s(self, entry: Outgoing, now: float) -> float:
        """Return the seconds since the entry was added.

        For an entry from before this start of the process, the age at the first call is computed with the wall clock,
        `now` (unix seconds); from then on the monotonic clock counts.
        """
        with self._lock:
            return self._steady() - self._added.setdefault(entry.seq, self._guess(entry.created, now))

    def is_age_certain(self, entry: Outgoing) -> bool:
        """Return False for an entry from before this start of the process.

        Its age depends on the wall clock, and a wrong one can make it look old.
        """
        return entry.seq > self._newest_at_start

    def note_ages(self, sink: str, now: float) -> None:
        """Compute and keep the ages of events for the receiver `sink` that an earlier run of the process added.

        now: the current time, unix seconds. From then on the monotonic clock counts, so a later change of the wall
        clock does not matter.
        """
        with self._lock:
            for seq, created in self._connection.execute("SELECT seq, created FROM outbox WHERE sink = ?", (sink,)):
                self._added.setdefault(seq, self._guess(created, now))

    def _guess(self, created: float, now: float) -> float:
        return self._steady() - max(0.0, now - created)

    def _forget(self, seqs: Iterable[int]) -> None:
        for seq in seqs:
            self._added.pop(seq, None)


def _touches(payload: bytes, after: float, before: float) -> bool:
    """Return True when the event concerns the period [after, before], in unix seconds.

    The event covers the time from its first evidence to the event itself. payload: its JSON.
    """
    event = json.loads(payload)
    times = [event["start_time"], event["time"], *(frame["time"] for frame in event["frames"])]
    return bool(min(times) <= before and after <= max(times))
