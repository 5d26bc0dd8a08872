"""The alert store: transactional, bounded, erasable, and intact after kill -9. Uses real SQLite and kills a real child."""

import json
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agent.alerts.store import ALERTS_FILE, EVERY_CAMERA, NEWEST_SNAPSHOTS, AlertStore, Filter, Suppressed, Switch
from memory.errors import StorageError
from tests.support.agents import START
from tests.support.events import EVENT

ROOT = Path(__file__).parents[3]
CHILD = """
import os, sys
from pathlib import Path
from tests.agent.alerts.test_alert_store import fire
from agent.alerts.store import AlertStore

alert_store = AlertStore(Path(sys.argv[1]))
alert_store.sinks = ("mqtt",)
number = 0
os.write(1, b"open\\n")
while True:
    number += 1
    fire(alert_store, number)
    os.write(1, f"{number}\\n".encode())
"""


def fire(alert_store: AlertStore, number: int, camera: str = "yard", snapshot: bytes | None = b"jpeg") -> None:
    """Commit alert `number`; alerts are one second apart."""
    event = replace(EVENT, id=f"{number}-on", camera=camera, start_time=START + number, time=START + number)
    alert_store.commit("bag", camera, {"number": number}, event=event, snapshot=snapshot, now=START + number)


@pytest.fixture
def alert_store(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = AlertStore(tmp_path / ALERTS_FILE, max_alerts=5, max_suppressed=4, max_outbox=100)
    yield made
    made.close()


def test_an_alert_its_state_and_its_outbox_are_one_transaction(alert_store: AlertStore) -> None:
    alert_store.sinks = ("mqtt", "webhook:pager")
    woken = []
    alert_store.listen(lambda: woken.append(len(alert_store.alerts(Filter()))))
    fire(alert_store, 1)
    (alert,) = alert_store.alerts(Filter())
    assert (alert.id, alert.rule, alert.camera, alert.end_time, alert.has_snapshot) == ("1", "bag", "yard", None, True)
    assert alert_store.snapshot("1") == b"jpeg"
    assert alert_store.states() == {("bag", "yard"): {"number": 1}}
    assert [entry.payload for entry in alert_store.outbox.pending("mqtt")] == [alert.on_event]
    assert [entry.event_id for entry in alert_store.outbox.pending("webhook:pager")] == ["1-on"]
    assert woken == [1]


def test_a_failed_commit_changes_nothing(alert_store: AlertStore) -> None:
    alert_store.sinks = ("mqtt",)
    fire(alert_store, 1)
    with pytest.raises(StorageError, match="UNIQUE"):
        alert_store.commit("bag", "yard", {"number": 2}, event=replace(EVENT, id="1-on"), now=START)
    assert alert_store.states() == {("bag", "yard"): {"number": 1}}
    assert len(alert_store.outbox.pending("mqtt")) == 1


def test_an_off_event_ends_its_alert(alert_store: AlertStore) -> None:
    fire(alert_store, 1)
    off = replace(EVENT, event_type="off", id="1-off", end_time=START + 9)
    alert_store.commit("bag", "yard", {}, event=off, now=START + 10)
    alert = alert_store.alert("1")
    assert alert is not None
    assert (alert.end_time, alert.off_event) == (START + 9, off.payload())
    assert alert_store.alert("2") is None


def test_tables_are_bounded_and_drop_the_oldest_rows(alert_store: AlertStore) -> None:
    for number in range(1, 9):
        fire(alert_store, number)
        held = Suppressed("bag", "yard", START + number, "cooldown", 5.0, number)
        alert_store.commit("bag", "yard", {}, suppressed=[held], now=START)
    assert [alert.id for alert in alert_store.alerts(Filter())] == ["8", "7", "6", "5", "4"]
    assert [held.frame_id for held in alert_store.suppressed(Filter())] == [8, 7, 6, 5]


def test_lists_are_filtered_and_paged_newest_first(alert_store: AlertStore) -> None:
    for number in range(1, 6):
        fire(alert_store, number, camera="yard" if number % 2 else "gate")
    assert [alert.id for alert in alert_store.alerts(Filter(camera="gate"))] == ["4", "2"]
    assert [alert.id for alert in alert_store.alerts(Filter(after=START + 2, before=START + 4))] == ["4", "3", "2"]
    assert alert_store.alerts(Filter(rule="other")) == []
    page = alert_store.alerts(Filter(limit=2))
    assert [alert.id for alert in page] == ["5", "4"]
    assert [alert.id for alert in alert_store.alerts(Filter(limit=2, cursor=page[-1].seq))] == ["3", "2"]


def test_erasing_deletes_alerts_pictures_suppressed_alerts_and_outbox_entries(alert_store: AlertStore) -> None:
    alert_store.sinks = ("mqtt",)
    held = [Suppressed("bag", "yard", START + n, "cooldown", 5.0) for n in range(1, 4)]
    alert_store.commit("bag", "yard", {}, suppressed=held, now=START)
    for number in range(1, 4):
        fire(alert_store, number)
    fire(alert_store, 9, camera="gate")
    assert alert_store.erase("yard", START + 2, START + 2) == 1
    assert [alert.id for alert in alert_store.alerts(Filter())] == ["9", "3", "1"]
    assert [each.time for each in alert_store.suppressed(Filter())] == [START + 3, START + 1]
    assert alert_store.snapshot("2") is None
    assert "2-on" not in {entry.event_id for entry in alert_store.outbox.pending("mqtt")}


def test_rules_and_switches_survive_a_restart_and_are_removed_together(tmp_path: Path) -> None:
    path = tmp_path / ALERTS_FILE
    first = AlertStore(path)
    first.put_rule("bag", {"condition": "a bag"})
    first.put_switches({("bag", EVERY_CAMERA): Switch(enabled=False), ("bag", "yard"): Switch(snoozed_until=START)})
    first.put_states({("bag", "yard"): {"on": True}, ("cat", "yard"): {}})
    first.close()
    second = AlertStore(path)
    assert second.rules() == {"bag": {"condition": "a bag"}}
    assert second.switches() == {("bag", "*"): Switch(False), ("bag", "yard"): Switch(None, START)}
    second.put_switches({("bag", "yard"): Switch()})
    assert set(second.switches()) == {("bag", "*")}
    second.remove_rule("bag")
    assert (second.rules(), second.switches()) == ({}, {})
    assert set(second.states()) == {("bag", "yard"), ("cat", "yard")}  # kept: the watcher ends active alerts
    second.close()


def test_a_closed_store_raises_storage_error(tmp_path: Path) -> None:
    alert_store = AlertStore(tmp_path / ALERTS_FILE)
    alert_store.close()
    for use in (alert_store.rules, lambda: alert_store.put_states({("bag", "yard"): {}})):
        with pytest.raises(StorageError, match="closed"):
            use()


def test_the_newest_pictures_are_found_without_reading_every_alert(alert_store: AlertStore) -> None:
    plan = alert_store.connection.execute(f"EXPLAIN QUERY PLAN {NEWEST_SNAPSHOTS}").fetchall()
    assert [step[-1] for step in plan] == ["SCAN alerts USING INDEX alerts_with_snapshot"]


def test_a_damaged_or_foreign_file_is_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / ALERTS_FILE
    path.write_bytes(b"this is no database, it is a text that is long enough" * 100)
    with pytest.raises(StorageError, match="move it away"):
        AlertStore(path)
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(StorageError, match="another version"):
        AlertStore(path)


def test_after_kill_9_every_acknowledged_alert_is_there_with_its_state_and_outbox(tmp_path: Path) -> None:
    path = tmp_path / ALERTS_FILE
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    said = [child.stdout.readline() for _ in range(5)]
    child.send_signal(signal.SIGKILL)
    lines = ("".join(said) + child.stdout.read()).split("\n")[:-1]  # a partial last line was not acknowledged
    child.stdout.close()
    child.wait()
    acknowledged = len(lines)
    assert acknowledged >= 5
    assert lines == [str(number) for number in range(1, acknowledged + 1)]
    alert_store = AlertStore(path)
    ids = [int(alert.id) for alert in alert_store.alerts(Filter(limit=100_000))]
    assert ids == list(range(len(ids), 0, -1))
    assert len(ids) - acknowledged in (0, 1)
    assert alert_store.states() == {("bag", "yard"): {"number": len(ids)}}
    entries = alert_store.outbox.pending("mqtt", 100_000)
    assert [json.loads(entry.payload)["id"] for entry in entries] == [f"{n}-on" for n in reversed(ids)]
    alert_store.close()
