"""The values that this package hands out, and the names of its arrays. No behaviour."""

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
    """One remembered frame without its picture; `time` is capture time in unix seconds."""

    frame_id: int
    camera: str
    time: float
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CameraStats:
    """What one camera holds now. `bytes` is on disk.

    `hot` counts frames with patches in memory, `archive` those behind the hot window: patches are made when asked for.
    """

    frames: int
    encoded: int
    hot: int
    archive: int
    bytes: int
    oldest: float | None
    newest: float | None


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """Counters since the store was opened, and whether the disk is full now (the last write found no space)."""

    full: bool
    appended: int
    refused_full: int
    evicted: int
    erased: int
    frames_damaged: int  # dropped: bad checksum, truncated, unreadable
    vectors_damaged: int  # embedding lost, frame kept: it is pending again
    vectors_not_durable: int  # attached in memory only, because the disk refused them
    journal_rebuilt: bool  # the rows were read back from the segment files at start


@dataclass(frozen=True, slots=True)
class PatchBlock:
    """Patches of consecutive window rows.

    patches (n, M, C) and scalars (n, M, S) mean something only where present (n,) is true. They may be views into the
    memory itself: never write to them.
    """

    patches: npt.NDArray[Any]
    scalars: Float32
    present: Bool
