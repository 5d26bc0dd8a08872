"""The book of alerts: all or nothing, bounded, erasable, and whole after kill -9. Real SQLite, a real killed child."""

import json
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agent.alerts.store import BOOK_FILE, EVERY_CAMERA, NEWEST_SNAPSHOTS, Book, Filter, Suppressed, Switch
from memory.errors import StorageError
from tests.support.agents import START
from tests.support.events import EVENT

ROOT = Path(__file__).parents[3]
CHILD = """
import os, sys
from pathlib import Path
from tests.agent.alerts.test_alert_book import fire
from agent.alerts.store import Book

book = Book(Path(sys.argv[1]))
book.sinks = ("mqtt",)
number = 0
os.write(1, b"open\\n")
while True:
    number += 1
    fire(book, number)
    os.write(1, f"{number}\\n".encode())
"""


def fire(book: Book, number: int, camera: str = "yard", snapshot: bytes | None = b"jpeg") -> None:
    """Alert `number`, a second after the one before."""
    event = replace(EVENT, id=f"{number}-on", camera=camera, start_time=START + number, time=START + number)
    book.commit("bag", camera, {"number": number}, event=event, snapshot=snapshot, now=START + number)


@pytest.fixture
def book(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = Book(tmp_path / BOOK_FILE, max_alerts=5, max_suppressed=4, max_outbox=100)
    yield made
    made.close()


def test_an_alert_its_state_and_its_outbox_are_one_transaction(book: Book) -> None:
    book.sinks = ("mqtt", "webhook:pager")
    woken = []
    book.listen(lambda: woken.append(len(book.alerts(Filter()))))
    fire(book, 1)
    (alert,) = book.alerts(Filter())
    assert (alert.id, alert.rule, alert.camera, alert.end_time, alert.has_snapshot) == ("1", "bag", "yard", None, True)
    assert book.snapshot("1") == b"jpeg"
    assert book.states() == {("bag", "yard"): {"number": 1}}
    assert [entry.payload for entry in book.outbox.pending("mqtt")] == [alert.on_event]
    assert [entry.event_id for entry in book.outbox.pending("webhook:pager")] == ["1-on"]
    assert woken == [1]


def test_what_fails_changes_nothing(book: Book) -> None:
    book.sinks = ("mqtt",)
    fire(book, 1)
    with pytest.raises(StorageError, match="UNIQUE"):
        book.commit("bag", "yard", {"number": 2}, event=replace(EVENT, id="1-on"), now=START)
    assert book.states() == {("bag", "yard"): {"number": 1}}
    assert len(book.outbox.pending("mqtt")) == 1


def test_an_off_event_ends_its_alert(book: Book) -> None:
    fire(book, 1)
    off = replace(EVENT, event_type="off", id="1-off", end_time=START + 9)
    book.commit("bag", "yard", {}, event=off, now=START + 10)
    alert = book.alert("1")
    assert alert is not None
    assert (alert.end_time, alert.off_event) == (START + 9, off.payload())
    assert book.alert("2") is None


def test_tables_are_bounded_and_the_oldest_go(book: Book) -> None:
    for number in range(1, 9):
        fire(book, number)
        held = Suppressed("bag", "yard", START + number, "cooldown", 5.0, number)
        book.commit("bag", "yard", {}, suppressed=[held], now=START)
    assert [alert.id for alert in book.alerts(Filter())] == ["8", "7", "6", "5", "4"]
    assert [held.frame_id for held in book.suppressed(Filter())] == [8, 7, 6, 5]


def test_lists_are_filtered_and_paged_newest_first(book: Book) -> None:
    for number in range(1, 6):
        fire(book, number, camera="yard" if number % 2 else "gate")
    assert [alert.id for alert in book.alerts(Filter(camera="gate"))] == ["4", "2"]
    assert [alert.id for alert in book.alerts(Filter(after=START + 2, before=START + 4))] == ["4", "3", "2"]
    assert book.alerts(Filter(rule="other")) == []
    page = book.alerts(Filter(limit=2))
    assert [alert.id for alert in page] == ["5", "4"]
    assert [alert.id for alert in book.alerts(Filter(limit=2, cursor=page[-1].seq))] == ["3", "2"]


def test_erasing_takes_alerts_pictures_records_and_the_outbox(book: Book) -> None:
    book.sinks = ("mqtt",)
    held = [Suppressed("bag", "yard", START + n, "cooldown", 5.0) for n in range(1, 4)]
    book.commit("bag", "yard", {}, suppressed=held, now=START)
    for number in range(1, 4):
        fire(book, number)
    fire(book, 9, camera="gate")
    assert book.erase("yard", START + 2, START + 2) == 1
    assert [alert.id for alert in book.alerts(Filter())] == ["9", "3", "1"]
    assert [each.time for each in book.suppressed(Filter())] == [START + 3, START + 1]
    assert book.snapshot("2") is None
    assert "2-on" not in {entry.event_id for entry in book.outbox.pending("mqtt")}


def test_rules_and_switches_survive_and_go_together(tmp_path: Path) -> None:
    path = tmp_path / BOOK_FILE
    first = Book(path)
    first.put_rule("bag", {"condition": "a bag"})
    first.put_switches({("bag", EVERY_CAMERA): Switch(enabled=False), ("bag", "yard"): Switch(snoozed_until=START)})
    first.put_states({("bag", "yard"): {"on": True}, ("cat", "yard"): {}})
    first.close()
    second = Book(path)
    assert second.rules() == {"bag": {"condition": "a bag"}}
    assert second.switches() == {("bag", "*"): Switch(False), ("bag", "yard"): Switch(None, START)}
    second.put_switches({("bag", "yard"): Switch()})
    assert set(second.switches()) == {("bag", "*")}
    second.remove_rule("bag")
    assert (second.rules(), second.switches()) == ({}, {})
    assert set(second.states()) == {("bag", "yard"), ("cat", "yard")}  # whoever watches ends what is on
    second.close()


def test_a_book_that_is_closed_says_so(tmp_path: Path) -> None:
    book = Book(tmp_path / BOOK_FILE)
    book.close()
    for use in (book.rules, lambda: book.put_states({("bag", "yard"): {}})):
        with pytest.raises(StorageError, match="closed"):
            use()


def test_the_newest_pictures_are_found_without_reading_every_alert(book: Book) -> None:
    plan = book.connection.execute(f"EXPLAIN QUERY PLAN {NEWEST_SNAPSHOTS}").fetchall()
    assert [step[-1] for step in plan] == ["SCAN alerts USING INDEX alerts_with_snapshot"]


def test_a_damaged_or_foreign_file_is_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / BOOK_FILE
    path.write_bytes(b"this is no database, it is a text that is long enough" * 100)
    with pytest.raises(StorageError, match="move it away"):
        Book(path)
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(StorageError, match="another version"):
        Book(path)


def test_after_kill_9_every_acknowledged_alert_is_there_with_its_state_and_outbox(tmp_path: Path) -> None:
    path = tmp_path / BOOK_FILE
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    said = [child.stdout.readline() for _ in range(5)]
    child.send_signal(signal.SIGKILL)
    lines = ("".join(said) + child.stdout.read()).split("\n")[:-1]  # a torn last line was not acknowledged
    child.stdout.close()
    child.wait()
    acknowledged = len(lines)
    assert acknowledged >= 5
    assert lines == [str(number) for number in range(1, acknowledged + 1)]
    book = Book(path)
    ids = [int(alert.id) for alert in book.alerts(Filter(limit=100_000))]
    assert ids == list(range(len(ids), 0, -1))
    assert len(ids) - acknowledged in (0, 1)
    assert book.states() == {("bag", "yard"): {"number": len(ids)}}
    entries = book.outbox.pending("mqtt", 100_000)
    assert [json.loads(entry.payload)["id"] for entry in entries] == [f"{n}-on" for n in reversed(ids)]
    book.close()
