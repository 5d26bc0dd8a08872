"""A history of frame features in plain arrays, for evaluation, one-shot runs and tests.

It offers what a window of the agent's memory offers to keyframe selection and merging, but never evicts anything by
itself. Letters: N frames, n requested frames, D embedding width, M patches of a frame, C' width of a stored patch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Features(Protocol):
    """What the encoder returns for one frame; see `model.features.FrameFeatures`."""

    @property
    def embedding(self) -> np.ndarray:
        """The embedding of the frame, (D,), not normalised; D is the embedding width."""

    @property
    def patches(self) -> np.ndarray:
        """The patch features of the frame: (M patches, C' channels), in the type they are stored in (such as int8)."""

    @property
    def scalars(self) -> np.ndarray:
        """The numbers stored beside each of the frame's M patches for merging: (M, 3), or (M, 4) with 8-bit patches."""

    @property
    def summary(self) -> np.ndarray:
        """The mean of the frame's patches, (C',), with as many channels C' as a patch."""


@dataclass(frozen=True, slots=True)
class ArrayBlock:
    """Stored patches of n consecutive frames. M is the number of patches of a frame, C' of channels of a patch.

    patches (n, M, C'); scalars (n, M, 3 or 4): the numbers stored beside each patch for merging; present (n,) bool:
    which frames still have their patches. patches and scalars may be arrays or tensors.
    """

    patches: Any
    scalars: Any
    present: np.ndarray


class ArrayHistory:
    """The features of frames in time order, for selection and merging. A row is a frame's index, from 0."""

    def __init__(self, features: Iterable[Features] = ()) -> None:
        self._frames: list[Features] = list(features)
        self._gone: set[int] = set()

    def extend(self, features: Iterable[Features]) -> None:
        """Append frames, in time order."""
        self._frames.extend(features)

    def forget(self, rows: Iterable[int]) -> None:
        """Drop the patches of the frames at these rows but keep their means, as if the memory had evicted them."""
        self._gone.update(int(row) for row in rows)

    @property
    def num_frames(self) -> int:
        """N: number of frames."""
        return len(self._frames)

    def present(self) -> np.ndarray:
        """Return for each of the N frames whether it still has its patches: (N,) bool."""
        return np.array([row not in self._gone for row in range(self.num_frames)], bool)

    def read(self, start: int, stop: int) -> ArrayBlock:
        """Return the patches of the rows from `start` up to, not including, `stop`."""
        frames = self._frames[start:stop]
        return ArrayBlock(
            np.stack([frame.patches for frame in frames]),
            np.stack([frame.scalars for frame in frames]),
            np.array([row not in self._gone for row in range(start, start + len(frames))], bool),
        )

    def summaries(self, start: int, stop: int) -> np.ndarray:
        """Return the mean patch of each row from `start` up to, not including, `stop`: (rows, channels) float32."""
        return np.stack([frame.summary for frame in self._frames[start:stop]])

    def embeddings(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Return the normalised embeddings of the frames at n rows: (n, embedding width D) float32."""
        raw = self._raw(rows)
        return raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), np.float32(1e-12))

    def norms(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Return the lengths that the embeddings of the frames at n rows had before normalisation: (n,) float32."""
        return np.linalg.norm(self._raw(rows), axis=1)

    def unit_embeddings(self) -> np.ndarray:
        """Return the normalised embeddings of all N frames: (N, embedding width D) float32."""
        return self.embeddings(range(self.num_frames))

    def _raw(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        if not len(rows):
            return np.empty((0, len(self._frames[0].embedding) if self._frames else 0), np.float32)
        return np.stack([self._frames[int(row)].embedding for row in rows]).astype(np.float32)
