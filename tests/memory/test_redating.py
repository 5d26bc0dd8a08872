"""Redating frames: order, windows, blocks, restarts, a rebuilt journal, a failing disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import StorageFull
from memory.journal import Journal
from memory.redating import first_moved
from tests.support.memories import fill, open_store

COLD: dict[str, Any] = {"segment_frames": 4, "hot_frames": 8}


def test_redating_worked_example() -> None:
    times = np.array([50.0, 210.0, 240.0, 300.0, 301.0])
    assert first_moved(times, 3, -100.0) == 1
    assert first_moved(times, 3, -10.0) == 3
    assert first_moved(times, 3, 100.0) == 3


def test_moved_frames_have_their_new_times_after_a_restart(tmp_path: Path) -> None:
    with open_store(tmp_path, **COLD) as store:
        ids = fill(store, "door", range(100))  # a block of sixteen segments, and more
        store.maintain()
        assert any(segment.block is not None for segment in store._logs.segments())
        before = store.window(["door"])
        assert store.redate("door", 60.0, 1000.0, "corrected") == 40
        assert before.times.tolist() == list(range(100))  # a view stays as it was
        wanted = [*range(60), *range(1060, 1100)]
        assert store.window(["door"]).times.tolist() == wanted
        assert store.window(["door"], 1000.0).frame_ids.tolist() == ids[60:]
        assert store.record(ids[99]).metadata == {"x": 99, "clock": "corrected"}
        assert store.record(ids[59]).metadata == {"x": 59}
        assert store.redate("door", 1060.0, -1000.0, "corrected") == 40
        assert store.append("door", 100.0, b"next", {}) > ids[-1]
        store.maintain()
        found = store.window(["door"]).times
    with open_store(tmp_path, **COLD) as store:
        assert store.window(["door"]).times.tolist() == found.tolist() == list(range(100))
        assert store.records("door")[-1].time == 100.0
        assert store.erase("door", 70.0, 79.0) == 10


@settings(max_examples=40)
@given(
    st.lists(st.floats(0.01, 50), min_size=1, max_size=30), st.integers(0, 29),
    st.floats(-200, 200).filter(lambda shift: abs(shift) > 0.01),
)  # fmt: skip
def test_times_rise_whatever_is_moved(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[float], first: int, shift_s: float
) -> None:
    folder = tmp_path_factory.mktemp("store")
    with open_store(folder, **COLD) as store:
        times = np.cumsum(gaps)
        ids = fill(store, "door", times)
        store.redate("door", float(times[min(first, len(times) - 1)]), shift_s, "corrected")
        window = store.window(["door"])
        assert window.frame_ids.tolist() == ids
        assert np.all(np.diff(window.times) > 0)
    with open_store(folder, **COLD) as store:
        assert store.window(["door"]).times.tolist() == window.times.tolist()


def test_a_rebuilt_journal_keeps_the_order(tmp_path: Path) -> None:
    """Records on disk keep the times they were written with."""
    with open_store(tmp_path, **COLD) as store:
        ids = fill(store, "door", range(3600, 3610))
        store.redate("door", 3600.0, -3600.0, "corrected")
        ids += fill(store, "door", range(10, 20))
    (tmp_path / "journal.sqlite").write_bytes(b"no database")
    for _ in range(2):  # the order is written down
        with open_store(tmp_path, **COLD) as store:
            window = store.window(["door"])
            assert window.frame_ids.tolist() == ids
            assert np.all(np.diff(window.times) > 0)
            assert window.times[10:].tolist() == list(range(10, 20))
            assert store.record(ids[0]).metadata["clock"] == "uncertain"


def test_nothing_moves_when_the_rows_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path) as store:
        fill(store, "door", range(5))

        def refuse(self: Journal, *args: object) -> None:
            raise StorageFull("no space left")

        with monkeypatch.context() as patched:
            patched.setattr(Journal, "redate", refuse)
            with pytest.raises(StorageFull):
                store.redate("door", 0.0, -10.0, "corrected")
        assert store.window(["door"]).times.tolist() == list(range(5))
        assert store.redate("nobody", 0.0, -10.0, "corrected") == 0
        assert store.redate("door", 9.0, -10.0, "corrected") == 0


def test_erased_frames_stay_erased(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store, "door", range(6))
        store.erase("door", 2.0, 3.0)
        assert store.redate("door", 0.0, 100.0, "corrected") == 4
    with open_store(tmp_path) as store:
        assert store.window(["door"]).frame_ids.tolist() == [*ids[:2], *ids[4:]]
        assert all(json.dumps(record.metadata) for record in store.records("door"))
