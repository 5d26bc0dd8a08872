"""The outbox: order, bounds, transactions and erasing, on a real database file."""

import json
import sqlite3
from pathlib import Path
from threading import RLock

import pytest

from agent.alerts.outbox import MQTT, Outbox, webhook_sink


@pytest.fixture
def connection(tmp_path: Path) -> sqlite3.Connection:
    return sqlite3.connect(tmp_path / "outbox.sqlite", isolation_level=None)


def opened(connection: sqlite3.Connection, max_entries: int) -> Outbox:
    return Outbox(connection, RLock(), max_entries=max_entries)


def payload(time: float, start: float | None = None, frames: tuple[float, ...] = ()) -> bytes:
    event = {
        "start_time": time if start is None else start,
        "time": time,
        "frames": [{"time": each} for each in frames],
    }
    return json.dumps(event).encode()


def fill(outbox: Outbox, count: int, sink: str = MQTT, camera: str = "yard") -> None:
    for n in range(count):
        outbox.put(sink, f"a{n}-on", camera, "bag", "on", payload(100.0 + n), b"jpeg", 100.0 + n)


def ids(outbox: Outbox, sink: str = MQTT) -> list[str]:
    return [entry.event_id for entry in outbox.pending(sink, 1000)]


def test_entries_keep_their_order(connection: sqlite3.Connection) -> None:
    outbox = opened(connection, 100)
    fill(outbox, 5)
    first, second = outbox.pending(MQTT, 2)
    assert (first.event_id, second.event_id) == ("a0-on", "a1-on")
    assert (first.camera, first.rule, first.event_type, first.created) == ("yard", "bag", "on", 100.0)
    assert (first.payload, first.snapshot) == (payload(100.0), b"jpeg")
    outbox.done(first)
    outbox.done(first)  # confirmed twice
    assert ids(outbox) == ["a1-on", "a2-on", "a3-on", "a4-on"]
    assert outbox.count(MQTT) == 4


def test_sequence_numbers_are_never_reused(connection: sqlite3.Connection) -> None:
    outbox = opened(connection, 100)
    fill(outbox, 2)
    entries = outbox.pending(MQTT)
    for entry in entries:
        outbox.done(entry)
    fill(outbox, 1)
    assert outbox.pending(MQTT)[0].seq > max(entry.seq for entry in entries)


def test_sinks_are_independent(connection: sqlite3.Connection) -> None:
    outbox = opened(connection, 3)
    pager = webhook_sink("pager")
    fill(outbox, 2, pager)
    fill(outbox, 5)
    assert ids(outbox, pager) == ["a0-on", "a1-on"]
    assert ids(outbox) == ["a2-on", "a3-on", "a4-on"]  # the oldest were dropped beyond three
    assert outbox.num_dropped == {(MQTT, "full"): 2, (pager, "full"): 0}
    assert outbox.pending(pager)[0].snapshot is None  # webhooks send no picture


def test_a_rolled_back_entry_does_not_exist(connection: sqlite3.Connection) -> None:
    outbox = opened(connection, 10)
    connection.execute("BEGIN IMMEDIATE")
    fill(outbox, 1)
    connection.execute("ROLLBACK")
    assert ids(outbox) == []


def test_committed_entries_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    before = sqlite3.connect(path, isolation_level=None)
    fill(opened(before, 10), 3)
    outbox = opened(before, 10)
    outbox.done(outbox.pending(MQTT)[0])
    before.close()
    after = opened(sqlite3.connect(path, isolation_level=None), 10)
    assert ids(after) == ["a1-on", "a2-on"]
    assert after.pending(MQTT)[0].payload == payload(101.0)


def test_dropped_entries_are_counted(connection: sqlite3.Connection) -> None:
    outbox = opened(connection, 10)
    fill(outbox, 2)
    outbox.drop(outbox.pending(MQTT)[0], "expired")
    assert ids(outbox) == ["a1-on"]
    assert outbox.num_dropped[MQTT, "expired"] == 1


def test_erasing_removes_events_whose_evidence_or_times_touch_the_period(connection: sqlite3.Connection) -> None:
    outbox = opened(connection, 10)
    for event_id, camera, event in (
        ("before", "yard", payload(99.0)),
        ("inside", "yard", payload(100.0)),
        ("lasting", "yard", payload(130.0, start=105.0)),
        ("evidence", "yard", payload(140.0, frames=(104.0, 139.0))),
        ("after", "yard", payload(131.0)),
        ("elsewhere", "gate", payload(100.0)),
    ):
        outbox.put(MQTT, event_id, camera, "bag", "on", event, None, 0.0)
    assert outbox.erase("yard", 100.0, 110.0) == 3
    assert ids(outbox) == ["before", "after", "elsewhere"]


def test_a_limit_below_one_is_refused(connection: sqlite3.Connection) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        opened(connection, 0)
