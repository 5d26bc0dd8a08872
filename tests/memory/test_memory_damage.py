"""Truncated and bit-flipped files: damaged frames are dropped and counted, the others are served unchanged."""

import random
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memory.codec import pack_frame
from memory.errors import FrameGone
from memory.journal import ID_BLOCK
from memory.store import MemoryStore
from tests.support.memories import features, fill, open_store, picture


def flip(path: Path, offset: int, mask: int = 0xFF) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


def check_all_served_is_true(store: MemoryStore, camera: str = "a") -> list[int]:
    """Check that everything served equals what `fill` appended. Return the ids with readable pictures."""
    window = store.window([camera])
    waiting = [i for i in store.pending(10_000) if store.record(i).camera == camera]
    held = sorted([int(i) for i in window.frame_ids] + waiting)
    good = []
    for frame_id in held:
        try:
            jpeg = store.jpeg(frame_id)
        except FrameGone:
            continue
        record = store.record(frame_id)
        assert jpeg == picture(camera, int(record.time))
        assert record.metadata == {"x": int(record.time)}
        assert record.camera == camera
        good.append(frame_id)
    for row, frame_id in enumerate(window.frame_ids):
        given_ = features(int(frame_id))
        np.testing.assert_array_equal(window.summaries(row, row + 1)[0], given_["summary"].astype(np.float16))
        unit = given_["embedding"] / np.linalg.norm(given_["embedding"])
        np.testing.assert_allclose(window.embeddings([row])[0], unit, atol=1e-3)
    return good


def test_a_flipped_picture_is_dropped_when_it_is_read(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store, "a", range(6))
        flip(tmp_path / "segments" / "a" / "000000000001.frames", 120)
        window = store.window(["a"])
        gone = [i for i in ids if not readable(store, i)]
        assert len(gone) == 1
        with pytest.raises(FrameGone):
            window.jpeg(ids.index(gone[0]))
        assert store.status().frames_damaged == 1
        assert gone[0] not in store.window(["a"]).frame_ids
        assert store.stats("a").frames == 5
        with pytest.raises(FrameGone):
            store.record(gone[0])
        store.maintain()
    with open_store(tmp_path) as store:
        assert check_all_served_is_true(store) == [i for i in ids if i not in gone]


def readable(store: MemoryStore, frame_id: int) -> bool:
    try:
        store.jpeg(frame_id)
    except FrameGone:
        return False
    return True


def test_flipped_vectors_make_their_frame_pending_again(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store, "a", range(6))
    flip(tmp_path / "segments" / "a" / "000000000001.vectors", 70)
    with open_store(tmp_path) as store:
        assert store.status().vectors_damaged == 1
        pending = store.pending(10)
        assert len(pending) == 1
        assert store.attach(pending[0], **features(pending[0]))
        assert store.window(["a"]).frame_ids.tolist() == ids
    with open_store(tmp_path) as store:
        assert store.pending(10) == []
        assert check_all_served_is_true(store) == ids
        assert store.status().vectors_damaged == 0


@pytest.mark.parametrize("kind", ["frames", "vectors"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.95, None])
def test_a_truncated_or_missing_file_loses_only_its_own_frames(tmp_path: Path, kind: str, keep: float | None) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store, "a", range(10))
    path = tmp_path / "segments" / "a" / f"000000000005.{kind}"
    if keep is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with open_store(tmp_path) as store:
        good = check_all_served_is_true(store)
        status = store.status()
        if kind == "frames":
            assert set(ids[:4] + ids[8:]) <= set(good)
            assert status.frames_damaged == 10 - len(good) > 0
        else:
            assert good == ids
            assert status.vectors_damaged == len(store.pending(10)) > 0
        fill(store, "a", range(100, 110))
    with open_store(tmp_path) as store:
        assert len(check_all_served_is_true(store)) == len(good) + 10
        assert (store.status().frames_damaged, store.status().vectors_damaged) == (0, 0)


@pytest.mark.parametrize("loss", ["missing", "garbage", "header", "empty"])
def test_a_lost_journal_is_rebuilt_from_the_segments(tmp_path: Path, loss: str) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store, "a", range(10)) + fill(store, "b", range(3))
    journal = tmp_path / "journal.sqlite"
    if loss == "missing":
        journal.unlink()
    elif loss == "garbage":
        journal.write_bytes(random.Random(1).randbytes(30_000))
    elif loss == "header":
        flip(journal, 3)
    else:
        journal.write_bytes(b"")
    with open_store(tmp_path) as store:
        assert check_all_served_is_true(store) == ids[:10]
        assert store.stats("b").frames == 3
        assert store.append("a", 1000.0, b"x") >= ids[-1] + 1
        assert store.status().journal_rebuilt
        assert store.pending(1000)[0] > ids[-1] + ID_BLOCK - 1


def test_a_damaged_row_is_restored_from_its_record(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store, "a", range(10))
    db = sqlite3.connect(tmp_path / "journal.sqlite")
    db.execute("UPDATE frames SET time = 77 WHERE frame_id = 3")
    db.execute("UPDATE frames SET metadata = '{}' WHERE frame_id = 6")
    db.commit()
    db.close()
    with open_store(tmp_path) as store:
        assert check_all_served_is_true(store) == sorted(ids)
        assert store.window(["a"]).times.tolist() == list(range(10))  # their vectors were found again too
        assert store.status().frames_damaged == 0


def test_rows_lost_with_the_wal_are_adopted_but_evicted_ones_are_not(tmp_path: Path) -> None:
    with open_store(tmp_path, frames=8) as store:
        ids = fill(store, "a", range(20))
    stray = tmp_path / "segments" / "a" / "000000000009.frames"
    assert not stray.exists()
    db = sqlite3.connect(tmp_path / "journal.sqlite")
    db.execute("DELETE FROM frames WHERE frame_id > 18")  # as if a power cut had taken the last commits back
    db.commit()
    db.close()
    stray.write_bytes(pack_frame(9, 8.0, '{"x":8}', picture("a", 8)))  # a file whose unlinking a crash prevented
    with open_store(tmp_path, frames=8) as store:
        assert check_all_served_is_true(store)[-2:] == ids[-2:]
        assert store.stats("a").frames == 8
        assert store.append("a", 50.0, b"x") > ids[-1]
        assert not stray.exists()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4))
@example(4370, 4)  # the journal's index
def test_random_flips_anywhere_never_serve_anything_wrong(
    tmp_path_factory: pytest.TempPathFactory, seed: int, num_flips: int
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    with open_store(folder) as store:
        ids = fill(store, "a", range(14))
    rng = random.Random(seed)
    for _ in range(num_flips):
        files = [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size]
        path = rng.choice(files)
        flip(path, rng.randrange(path.stat().st_size), 1 << rng.randrange(8))
    with open_store(folder) as store:
        good = check_all_served_is_true(store)
        assert set(good) <= set(ids)
        assert len(good) >= 14 - num_flips
        later = fill(store, "a", range(1000, 1003))
        assert later[0] > ids[-1]
    with open_store(folder) as store:
        assert set(later) <= set(check_all_served_is_true(store))
