"""Ranking by FAISS with exact rescoring equals a stable full sort, bit for bit, for any division into parts."""

import weakref
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.codec import scale_of
from memory.ranking import build_index, index_rows, rank_all, rank_top, score_rows


@dataclass
class Run:
    """Consecutive rows, with or without an index that also holds rows before and after them."""

    first_row: int
    num_rows: int
    rows: np.ndarray  # float16
    index: Any = None
    index_start: int = 0

    def halves(self) -> np.ndarray:
        return self.rows

    def scales(self) -> np.ndarray:
        return scale_of(self.rows)


def units(halves: np.ndarray) -> np.ndarray:
    """Decode the rows with numpy."""
    return halves.astype(np.float32) * scale_of(halves)[:, None]


def cut(halves: np.ndarray, cuts: list[int], indexed: list[bool]) -> list[Run]:
    runs = []
    edges = [0, *sorted(c for c in set(cuts) if 0 < c < len(halves)), len(halves)]
    noise = -halves[:2]
    for number, (start, stop) in enumerate(pairwise(edges)):
        rows = halves[start:stop]
        run = Run(start, stop - start, rows)
        if indexed[number % len(indexed)]:
            run.index, run.index_start = build_index(np.concatenate([noise, rows, halves[:3]])), 2
        runs.append(run)
    return runs


def rows_of(kind: str, num: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "all alike":
        unit = np.repeat(rng.normal(size=(1, dim)), num, axis=0)
    elif kind == "static camera":  # one step of float16 here and there
        unit = rng.normal(size=(1, dim)) + 1e-4 * rng.normal(size=(num, dim))
    elif kind == "ties":
        unit = rng.normal(size=(4, dim))[rng.integers(0, 4, num)]
    else:
        unit = rng.normal(size=(num, dim))
    return (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float16)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["all alike", "static camera", "ties", "different"]),
    st.integers(0, 300),
    st.sampled_from([1, 7, 16, 33, 512]),
    st.integers(0, 2**31),
    st.lists(st.integers(1, 299), max_size=6),
    st.lists(st.booleans(), min_size=1, max_size=3),
    st.integers(0, 300),
)
def test_top_equals_the_start_of_a_stable_sort(
    kind: str, num: int, dim: int, seed: int, cuts: list[int], indexed: list[bool], k: int
) -> None:
    halves = rows_of(kind, num, dim, seed)
    query = units(rows_of("different", 1, dim, seed + 1))[0]
    scores = np.array([np.vecdot(row, query) for row in units(halves)])  # one row at a time
    order = np.argsort(-scores, kind="stable")
    parts = cut(halves, cuts, indexed)
    all_rows, all_scores = rank_all(parts, query)
    np.testing.assert_array_equal(all_rows, order)
    np.testing.assert_array_equal(all_scores, scores[order])
    if (k := min(k, num)) == 0:
        return  # `Window.top` answers that by itself
    rows, top_scores = rank_top(parts, query, k)
    np.testing.assert_array_equal(rows, order[:k])
    np.testing.assert_array_equal(top_scores, scores[order[:k]])


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_rows_that_differ_by_rounding_only_are_ranked_exactly(steps: int) -> None:
    """Near-equal scores, where FAISS and numpy round differently and FAISS alone would pick other rows."""
    differ = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        halves = np.repeat(rows_of("different", 1, 512, seed + 99), 600, axis=0)
        # many numbers near zero, a few of float16's smallest steps apart: less than a float32 sum of 512 resolves
        halves[:, :200] = rng.integers(-steps, steps + 1, (600, 200)) * 2.0**-24
        query = units(rows_of("different", 1, 512, seed))[0]
        order = np.argsort(-score_rows(units(halves), query), kind="stable")
        parts = cut(halves, [200, 400], [True])
        rows, _ = rank_top(parts, query, 7)
        np.testing.assert_array_equal(rows, order[:7])
        alone = build_index(halves).search(query[None], 7)[1][0]
        differ += set(alone.tolist()) != set(rows.tolist())
    assert differ > 0


@pytest.mark.parametrize("dim", [1, 3, 64, 512, 1152])
def test_a_score_depends_on_its_row_alone(dim: int) -> None:
    unit = units(rows_of("different", 200, dim, 5))
    query = unit[17].copy()
    whole = score_rows(unit, query)
    rng = np.random.default_rng(0)
    for _ in range(50):
        start = int(rng.integers(0, 199))
        stop = int(rng.integers(start + 1, 201))
        assert score_rows(unit[start:stop], query).tobytes() == whole[start:stop].tobytes()
        chosen = rng.integers(0, 200, 9)
        assert score_rows(unit[chosen], query).tobytes() == whole[chosen].tobytes()


def test_index_rows_views_the_index_storage() -> None:
    halves = rows_of("different", 10, 6, 1)
    index = build_index(halves)
    np.testing.assert_array_equal(index_rows(index), halves)


def test_an_index_lives_as_long_as_a_view_of_its_rows() -> None:
    halves = rows_of("different", 3000, 64, 1)
    index = build_index(halves)
    alive, view = weakref.ref(index), index_rows(index)[5:2000][3:]
    del index
    others = [build_index(-halves) for _ in range(5)]  # would be given the same memory
    np.testing.assert_array_equal(view, halves[8:2000])
    assert alive() is not None
    del view
    assert alive() is None
    assert len(others) == 5


def test_ranking_no_rows() -> None:
    rows, scores = rank_all([], np.ones(3, np.float32))
    assert (len(rows), len(scores)) == (0, 0)
