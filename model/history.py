"""A history held in plain arrays: what a memory window is to the agent, for evaluation, one-shot runs and tests.

In: `FrameFeatures`, as encoded. Out: the reading side of merging and selection. Nothing is ever evicted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Features(Protocol):
    """What the encoder gives for one frame; see FrameFeatures."""

    @property
    def embedding(self) -> np.ndarray:
        """(D,) not normalised."""

    @property
    def patches(self) -> np.ndarray:
        """(M, C')."""

    @property
    def scalars(self) -> np.ndarray:
        """(M, 3)."""

    @property
    def summary(self) -> np.ndarray:
        """(C',)."""


@dataclass(frozen=True, slots=True)
class ArrayBlock:
    """patches (n, M, C'), scalars (n, M, 3), present (n,); the first two may be tensors."""

    patches: Any
    scalars: Any
    present: np.ndarray


class ArrayHistory:
    """Frames in time order; rows count from 0. `forget` drops the patches of rows, keeping their summaries."""

    def __init__(self, features: Iterable[Features] = ()) -> None:
        self._frames: list[Features] = list(features)
        self._gone: set[int] = set()

    def extend(self, features: Iterable[Features]) -> None:
        """Add frames at the end."""
        self._frames.extend(features)

    def forget(self, rows: Iterable[int]) -> None:
        """Behave as if the patches of these rows had been evicted."""
        self._gone.update(int(row) for row in rows)

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self._frames)

    def present(self) -> np.ndarray:
        """(N,) bool: which rows have patches."""
        return np.array([row not in self._gone for row in range(self.num_frames)], bool)

    def read(self, start: int, stop: int) -> ArrayBlock:
        """Patches of the rows start..stop."""
        frames = self._frames[start:stop]
        return ArrayBlock(
            np.stack([frame.patches for frame in frames]),
            np.stack([frame.scalars for frame in frames]),
            np.array([row not in self._gone for row in range(start, start + len(frames))], bool),
        )

    def summaries(self, start: int, stop: int) -> np.ndarray:
        """(n, C') float32 mean patches."""
        return np.stack([frame.summary for frame in self._frames[start:stop]])

    def embeddings(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """(n, D) float32 unit vectors."""
        raw = self._raw(rows)
        return raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), np.float32(1e-12))

    def norms(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """(n,) float32 lengths of the raw embeddings."""
        return np.linalg.norm(self._raw(rows), axis=1)

    def unit_embeddings(self) -> np.ndarray:
        """(N, D) float32 unit vectors of every row."""
        return self.embeddings(range(self.num_frames))

    def _raw(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        if not len(rows):
            return np.empty((0, len(self._frames[0].embedding) if self._frames else 0), np.float32)
        return np.stack([self._frames[int(row)].embedding for row in rows]).astype(np.float32)
