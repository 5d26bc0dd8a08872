"""Keyframes by visits: the chosen frames, their order of importance, and properties for any signal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.select import ArrayCandidates, Keyframes
from model.select_visits import select_by_visits


def history(relevance: np.ndarray, dim: int = 8, seed: int = 0) -> ArrayCandidates:
    """Make candidates whose cosine with the question (the first axis) is `relevance`."""
    other = np.random.default_rng(seed).normal(size=(len(relevance), dim - 1))
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    unit = np.column_stack([relevance, other * np.sqrt(1 - relevance[:, None] ** 2)])
    return ArrayCandidates(unit.astype(np.float32), np.eye(dim, dtype=np.float32)[0])


def choose(relevance: np.ndarray, **options: object) -> Keyframes:
    candidates = history(relevance)
    scores = candidates.scores(np.arange(len(relevance)))
    times = np.arange(len(relevance), dtype=float)
    return select_by_visits(candidates, scores, times, **options)  # type: ignore[arg-type]


def camera(*spans: tuple[int, int, float], num_frames: int = 300, seed: int = 1) -> np.ndarray:
    signal = np.random.default_rng(seed).normal(0.1, 0.01, num_frames)
    for start, end, height in spans:
        signal[start : end + 1] += height
    return signal


THREE = camera((40, 90, 0.6), (150, 150, 0.3), (220, 222, 0.45))


def test_one_frame_of_every_visit_comes_before_a_second_one_of_any() -> None:
    chosen = choose(THREE, num_keyframes=3, fill="none")
    assert [(visit.start, visit.end) for visit in chosen.visits] == [(40, 90), (150, 150), (220, 222)]
    assert chosen.rows.tolist() == [visit.peak for visit in chosen.visits]
    assert set(chosen.kinds) == {"relevant"}


def test_fewer_places_than_visits_show_the_strongest() -> None:
    chosen = choose(THREE, num_keyframes=2, fill="none")
    assert chosen.rows.tolist() == [chosen.visits[0].peak, chosen.visits[2].peak]


def test_places_left_show_what_changed_within_the_visits() -> None:
    """All embeddings differ, so that no frame of a visit is redundant."""
    chosen = choose(THREE, num_keyframes=20, fill="none")
    inside = [any(v.start <= row <= v.end for v in chosen.visits) for row in chosen.rows.tolist()]
    assert len(inside) == 20
    assert sum(inside) >= 18  # a peak that noise makes once in such a window may be there


def test_a_visit_that_looks_the_same_throughout_is_shown_once() -> None:
    relevance = camera((40, 90, 0.6))
    unit = np.column_stack([relevance, np.sqrt(1 - relevance**2)])
    candidates = ArrayCandidates(unit.astype(np.float32), np.array([1.0, 0.0], np.float32))
    scores = candidates.scores(np.arange(300))
    chosen = select_by_visits(candidates, scores, np.arange(300.0), num_keyframes=6, fill="none", tau=0.9)
    inside = [row for row in chosen.rows.tolist() if 40 <= row <= 90]
    assert len(inside) <= 2
    assert len(chosen.rows) == 6  # lesser peaks have the other places


def test_recent_frames_are_chosen_first_when_wanted() -> None:
    chosen = choose(THREE, num_keyframes=4, recent=2, fill="none")
    assert chosen.rows[-2:].tolist() == [298, 299]
    assert chosen.kinds[-2:] == ("recent", "recent")


def test_gaps_are_filled_only_when_asked() -> None:
    quiet = camera()
    assert len(choose(quiet, num_keyframes=290, fill="none").rows) < 290
    filled = choose(quiet, num_keyframes=290, fill="gaps")
    assert len(filled.rows) == 290
    assert "filling" in filled.kinds


def test_every_camera_has_its_share_of_the_places() -> None:
    relevance = np.concatenate([camera(*((row, row + 2, 0.5) for row in range(20, 280, 20))), camera(seed=5)])
    candidates = history(relevance)
    scores, times = candidates.scores(np.arange(600)), np.tile(np.arange(300.0), 2)
    chosen = select_by_visits(candidates, scores, times, num_keyframes=8, fill="none", group_sizes=(300, 300))
    assert int((chosen.rows >= 300).sum()) == 2  # half of its fair share
    without = select_by_visits(
        candidates, scores, times, num_keyframes=8, fill="none", group_sizes=(300, 300), min_per_group=0
    )
    assert int((without.rows >= 300).sum()) == 0


@given(
    seed=st.integers(0, 1000),
    num_frames=st.integers(0, 60),
    num_keyframes=st.integers(0, 20),
    recent=st.integers(0, 6),
    cut=st.integers(0, 60),
)
def test_any_history_gives_distinct_rows_within_the_places(
    seed: int, num_frames: int, num_keyframes: int, recent: int, cut: int
) -> None:
    relevance = np.clip(np.random.default_rng(seed).normal(0, 0.3, num_frames), -0.9, 0.9)
    sizes = (min(cut, num_frames), num_frames - min(cut, num_frames))
    candidates = history(relevance)
    scores = candidates.scores(np.arange(num_frames))
    times = np.arange(num_frames, dtype=float)
    chosen = select_by_visits(candidates, scores, times, num_keyframes=num_keyframes, recent=recent, group_sizes=sizes)
    assert len(chosen.rows) == len(chosen.kinds) == len(chosen.scores) == min(num_keyframes, num_frames)
    assert chosen.rows.tolist() == sorted(set(chosen.rows.tolist()))
    if num_keyframes and num_frames:
        assert int(np.argmax(scores)) in chosen.rows  # the best-scoring frame is always shown
    again = select_by_visits(candidates, scores, times, num_keyframes=num_keyframes, recent=recent, group_sizes=sizes)
    assert again.rows.tolist() == chosen.rows.tolist()


def test_arguments_that_contradict_one_another_are_refused() -> None:
    candidates = history(THREE)
    scores, times = candidates.scores(np.arange(300)), np.arange(300.0)
    with pytest.raises(ValueError, match="num_keyframes and recent"):
        select_by_visits(candidates, scores, times, num_keyframes=-1)
    with pytest.raises(ValueError, match="groups"):
        select_by_visits(candidates, scores, times, group_sizes=(100, 100))
    with pytest.raises(ValueError, match="times"):
        select_by_visits(candidates, scores, times[:10])
