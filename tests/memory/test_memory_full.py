"""A full disk: frames are refused with a clear error and counted, questions go on, recording resumes by itself.

Tested on a small tmpfs (skipped where mounting is not allowed), and with the kernel's file size limit as a quota.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from memory.errors import StorageFull
from memory.store import MemoryStore
from tests.support.memories import features, fill_up, open_store, small_disk

PICTURE = 20_000


def jpeg(time: int) -> bytes:
    return bytes([time % 251]) * PICTURE


@pytest.fixture(name="small_disk")
def mounted_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, 3) as disk:
        yield disk


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def try_append(store: MemoryStore, time: int) -> int | None:
    """Append a frame; return its id, or None for StorageFull."""
    try:
        return store.append("a", float(time), jpeg(time), {"x": time})
    except StorageFull as error:
        message = str(error)
    assert "no space left" in message or "full" in message
    return None


def append_until_full(store: MemoryStore, time: int, most: int = 1000) -> tuple[list[int], int]:
    """Append frames until one is refused; return the ids and the refused time."""
    ids: list[int] = []
    for now in range(time, time + most):
        frame_id = try_append(store, now)
        if frame_id is None:
            return ids, now
        ids.append(frame_id)
        store.attach(frame_id, **features(frame_id))
    raise AssertionError("the disk never was full")


def check_serves(store: MemoryStore, ids: list[int]) -> None:
    window = store.window(["a"])
    assert sorted([*window.frame_ids.tolist(), *store.pending(1000)]) == ids
    for frame_id in ids:
        record = store.record(frame_id)
        assert store.jpeg(frame_id) == jpeg(int(record.time))
    rows, _ = window.top(window.embeddings([3])[0], 1)
    assert rows.tolist() == [3]


def full_and_back(folder: Path, give_space: Callable[[], None]) -> None:
    """Fill the disk, ask, free space, go on, restart."""
    with open_store(folder, frames=10_000) as store:
        ids, refused = append_until_full(store, 0)
        assert len(ids) > 5
        for _ in range(5):
            with pytest.raises(StorageFull):
                store.append("a", float(refused), jpeg(refused))
        status = store.status()
        assert status.full
        assert status.refused_full == 6
        assert status.appended == len(ids)
        check_serves(store, ids)
        give_space()
        later = [store.append("a", float(refused + i), jpeg(refused + i), {"x": i}) for i in range(5)]
        assert not store.status().full
        assert later[0] > ids[-1]
        for frame_id in store.pending(100):
            store.attach(frame_id, **features(frame_id))
        check_serves(store, ids + later)
    with open_store(folder, frames=10_000) as store:
        for frame_id in store.pending(100):  # those whose vectors found no space
            assert store.attach(frame_id, **features(frame_id))
        check_serves(store, ids + later)
        assert store.status().frames_damaged == 0


def test_a_real_full_disk(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_000_000))
    full_and_back(small_disk / "memory", ballast.unlink)


def test_a_full_quota(tmp_path: Path) -> None:
    with open_store(tmp_path, frames=10_000) as store:
        with file_size_limit(78_000):  # of a segment file: the fourth picture of a segment does not fit
            ids, refused = append_until_full(store, 0)
            assert len(ids) == 3
            check_serves_few(store, ids)
        assert store.append("a", float(refused), jpeg(refused)) > ids[-1]
        assert not store.status().full


def check_serves_few(store: MemoryStore, ids: list[int]) -> None:
    window = store.window(["a"])
    assert window.frame_ids.tolist() == ids
    assert [window.jpeg(row) for row in range(len(ids))] == [jpeg(int(t)) for t in window.times]


def test_a_frame_whose_row_finds_no_space_leaves_no_trace(tmp_path: Path) -> None:
    """The picture fits, its row does not: the refused frame must not appear after a restart."""
    with open_store(tmp_path) as store:
        ids = [store.append("a", float(t), b"small", {"x": "y" * 3000}) for t in range(3)]
        size = max(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file() and path.name != "spare")
        with file_size_limit(size):
            for time in range(3, 100):
                frame_id = try_append(store, time)
                if frame_id is not None:
                    ids.append(frame_id)
        assert store.status().full
        assert len(ids) < 100
    with open_store(tmp_path) as store:
        assert store.pending(1000) == ids
        assert store.status().frames_damaged == 0


def test_vectors_without_disk_space_are_used_until_a_restart(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        frame_id = store.append("a", 1.0, b"x")
        with file_size_limit(10):
            assert store.attach(frame_id, **features(frame_id))
        assert store.status().vectors_not_durable == 1
        assert store.window(["a"]).frame_ids.tolist() == [frame_id]
        unit = store.window(["a"]).embeddings([0])
    with open_store(tmp_path) as store:
        assert store.pending(5) == [frame_id]
        store.attach(frame_id, **features(frame_id))
        np.testing.assert_array_equal(store.window(["a"]).embeddings([0]), unit)


def test_evicting_on_a_full_disk_makes_room(small_disk: Path) -> None:
    """A camera at its cap goes on recording on a full disk: the newest frame replaces the oldest."""
    with open_store(small_disk / "memory", frames=40) as store:
        for time in range(60):
            assert try_append(store, time) is not None
        with (small_disk / "ballast").open("wb", buffering=0) as file:
            fill_up(file)
        acknowledged = 0
        for time in range(60, 200):
            acknowledged += try_append(store, time) is not None
            if time % 10 == 0:
                store.maintain()
        assert acknowledged == 140
        assert store.stats("a").frames >= 25
        assert store.stats("a").newest == 199
        assert store.jpeg(store.pending(1000)[-1]) == jpeg(199)


def test_a_full_disk_evicts_one_segment_at_a_time(small_disk: Path) -> None:
    """A camera with three quarters of its cap gives up its oldest segment, and no more, for new frames."""
    with open_store(small_disk / "memory", frames=100) as store:
        for time in range(80):
            assert try_append(store, time) is not None
        with (small_disk / "ballast").open("wb", buffering=0) as file:
            fill_up(file)
            file.truncate(file.tell() - 16 * 1024)  # room for the journal, and not for a picture
        assert try_append(store, 80) is not None
        assert store.stats("a").frames == 80 + 1 - 4
