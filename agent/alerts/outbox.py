"""The outbox: alert events that are committed and not yet taken by their sink, in order, on disk.

A sink is "mqtt" or "webhook:<name>". An entry is written in the transaction that commits the alert itself, and leaves when
its sink has confirmed it: at least once, in order, over outages and restarts. The payload is kept as bytes, so a duplicate
is the same to the byte. Overload policy: beyond `max_entries` of one sink its oldest entry goes, and is counted.

The connection and its lock belong to the Book (`agent/alerts/book.py`): hold the lock around every call. Nothing here
reads a clock, and nothing knows how an entry is delivered.
"""

import json
import sqlite3
from collections import Counter
from dataclasses import dataclass

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
    """The sink of the webhook `name`: "webhook:pager"."""
    return f"webhook:{name}"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One event on its way to one sink."""

    seq: int  # rising, never used again
    sink: str
    event_id: str
    camera: str
    rule: str
    event_type: str
    payload: bytes  # JSON
    snapshot: bytes | None  # JPEG
    created: float  # unix seconds


class Outbox:
    """A table of the Book's database."""

    def __init__(self, connection: sqlite3.Connection, *, max_entries: int) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries must be at least 1, not {max_entries}")
        self.max_entries = max_entries
        self.num_dropped: Counter[tuple[str, str]] = Counter()  # (sink, reason), since the start of the process
        self._connection = connection
        for statement in filter(str.strip, _TABLE.split(";")):  # executescript would commit what is open
            connection.execute(statement)

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
        """Append one entry. It counts when the caller's transaction commits. Only MQTT takes the picture along."""
        self._connection.execute(
            "INSERT INTO outbox (sink, event_id, camera, rule, event_type, payload, snapshot, created) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (sink, event_id, camera, rule, event_type, payload, snapshot if sink == MQTT else None, now),
        )
        excess = self._connection.execute(
            "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE sink = ? ORDER BY seq DESC LIMIT -1 OFFSET ?)",
            (sink, self.max_entries),
        )
        self.num_dropped[sink, "full"] += excess.rowcount

    def pending(self, sink: str, limit: int = 16) -> list[Outgoing]:
        """The oldest entries of `sink`, in order."""
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM outbox WHERE sink = ? ORDER BY seq LIMIT ?",  # noqa: S608 - a constant
            (sink, limit),
        )
        return [Outgoing(*row) for row in rows]

    def count(self, sink: str) -> int:
        """Entries of `sink` that wait."""
        (number,) = self._connection.execute("SELECT count(*) FROM outbox WHERE sink = ?", (sink,)).fetchone()
        return int(number)

    def done(self, seq: int) -> None:
        """The sink has confirmed this entry. Commits."""
        with self._connection:
            self._connection.execute("DELETE FROM outbox WHERE seq = ?", (seq,))

    def drop(self, entry: Outgoing, reason: str) -> None:
        """Give this entry up, counted by `reason`. Commits."""
        self.done(entry.seq)
        self.num_dropped[entry.sink, reason] += 1

    def erase(self, camera: str, after: float, before: float) -> int:
        """Remove entries of `camera` whose evidence or times touch [after, before]; how many. The caller commits."""
        rows = self._connection.execute("SELECT seq, payload FROM outbox WHERE camera = ?", (camera,)).fetchall()
        touched = [(seq,) for seq, payload in rows if _touches(payload, after, before)]
        self._connection.executemany("DELETE FROM outbox WHERE seq = ?", touched)
        return len(touched)


def _touches(payload: bytes, after: float, before: float) -> bool:
    """True when the time from the event's first evidence to its own overlaps [after, before]."""
    event = json.loads(payload)
    times = [event["start_time"], event["time"], *(frame["time"] for frame in event["frames"])]
    return bool(min(times) <= before and after <= max(times))
