"""The store on real files: append, attach, windows, restarts."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memory import codec
from memory.errors import FrameGone, StorageBusy, StorageError, TimeNotRising
from memory.window import Within
from tests.support.memories import C, D, features, fill, open_store, picture


def test_an_appended_frame_is_remembered_and_readable(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        frame_id = store.append("door", 5.5, b"picture", {"pose": [1, 2.5, None]})
        record = store.record(frame_id)
        assert (record.camera, record.time, record.metadata) == ("door", 5.5, {"pose": [1, 2.5, None]})
        assert store.jpeg(frame_id) == b"picture"
        assert store.pending(10) == [frame_id]
        assert store.window(["door"]).unencoded == 1
        assert store.window(["door"]).num_frames == 0
        assert store.cameras() == ["door"]


def test_attached_frames_become_window_rows(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store, "door", range(10, 20))
        window = store.window(["door"])
        assert window.frame_ids.tolist() == ids
        assert window.times.tolist() == list(range(10, 20))
        for row, frame_id in enumerate(ids):
            given = features(frame_id)
            unit = given["embedding"] / np.linalg.norm(given["embedding"])
            np.testing.assert_allclose(window.embeddings([row])[0], unit, atol=1e-3)
            assert np.linalg.norm(window.embeddings([row])[0]) == pytest.approx(1, abs=1e-6)
            assert window.norms([row])[0] == np.float32(np.linalg.norm(given["embedding"].astype(np.float64)))
            block = window.read(row, row + 1)
            assert block.present.all()
            np.testing.assert_array_equal(block.patches[0], given["patches"])
            np.testing.assert_array_equal(block.scalars[0], given["scalars"])
            np.testing.assert_array_equal(window.summaries(row, row + 1)[0], given["summary"].astype(np.float16))
            assert window.jpeg(row) == picture("door", 10 + row)
            assert window.metadata(row) == {"x": 10 + row}


def test_a_restart_brings_back_the_same_numbers(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store, "a", range(6)) + fill(store, "b", range(3, 9))
        waiting = store.append("a", 100.0, b"not encoded yet")
        before = store.window(["a", "b"])
        query = before.embeddings([2])[0]
        ranked = before.top(query, 12)
    with open_store(tmp_path) as store:
        after = store.window(["a", "b"])
        np.testing.assert_array_equal(after.frame_ids, before.frame_ids)
        np.testing.assert_array_equal(after.times, before.times)
        rows = np.arange(12)
        assert after.embeddings(rows).tobytes() == before.embeddings(rows).tobytes()
        assert after.norms(rows).tobytes() == before.norms(rows).tobytes()
        assert after.summaries(0, 12).tobytes() == before.summaries(0, 12).tobytes()
        assert after.background().tobytes() == before.background().tobytes()
        assert [x.tobytes() for x in after.top(query, 12)] == [x.tobytes() for x in ranked]
        assert [after.jpeg(r) for r in rows] == [before.jpeg(r) for r in rows]
        assert [after.metadata(r) for r in rows] == [before.metadata(r) for r in rows]
        assert not after.read(0, 12).present.any()
        assert store.pending(10) == [waiting]
        assert store.pending_patches(3) == sorted(ids, reverse=True)[:3]
        for frame_id in store.pending_patches(100):
            assert store.attach(frame_id, **features(frame_id))
        rebuilt, original = store.window(["a", "b"]).read(0, 12), before.read(0, 12)
        assert rebuilt.present.all()
        assert rebuilt.patches.tobytes() == original.patches.tobytes()
        assert rebuilt.scalars.tobytes() == original.scalars.tobytes()
        assert store.pending_patches(100) == []


def test_ids_rise_over_cameras_restarts_and_evictions(tmp_path: Path) -> None:
    seen: list[int] = []
    for start in range(0, 40, 10):
        with open_store(tmp_path, frames=3) as store:
            for time in range(start, start + 10):
                seen += [store.append("a", time, b"a"), store.append("b", time, b"b")]
    assert seen == sorted(set(seen))
    assert seen == list(range(1, 81))  # closed cleanly: not even a gap


def test_time_must_rise_per_camera(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.append("a", 5.0, b"x")
        store.append("b", 1.0, b"x")
        for time in (5.0, 4.9):
            with pytest.raises(TimeNotRising, match="camera a"):
                store.append("a", time, b"x")
        assert store.stats("a").frames == 1
        store.append("a", np.nextafter(5.0, 6), b"x")


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "a" * 65, "é", "a\n"])
def test_bad_camera_names_are_refused(tmp_path: Path, name: str) -> None:
    with open_store(tmp_path) as store:
        with pytest.raises(ValueError, match="camera name"):
            store.append(name, 1.0, b"x")
        with pytest.raises(ValueError, match="camera name"):
            store.window([name])


def test_bad_arguments_change_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path, bytes=1000) as store:
        for bad in ({"a": float("nan")}, {"a": b"bytes"}, {"a": "x" * 70_000}):
            with pytest.raises(ValueError, match="metadata"):
                store.append("a", 1.0, b"x", bad)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="finite"):
            store.append("a", float("inf"), b"x")
        with pytest.raises(ValueError, match="exceeds the cap"):
            store.append("a", 1.0, b"x" * 2000)
        frame_id = store.append("a", 1.0, b"x")
        good = features(1)
        for name, array in good.items():
            with pytest.raises(ValueError, match=name):
                store.attach(frame_id, **{**good, name: array[:-1]})
        with pytest.raises(ValueError, match="finite"):
            store.attach(frame_id, **{**good, "embedding": np.full(D, np.nan, np.float32)})
        with pytest.raises(ValueError, match="finite"):
            store.attach(frame_id, **{**good, "summary": np.full(C, 1e6, np.float32)})
        assert store.pending(5) == [frame_id]


def test_unknown_frames_raise_frame_gone(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for call in (store.jpeg, store.record):
            with pytest.raises(FrameGone, match="frame 7 is not remembered"):
                call(7)
        assert store.attach(7, **features(7)) is False
        assert store.stats("nobody").frames == 0
        assert store.window(["nobody"]).num_frames == 0


def test_a_folder_is_locked_by_one_process(tmp_path: Path) -> None:
    with open_store(tmp_path), pytest.raises(StorageBusy):
        open_store(tmp_path)
    open_store(tmp_path).close()


def test_a_closed_store_refuses_writes(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    ids = fill(store, "a", range(3), attach=False)
    window = store.window(["a"])
    store.close()
    store.close()
    with pytest.raises(StorageError, match="closed"):
        store.append("a", 9.0, b"x")
    store.maintain()
    assert store.attach(ids[0], **features(ids[0]))  # a lane that still works: in memory only
    assert window.unencoded == 3
    with open_store(tmp_path) as again:
        assert again.pending(5) == ids


def test_another_encoder_makes_frames_pending_again(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store, "a", range(6))
    with open_store(tmp_path, encoder="other") as store:
        assert store.pending(10) == ids
        assert store.status().vectors_damaged == 0
        for frame_id in ids[:3]:
            store.attach(frame_id, **features(frame_id + 50))
    with open_store(tmp_path, encoder="other") as store:
        assert store.window(["a"]).frame_ids.tolist() == ids[:3]
        assert store.status().vectors_damaged == 0


def test_an_abandoned_frame_is_not_pending_but_counted_as_unencoded(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store, "a", range(3), attach=False)
        store.abandon(ids[1])
        assert store.pending(10) == [ids[0], ids[2]]
        assert store.window(["a"]).unencoded == 3


def test_reading_metadata_does_not_block_appends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing frames and filtering by place parses JSON: neither may block an append."""
    with open_store(tmp_path, hot_frames=0) as store, ThreadPoolExecutor(1) as pool:
        fill(store, "a", range(90))
        store.maintain()
        times = iter(range(100, 10_000))
        read = codec.load_metadata

        def meanwhile(text: str) -> dict[str, Any]:
            pool.submit(store.append, "a", float(next(times)), b"x").result(30)
            return read(text)

        for module in ("codec", "window"):
            monkeypatch.setattr(f"memory.{module}.load_metadata", meanwhile)
        assert [record.time for record in store.records("a", 10, 20, limit=5)] == [10, 11, 12, 13, 14]
        assert store.stats("a").frames == 95
        assert store.window(["a"], before=50.0, where=Within(0, 0, 1000)).num_frames == 0  # no y: no place
        store.append("b", 1.0, b"x", {"x": 3, "y": 4})
        assert store.window(["b"], where=Within(0, 0, 10)).unencoded == 1
        assert store.stats("a").frames == 96
