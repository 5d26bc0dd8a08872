"""The outbox: alert events that are committed and not yet delivered, in order, on disk.

A sink is a receiver of every event: "mqtt" or "webhook:<name>". An entry is written in the transaction that commits its
alert and removed when its sink has confirmed it, so every event is delivered at least once and in order, across outages
and restarts. The payload is stored as bytes: a duplicate is identical. Overload policy: beyond `max_entries` of one sink
its oldest entry is dropped and counted.

Uses the connection and the lock of the alert store (`agent/alerts/store.py`). Does not know how an entry is delivered.
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
    """Return the sink of the webhook `name`: "webhook:pager"."""
    return f"webhook:{name}"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One event on its way to one sink."""

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
    """The outbox table. Any thread may call; every method takes the lock and raises sqlite3.Error."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        lock: RLock,
        *,
        max_entries: int,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """steady: monotonic seconds, by which ages are measured."""
        if max_entries < 1:
            raise ValueError(f"max_entries must be at least 1, not {max_entries}")
        self.max_entries = max_entries
        self.num_dropped: Counter[tuple[str, str]] = Counter()  # by (sink, reason), since the start of the process
        self._connection, self._lock, self._steady = connection, lock, steady
        self._finished: set[int] = set()  # delivered or dropped, but the disk refused to remove them
        self._added: dict[int, float] = {}  # by seq: when it was added, by the steady clock
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
        """Append one entry; the caller commits. The snapshot is kept for MQTT only: webhooks send none."""
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
        """Return the oldest entries of `sink` in order, without those of some (camera, rule) and without some entries."""
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
        """Return the oldest entry of `sink`, or None. Exceptions as for `pending`."""
        found = self.pending(sink, 1, except_rules=except_rules, except_seqs=except_seqs)
        return found[0] if found else None

    def count(self, sink: str) -> int:
        """Return how many entries of `sink` wait."""
        with self._lock:
            (number,) = self._connection.execute("SELECT count(*) FROM outbox WHERE sink = ?", (sink,)).fetchone()
        return int(number)

    def waits(self, sink: str, camera: str, rule: str) -> bool:
        """Return True when an event of `rule` at `camera` waits for `sink`."""
        query = "SELECT 1 FROM outbox WHERE sink = ? AND camera = ? AND rule = ? LIMIT 1"
        with self._lock:
            return self._connection.execute(query, (sink, camera, rule)).fetchone() is not None

    def existing(self, seqs: Iterable[int]) -> set[int]:
        """Return which of these entries are still stored."""
        query = "SELECT seq FROM outbox WHERE seq IN (SELECT value FROM json_each(?))"
        with self._lock:
            return {seq for (seq,) in self._connection.execute(query, (json.dumps(list(seqs)),))}

    # --- removing ---

    def done(self, entry: Outgoing) -> None:
        """Remove an entry that its sink has confirmed. Idempotent.

        When the disk refuses, the entry is remembered as finished: `pending` skips it, and `tidy` removes it later.
        """
        with self._lock:
            self._finished.add(entry.seq)
        self.tidy()

    def drop(self, entry: Outgoing, reason: str) -> None:
        """Remove an entry that is given up, and count it by `reason`."""
        self.num_dropped[entry.sink, reason] += 1
        self.done(entry)

    def tidy(self) -> None:
        """Remove the entries that are finished."""
        with self._lock:
            for seq in list(self._finished):
                self._connection.execute("DELETE FROM outbox WHERE seq = ?", (seq,))
                self._finished.discard(seq)
                self._forget([seq])

    def erase(self, camera: str, after: float, before: float) -> int:
        """Remove entries of `camera` whose evidence or times touch [after, before], and return how many.

        The caller commits.
        """
        with self._lock:
            rows = self._connection.execute("SELECT seq, payload FROM outbox WHERE camera = ?", (camera,)).fetchall()
            touched = [(seq,) for seq, payload in rows if _touches(payload, after, before)]
            self._connection.executemany("DELETE FROM outbox WHERE seq = ?", touched)
            self._forget(seq for (seq,) in touched)
        return len(touched)

    # --- ages, by the steady clock: setting the wall clock to another year makes no entry old ---

    def age_s(self, entry: Outgoing, now: float) -> float:
        """Return the seconds since the entry was added. For one from before the start, `now` (unix seconds) at the
        first call decides; from then on the steady clock counts."""
        with self._lock:
            return self._steady() - self._added.setdefault(entry.seq, self._guess(entry.created, now))

    def is_age_certain(self, entry: Outgoing) -> bool:
        """Return False for an entry from before the start: a wall clock set wrong meanwhile would make it look old."""
        return entry.seq > self._newest_at_start

    def note_ages(self, sink: str, now: float) -> None:
        """Fix the ages of all entries of `sink` from before the start, taking `now` (unix seconds) as correct."""
        with self._lock:
            for seq, created in self._connection.execute("SELECT seq, created FROM outbox WHERE sink = ?", (sink,)):
                self._added.setdefault(seq, self._guess(created, now))

    def _guess(self, created: float, now: float) -> float:
        return self._steady() - max(0.0, now - created)

    def _forget(self, seqs: Iterable[int]) -> None:
        for seq in seqs:
            self._added.pop(seq, None)


def _touches(payload: bytes, after: float, before: float) -> bool:
    """Return True when the time from the event's first evidence to the event itself overlaps [after, before]."""
    event = json.loads(payload)
    times = [event["start_time"], event["time"], *(frame["time"] for frame in event["frames"])]
    return bool(min(times) <= before and after <= max(times))
