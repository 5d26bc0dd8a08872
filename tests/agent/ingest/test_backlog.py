"""The backlog is bounded and loses nothing: what is turned away is found on disk, oldest first."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from agent.ingest.backlog import Backlog


def test_worked_example() -> None:
    backlog = Backlog(2)
    assert backlog.behind  # after a start the disk is looked at first
    assert not backlog.put(1)
    backlog.caught_up(backlog.mark)
    assert backlog.put(2)
    assert backlog.put(3)
    assert not backlog.put(4)  # full: 4 is deferred
    assert backlog.take(1) == [2]
    assert not backlog.put(5)  # there is room, but 4 must come first
    assert backlog.take(8) == [3]
    assert backlog.behind
    assert backlog.num_deferred == 3


def test_a_frame_deferred_during_the_look_calls_for_another_look() -> None:
    backlog = Backlog(2)
    before = backlog.mark
    backlog.put(1)  # while the encoder looked, and too late to be seen
    backlog.caught_up(before)
    assert backlog.behind


async def test_wait_returns_for_a_frame_put_before() -> None:
    backlog = Backlog(1)
    backlog.put(1)
    await asyncio.wait_for(backlog.wait(), 1)
    waiting = asyncio.create_task(backlog.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    backlog.put(2)
    await asyncio.wait_for(waiting, 1)


@given(st.integers(1, 5), st.lists(st.sampled_from(["arrive", "encode"]), max_size=60))
def test_everything_is_encoded_once_and_in_order(capacity: int, script: list[str]) -> None:
    """Against a disk that is a list: whatever the order of arrivals and encodings, nothing is lost or reordered."""
    backlog = Backlog(capacity)
    remembered: list[int] = []
    encoded: list[int] = []

    def encode() -> bool:
        frame_ids = backlog.take(2)
        if not frame_ids and backlog.behind:
            before = backlog.mark
            frame_ids = [i for i in remembered if i not in encoded][:2]
            if not frame_ids:
                backlog.caught_up(before)
        encoded.extend(frame_ids)
        return bool(frame_ids)

    for step in script:
        if step == "arrive":
            remembered.append(len(remembered))
            backlog.put(remembered[-1])
        else:
            encode()
    while encode() or len(backlog):
        assert len(backlog) <= capacity
    assert encoded == remembered
