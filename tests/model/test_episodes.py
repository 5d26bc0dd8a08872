"""Episodes: stretches in which a camera shows something unusual, found from distances between embeddings alone."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.episodes import BLOCK_FRAMES, find_episodes, geometric_median, most_different, novelty

WIDTH = 16
SPANS = ((60, 75), (140, 140), (230, 260))


def scene(*spans: tuple[int, int], num_frames: int = 400, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    """Make embeddings of a quiet camera to which something else comes in the rows of each span."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, noise, (num_frames, WIDTH)) + rng.normal(size=WIDTH)
    for start, end in spans:
        rows[start : end + 1] += rng.normal(size=WIDTH) / 2
    return rows


def found(
    rows: np.ndarray, times: np.ndarray | None = None, sizes: tuple[int, ...] | None = None
) -> list[tuple[int, int]]:
    times = np.arange(len(rows), dtype=float) if times is None else times
    return [(each.start, each.end) for each in find_episodes(lambda which: rows[which], times, sizes or (len(rows),))]


def test_episodes_are_the_stretches_in_which_something_came() -> None:
    assert found(scene(*SPANS)) == list(SPANS)
    assert found(scene()) == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 200), shift=st.floats(-20, 20), scale=st.sampled_from([0.01, 0.3, 5.0, 1000.0]))
def test_a_constant_a_scale_and_a_rotation_change_no_episode(seed: int, shift: float, scale: float) -> None:
    rows = scene(*SPANS, seed=seed)
    turn = np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(WIDTH, WIDTH)))[0]
    cone = shift * np.random.default_rng(seed + 2).normal(size=WIDTH)
    assert found((rows @ turn + cone) * scale) == found(rows)


def test_an_episode_with_ups_and_downs_is_one() -> None:
    rows = scene((100, 160))
    rows[100:161] *= 1 + 0.1 * np.sin(np.arange(61) / 3)[:, None]
    assert len(found(rows)) == 1


def test_no_episode_reaches_across_a_gap_in_the_recording() -> None:
    times = np.arange(400.0)
    times[150:] += 500
    assert found(scene((140, 160)), times) == [(140, 149), (150, 160)]


def test_cameras_have_their_own_usual_view() -> None:
    first, second = scene((50, 60)), scene((200, 220), num_frames=300, seed=5)
    both = np.concatenate([first, second])
    times = np.concatenate([np.arange(400.0), np.arange(300.0)])
    assert found(both, times, (400, 300)) == [(50, 60), (600, 620)]
    assert found(both, times, (400, 300, 0)) == [(50, 60), (600, 620)]


def test_a_slow_change_of_light_is_no_episode() -> None:
    rows = scene((2000, 2010), num_frames=4 * BLOCK_FRAMES)
    rows += np.linspace(0, 2, len(rows))[:, None] * np.random.default_rng(3).normal(size=WIDTH) / WIDTH
    assert found(rows) == [(2000, 2010)]


def test_pictures_that_never_change_have_no_episode() -> None:
    assert found(np.ones((50, WIDTH))) == []
    assert found(np.empty((0, WIDTH))) == []
    assert found(np.ones((1, WIDTH))) == []


def test_the_geometric_median_is_not_drawn_to_what_is_far_away() -> None:
    points = np.concatenate([np.random.default_rng(0).normal(0, 0.01, (30, 3)), np.full((10, 3), 100.0)])
    assert np.linalg.norm(geometric_median(points)) < 0.05
    sums = [np.linalg.norm(points - at, axis=1).sum() for at in (geometric_median(points), points.mean(axis=0))]
    assert sums[0] < sums[1]
    assert novelty(lambda rows: points[rows], (40,))[-1] > 100


def test_episodes_do_not_overlap() -> None:
    for seed in range(20):
        episodes = found(np.random.default_rng(seed).normal(size=(300, WIDTH)).cumsum(axis=0))
        assert all(before[1] < after[0] for before, after in pairwise(episodes))


def test_frames_that_differ_most_show_each_thing_once() -> None:
    rows = scene((60, 75), (140, 145), (146, 150), (230, 260))
    cameras = np.zeros(len(rows), np.int64)
    spans = ((60, 75), (140, 145), (146, 150), (230, 260))
    found = most_different(rows, cameras, [], 10)
    assert len(found) == 4
    assert all(sum(start <= row <= end for row in found) == 1 for start, end in spans)
    assert most_different(rows, cameras, [65], 10)[0] == 65
    assert len(most_different(rows, cameras, [65], 10)) == 4
    assert len(most_different(rows, cameras, [], 2)) == 2
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)))[0]
    assert most_different((rows @ turn + 3) * 50, cameras, [], 10) == found
    assert most_different(np.empty((0, WIDTH)), np.empty(0, np.int64), [], 5) == []


def test_cameras_share_the_frames_that_differ_in_units_of_their_own_noise() -> None:
    quiet, restless = scene((50, 55), noise=0.02), scene((80, 85), noise=0.1, seed=4)
    found = most_different(np.concatenate([quiet, restless]), np.repeat([0, 1], 400), [], 2)
    assert {row < 400 for row in found} == {True, False}
