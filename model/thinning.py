"""Choose which frames take part in merging when a window has too many for the language model to make use of.

Keyframes are chosen from all frames of a window, however long it is. Of the other frames, at most MOST_MERGED of those
that still have patches are merged, and at most MOST_SUMMARIES of those that only have their summary (mean patch) left
contribute it, evenly spread. The rest contributes nothing. This bounds the time and memory of a question's context.

Example: 10 rows, patches for 6 to 9, keyframes 1 and 7, most_summaries 3. Of the others, 0 2 3 4 5 have no patches, and
0 3 5 are kept; 6 8 9 have patches and are all kept. Result: 0 1 3 5 6 7 8 9.
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
    """Return the rows (frames) that take part in merging, keyframes included, in rising order.

    present (N,) bool: which of the N frames of the window still have their patches. Of the frames that are no
    keyframes, most_merged with patches and most_summaries with only their mean patch take part.
    """
    is_other = np.ones(len(present), bool)
    is_other[keyframe_rows] = False
    parts = [
        np.asarray(keyframe_rows, np.int64),
        evenly(np.flatnonzero(present & is_other), most_merged),
        evenly(np.flatnonzero(~present & is_other), most_summaries),
    ]
    return np.sort(np.concatenate(parts))


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of the rows, evenly spread, first and last included: 0 2 3 4 5 with most 3 -> 0 3 5."""
    if len(rows) <= most:
        return rows
    chosen: np.ndarray = rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]
    return chosen


class Thinned:
    """A patch source with only some rows (frames) of another source: its row i is row rows[i] of that one.

    rows (T,): the T rows kept, rising.
    """

    def __init__(self, source: PatchSource, rows: np.ndarray) -> None:
        self._source = source
        self.rows = rows

    @property
    def num_frames(self) -> int:
        """T: number of frames."""
        return len(self.rows)

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Convert row numbers of the other source to row numbers of this one. All of them must be in this one."""
        return np.searchsorted(self.rows, rows)

    def group_sizes(self, group_sizes: Sequence[int]) -> list[int]:
        """Return how many frames of each group (camera) of the other source are in this one."""
        return np.diff(np.searchsorted(self.rows, np.cumsum([0, *group_sizes]))).tolist()

    def present(self) -> np.ndarray:
        """Return (T,) bool: for each of the T frames, whether it still has its patches and not only their mean."""
        found: np.ndarray = self._source.present()[self.rows]
        return found

    def read(self, start: int, stop: int) -> PatchBlock:
        """Return the patches of the rows from `start` up to, not including, `stop`."""
        blocks = [self._source.read(first, last) for first, last in self._stretches(start, stop)]
        if len(blocks) == 1:
            return blocks[0]
        return ArrayBlock(
            _joined([block.patches for block in blocks]),
            _joined([block.scalars for block in blocks]),
            np.concatenate([block.present for block in blocks]),
        )

    def summaries(self, start: int, stop: int) -> np.ndarray:
        """Return, for each row from `start` up to, not including, `stop`, the mean of its patches.

        (n rows, C' channels of a stored patch) float32.
        """
        return np.concatenate([self._source.summaries(first, last) for first, last in self._stretches(start, stop)])

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Return the normalised embeddings of the frames at n rows: (n, embedding width D) float32."""
        return self._source.embeddings(self.rows[rows])

    def norms(self, rows: np.ndarray) -> np.ndarray:
        """Return the lengths that the embeddings of the frames at n rows had before normalisation: (n,) float32."""
        return self._source.norms(self.rows[rows])

    def _stretches(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the rows from `start` up to `stop` as (start, stop) ranges of adjacent rows of the other source."""
        rows = self.rows[start:stop]
        return [(int(rows[lo]), int(rows[hi - 1]) + 1) for lo, hi, _ in runs_of_equal(rows - np.arange(len(rows)))]


def _joined(pieces: Sequence[np.ndarray | torch.Tensor]) -> np.ndarray | torch.Tensor:
    tensors = [piece for piece in pieces if isinstance(piece, torch.Tensor)]
    return torch.cat(tensors) if tensors else np.concatenate([np.asarray(piece) for piece in pieces])
