"""Erasing on a full disk: it is what frees space, so it must not need any. On a real small tmpfs, to the last byte."""

import errno
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent.alerts.store import AlertStore, erase_from_alerts
from agent.keep.erasing import ERASURES_FILE, Erasing, Request
from memory.errors import StorageFull
from memory.files import SPARE_BYTES
from memory.journal import Journal
from memory.offline import OfflineMemory
from tests.support.memories import features, fill_up, of, open_store, put, small_disk, traces


@pytest.fixture(name="disk")
def mounted_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, 12) as disk:
        yield disk


def fill_disk(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as file:
        fill_up(file)
        try:
            while file.write(b"x"):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


@pytest.mark.parametrize(("lower", "upper"), [(0, 10**6), (5, 60), (10, 12)])
def test_the_memory_erases_on_a_full_disk(disk: Path, lower: int, upper: int) -> None:
    """Everything, whole segments and parts of others, a part of one segment."""
    folder = disk / "memory"
    with open_store(folder, segment_frames=16) as store:
        assert 0 < (folder / "spare").stat().st_size <= SPARE_BYTES
        ids = {number: put(store, "a", number) for number in range(200)}
        gone = {number: frame_id for number, frame_id in ids.items() if lower <= number <= upper}
        fill_disk(disk)
        with suppress(StorageFull):
            for number in range(200, 1000):
                ids[number] = put(store, "a", number, attach=False)
                gone |= {number: ids[number]} if number <= upper else {}
        assert store.status().full
        assert store.erase("a", lower, upper) == len(gone)
        assert traces(folder, of(gone)[:400]) == []
        assert store.stats("a").frames == len(ids) - len(gone)
        store.maintain()
    with open_store(folder, segment_frames=16) as store:
        assert store.stats("a").frames == len(ids) - len(gone)
        status = store.status()
        assert (status.frames_damaged, status.vectors_damaged, status.journal_rebuilt) == (0, 0, False)


def test_an_erasure_noted_on_a_full_disk_is_completed_at_the_next_start(disk: Path) -> None:
    """The process dies between noting it and deleting the rows."""
    folder = disk / "memory"
    with open_store(folder, segment_frames=16) as store:
        ids = {number: put(store, "a", number) for number in range(40)}
        store._journal.begin_erasure("a", 5, 30, delete_rows=False)
    with open_store(folder, segment_frames=16) as store:
        assert store.stats("a").frames == 14
        gone = {number: ids[number] for number in range(5, 31)}
        assert traces(folder, of(gone)) == []
        assert store.status().frames_damaged == 0


def test_small_steps_leave_the_journal_small(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that does not fit is tried with fewer rows."""
    folder = disk / "memory"
    with open_store(folder, segment_frames=64) as store:
        for number in range(64):
            put(store, "a", number)
        journal: Any = store._journal
        erasure = journal.begin_erasure("a", 0, 62, delete_rows=False)
        sizes: list[int] = []
        connection = journal._db

        class Full:
            def __getattr__(self, name: str) -> Any:
                return getattr(connection, name)

            def executemany(self, query: str, rows: list[Any]) -> Any:
                sizes.append(len(rows))
                if len(rows) > 3:
                    raise StorageFull("no space left")
                return connection.executemany(query, rows)

        monkeypatch.setattr(journal, "_db", Full())
        journal.delete_erased(erasure)
        assert sizes[:4] == [63, 15, 3, 3]
        assert len(list(journal.rows())) == 1


def test_the_agent_erases_on_a_full_disk_though_the_request_cannot_be_noted(disk: Path) -> None:
    with open_store(disk / "memory", segment_frames=16) as store:
        ids = {number: put(store, "a", number) for number in range(100)}
        alert_store = AlertStore(disk / "alerts.sqlite")
        erasing = Erasing(disk)
        erasing.add("frames", store.erase)
        erasing.add("alerts", erase_from_alerts(alert_store))
        fill_disk(disk)
        assert erasing.erase(Request("a", 0, 90))["frames"] == 91
        assert traces(disk, of({number: ids[number] for number in range(91)})) == []
        assert not (disk / ERASURES_FILE).exists()
        assert [path.name for path in disk.iterdir() if path.name.startswith(".")] == []
        alert_store.close()


def test_a_request_that_could_not_be_noted_is_kept_in_mind(disk: Path) -> None:
    erasing = Erasing(disk)
    tries: list[str] = []

    def eraser(camera: str, after: float, before: float) -> int:
        tries.append(camera)
        if len(tries) < 3:
            raise OSError(errno.EIO, "Input/output error")
        return 1

    erasing.add("things", eraser)
    fill_disk(disk)
    with pytest.raises(Exception, match="tried again"):
        erasing.erase(Request("a", 0, 1))
    erasing.resume()
    assert "Input/output error" in (erasing.problem or "")
    erasing.resume()
    assert erasing.problem is None
    erasing.resume()
    assert tries == ["a"] * 3


def test_offline_too(disk: Path) -> None:
    with open_store(disk / "memory", segment_frames=16) as store:
        ids = {number: put(store, "a", number) for number in range(100)}
    fill_disk(disk)
    with OfflineMemory(disk / "memory") as memory:
        assert memory.erase("a", 0, 90) == 91
    fill_disk(disk)
    with open_store(disk / "memory", segment_frames=16) as store:  # a start on a full disk
        assert store.stats("a").frames == 9
    assert traces(disk / "memory", of({number: ids[number] for number in range(91)})) == []


def test_an_erasure_that_began_without_its_caller_knowing_is_forgotten_by_memory_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commit succeeded and then memory ran out: the frames must neither be shown nor be called damaged."""
    with open_store(tmp_path) as store:
        ids = {number: put(store, "a", number) for number in range(10)}
        begin = Journal.begin_erasure

        def short(*args: Any) -> Any:
            begin(*args)
            raise MemoryError

        with monkeypatch.context() as patched:
            patched.setattr(Journal, "begin_erasure", short)
            with pytest.raises((OSError, MemoryError)):
                store.erase("a", 2, 5)
        store.maintain()
        kept = [ids[number] for number in ids if not 2 <= number <= 5]
        assert store.window(["a"]).frame_ids.tolist() == kept
        assert store.status().frames_damaged == 0
        assert store.attach(ids[3], **features(ids[3])) is False
