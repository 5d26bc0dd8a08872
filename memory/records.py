"""Array types, and the types of the values that the memory returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """A stored frame without its picture. `time`: capture time in unix seconds."""

    frame_id: int
    camera: str
    time: float
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CameraStats:
    """Statistics of what is stored of one camera. Numbers count frames, `bytes` is on disk, times are unix seconds."""

    frames: int = 0
    encoded: int = 0
    hot: int = 0  # patch features are in memory
    archive: int = 0  # older frames, whose patch features are computed again when needed
    bytes: int = 0
    oldest: float | None = None
    newest: float | None = None


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """Counters since the store was opened, and whether the last write found the disk full."""

    full: bool
    appended: int
    refused_full: int
    evicted: int
    erased: int
    frames_damaged: int  # dropped: bad checksum, truncated, unreadable
    vectors_damaged: int  # embedding lost; the frame waits to be encoded again
    vectors_not_durable: int  # kept in memory only, as writing them to disk failed
    journal_rebuilt: bool  # rows were rebuilt from the segment files at the start


@dataclass(frozen=True, slots=True)
class PatchBlock:
    """Patch features of n consecutive window rows: M patches of width C, (n, M, C), with S scalars each, (n, M, S).

    A row is valid only where `present` (n,) is true. The arrays may be views of the memory itself: never write to them.
    """

    patches: npt.NDArray[Any]
    scalars: Float32
    present: Bool
