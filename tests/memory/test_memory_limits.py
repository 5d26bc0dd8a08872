"""Eviction by frames, bytes and age: the caps hold after every append, and files and rows are removed."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import eviction
from memory.camera_log import CameraLog
from memory.codec import FRAME_HEADER, vector_record_size
from memory.errors import FrameGone
from memory.files import unlink_files
from memory.limits import Limits
from memory.segments import Segment
from tests.support.memories import VECTOR_BYTES, C, D, features, fill, open_store


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "segments").rglob("*.frames"))


def test_exactly_the_newest_frames_are_kept(tmp_path: Path) -> None:
    with open_store(tmp_path, frames=6) as store:
        ids = fill(store, "a", range(30))
        assert store.window(["a"]).frame_ids.tolist() == ids[-6:]
        assert store.stats("a").frames == store.stats("a").encoded == 6
        assert (store.stats("a").oldest, store.stats("a").newest) == (24, 29)
        with pytest.raises(FrameGone):
            store.jpeg(ids[-7])
        assert store.attach(ids[-7], **features(1)) is False
        store.maintain()
        assert files_of(tmp_path) == ["000000000025.frames", "000000000029.frames"]
    with open_store(tmp_path, frames=6) as store:
        assert store.window(["a"]).frame_ids.tolist() == ids[-6:]
    with open_store(tmp_path, frames=2) as store:  # a smaller limit at the next start
        assert store.window(["a"]).frame_ids.tolist() == ids[-2:]
    rows = sqlite3.connect(tmp_path / "journal.sqlite").execute("SELECT frame_id FROM frames ORDER BY 1").fetchall()
    assert [row[0] for row in rows] == [29, 30]


def test_an_append_does_not_wait_until_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []

    def remove(*paths: str) -> None:
        removed.extend(paths)
        unlink_files(*paths)

    monkeypatch.setattr(eviction, "unlink_files", remove)
    with open_store(tmp_path, frames=6) as store:
        fill(store, "a", range(30))
        window = store.window(["a"])
        fill(store, "a", range(30, 34))
        assert (removed, len(files_of(tmp_path))) == ([], 9)
        store.maintain()
        assert len(files_of(tmp_path)) == 3  # one of them for the window
        del window
        assert len(files_of(tmp_path)) == 3
        store.maintain()
        assert len(files_of(tmp_path)) == 2
        fill(store, "a", range(34, 34 + 4 * (eviction.MOST_FREED + 1)))  # nobody maintains: they do not pile up
        assert len(files_of(tmp_path)) <= 3
        fill(store, "a", range(400, 404))
    assert len(files_of(tmp_path)) == 2
    with open_store(tmp_path, frames=2):
        assert len(files_of(tmp_path)) == 1


def test_limits_of_one_camera_do_not_affect_others(tmp_path: Path) -> None:
    with open_store(tmp_path, frames=5) as store:
        fill(store, "busy", range(100))
        fill(store, "quiet", range(2))
        assert store.stats("busy").frames == 5
        assert store.stats("quiet").frames == 2


def test_bytes_on_disk_stay_below_the_cap(tmp_path: Path) -> None:
    cap = 20_000
    with open_store(tmp_path, bytes=cap) as store:
        for time in range(200):
            frame_id = store.append("a", float(time), bytes(300 + 37 * (time % 50)))
            store.attach(frame_id, **features(frame_id))
            store.maintain()
            on_disk = sum(path.stat().st_size for path in (tmp_path / "segments").rglob("*.*"))
            assert on_disk <= store.stats("a").bytes <= cap
        assert store.stats("a").frames >= 5
        held = store.stats("a")
    with open_store(tmp_path, bytes=cap) as store:
        assert store.stats("a").bytes == held.bytes
        assert store.stats("a").frames == held.frames


def test_age_is_measured_from_the_newest_frame_and_from_a_clock(tmp_path: Path) -> None:
    with open_store(tmp_path, age_s=10.0) as store:
        fill(store, "a", range(0, 30, 3))
        assert store.window(["a"]).times.tolist() == [18, 21, 24, 27]
        store.append("a", 28.5, b"x")
        assert store.stats("a").oldest == 21
        store.expire(20.0)  # a clock that lags behind changes nothing
        assert store.stats("a").frames == 4
        store.expire(35.0)
        assert store.stats("a").oldest == 27
        store.expire(1000.0)
        assert store.stats("a").frames == 0
        assert store.cameras() == []
        store.maintain()
        assert files_of(tmp_path) == []
        store.append("a", 5.0, b"nothing is remembered, so any time is new")
    with open_store(tmp_path, age_s=10.0) as store:
        assert store.stats("a").frames == 1


def test_patches_stay_for_the_newest_frames_only(tmp_path: Path) -> None:
    with open_store(tmp_path, hot_frames=5) as store:
        fill(store, "a", range(20))
        window = store.window(["a"])
        assert window.read(0, 20).present.tolist() == [False] * 12 + [True] * 8  # up to one segment more
        assert store.stats("a").hot == 8
        assert store.pending_patches(100) == []
        before = window.read(12, 16)
        fill(store, "a", range(20, 40))
        assert window.read(12, 16).present.all()
        assert window.read(12, 16).patches.tobytes() == before.patches.tobytes()
        cold = int(window.frame_ids[0])
        assert store.attach(cold, **features(cold)) is True  # remembered, but its patches are not wanted
        assert not store.window(["a"]).read(0, 1).present.any()
    with open_store(tmp_path, hot_frames=5) as store:
        assert len(store.pending_patches(100)) == 8
    with open_store(tmp_path, hot_frames=0) as store:
        assert store.pending_patches(100) == []
        fill(store, "a", range(100, 103))
        assert store.stats("a").hot == 0


def test_hot_bytes_bound_the_patches(tmp_path: Path) -> None:
    frame_bytes = 3 * 4 * 2 + 3 * 3 * 4
    with open_store(tmp_path, hot_bytes=5 * frame_bytes) as store:
        fill(store, "a", range(20))
        assert store.stats("a").hot == 8


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frames", 0),
        ("bytes", 0),
        ("segment_frames", 0),
        ("segment_frames", 70_000),
        ("hot_frames", -1),
        ("hot_bytes", -1),
        ("age_s", 0.0),
        ("age_s", float("nan")),
        ("age_s", float("inf")),
    ],
)
def test_limits_are_checked(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Limits(**{field: value})  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 5), st.integers(1, 90)), max_size=60),
    st.integers(1, 12),
    st.integers(100, 1000),
    st.none() | st.floats(1, 40),
    st.integers(1, 5),
)
def test_the_caps_hold_for_any_sequence(
    frames: list[tuple[float, int]], keep: int, num_bytes: int, age_s: float | None, segment_frames: int
) -> None:
    limits = Limits(frames=keep, bytes=num_bytes, age_s=age_s, segment_frames=segment_frames)
    log, time = CameraLog("a", limits, 1), 0.0
    told: list[tuple[float, int]] = []
    for frame_id, (step, size) in enumerate(frames, start=1):
        time += step
        left = log.trim(newest=time, incoming_frames=1, incoming_bytes=size)
        assert all(segment.floor <= segment.count for segment in left)
        segment = log.open_segment()
        if segment is None:
            segment = Segment(frame_id, "a", Path(), capacity=segment_frames, embedding_dim=1, summary_dim=1)
            log.segments.append(segment)
        segment.add(frame_id, time, "", 0, 0)
        log.grown(segment, 1, size)
        told.append((time, size))
        held = [float(t) for s in log.segments for t in s.times[s.live()]]
        assert len(held) <= keep
        assert log.num_bytes == sum(s.bytes for s in log.segments) <= num_bytes
        assert age_s is None or held[0] >= time - age_s
        assert held == [t for t, _ in told[-len(held) :]]
        if sum(size for _, size in told) <= num_bytes:  # and no more is forgotten than must be
            assert held == [t for t, _ in told[-keep:] if age_s is None or t >= time - age_s]
    assert log.stats().frames == len([t for s in log.segments for t in s.times[s.live()]])


def test_record_sizes_of_the_test_helpers_match_the_format() -> None:
    assert vector_record_size(D, C) == VECTOR_BYTES
    assert FRAME_HEADER.size == 32
