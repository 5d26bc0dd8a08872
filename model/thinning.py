"""Which frames take part in merging when a window holds more of them than a language model could ever be told apart.

Keyframes are chosen from all frames of a window, however long. Of the others, those with patches are merged, at most
MOST_MERGED; of those that have only their summary left (the archive), at most MOST_SUMMARIES contribute it, evenly
spread. The rest is seen through its keyframes alone. So the time and the memory that a context takes are bounded.

Worked example: 10 rows, patches of 6 to 9, keyframes 1 and 7, most_summaries 3:
    others without patches 0 2 3 4 5 -> 0, 3 and 5 stay; with patches 6 8 9 stay     rows 0 1 3 5 6 7 8 9
"""

from collections.abc import Sequence

import numpy as np
import torch

from model.history import ArrayBlock
from model.merge import PatchBlock, PatchSource, runs_of_equal

MOST_MERGED = 10_000
MOST_SUMMARIES = 2_048


def rows_taking_part(
    present: np.ndarray,
    keyframe_rows: np.ndarray,
    *,
    most_merged: int = MOST_MERGED,
    most_summaries: int = MOST_SUMMARIES,
) -> np.ndarray:
    """Rising rows of the keyframes and of those that contribute beside them. present (N,) bool: which have patches."""
    is_other = np.ones(len(present), bool)
    is_other[keyframe_rows] = False
    parts = [
        np.asarray(keyframe_rows, np.int64),
        evenly(np.flatnonzero(present & is_other), most_merged),
        evenly(np.flatnonzero(~present & is_other), most_summaries),
    ]
    return np.sort(np.concatenate(parts))


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the rows, first and last included: 0 2 3 4 5, 3 -> 0 3 5."""
    if len(rows) <= most:
        return rows
    chosen: np.ndarray = rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]
    return chosen


class Thinned:
    """Some rows of a source as a source of their own: row i of it is row rows[i] of the other. rows (T,) rising."""

    def __init__(self, source: PatchSource, rows: np.ndarray) -> None:
        self._source = source
        self.rows = rows

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.rows)

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the other source, all of them here -> rows of this one."""
        return np.searchsorted(self.rows, rows)

    def group_sizes(self, group_sizes: Sequence[int]) -> list[int]:
        """Of the other source's groups, the frames that are here."""
        return np.diff(np.searchsorted(self.rows, np.cumsum([0, *group_sizes]))).tolist()

    def present(self) -> np.ndarray:
        """(T,) which rows have patches."""
        found: np.ndarray = self._source.present()[self.rows]
        return found

    def read(self, start: int, stop: int) -> PatchBlock:
        """Patches of the rows start..stop."""
        blocks = [self._source.read(first, last) for first, last in self._stretches(start, stop)]
        if len(blocks) == 1:
            return blocks[0]
        return ArrayBlock(
            _joined([block.patches for block in blocks]),
            _joined([block.scalars for block in blocks]),
            np.concatenate([block.present for block in blocks]),
        )

    def summaries(self, start: int, stop: int) -> np.ndarray:
        """(n, C') float32: mean patch of each row."""
        return np.concatenate([self._source.summaries(first, last) for first, last in self._stretches(start, stop)])

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """(n, D) float32 unit vectors."""
        return self._source.embeddings(self.rows[rows])

    def norms(self, rows: np.ndarray) -> np.ndarray:
        """(n,) float32 lengths the embeddings had."""
        return self._source.norms(self.rows[rows])

    def _stretches(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Rows start..stop as ranges of neighbours in the other source."""
        rows = self.rows[start:stop]
        return [(int(rows[lo]), int(rows[hi - 1]) + 1) for lo, hi, _ in runs_of_equal(rows - np.arange(len(rows)))]


def _joined(pieces: Sequence[np.ndarray | torch.Tensor]) -> np.ndarray | torch.Tensor:
    tensors = [piece for piece in pieces if isinstance(piece, torch.Tensor)]
    return torch.cat(tensors) if tensors else np.concatenate([np.asarray(piece) for piece in pieces])
