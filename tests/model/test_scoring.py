"""Scores of all frames equal the cosines of a direct computation, however the rows are stored."""

from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.scoring import CHUNK_ROWS, score_frames


class Stored:
    """Rows in pieces of the given sizes. Every second piece is a view whose rows are not adjacent in memory."""

    def __init__(self, sizes: list[int], dim: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(sum(sizes), dim))
        self.halves = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float16)
        self.halves[::7] *= np.float16(1e-4)  # subnormal numbers
        self.scales = (1 / np.linalg.norm(self.halves.astype(float), axis=1)).astype(np.float32)
        self.unit = self.halves.astype(float) * self.scales[:, None]
        self.num_frames, self.sizes = len(rows), sizes

    def stored_rows(self, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        first = 0
        for number, size in enumerate(self.sizes):
            rows = slice(max(first, start), first + size)
            halves = self.halves[rows]
            yield (np.repeat(halves, 2, axis=0)[::2] if number % 2 else halves), self.scales[rows]
            first += size


@given(
    sizes=st.lists(st.sampled_from([0, 1, 5, CHUNK_ROWS - 1, CHUNK_ROWS, 2 * CHUNK_ROWS + 3]), max_size=4),
    dim=st.sampled_from([1, 8, 33]),
    seed=st.integers(0, 100),
    start=st.integers(0, 700),
)
def test_scores_are_the_cosines_of_all_rows_from_the_start(sizes: list[int], dim: int, seed: int, start: int) -> None:
    frames = Stored(sizes, dim, seed)
    query = np.random.default_rng(seed + 1).normal(size=dim)
    query /= np.linalg.norm(query)
    start = min(start, frames.num_frames)
    scores = score_frames(frames, query.astype(np.float32), start)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, (frames.unit @ query)[start:], atol=2e-6)
