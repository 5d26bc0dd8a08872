"""Pending frames are listed oldest first, at a cost that depends on the batch, not on the backlog."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.cameras import first_ids
from memory.records import Int64
from tests.support.memories import features, fill, open_store


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_batch_reads_no_more_than_it_needs(newest_first: bool) -> None:
    """With 300,000 pending frames of three cameras, one segment of each camera is read."""
    read: list[int] = []

    def segments(camera: int) -> Iterator[Int64]:
        starts = range(0, 100_000, 250)
        for start in reversed(starts) if newest_first else starts:
            read.append(start)
            yield np.arange(start, start + 250) * 3 + camera

    found = first_ids(8, (segments(camera) for camera in range(3)), newest_first=newest_first)
    assert found == (list(range(299_999, 299_991, -1)) if newest_first else list(range(8)))
    assert len(read) == 3


@given(st.lists(st.sets(st.integers(0, 60)), max_size=4), st.integers(0, 20), st.booleans())
def test_first_ids_equals_sorting_all_ids(cameras: list[set[int]], limit: int, newest_first: bool) -> None:
    ids = [sorted({7 * i + number for i in each}) for number, each in enumerate(cameras)]
    arrays = [[np.array(each[start : start + 5], np.int64) for start in range(0, len(each), 5)] for each in ids]
    found = first_ids(limit, (iter(each[::-1] if newest_first else each) for each in arrays), newest_first=newest_first)
    assert found == sorted((i for each in ids for i in each), reverse=newest_first)[:limit]


def test_the_store_lists_pending_frames(tmp_path: Path) -> None:
    with open_store(tmp_path, hot_frames=6) as store:
        a = fill(store, "a", range(10), attach=False)
        b = fill(store, "b", range(10), attach=False)
        store.attach(b[3], **features(b[3]))
        store.abandon(a[1])
        waiting = sorted({*a, *b} - {a[1], b[3]})
        assert store.pending(100) == waiting
        assert store.pending(5) == waiting[:5]
        assert store.pending(0) == []
        for frame_id in waiting:
            store.attach(frame_id, **features(frame_id))
        assert store.pending(100) == []
    with open_store(tmp_path, hot_frames=6) as store:
        hot = sorted(a[4:] + b[4:])  # whole segments of four
        assert store.pending_patches(100) == hot[::-1]
        assert store.pending_patches(5) == hot[:-6:-1]
