"""Keyframe selection equals a plain loop of the paper's algorithm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import select
from model.places import fill_gaps, newest_rows
from model.select import ArrayCandidates, QueryCandidates, select_keyframes


def unit_rows(array: np.ndarray) -> np.ndarray:
    return (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float32)


def naive(
    embeddings: np.ndarray, query: np.ndarray, num_keyframes: int, tau: float, floor: float, recent: int
) -> set[int]:
    """Select keyframes as the paper describes: a stable sort, then one comparison at a time."""
    scores = embeddings @ query
    taken = list(range(len(scores) - min(recent, num_keyframes, len(scores)), len(scores)))
    for row in np.argsort(-scores, kind="stable").tolist():
        if len(taken) >= num_keyframes or scores[row] < np.float32(floor):
            break
        if row not in taken and not any(embeddings[row] @ embeddings[other] > np.float32(tau) for other in taken):
            taken.append(row)
    return set(taken)


def history(seed: int, num_frames: int, num_scenes: int, noise: float, dim: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a few scenes, repeated with noise: num_scenes 1 is a static camera; noise 0 gives exact ties.

    Numbers are small multiples of 1/64, so that every order of summation gives the same float32 products.
    """
    rng = np.random.default_rng(seed)
    scenes = rng.normal(size=(num_scenes, dim))
    frames = scenes[rng.integers(0, num_scenes, num_frames)] + noise * rng.normal(size=(num_frames, dim))
    rounded = np.round(unit_rows(frames) * 64) / 64 if num_frames else np.empty((0, dim))
    query = np.round(unit_rows(rng.normal(size=dim)) * 64) / 64
    return rounded.astype(np.float32), query.astype(np.float32)


class StagedCandidates(ArrayCandidates):
    """Candidates that record how many ranked rows were requested."""

    asked: int = 0

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked = max(self.asked, k)
        return super().top(k)


@given(
    seed=st.integers(0, 10_000),
    num_frames=st.integers(0, 90),
    num_scenes=st.integers(1, 40),
    noise=st.sampled_from([0.0, 0.05, 0.5]),
    num_keyframes=st.integers(0, 12),
    tau=st.sampled_from([0.5, 0.85, 1.1]),
    floor=st.sampled_from([-1.0, 0.0, 0.4, 2.0]),
    recent=st.integers(0, 5),
    stage=st.sampled_from([1, 3, 128]),
    block=st.sampled_from([1, 4, 512]),
)
@settings(max_examples=150, deadline=None)
def test_selection_equals_the_papers_algorithm(
    seed: int,
    num_frames: int,
    num_scenes: int,
    noise: float,
    num_keyframes: int,
    tau: float,
    floor: float,
    recent: int,
    stage: int,
    block: int,
) -> None:
    embeddings, query = history(seed, num_frames, num_scenes, noise)
    settings_before = select.FIRST_STAGE, select.STAGE_GROWTH, select.BLOCK_ROWS
    select.FIRST_STAGE, select.STAGE_GROWTH, select.BLOCK_ROWS = stage, 2, block
    try:
        keyframes = select_keyframes(
            ArrayCandidates(embeddings, query),
            num_keyframes=num_keyframes,
            tau=tau,
            floor=floor,
            recent=recent,
            fill="none",
        )
    finally:
        select.FIRST_STAGE, select.STAGE_GROWTH, select.BLOCK_ROWS = settings_before
    assert set(keyframes.rows.tolist()) == naive(embeddings, query, num_keyframes, tau, floor, recent)
    assert keyframes.rows.tolist() == sorted(keyframes.rows.tolist())
    np.testing.assert_allclose(keyframes.scores, (embeddings @ query)[keyframes.rows], rtol=0, atol=1e-6)


@given(
    num_frames=st.integers(0, 300), num_keyframes=st.integers(0, 60), seed=st.integers(0, 10_000), share=st.floats(0, 1)
)
@settings(max_examples=150, deadline=None)
def test_filling_returns_as_many_keyframes_as_exist(
    num_frames: int, num_keyframes: int, seed: int, share: float
) -> None:
    most = min(num_frames, num_keyframes)
    taken = np.sort(np.random.default_rng(seed).choice(num_frames, int(share * most), replace=False)).astype(np.int64)
    added = fill_gaps(taken, num_frames, num_keyframes)
    assert len(added) == most - len(taken)
    assert len(set(added.tolist()) | set(taken.tolist())) == most
    assert all(0 <= row < num_frames for row in added.tolist())


def test_filling_follows_the_docstring_example() -> None:
    added = fill_gaps(np.empty(0, np.int64), 48, 32)
    assert added.tolist() == [*range(2, 30, 2), *range(30, 48)]


def test_keyframes_carry_the_kind_of_their_choice() -> None:
    embeddings = unit_rows(np.array([[1, 0, 0], [1, 0.01, 0], [0, 1, 0], [0, 0, 1], [0, 0.01, 1], [0, 0.02, 1]]))
    query = unit_rows(np.array([1.0, 0.5, 0.1]))
    keyframes = select_keyframes(ArrayCandidates(embeddings, query), num_keyframes=4, tau=0.85, recent=1)
    assert keyframes.rows.tolist() == [1, 2, 4, 5]
    assert keyframes.kinds == ("relevant", "relevant", "filling", "recent")
    bare = select_keyframes(ArrayCandidates(embeddings, query), num_keyframes=4, tau=0.85, recent=1, fill="none")
    assert bare.rows.tolist() == [1, 2, 5]


def test_newest_rows_follow_the_docstring_example() -> None:
    assert newest_rows((5, 2), 3).tolist() == [3, 4, 6]
    assert newest_rows((5, 0, 2), 99).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert newest_rows((), 2).tolist() == []


def test_event_of_a_static_camera_is_found_against_its_background() -> None:
    rng = np.random.default_rng(0)
    scene, event = unit_rows(rng.normal(size=(2, 32)))
    frames = np.tile(scene, (300, 1)) + 0.002 * rng.normal(size=(300, 32))
    frames[120:130] += 0.2 * event
    frames[200:210] -= 0.2 * event
    embeddings = unit_rows(frames)
    query = unit_rows(event + 0.5 * scene)
    candidates = ArrayCandidates(embeddings, query)
    raw = select_keyframes(candidates, num_keyframes=8, tau=0.85, fill="none")
    assert len(raw.rows) == 1
    relative = select_keyframes(
        candidates, num_keyframes=8, tau=0.85, fill="none", background=embeddings.mean(axis=0), background_floor=0.05
    )
    spans = {"event" if 120 <= row < 130 else "mirror" if 200 <= row < 210 else "nothing" for row in relative.rows}
    assert spans == {"event", "mirror", "nothing"}
    assert len(relative.rows) == 3


def test_frames_without_change_are_equally_relevant() -> None:
    embeddings = np.tile(unit_rows(np.ones(4)), (50, 1))
    keyframes = select_keyframes(
        ArrayCandidates(embeddings, embeddings[0]), num_keyframes=8, fill="none", background=embeddings.mean(axis=0)
    )
    assert keyframes.rows.tolist() == [0]


def test_background_is_computed_per_camera() -> None:
    rng = np.random.default_rng(1)
    first, second = unit_rows(rng.normal(size=(2, 16)))
    embeddings = np.concatenate([np.tile(first, (20, 1)), np.tile(second, (30, 1))])
    background = np.stack([first, second])
    keyframes = select_keyframes(
        ArrayCandidates(embeddings, first), num_keyframes=8, fill="none", background=background, group_sizes=(20, 30),
        min_per_group=0,
    )  # fmt: skip
    assert keyframes.rows.tolist() == [0]  # both cameras show only their backgrounds
    with pytest.raises(ValueError, match="groups hold 10 frames"):
        select_keyframes(ArrayCandidates(embeddings, first), group_sizes=(10,))


def test_ranking_stops_where_selection_stops() -> None:
    embeddings = unit_rows(np.random.default_rng(2).normal(size=(5000, 64)))
    candidates = StagedCandidates(embeddings, embeddings[0])
    assert len(select_keyframes(candidates, num_keyframes=32).rows) == 32
    assert candidates.asked == select.FIRST_STAGE


def test_window_candidates_bind_the_query() -> None:
    embeddings = unit_rows(np.random.default_rng(3).normal(size=(40, 8)))

    class Frames:
        num_frames = 40

        def top(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            return ArrayCandidates(embeddings, query).top(k)

        def embeddings(self, rows: np.ndarray) -> np.ndarray:
            return embeddings[rows]

    bound = select_keyframes(QueryCandidates(Frames(), embeddings[7]), num_keyframes=5)
    plain = select_keyframes(ArrayCandidates(embeddings, embeddings[7]), num_keyframes=5)
    assert bound.rows.tolist() == plain.rows.tolist()
    assert bound.kinds == plain.kinds


def test_impossible_keyframe_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        select_keyframes(ArrayCandidates(np.eye(3, dtype=np.float32), np.ones(3)), num_keyframes=-1)


# --- several cameras ---


@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    num_scenes=st.integers(1, 20),
    noise=st.sampled_from([0.0, 0.05, 0.5]),
    num_keyframes=st.integers(0, 20),
    minimum=st.none() | st.integers(0, 12),
    recent=st.integers(0, 4),
    fill=st.sampled_from(["gaps", "none"]),
    stage=st.sampled_from([1, 128]),
)
@settings(max_examples=200, deadline=None)
def test_each_camera_gets_its_minimum(
    seed: int,
    sizes: list[int],
    num_scenes: int,
    noise: float,
    num_keyframes: int,
    minimum: int | None,
    recent: int,
    fill: str,
    stage: int,
) -> None:
    embeddings, query = history(seed, sum(sizes), num_scenes, noise)
    before, select.FIRST_STAGE = select.FIRST_STAGE, stage
    try:
        keyframes = select_keyframes(
            ArrayCandidates(embeddings, query), num_keyframes=num_keyframes, recent=recent, fill=fill,
            group_sizes=sizes, min_per_group=minimum,
        )  # fmt: skip
        plain = select_keyframes(
            ArrayCandidates(embeddings, query), num_keyframes=num_keyframes, recent=recent, fill=fill,
            group_sizes=sizes, min_per_group=0,
        )  # fmt: skip
    finally:
        select.FIRST_STAGE = before
    assert len(keyframes.rows) <= num_keyframes
    assert np.array_equal(keyframes.rows, np.unique(keyframes.rows))
    if sum(size > 0 for size in sizes) <= 1 or minimum == 0:
        assert np.array_equal(keyframes.rows, plain.rows)
        assert keyframes.kinds == plain.kinds
        assert np.array_equal(keyframes.scores, plain.scores)
    ends = np.cumsum(sizes)
    share = num_keyframes // max(1, sum(size > 0 for size in sizes))
    minimum = (share + 1) // 2 if minimum is None else minimum
    for end, size in zip(ends, sizes, strict=True):
        own = (keyframes.rows >= end - size) & (keyframes.rows < end)
        if sum(size > 0 for size in sizes) > 1:
            assert own.sum() >= min(minimum, share, size)
        if own.any() and recent == 0 and minimum and share and sum(size > 0 for size in sizes) > 1:
            scores = embeddings[end - size : end] @ query
            assert int(np.argmax(scores)) + end - size in keyframes.rows  # its most relevant frame is chosen


def test_camera_without_a_match_still_gets_keyframes() -> None:
    """Camera 0 matches the question in 100 different ways; camera 1 shows one unrelated still scene."""
    rng = np.random.default_rng(3)
    query = unit_rows(np.eye(1, 16)[0])
    near = unit_rows(0.5 * query + rng.normal(size=(100, 16)))
    still = unit_rows(np.tile(np.eye(1, 16, 5), (50, 1)) - 0.5 * query)
    candidates = ArrayCandidates(np.concatenate([near, still]), query)
    plain = select_keyframes(candidates, num_keyframes=8, fill="none", group_sizes=(100, 50), min_per_group=0)
    assert (plain.rows < 100).all()
    shared = select_keyframes(candidates, num_keyframes=8, fill="none", group_sizes=(100, 50), min_per_group=2)
    assert (shared.rows >= 100).sum() == 2
    assert len(shared.rows) == 8
