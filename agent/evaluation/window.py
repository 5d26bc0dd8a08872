"""A window over features in arrays, so that the product's code can answer about frames that are not in a store.

A window is what a question searches: frames as rows, with their times and features (`memory.window.Window`).
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.errors import FrameGone
from memory.records import PatchBlock
from memory.window import Window
from model.features import FrameFeatures
from model.history import ArrayHistory
from model.select import ArrayCandidates

CAMERA = "camera"


class ArrayWindow(Window):
    """A window of all frames of one camera, with the methods of `memory.window.Window`.

    A frame's id is its row number. There are no pictures.
    """

    def __init__(
        self, features: Sequence[FrameFeatures], times: np.ndarray, zones: Sequence[str | None] | None = None
    ) -> None:
        """times (N,) unix seconds, rising. zones: for each frame the name of the place in its metadata, if any."""
        if len(features) != len(times):
            raise ValueError(f"{len(features)} frames, {len(times)} times")
        self.features = list(features)
        self.history = ArrayHistory(self.features)
        self.zones = [None] * len(times) if zones is None else list(zones)
        self.cameras = (CAMERA,)
        self.unencoded = 0
        self.num_frames = len(times)
        self.frame_ids = np.arange(len(times))
        self.times = times
        self.camera_index = np.zeros(len(times), np.int32)
        self._ranked: tuple[bytes, ArrayCandidates] | None = None  # for the last query

    @cached_property
    def unit(self) -> np.ndarray:
        """The frames' embeddings, (N, D) float32 unit vectors."""
        return self.history.unit_embeddings()

    def part(self, rows: slice) -> "ArrayWindow":
        """Return a window of these rows only."""
        return ArrayWindow(self.features[rows], self.times[rows], self.zones[rows])

    def frame_at(self, camera: str, time: float) -> "ArrayWindow":
        """Return a window of the one frame at this time."""
        row = int(np.searchsorted(self.times, time))
        return self.part(slice(row, row + 1))

    def top(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        key = query.tobytes()
        if self._ranked is None or self._ranked[0] != key:
            self._ranked = key, ArrayCandidates(self.unit, query)
        return self._ranked[1].top(k)

    def stored_rows(self, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield self.unit[start:], np.ones(self.num_frames - start, np.float32)

    def embeddings(self, rows: npt.ArrayLike) -> np.ndarray:
        return np.asarray(self.unit[np.asarray(rows)])

    def background(self) -> np.ndarray:
        return np.asarray(self.unit.mean(0, keepdims=True))

    def norms(self, rows: npt.ArrayLike) -> np.ndarray:
        return self.history.norms(np.asarray(rows))

    def read(self, start: int, stop: int) -> PatchBlock:
        block = self.history.read(start, stop)
        return PatchBlock(block.patches, block.scalars, block.present)

    def summaries(self, start: int, stop: int) -> np.ndarray:
        return self.history.summaries(start, stop)

    def present(self) -> np.ndarray:
        return self.history.present()

    def metadata(self, row: int) -> dict[str, Any]:
        zone = self.zones[row]
        return {} if zone is None else {"zone": zone}

    def jpeg(self, row: int) -> bytes:
        raise FrameGone(int(row))
