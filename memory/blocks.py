"""Blocks: runs of sealed segments behind the hot window, whose rows lie together in one FAISS index.

A million frames are 4,000 segments; what takes 30 microseconds a segment would take a tenth of a second. A block of 16
answers as one piece wherever a window wants all of it. Segments stay what they are for everything else (limits, files,
pictures, marks): their arrays become views of the block's.

Worked example, segments of 4, blocks of 2: segments 1 = [1 2 3 4], 5 = [5 6 7 8] become one block of 8 rows; row 6 of it
is slot 2 of segment 5. Once frame 1 is forgotten the block is whole no longer, and its segments answer one by one.

Nothing in a block is ever changed. Knows nothing of limits, files or windows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from memory.ranking import build_index, index_rows
from memory.records import Float16, Float32, Float64, Int64
from memory.segments import Segment

BLOCK_SEGMENTS = 16
"""At 256 frames a segment and D = 512 a block holds 4 MiB of embeddings: copied in a millisecond or two."""


class Block:
    """See the module. Arrays of (count, ...) in the order of the frames."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        """Copies the segments' rows; they must be sealed and cold. `adopt` then makes them views of it."""
        self.segments = tuple(segments)
        self.starts: Int64 = np.cumsum([0, *(s.count for s in segments[:-1])])
        self.count = self.capacity = sum(s.count for s in segments)
        self.index: Any = build_index(np.concatenate([s.halves[: s.count] for s in segments]))
        self.halves: Float16 = index_rows(self.index)
        self.scales: Float32 = self._joined("scales")
        self.norms: Float32 = self._joined("norms")
        self.summaries: Float16 = self._joined("summaries")
        self.frame_ids: Int64 = self._joined("frame_ids")
        self.times: Float64 = self._joined("times")
        sums = [s.embedding_sum() for s in segments]
        self._sum = np.sum([total for total, _ in sums], axis=0), sum(num for _, num in sums)

    def _joined(self, name: str) -> Any:
        return np.concatenate([getattr(s, name)[: s.count] for s in self.segments])

    def adopt(self) -> None:
        """Makes the segments' arrays views of this block, which must be whole, and its segments still be the camera's.

        Views taken earlier keep the old arrays, of the same numbers.
        """
        for segment, start in zip(self.segments, self.starts.tolist(), strict=True):
            rows = slice(start, start + segment.count)
            for name in ("halves", "scales", "norms", "summaries", "frame_ids", "times"):
                setattr(segment, name, getattr(self, name)[rows])
            segment.index, segment.index_start, segment.block = self.index, start, self

    def dissolve(self) -> None:
        """Its segments answer one by one from now on; their arrays stay views of its."""
        for segment in self.segments:
            segment.block = None

    @property
    def whole(self) -> bool:
        """True while no frame of it was forgotten or found damaged."""
        return not any(s.floor or s.num_gone for s in self.segments)

    def place(self, slot: int) -> tuple[Segment, int]:
        """The segment that holds row `slot`, and its slot there."""
        number = int(np.searchsorted(self.starts, slot, side="right")) - 1
        return self.segments[number], slot - int(self.starts[number])

    def embedding_sum(self) -> tuple[Int64, int]:
        """Of all its frames; asked only while it is whole."""
        return self._sum


def next_run(segments: Sequence[Segment]) -> list[Segment]:
    """The oldest BLOCK_SEGMENTS neighbours that can become a block, or none.

    segments: of one camera, oldest first. A segment with frames that cannot be encoded never is part of a block; one
    that is merely waiting for its encoder will be.
    """
    run: list[Segment] = []
    for segment in segments:
        if segment.hot:
            break
        run = [*run, segment] if _can_join(segment) else []
        if len(run) == BLOCK_SEGMENTS:
            return run
    return []


def _can_join(segment: Segment) -> bool:
    return segment.block is None and segment.index is not None and not (segment.floor or segment.num_gone)
