"""Caps of the folder hold after every append and leave each camera half of its fair share."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.camera_log import CameraLog
from memory.cameras import giver, make_room
from memory.limits import FolderLimits, Limits
from memory.segments import Segment
from memory.store import MemoryStore
from tests.support.memories import C, D, M, fill


def open_shared(folder: Path, **caps: int) -> MemoryStore:
    return MemoryStore(
        folder,
        embedding_dim=D,
        limits=Limits(segment_frames=4),
        patch_shape=(M, C),
        folder_limits=FolderLimits(**caps),
    )


def held(store: MemoryStore) -> dict[str, int]:
    return {camera: store.stats(camera).frames for camera in store.cameras()}


def test_a_quiet_camera_keeps_half_of_its_fair_share(tmp_path: Path) -> None:
    with open_shared(tmp_path, frames=40) as store:
        fill(store, "quiet", range(15))
        fill(store, "busy", range(100, 300))
        assert held(store) == {"quiet": 10, "busy": 30}  # half of 20
        assert store.window(["quiet"]).times.tolist() == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
        assert store.window(["busy"]).times.tolist() == list(range(270, 300))
    with open_shared(tmp_path, frames=40) as store:
        assert held(store) == {"quiet": 10, "busy": 30}
    with open_shared(tmp_path, frames=12) as store:  # a smaller cap at the next start
        assert sum(held(store).values()) == 12
        assert held(store)["quiet"] == 3


def test_above_half_of_the_fair_share_the_oldest_frames_leave(tmp_path: Path) -> None:
    with open_shared(tmp_path, frames=40) as store:
        for time in range(0, 200, 2):
            fill(store, "a", range(time, time + 1))
            fill(store, "b", range(time + 1, time + 2))
        oldest = [store.stats(camera).oldest for camera in "ab"]
        assert sum(held(store).values()) == 40
        assert abs(oldest[0] - oldest[1]) <= 8  # a segment


@given(
    arrivals=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 600)), min_size=1, max_size=60),
    frames=st.none() | st.integers(1, 30),
    num_bytes=st.none() | st.integers(1200, 6000),
)
@settings(max_examples=40, deadline=None)
def test_folder_caps_hold_after_every_append_and_protect_each_camera(
    tmp_path_factory: pytest.TempPathFactory,
    arrivals: list[tuple[str, int]],
    frames: int | None,
    num_bytes: int | None,
) -> None:
    folder = tmp_path_factory.mktemp("memory")
    sent = dict.fromkeys("abc", 0)
    with open_shared(folder, **{k: v for k, v in (("frames", frames), ("bytes", num_bytes)) if v is not None}) as store:
        for time, (camera, size) in enumerate(arrivals):
            before = held(store)
            store.append(camera, float(time), bytes(size))
            sent[camera] += 1
            now = held(store)
            if num_bytes is not None:
                store.maintain()  # removes the files
            on_disk = sum(path.stat().st_size for path in folder.glob("segments/*/*"))
            assert frames is None or sum(now.values()) <= frames
            assert num_bytes is None or on_disk <= sum(store.stats(c).bytes for c in now) <= num_bytes
            for other, count in before.items():
                if num_bytes is None and frames is not None and other != camera and now.get(other, 0) < count:
                    assert count > frames / len(before.keys() | {camera}) / 2


def test_worked_example_of_the_giver() -> None:
    logs = []
    for name, count, oldest in (("a", 80, 10.0), ("b", 15, 9.0), ("c", 5, 8.0)):
        log = CameraLog(name, Limits(), 1)
        segment = Segment(1, name, Path("nowhere"), capacity=100, embedding_dim=1, summary_dim=1)
        for frame in range(count):
            segment.add(frame, oldest + frame / 1000, "", 0, 0)
        log.segments.append(segment)
        log.grown(segment, count, count)
        logs.append(log)
    assert giver(logs, 100, lambda log: log.num_frames).camera == "a"
    assert make_room(logs, FolderLimits(frames=100)) == []
    assert make_room(logs, FolderLimits(frames=100), incoming_frames=3) == []
    assert [log.num_frames for log in logs] == [77, 15, 5]


def test_bad_folder_caps_are_refused() -> None:
    with pytest.raises(ValueError, match="frames must be at least 1"):
        FolderLimits(frames=0)
