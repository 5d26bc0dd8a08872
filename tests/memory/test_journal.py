"""Rows commit one by one, ids are never reused, damage is noticed."""

import sqlite3
from pathlib import Path

import pytest

from memory.errors import JournalDamaged, StorageError
from memory.journal import ID_BLOCK, Journal, Row


def row(frame_id: int, **changes: object) -> Row:
    values = {"camera": "a", "segment": 1, "time": frame_id / 3, "metadata": "", "offset": 0, "length": 9, "crc": 77}
    return Row(frame_id, **{**values, **changes})  # type: ignore[arg-type]


def insert(journal: Journal, num: int) -> list[int]:
    ids = []
    for _ in range(num):
        ids.append(journal.next_id())
        journal.insert(row(ids[-1]))
    return ids


def test_rows_are_read_back_unchanged(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    insert(journal, 3)
    journal.set_vectors(2, 40, 5)
    journal.close()
    journal = Journal(tmp_path / "j")
    assert [(r.frame_id, r.time, r.vector_offset, ok) for r, ok in journal.rows()] == [
        (1, 1 / 3, None, True),
        (2, 2 / 3, 40, True),
        (3, 1.0, None, True),
    ]
    journal.repair(delete=[1], clear_vectors=[2], adopt=[row(9)])
    assert [(r.frame_id, r.vector_offset) for r, _ in journal.rows()] == [(2, None), (3, None), (9, None)]
    journal.delete_segment("a", 1, 9)
    assert list(journal.rows()) == []
    assert journal.forgotten_to("a") == 9
    assert journal.forgotten_to("b") == 0
    journal.close()


def test_ids_go_on_without_a_gap_after_a_clean_restart_but_not_after_a_crash(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    assert insert(journal, 2) == [1, 2]
    journal.close()
    journal = Journal(tmp_path / "j")
    assert insert(journal, 2) == [3, 4]
    journal._db.close()  # as a crash leaves it
    journal = Journal(tmp_path / "j")
    assert insert(journal, 1)[0] == 3 + ID_BLOCK
    journal.skip_ids_to(100_000)
    assert insert(journal, 1) == [100_000]
    journal.skip_ids_to(5)
    assert insert(journal, 1) == [100_001]
    journal.close()


def test_ids_go_on_over_the_end_of_a_reserved_range(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.skip_ids_to(ID_BLOCK - 2)
    assert insert(journal, 6) == list(range(ID_BLOCK - 2, ID_BLOCK + 4))
    journal.close()


def test_a_changed_row_is_noticed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    insert(journal, 4)
    journal.close()
    db = sqlite3.connect(tmp_path / "j")
    db.execute("UPDATE frames SET time = time + 1e-9 WHERE frame_id = 2")
    db.execute("UPDATE frames SET camera = CAST(x'ff00' AS TEXT) WHERE frame_id = 3")
    db.execute("UPDATE frames SET vector_offset = 'text' WHERE frame_id = 4")
    db.commit()
    db.close()
    journal = Journal(tmp_path / "j")
    assert [(r.frame_id, ok) for r, ok in journal.rows()] == [(1, True), (2, False), (3, False), (4, False)]
    journal.close()


def test_a_file_that_is_not_a_database_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"not a database at all" * 500)
    with pytest.raises(JournalDamaged):
        Journal(tmp_path / "j")


def test_a_changed_setting_is_noticed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    insert(journal, 1)
    journal.close()
    db = sqlite3.connect(tmp_path / "j")
    db.execute("UPDATE meta SET value = '1' || value WHERE key = 'next_frame_id'")
    db.commit()
    db.close()
    with pytest.raises(JournalDamaged, match="next_frame_id"):
        Journal(tmp_path / "j")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.set_setting("schema", 99)
    journal.close()
    with pytest.raises(StorageError, match="schema 99"):
        Journal(tmp_path / "j")


def test_checkpoint_moves_rows_while_the_journal_is_open(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    insert(journal, 50)
    before = (tmp_path / "j").stat().st_size
    journal.checkpoint()
    assert (tmp_path / "j").stat().st_size > before
    insert(journal, 1)
    journal.close()
