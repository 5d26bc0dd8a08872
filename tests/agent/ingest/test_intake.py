"""A camera's way in: every frame remembered in order, across sources, takeovers and a full disk."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ingest.backlog import Backlog
from agent.ingest.intake import Intake, camera_state, rising
from agent.ingest.jpeg import decode_jpeg, encode_jpeg
from agent.metrics import Metrics
from memory.errors import StorageFull
from memory.limits import Limits
from memory.store import MemoryStore
from tests.support.agents import START, ListSource, frames, picture


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return MemoryStore(tmp_path, embedding_dim=4, limits=Limits(), patch_shape=(2, 3))


def intake(store: MemoryStore) -> Intake:
    return Intake("door", store, Backlog(100), Metrics(), {"place": "hall"})


async def test_every_frame_is_remembered_with_its_picture_and_metadata(store: MemoryStore) -> None:
    sent = frames(5)
    one = intake(store)
    await one.run(ListSource("door", sent))
    assert one.counters.remembered == 5
    ids = store.pending(10)
    assert [store.record(i).time for i in ids] == [frame.time for frame in sent]
    assert store.record(ids[0]).metadata == {"place": "hall", "clock": "arrival"}
    seen = decode_jpeg(store.jpeg(ids[2])).astype(int)
    assert seen.shape == sent[2].image.shape
    assert abs(seen - sent[2].image.astype(int)).mean() < 8
    assert one.state == "offline"
    store.close()


async def test_damaged_frames_are_marked_and_counted_over_all_sessions(store: MemoryStore) -> None:
    good, bad = frames(2)
    one = intake(store)
    source = ListSource("door", [good, replace(bad, damaged=True)])
    source.stats.damaged, source.stats.key_frames_requested = 3, 2
    await one.run(source)
    await one.run(ListSource("door", frames(1, start=START + 10)))
    marks = [store.record(each).metadata.get("damaged") for each in store.pending(5)]
    assert marks == [None, True, None]
    assert (one.in_transit("damaged"), one.in_transit("key_frames_requested")) == (3, 2)
    store.close()


async def test_a_camera_may_change_its_size(store: MemoryStore) -> None:
    small, large = frames(1)[0], frames(1, start=START + 1)[0]
    large = type(large)(large.time, picture(5, 640, 360), large.clock)
    await intake(store).run(ListSource("door", [small, large]))
    assert [decode_jpeg(store.jpeg(i)).shape for i in store.pending(5)] == [(48, 64, 3), (360, 640, 3)]
    store.close()


async def test_a_second_source_takes_over_and_time_goes_on_rising(store: MemoryStore) -> None:
    one = intake(store)
    first = ListSource("door", frames(3, start=START + 100), stay=True)
    running = asyncio.create_task(one.run(first))
    while one.counters.remembered < 3:
        await asyncio.sleep(0)
    assert one.state == "live"
    await one.run(ListSource("door", frames(3)))  # its clock runs behind
    await running
    times = [store.record(i).time for i in store.pending(10)]
    assert len(times) == 6
    assert times == sorted(set(times))
    assert one.counters.sessions == 2
    again = intake(store)  # after a restart as well
    await again.run(ListSource("door", frames(1)))
    assert store.stats("door").frames == 7
    store.close()


class FullDisk(MemoryStore):
    """A memory whose disk is full for some appends."""

    full = False

    def append(self, *args: object, **kwargs: object) -> int:
        if self.full:
            raise StorageFull("no space left for a frame")
        return super().append(*args, **kwargs)  # type: ignore[arg-type]


async def test_a_full_disk_costs_frames_and_nothing_else(tmp_path: Path) -> None:
    store = FullDisk(tmp_path, embedding_dim=4, limits=Limits(), patch_shape=(2, 3))
    one = intake(store)
    store.full = True
    await one.run(ListSource("door", frames(2)))
    assert (one.counters.remembered, one.counters.lost) == (0, 2)
    assert "no space left" in (one.problem or "")
    store.full = False
    await one.run(ListSource("door", frames(2, start=START + 5)))
    assert (one.counters.remembered, one.problem) == (2, None)
    assert b'vilamp_frames_lost_total{camera="door",reason="disk_full"} 2.0' in one._metrics.text()
    store.close()


def test_states() -> None:
    assert camera_state("live") == "live"
    assert camera_state("stalled") == "stalled"
    assert {camera_state(s) for s in (None, "starting", "reconnecting", "ended", "failed", "closed")} == {"offline"}


def test_rising_worked_example() -> None:
    assert rising(10.0, 12.0) == pytest.approx(12.001)
    assert rising(13.0, 12.0) == 13.0


@given(st.lists(st.floats(1e9, 2e9)))
def test_rising_rises(times: list[float]) -> None:
    last = -np.inf
    for time in times:
        now = rising(time, last)
        assert now > last
        assert now >= time
        last = now


def test_jpeg_of_odd_sizes() -> None:
    for shape in ((1, 1), (17, 3), (255, 31)):
        assert decode_jpeg(encode_jpeg(np.zeros((*shape, 3), np.uint8))).shape == (*shape, 3)
    with pytest.raises(OSError, match="image"):
        decode_jpeg(b"not a picture")
