"""The outbox: alert events that are committed and not yet taken by their sink, in order, on disk.

A sink is "mqtt" or "webhook:<name>". An entry is written in the transaction that commits the alert itself, and leaves when
its sink has confirmed it: at least once, in order, over outages and restarts. The payload is kept as bytes, so a duplicate
is the same to the byte. Overload policy: beyond `max_entries` of one sink its oldest entry goes, and is counted.

The connection and its lock belong to the AlertStore (`agent/alerts/store.py`): hold the lock around every call; a `Sink` does.
Only ages are measured here, by a clock that nobody sets. Nothing here knows how an entry is delivered.
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
    """A table of the AlertStore's database."""

    def __init__(
        self, connection: sqlite3.Connection, *, max_entries: int, steady: Callable[[], float] = time.monotonic
    ) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries must be at least 1, not {max_entries}")
        self.max_entries = max_entries
        self.num_dropped: Counter[tuple[str, str]] = Counter()  # (sink, reason), since the start of the process
        self._connection = connection
        self._steady = steady
        self._since: dict[int, float] = {}  # seq -> when it was put in, by the steady clock
        self._guessed: set[int] = set()  # of these the clock on the wall told it, at the start
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
        added = self._connection.execute(
            "INSERT INTO outbox (sink, event_id, camera, rule, event_type, payload, snapshot, created) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (sink, event_id, camera, rule, event_type, payload, snapshot if sink == MQTT else None, now),
        )
        self._forget([added.lastrowid or 0])
        self._since[added.lastrowid or 0] = self._steady()
        excess = self._connection.execute(
            "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE sink = ? ORDER BY seq DESC LIMIT -1 OFFSET ?) "
            "RETURNING seq",
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
        """The oldest entries of `sink`, in order; without those of some (camera, rule), and without some entries."""
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM outbox WHERE sink = ? "  # noqa: S608 - a constant
            "AND camera || '/' || rule NOT IN (SELECT value FROM json_each(?)) "
            "AND seq NOT IN (SELECT value FROM json_each(?)) ORDER BY seq LIMIT ?",
            (sink, json.dumps(["/".join(each) for each in except_rules]), json.dumps(list(except_seqs)), limit),
        )
        return [Outgoing(*row) for row in rows]

    def age_s(self, entry: Outgoing, now: float) -> float:
        """Seconds since it was put in: by a clock that nobody sets, so that one set to another year makes nothing old.

        Of an entry from before the start of this process the first `now` (unix seconds) tells its age, from then on the
        same clock does.
        """
        if entry.seq not in self._since:
            self._guess(entry.seq, entry.created, now)
        return self._steady() - self._since[entry.seq]

    def is_age_certain(self, entry: Outgoing) -> bool:
        """False for an entry from before the start: a clock set wrong meanwhile would make it old."""
        return entry.seq in self._since and entry.seq not in self._guessed

    def note_ages(self, sink: str, now: float) -> None:
        """Take `now` as the moment by which the entries from before the start are as old as they say."""
        for seq, created in self._connection.execute("SELECT seq, created FROM outbox WHERE sink = ?", (sink,)):
            if seq not in self._since:
                self._guess(seq, created, now)

    def _guess(self, seq: int, created: float, now: float) -> None:
        self._since[seq] = self._steady() - max(0.0, now - created)
        self._guessed.add(seq)

    def _forget(self, seqs: Iterable[int]) -> None:
        for seq in seqs:
            self._since.pop(seq, None)
            self._guessed.discard(seq)

    def count(self, sink: str) -> int:
        """Entries of `sink` that wait."""
        (number,) = self._connection.execute("SELECT count(*) FROM outbox WHERE sink = ?", (sink,)).fetchone()
        return int(number)

    def waits(self, sink: str, camera: str, rule: str) -> bool:
        """True when an event of `rule` at `camera` is there."""
        query = "SELECT 1 FROM outbox WHERE sink = ? AND camera = ? AND rule = ? LIMIT 1"
        return self._connection.execute(query, (sink, camera, rule)).fetchone() is not None

    def existing(self, seqs: Collection[int]) -> set[int]:
        """Which of these entries are still there."""
        chosen = (json.dumps(list(seqs)),)
        found = self._connection.execute("SELECT seq FROM outbox WHERE seq IN (SELECT value FROM json_each(?))", chosen)
        return {seq for (seq,) in found}

    def done(self, seq: int) -> None:
        """The sink has confirmed this entry. Commits."""
        with self._connection:
            self._connection.execute("DELETE FROM outbox WHERE seq = ?", (seq,))
        self._forget([seq])

    def drop(self, entry: Outgoing, reason: str) -> None:
        """Give this entry up, counted by `reason`. Commits."""
        self.done(entry.seq)
        self.num_dropped[entry.sink, reason] += 1

    def erase(self, camera: str, after: float, before: float) -> int:
        """Remove entries of `camera` whose evidence or times touch [after, before]; how many. The caller commits."""
        rows = self._connection.execute("SELECT seq, payload FROM outbox WHERE camera = ?", (camera,)).fetchall()
        touched = [(seq,) for seq, payload in rows if _touches(payload, after, before)]
        self._connection.executemany("DELETE FROM outbox WHERE seq = ?", touched)
        self._forget(seq for (seq,) in touched)
        return len(touched)


class Sink:
    """One sink's end of the outbox. Takes the lock itself; raises sqlite3.Error.

    An entry that was delivered while the disk refuses to note it is remembered here, so that it is not delivered again and
    again: it is removed as soon as the disk lets it.
    """

    def __init__(self, outbox: Outbox, lock: RLock, name: str) -> None:
        self.name = name
        self._outbox = outbox
        self._lock = lock
        self._finished: set[int] = set()  # taken or given up, and not removed yet

    def next(
        self, *, except_rules: Collection[tuple[str, str]] = (), except_seqs: Collection[int] = ()
    ) -> Outgoing | None:
        """The oldest entry that is to be delivered; None: there is none."""
        with self._lock:
            without = {*except_seqs, *self._finished}
            found = self._outbox.pending(self.name, 1, except_rules=except_rules, except_seqs=without)
        return found[0] if found else None

    def existing(self, seqs: Collection[int]) -> set[int]:
        """Which of these entries are still there."""
        with self._lock:
            return self._outbox.existing(seqs)

    def waits(self, camera: str, rule: str) -> bool:
        """True when an event of this rule at this camera is there."""
        with self._lock:
            return self._outbox.waits(self.name, camera, rule)

    def done(self, entry: Outgoing) -> None:
        """It was taken."""
        self._finished.add(entry.seq)
        self.tidy()

    def drop(self, entry: Outgoing, reason: str) -> None:
        """It is given up, counted by `reason`."""
        with self._lock:
            self._outbox.num_dropped[self.name, reason] += 1
        self.done(entry)

    def tidy(self) -> None:
        """Remove what is finished."""
        for seq in list(self._finished):
            with self._lock:
                self._outbox.done(seq)
            self._finished.discard(seq)

    def age_s(self, entry: Outgoing, now: float) -> float:
        """See Outbox."""
        with self._lock:
            return self._outbox.age_s(entry, now)

    def is_age_certain(self, entry: Outgoing) -> bool:
        """See Outbox."""
        with self._lock:
            return self._outbox.is_age_certain(entry)

    def note_ages(self, now: float) -> None:
        """See Outbox."""
        with self._lock:
            self._outbox.note_ages(self.name, now)


def _touches(payload: bytes, after: float, before: float) -> bool:
    """True when the time from the event's first evidence to its own overlaps [after, before]."""
    event = json.loads(payload)
    times = [event["start_time"], event["time"], *(frame["time"] for frame in event["frames"])]
    return bool(min(times) <= before and after <= max(times))
