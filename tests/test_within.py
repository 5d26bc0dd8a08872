"""Frames near a place: the filter applies before ranking, and rows without a place are out."""

from pathlib import Path

import numpy as np
import pytest

from memory.args import place_of
from memory.store import MemoryStore
from memory.views import Within
from tests.memories import features, open_store


def walk(store: MemoryStore, count: int) -> list[int]:
    """A robot that goes along x, one metre a second; every fifth frame has no pose, every seventh is not encoded."""
    ids = []
    for number in range(count):
        pose = {} if number % 5 == 4 else {"x": number, "y": 2.0, "heading": 90}
        ids.append(store.append("robot", float(number), b"jpeg", pose))
        if number % 7 != 6:
            store.attach(ids[-1], **features(ids[-1]))
    return ids


def test_only_frames_near_the_place_are_rows(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = walk(store, 40)
        near = store.window(["robot"], where=Within(10, 2, 3.0))
        assert near.times.tolist() == [7, 8, 10, 11, 12]  # 9 has no pose, 13 is not encoded
        assert near.unencoded == 1
        assert near.frame_ids.tolist() == [ids[n] for n in (7, 8, 10, 11, 12)]
        whole = store.window(["robot"])
        query = whole.embeddings([0])[0]
        rows, scores = near.top(query, 5)
        all_scores = dict(zip(*[each.tolist() for each in whole.top(query, whole.num_frames)], strict=True))
        by_time = {float(whole.times[row]): score for row, score in all_scores.items()}
        assert scores.tolist() == sorted((by_time[float(near.times[row])] for row in rows), reverse=True)
        assert store.window(["robot"], 8, 11, where=Within(10, 2, 3.0)).times.tolist() == [8, 10, 11]
        nowhere = store.window(["robot", "other"], where=Within(500, 500, 1.0))
        assert (nowhere.num_frames, nowhere.unencoded) == (0, 0)


def test_blocks_are_filtered_frame_by_frame(tmp_path: Path) -> None:
    with open_store(tmp_path, hot_frames=0) as store:
        for number in range(100):
            frame_id = store.append("robot", float(number), b"jpeg", {"x": number % 10, "y": 0})
            store.attach(frame_id, **features(frame_id))
        store.maintain()
        near = store.window(["robot"], where=Within(3, 0, 0.5))
        assert near.times.tolist() == list(range(3, 100, 10))
        query = features(1)["embedding"] / np.linalg.norm(features(1)["embedding"])
        whole = store.window(["robot"])
        expected = [row for row in whole.top(query, 100)[0].tolist() if row % 10 == 3]
        assert [int(near.times[row]) for row in near.top(query, 10)[0]] == expected


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"x":1,"y":2.5}', (1.0, 2.5)),
        ('{"y":-1,"x":0,"z":7}', (0.0, -1.0)),
        ("", None),
        ('{"x":1}', None),
        ('{"x":"1","y":2}', None),
        ('{"a":{"x":1,"y":2}}', None),
        ('{"x":true,"y":2}', None),
    ],
)
def test_place_of_metadata(text: str, place: tuple[float, float] | None) -> None:
    assert place_of(text) == place or (place is None and np.isnan(place_of(text)).all())


def test_places_must_make_sense() -> None:
    for bad in ((0, 0, 0), (0, 0, -1), (np.nan, 0, 1), (0, np.inf, 1)):
        with pytest.raises(ValueError, match="within"):
            Within(*bad)
