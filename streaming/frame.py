"""What every source hands over: one kept picture and its capture time.

Knows nothing of codecs, networks or memory.
"""

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

ClockName = Literal["sender", "arrival", "file"]
SourceState = Literal["starting", "live", "reconnecting", "stalled", "ended", "failed", "closed"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One kept picture.

    `time` is the capture time in unix seconds, strictly rising per source while our own clock is not set back. `image` is
    uint8 (H, W, 3) RGB; its size may change from one frame to the next. `clock` says where `time` came from: the
    publisher's own clock, our arrival clock, or the timestamps of a file.
    """

    time: float
    image: np.ndarray
    clock: ClockName


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSettings:
    """Which frames a source keeps and how large. Checked when made; ValueError says what is wrong."""

    rate_hz: float = 1.0  # math.inf keeps every frame
    max_width: int = 1920
    max_height: int = 1080
    stall_timeout_s: float = 10.0  # no frame for so long: the session closes, the camera is connected to again
    max_skew_s: float = 2.0  # a sender's clock further off than this is not believed (live sources)
    handoff_frames: int = 4  # kept frames that may wait for the consumer of a live source; the newest win

    def __post_init__(self) -> None:
        if not self.rate_hz > 0:
            raise ValueError(f"rate_hz must be above 0, not {self.rate_hz}")
        if self.max_width < 16 or self.max_height < 16:
            raise ValueError(f"frames must be at least 16x16, not {self.max_width}x{self.max_height}")
        if not 0 < self.stall_timeout_s < math.inf:
            raise ValueError(f"stall_timeout_s must be above 0 and finite, not {self.stall_timeout_s}")
        if not 0 <= self.max_skew_s < math.inf:
            raise ValueError(f"max_skew_s must be at least 0 and finite, not {self.max_skew_s}")
        if not 1 <= self.handoff_frames <= 64:
            raise ValueError(f"handoff_frames must be 1 to 64, not {self.handoff_frames}")


@dataclass(slots=True)
class SourceStats:
    """Counters of one source, rising only, and what it is doing now."""

    received: int = 0  # decoded frames that arrived
    kept: int = 0  # chosen by the sampler
    dropped: int = 0  # kept, then replaced by newer ones because the consumer was late (never for files)
    shed: int = 0  # frames let go undecoded because this machine is too slow for the camera (WebRTC)
    decode_errors: int = 0
    reconnects: int = 0  # takeovers and re-publications (WebRTC), re-opened connections (RTSP, webcams)
    stalls: int = 0  # no frame for `stall_timeout_s`
    last_frame_time: float | None = None  # unix seconds, capture time of the newest frame received
    clock: ClockName | None = None
    width: int = 0
    height: int = 0
    state: SourceState = "starting"
    detail: str = ""  # why it is in this state, without passwords
    remarks: dict[str, str] = field(default_factory=dict)  # what was wrong with the medium and put right, in words


class Source(Protocol):
    """One camera's frames. `frames()` is iterated once, by one consumer; its end is not an error."""

    camera: str
    stats: SourceStats

    def frames(self) -> AsyncIterator[Frame]: ...

    async def close(self) -> None: ...
