"""Erasing: afterwards no file holds a byte of what was erased, whatever interrupted it, and the rest is unchanged."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memory import erasure
from memory.codec import VECTOR_HEADER
from memory.errors import FrameGone, StorageError
from memory.journal import Journal
from memory.store import MemoryStore
from tests.support.memories import features, of, open_store, put, secret, traces

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "10"))


def test_no_file_holds_a_byte_of_an_erased_range(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = {number: put(store, "a", number, attach=number != 7) for number in range(14)}
        others = {number: put(store, "b", number) for number in range(100, 106)}
        gone = {number: ids[number] for number in range(3, 11)}
        kept = {number: frame_id for number, frame_id in ids.items() if number not in gone}
        assert len(traces(tmp_path, of(gone))) > 8 * 20  # they are found while they are there, in WAL or file
        assert store.erase("a", 3, 10) == 8
        assert traces(tmp_path, of(gone)) == []
        assert (tmp_path / "journal.sqlite-wal").stat().st_size < 8192
        check(store, kept, others)
        assert store.pending(100) == []
        assert store.status().erased == 8
        assert store.attach(gone[7], **features(gone[7])) is False
        new = put(store, "a", 50)
        assert new > max(ids.values())
    with open_store(tmp_path) as store:
        assert traces(tmp_path, of(gone)) == []
        check(store, kept | {50: new}, others)
        status = store.status()
        assert (status.frames_damaged, status.vectors_damaged, status.journal_rebuilt) == (0, 0, False)


def check(store: MemoryStore, kept: dict[int, int], others: dict[int, int]) -> None:
    """Check that exactly these frames are stored, as they were appended."""
    for camera, numbers in (("a", kept), ("b", others)):
        window = store.window([camera])
        assert window.frame_ids.tolist() == list(numbers.values())
        assert store.stats(camera).frames == len(numbers)
        for row, (number, frame_id) in enumerate(numbers.items()):
            assert window.jpeg(row) == store.jpeg(frame_id) == secret(number)
            assert window.metadata(row) == {"note": f"secret-{number}-"}
            np.testing.assert_array_equal(
                window.summaries(row, row + 1)[0], features(frame_id)["summary"].astype("<f2")
            )


@given(
    lower=st.floats(-2, 22), upper=st.floats(-2, 22), per_segment=st.integers(1, 7), cap=st.integers(5, 20),
    unencoded=st.sets(st.integers(0, 19)),
)  # fmt: skip
@example(lower=-0.0, upper=-0.0, per_segment=4, cap=20, unencoded=set())
@settings(max_examples=20, deadline=None)
def test_erasing_any_range_keeps_exactly_the_other_frames(
    tmp_path_factory: pytest.TempPathFactory,
    lower: float,
    upper: float,
    per_segment: int,
    cap: int,
    unencoded: set[int],
) -> None:
    folder = tmp_path_factory.mktemp("memory")
    limits = {"segment_frames": per_segment, "frames": cap}
    with open_store(folder, **limits) as store:
        ids = {number: put(store, "a", number, attach=number not in unencoded) for number in range(20)}
        held = set(range(20 - cap, 20))
        gone = {number for number in ids if lower <= number <= upper}
        wanted = [ids[number] for number in sorted(held - gone)]
        store.erase("a", lower, upper)
        assert traces(folder, of({number: ids[number] for number in gone})) == []
        check_frames(store, folder, wanted, [ids[n] for n in sorted(unencoded & held - gone)])
        background = store.window(["a"]).background()
    with open_store(folder, **limits) as store:
        check_frames(store, folder, wanted, [ids[n] for n in sorted(unencoded & held - gone)])
        np.testing.assert_array_equal(store.window(["a"]).background(), background)
        assert put(store, "a", 30) > max(ids.values())


def check_frames(store: MemoryStore, folder: Path, wanted: list[int], pending: list[int]) -> None:
    window = store.window(["a"])
    assert window.frame_ids.tolist() == [i for i in wanted if i not in pending]
    assert store.pending(100) == pending
    assert store.pending_patches(100) in ([], window.frame_ids.tolist()[::-1])
    stats = store.stats("a")
    assert (stats.frames, stats.encoded) == (len(wanted), len(wanted) - len(pending))
    assert sum(path.stat().st_size for path in folder.glob("segments/*/*")) <= stats.bytes
    for row, number in enumerate(window.times):
        assert window.jpeg(row) == secret(int(number))
        block = window.read(row, row + 1)
        if block.present[0]:
            np.testing.assert_array_equal(block.patches[0], features(int(window.frame_ids[row]))["patches"])


def test_a_window_loses_erased_pictures_at_once_and_its_arrays_when_it_ends(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = [put(store, "a", number) for number in range(10)]
        window = store.window(["a"])
        before = window.embeddings(range(10))
        block = window.read(4, 8)
        patches, scalars = block.patches, block.scalars
        assert np.abs(patches).min() > 0
        store.erase("a", 4, 6)
        np.testing.assert_array_equal(window.embeddings(range(10)), before)  # an answer in the making stays whole
        for row in range(10):
            if 4 <= row <= 6:
                with pytest.raises(FrameGone):
                    window.jpeg(row)
                assert window.metadata(row) == {}
            else:
                assert window.jpeg(row) == secret(row)
        assert store.window(["a"]).frame_ids.tolist() == ids[:4] + ids[7:]
        del window
        assert not patches.any()
        assert not scalars.any()


def test_evicted_segments_that_a_window_still_holds_are_erased_too(tmp_path: Path) -> None:
    with open_store(tmp_path, frames=4) as store:
        ids = {number: put(store, "a", number) for number in range(4)}
        window = store.window(["a"])
        for number in range(4, 12):
            put(store, "a", number)
        assert window.jpeg(0) == secret(0)
        assert store.erase("a", 0, 3) == 0  # no row names them any more
        assert traces(tmp_path, of(ids)) == []
        with pytest.raises(FrameGone):
            window.jpeg(0)
        assert store.stats("a").frames == 4


def test_erasing_removes_a_damaged_journal_that_was_put_aside(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = {number: put(store, "a", number) for number in range(6)}
    journal = tmp_path / "journal.sqlite"
    data = bytearray(journal.read_bytes())
    data[0:16] = bytes(16)
    journal.write_bytes(data)
    with open_store(tmp_path) as store:
        assert store.status().journal_rebuilt
        assert (tmp_path / "journal.sqlite.damaged").exists()
        store.erase("a", 0, 2)
        gone = {number: ids[number] for number in range(3)}
        assert traces(tmp_path, of(gone)) == []


def test_bad_ranges_are_refused_and_an_empty_range_erases_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        put(store, "a", 1)
        with pytest.raises(ValueError, match="numbers"):
            store.erase("a", float("nan"), 2)
        with pytest.raises(ValueError, match="camera name"):
            store.erase("../a", 0, 2)
        assert store.erase("nobody", -np.inf, np.inf) == 0
        assert store.erase("a", 5, 4) == 0
        assert store.stats("a").frames == 1
        assert store.erase("a", -np.inf, np.inf) == 1
        assert store.cameras() == []
    with pytest.raises(StorageError, match="closed"):
        store.erase("a", 0, 2)


# --- interrupted ---


@pytest.mark.parametrize("step", ["sweep", "keep_only", "sync_folder"])
def test_an_erasure_that_the_disk_refuses_is_completed_later(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with open_store(tmp_path) as store:
        ids = {number: put(store, "a", number) for number in range(14)}
        gone = {number: ids[number] for number in range(3, 11)}
        with monkeypatch.context() as patched:
            patched.setattr(erasure, step, refuse)
            with pytest.raises((StorageError, OSError)):
                store.erase("a", 3, 10)
        assert store.window(["a"]).frame_ids.tolist() == [ids[n] for n in ids if n not in gone]
        assert traces(tmp_path, of(gone)) != []
        store.maintain()
        assert traces(tmp_path, of(gone)) == []


CHILD = """
import os, sys
from pathlib import Path
import memory.erasure as erasure
import memory.journal as journal
from tests.support.memories import open_store

# dies at the n-th of these calls, which lie between all the steps of an erasure
left = int(sys.argv[2])
def dying(call):
    def wrapped(*args, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return call(*args, **named)
    return wrapped

with open_store(Path(sys.argv[1])) as store:
    for place, name in ((os, "pwrite"), (os, "ftruncate"), (os, "fdatasync"), (Path, "unlink"),
                        (journal.Journal, "begin_erasure"), (journal.Journal, "places"),
                        (journal.Journal, "scrub"), (journal.Journal, "end_erasure"),
                        (erasure, "sync_folder"), (erasure, "forget_between")):
        setattr(place, name, dying(getattr(place, name)))
    store.erase("a", 3, 10)
    os.write(1, b"done")
"""


NUM_CALLS = 32  # in that erasure


def test_an_erasure_killed_anywhere_is_completed_or_has_not_begun(tmp_path: Path) -> None:
    """Kill a child process at system and journal calls, from the first to the last, and not at all."""
    outcomes = set()
    for calls in sorted({*np.linspace(0, NUM_CALLS - 1, min(NUM_CALLS, ROUNDS), dtype=int).tolist(), 1000}):
        folder = tmp_path / str(calls)
        with open_store(folder) as store:
            ids = {number: put(store, "a", number, attach=number != 7) for number in range(14)}
            others = {number: put(store, "b", number) for number in range(100, 106)}
        gone = {number: ids[number] for number in range(3, 11)}
        ran = subprocess.run([sys.executable, "-c", CHILD, str(folder), str(calls)], cwd=ROOT, capture_output=True)
        with open_store(folder) as store:
            begun = store.stats("a").frames == 6
            outcomes.add((begun, ran.stdout == b"done"))
            if begun:
                check(store, {n: i for n, i in ids.items() if n not in gone}, others)
                assert traces(folder, of(gone)) == []
            else:
                assert ran.stdout == b""
                assert store.stats("a").frames == 14
                assert len(store.pending(100)) == 1
            status = store.status()
            assert (status.frames_damaged, status.vectors_damaged, status.journal_rebuilt) == (0, 0, False)
        assert ran.returncode == (0 if calls == 1000 else -signal.SIGKILL), ran.stderr
    assert outcomes == {(False, False), (True, False), (True, True)}


def test_a_finished_erasure_survives_the_loss_of_the_journal(tmp_path: Path) -> None:
    """The rows are rebuilt from the segment files, which hold nothing of it."""
    with open_store(tmp_path) as store:
        ids = {number: put(store, "a", number) for number in range(14)}
        store.erase("a", 3, 10)
    for path in tmp_path.glob("journal.sqlite*"):
        path.unlink()
    with open_store(tmp_path) as store:
        assert store.status().journal_rebuilt
        assert store.window(["a"]).frame_ids.tolist() == [ids[n] for n in (0, 1, 2, 11, 12, 13)]


def test_free_pages_hold_nothing_after_many_page_splits(tmp_path: Path) -> None:
    """Erase thousands of rows with metadata of all sizes in pieces, so that pages are often split and merged."""
    rng = random.Random(5)
    with open_store(tmp_path, segment_frames=64) as store:
        for number in range(3000):
            store.append("a", float(number), b"picture", {"note": f"secret-{number:04}-" + "x" * rng.randrange(400)})
        for start in range(0, 3000, 500):
            store.erase("a", start, start + 399)
        data = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        found = [number for number in range(3000) if f"secret-{number:04}-".encode() in data]
        assert found == [number for number in range(3000) if number % 500 >= 400]


def test_rows_are_counted_after_an_erasure(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for number in range(30):
            put(store, "a", number)
        store.erase("a", 0, 24)
    with sqlite3.connect(tmp_path / "journal.sqlite") as db:
        assert db.execute("SELECT COUNT(*) FROM frames").fetchone() == (5,)
        assert db.execute("SELECT COUNT(*) FROM erasures").fetchone() == (0,)
        assert db.execute("PRAGMA freelist_count").fetchone() == (0,)
    db.close()


def test_segments_of_a_block_are_erased_one_by_one(tmp_path: Path) -> None:
    """The other segments of the block are unchanged, and the erased rows of its index are zeroed."""
    with open_store(tmp_path, hot_frames=0) as store:
        ids = [put(store, "a", number) for number in range(4 * 20)]
        store.maintain()
        whole = store.window(["a"])
        assert len(whole.spans()) < 10  # there is a block
        store.erase("a", 10, 21)
        rest = store.window(["a"])
        kept = [*range(10), *range(22, 80)]
        assert rest.frame_ids.tolist() == [ids[number] for number in kept]
        np.testing.assert_array_equal(rest.embeddings(range(68)), whole.embeddings(kept))
        query = whole.embeddings([30])[0]
        rows, scores = rest.top(query, 5)
        assert rows[0] == kept.index(30)
        assert scores[0] == pytest.approx(1, abs=1e-6)
        del whole
        np.testing.assert_array_equal(
            rest.embeddings(range(68)) @ query, store.window(["a"]).embeddings(range(68)) @ query
        )
        store.maintain()
        assert store.window(["a"]).top(query, 5)[0].tolist() == rows.tolist()


def test_questions_do_not_wait_for_an_erasure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the journal is rewritten, windows, pictures and counts are served; an append waits and then succeeds."""
    inside, go = threading.Event(), threading.Event()
    scrub = Journal.scrub

    def slow(journal: Journal) -> None:
        inside.set()
        assert go.wait(30)
        scrub(journal)

    monkeypatch.setattr(Journal, "scrub", slow)
    with open_store(tmp_path) as store, ThreadPoolExecutor(4) as pool:
        ids = [put(store, "a", number) for number in range(10)]
        erasing = pool.submit(store.erase, "a", 4, 6)
        try:
            assert inside.wait(30)
            left = pool.submit(lambda: store.window(["a"]).frame_ids.tolist()).result(30)
            assert left == ids[:4] + ids[7:]
            assert pool.submit(store.jpeg, ids[0]).result(30) == secret(0)
            assert pool.submit(store.stats, "a").result(30).frames == 7
            appending = pool.submit(put, store, "a", 20)
            assert pool.submit(store.records, "a").result(30)[-1].time == 9
        finally:
            go.set()
        assert erasing.result(30) == 3
        left.append(appending.result(30))
        assert store.window(["a"]).frame_ids.tolist() == left


def test_a_record_with_a_damaged_length_does_not_protect_the_bytes_behind_it(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = {number: put(store, "a", number) for number in range(3)}
        gone = {number: ids[number] for number in (1, 2)}
        path = next(tmp_path.glob("segments/a/*.vectors"))
        data = bytearray(path.read_bytes())
        data[VECTOR_HEADER.size - 9] ^= 1  # of the first, the width of the embedding: now 2^24 more
        path.write_bytes(data)
        store.erase("a", 1, 2)
        assert traces(tmp_path, of(gone)) == []
    with open_store(tmp_path) as store:
        assert store.pending(10) == [ids[0]]
