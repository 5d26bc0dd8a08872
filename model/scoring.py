"""Score every frame of a window: the relevance of each to one question, in one pass over the stored embeddings.

The memory keeps embeddings in half precision. Torch widens a few hundred rows at a time, which then fit the CPU cache;
numpy would take three times as long for it.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

CHUNK_ROWS = 256  # half a megabyte at D = 512

Float32 = NDArray[np.float32]


class StoredFrames(Protocol):
    """The part of a memory window that scoring reads."""

    @property
    def num_frames(self) -> int:
        """Number of frames."""

    def stored_rows(self, start: int = 0) -> Iterator[tuple[NDArray[np.floating], Float32]]:
        """Yield the rows from `start` on: (n, D), in any precision, and the factors (n,) that make them unit vectors."""


def score_frames(frames: StoredFrames, query: Float32, start: int = 0) -> Float32:
    """Return the cosine of each frame from row `start` on with `query` (D,), a unit vector: (N - start,) float32.

    The last bits may differ from the scores of `Window.top`. Blocks for 0.1 s per million frames of D = 512.
    """
    import torch  # here, so that the server is built without it

    query = np.ascontiguousarray(query, np.float32)
    scores = np.empty(frames.num_frames - start, np.float32)
    wide = torch.empty(CHUNK_ROWS, len(query))  # aligned to 64 bytes, which numpy's arrays are not: a third faster
    buffer = wide.numpy()
    first = 0
    for halves, scales in frames.stored_rows(start):
        found = scores[first : first + len(halves)]
        for place, piece in enumerate(torch.from_numpy(halves).split(CHUNK_ROWS)):
            count = len(piece)
            (wide if count == CHUNK_ROWS else wide[:count]).copy_(piece)
            at = place * CHUNK_ROWS
            np.vecdot(buffer[:count], query, out=found[at : at + count])
        found *= scales
        first += len(halves)
    return scores
