"""A window equals brute force over the appended frames, and never changes."""

import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import FrameGone
from memory.store import MemoryStore
from memory.window import Window
from tests.support.memories import C, D, M, features, fill, open_store, picture


@dataclass
class Told:
    """An appended frame as the test expects it."""

    frame_id: int
    camera: str
    time: float
    direction: int = -1  # which of the few embeddings it got; -1 for none


@dataclass
class History:
    """A store and the frames that were appended to it."""

    store: MemoryStore
    told: list[Told] = field(default_factory=list)


DIRECTIONS = np.random.default_rng(3).normal(size=(5, D)).astype(np.float32)


def unit(direction: int) -> np.ndarray:
    """Return the unit vector rounded to float16 and normalised again, as it is stored."""
    given = DIRECTIONS[direction]
    stored = (given / np.float64(np.linalg.norm(given.astype(np.float64)))).astype(np.float16).astype(np.float64)
    return stored.astype(np.float32) * np.float32(1 / np.sqrt((stored**2).sum()))


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[tuple[str, int]], list[float], int]:
    """Frames (camera, direction), the order in which they are attached, and the number of frames to keep."""
    num = draw(st.integers(0, 70))
    alike = draw(st.booleans())
    choices = st.just(0) if alike else st.integers(-1, len(DIRECTIONS) - 1)
    frames = [(draw(st.sampled_from("abc")), draw(choices)) for _ in range(num)]
    order = draw(st.lists(st.floats(0, 1), min_size=num, max_size=num))
    return frames, order, draw(st.sampled_from([1, 5, 17, 1000]))


def build(folder: Path, plan: tuple[list[tuple[str, int]], list[float], int]) -> History:
    frames, order, keep = plan
    history = History(open_store(folder, frames=keep))
    for number, (camera, direction) in enumerate(frames):
        frame_id = history.store.append(camera, 10.0 + number / 4, picture(camera, number))
        history.told.append(Told(frame_id, camera, 10.0 + number / 4, direction))
    kept = {t.frame_id for camera in "abc" for t in [t for t in history.told if t.camera == camera][-keep:]}
    for place in np.argsort(order, kind="stable"):
        told = history.told[place]
        if told.direction >= 0:
            given = {**features(told.frame_id), "embedding": DIRECTIONS[told.direction]}
            assert history.store.attach(told.frame_id, **given) == (told.frame_id in kept)
    history.told = [t for t in history.told if t.frame_id in kept]
    return history


@settings(max_examples=60, deadline=None)
@given(plans(), st.sampled_from(["a", "ab", "ca", "abc"]), st.floats(5, 30), st.floats(5, 30), st.integers(0, 80))
def test_window_and_top_equal_brute_force(
    plan: tuple[list[tuple[str, int]], list[float], int], cameras: str, after: float, before: float, k: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        history = build(Path(folder), plan)
        with history.store as store:
            window = store.window(list(cameras), after, before)
            inside = [t for c in cameras for t in history.told if t.camera == c and after <= t.time <= before]
            rows = [t for t in inside if t.direction >= 0]
            assert window.num_frames == len(rows)
            assert window.unencoded == len(inside) - len(rows)
            assert window.frame_ids.tolist() == [t.frame_id for t in rows]
            assert window.times.tolist() == [t.time for t in rows]
            assert [cameras[i] for i in window.camera_index] == [t.camera for t in rows]
            check_ranking(window, [t.direction for t in rows], k)
            check_background(window, history)


def check_ranking(window: Window, directions: list[int], k: int) -> None:
    query = unit(1)
    for number in {k, 1, 2, 7, len(directions)}:
        expected = [np.vecdot(unit(d), query) for d in directions]
        order = sorted(range(len(expected)), key=lambda row: -expected[row])[:number]
        rows, scores = window.top(query, number)
        assert rows.tolist() == order
        assert scores.tolist() == [expected[row] for row in order]
        assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
    gathered = window.embeddings(np.arange(window.num_frames)[::-1])
    assert gathered.tolist() == [unit(d).tolist() for d in directions[::-1]]
    for start in (0, len(directions) // 2, len(directions)):
        stored = [
            half * scale
            for halves, scales in window.stored_rows(start)
            for half, scale in zip(halves, scales, strict=True)
        ]
        assert np.reshape(stored, (-1, D)).tolist() == [unit(d).tolist() for d in directions[start:]]


def check_background(window: Window, history: History) -> None:
    for camera, mean in zip(window.cameras, window.background(), strict=True):
        units = [unit(t.direction) for t in history.told if t.camera == camera and t.direction >= 0]
        np.testing.assert_allclose(mean, np.mean(units, axis=0) if units else np.zeros(D), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 23), st.integers(0, 23), st.sets(st.integers(0, 22)))
def test_read_equals_frame_by_frame(start: int, stop: int, missing: set[int]) -> None:
    start, stop = sorted((start, stop))
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder)) as store:
        ids = fill(store, "a", range(23), attach=False)
        for place, frame_id in enumerate(ids):
            given = features(frame_id)
            if place in missing:
                del given["patches"], given["scalars"]
            store.attach(frame_id, **given)
        window = store.window(["a"])
        block, summaries = window.read(start, stop), window.summaries(start, stop)
        assert block.patches.shape == (stop - start, M, C)
        assert block.patches.dtype == np.float16
        assert block.scalars.shape == (stop - start, M, 3)
        assert summaries.dtype == np.float32
        for place in range(start, stop):
            given, row = features(ids[place]), place - start
            assert block.present[row] == (place not in missing)
            np.testing.assert_array_equal(summaries[row], given["summary"].astype(np.float16))
            if place not in missing:
                np.testing.assert_array_equal(block.patches[row], given["patches"])
                np.testing.assert_array_equal(block.scalars[row], given["scalars"])


def test_window_worked_example(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for time, camera in enumerate("aaababbaa"):
            frame_id = store.append(camera, float(time), b"x")
            if frame_id != 9:
                store.attach(frame_id, **features(frame_id))
        window = store.window(["b", "a"])
        assert window.frame_ids.tolist() == [4, 6, 7, 1, 2, 3, 5, 8]
        assert window.camera_index.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
        assert window.unencoded == 1
        assert window.spans() == ((0, 3), (3, 7), (7, 8))
        for start, stop in window.spans():
            assert np.shares_memory(window.read(start, stop).patches, window.read(start, stop).patches)


def test_a_window_does_not_change(tmp_path: Path) -> None:
    with open_store(tmp_path, frames=10) as store:
        ids = fill(store, "a", range(10))
        late = store.append("a", 10.0, b"late")
        window = store.window(["a"])
        first = describe(window)
        assert window.unencoded == 1
        store.attach(late, **features(late))
        fill(store, "a", range(11, 60))
        with pytest.raises(FrameGone):
            store.jpeg(ids[-1])
        assert describe(window) == first
    assert describe(window) == first  # also when the store is closed


def test_patches_attached_later_do_not_change_a_window(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        frame_id = store.append("a", 1.0, b"x")
        given_ = features(frame_id)
        store.attach(frame_id, embedding=given_["embedding"], summary=given_["summary"])
        store.attach(store.append("a", 2.0, b"x"), **features(2))
        window = store.window(["a"])
        assert window.read(0, 2).present.tolist() == [False, True]
        store.attach(frame_id, **given_)
        assert window.read(0, 2).present.tolist() == [False, True]
        assert store.window(["a"]).read(0, 2).present.tolist() == [True, True]


def describe(window: Window) -> list[object]:
    rows = np.arange(window.num_frames)
    block = window.read(0, window.num_frames)
    query = unit(0)
    arrays = [window.frame_ids, window.times, window.embeddings(rows), window.norms(rows), *window.top(query, 5)]
    arrays += [block.patches, block.scalars, block.present, window.summaries(0, window.num_frames)]
    return [a.tobytes() for a in arrays] + [window.jpeg(r) for r in rows] + [window.metadata(r) for r in rows]


def test_files_are_removed_after_the_last_window(tmp_path: Path) -> None:
    with open_store(tmp_path, frames=4) as store:
        fill(store, "a", range(4))
        window, other = store.window(["a"]), store.window(["a"])
        fill(store, "a", range(10, 20))
        oldest = tmp_path / "segments" / "a" / "000000000001.frames"
        assert window.jpeg(0) == picture("a", 0)
        del window
        store.maintain()
        assert oldest.exists()
        assert other.jpeg(0) == picture("a", 0)
        del other
        store.maintain()
        assert not oldest.exists()


def test_a_window_can_start_at_a_different_time_per_camera(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for camera in "abc":
            fill(store, camera, range(6))
        window = store.window(["c", "a", "b"], after=[4.0, float("inf"), 2.0], before=4.0)
        assert [(int(c), float(t)) for c, t in zip(window.camera_index, window.times, strict=True)] == [
            (0, 4.0), (2, 2.0), (2, 3.0), (2, 4.0),
        ]  # fmt: skip
        with pytest.raises(ValueError, match="3 cameras, but 2 times"):
            store.window(["c", "a", "b"], after=[1.0, 2.0])


def test_windows_refuse_bad_arguments(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store, "a", range(3))
        with pytest.raises(ValueError, match="differ"):
            store.window(["a", "a"])
        with pytest.raises(ValueError, match="numbers"):
            store.window(["a"], after=float("nan"))
        window = store.window(["a"])
        for bad in (-1, 3):
            for call in (window.jpeg, window.metadata, window.embeddings, window.norms):
                with pytest.raises(IndexError):
                    call(bad)
        for start, stop in ((-1, 2), (2, 1), (0, 4)):
            with pytest.raises(IndexError):
                window.read(start, stop)
            with pytest.raises(IndexError):
                window.summaries(start, stop)
        for query in (np.zeros(D + 1), np.full(D, np.nan)):
            with pytest.raises(ValueError, match="query"):
                window.top(query, 1)
        with pytest.raises(ValueError, match="negative"):
            window.top(unit(0), -1)
        assert store.window(["a"], after=5, before=1).num_frames == 0
        assert store.window([]).num_frames == 0


def test_windows_under_appends_attaches_and_evictions(tmp_path: Path) -> None:
    """Readers check windows while one thread appends, another attaches, and old frames are evicted."""
    problems: list[BaseException] = []
    rows_seen: list[int] = []
    done = threading.Event()
    with open_store(tmp_path, frames=40, hot_frames=20) as store:

        def guarded(steps: Iterator[None]) -> None:
            try:
                for _ in steps:
                    pass
            except BaseException as problem:
                problems.append(problem)
                done.set()
                raise

        readers = [read_all(store, done, rows_seen) for _ in range(2)]
        work = [append_all(store, done, rows_seen), attach_all(store, done), *readers]
        threads = [threading.Thread(target=guarded, args=(steps,)) for steps in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not problems
        assert sum(rows_seen) > 100
        assert store.status().evicted > 300
        assert store.stats("a").frames == 40


def append_all(store: MemoryStore, done: threading.Event, rows_seen: list[int]) -> Iterator[None]:
    """Append at least 400 frames, and more until the readers have checked enough windows."""
    for number in range(20_000):
        if done.is_set():
            return
        if number >= 400 and sum(rows_seen) > 100:
            break
        store.append("a", float(number), picture("a", number), {"x": number})
        yield
    done.set()


def attach_all(store: MemoryStore, done: threading.Event) -> Iterator[None]:
    while not done.is_set():
        for frame_id in store.pending(10_000)[:-8:-1]:
            store.attach(frame_id, **features(frame_id))
            yield


def read_all(store: MemoryStore, done: threading.Event, rows_seen: list[int]) -> Iterator[None]:
    while not done.is_set():
        window = store.window(["a"])
        rows = np.arange(window.num_frames)
        rows_seen.append(len(rows))
        assert (np.diff(window.frame_ids) > 0).all()
        block, summaries, first = window.read(0, len(rows)), window.summaries(0, len(rows)), window.embeddings(rows)
        for row, frame_id in enumerate(window.frame_ids):
            given = features(int(frame_id))
            assert window.jpeg(row) == picture("a", window.metadata(row)["x"])
            np.testing.assert_array_equal(summaries[row], given["summary"].astype(np.float16))
            if block.present[row]:
                np.testing.assert_array_equal(block.patches[row], given["patches"])
        query = unit(2)
        ranked, _ = window.top(query, 3)
        expected = sorted(rows, key=lambda row: -np.vecdot(first[row], query))[:3]
        assert ranked.tolist() == expected
        assert window.embeddings(rows).tobytes() == first.tobytes()
        yield


def test_counts_and_newest_times_are_those_of_the_window(tmp_path: Path) -> None:
    store = open_store(tmp_path, frames=9)
    fill(store, "a", [float(time) for time in range(10)])
    fill(store, "a", [10.0, 11.0], attach=False)
    for after, before in ((None, None), (5.0, 8.0), (8.0, None), (20.0, None)):
        window = store.window(["a", "b"], after, before)
        assert store.count(["a", "b"], after, before) == (window.num_frames, window.unencoded)
    times = store.window(["a"]).times
    for count in (1, 3, 6, 100):
        assert store.newest_times("a", count).tolist() == times[-count:].tolist()
    assert len(store.newest_times("b", 3)) == 0
    store.close()
