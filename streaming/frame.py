"""The interface of all sources: `Source` yields `Frame`, a picture with its capture time."""

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

ClockName = Literal["sender", "arrival", "file"]
SourceState = Literal["starting", "live", "reconnecting", "stalled", "ended", "failed", "closed"]


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture with its capture time, as a source yields it.

    `time`: capture time in unix seconds, strictly rising per source while our clock is not set back. `image`: uint8
    (H, W, 3) RGB, whose size may change between frames. `clock`: where `time` came from: the sender's clock, our clock
    at arrival, or the timestamps of a file. `damaged`: parts of it may be wrong, as a picture before it was lost on the
    way.
    """

    time: float
    image: np.ndarray
    clock: ClockName
    damaged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSettings:
    """Which frames a source keeps, and their largest size. Invalid values raise ValueError."""

    rate_hz: float = 1.0  # math.inf keeps every frame
    max_width: int = 1920
    max_height: int = 1080
    stall_timeout_s: float = 10.0  # without a frame, the session closes or the camera is reconnected
    max_skew_s: float = 2.0  # largest error of a sender's clock that is used (live sources)
    handoff_frames: int = 4  # how many kept frames of a live source wait for the consumer; older ones are dropped

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


_AVERAGED = 20  # frames over which `SourceStats.interval_s` is averaged


@dataclass(slots=True)
class SourceStats:
    """Counters of one source since its start, and its present state."""

    received: int = 0  # decoded frames that arrived
    kept: int = 0  # not kept by the sampler
    dropped: int = 0  # kept frames dropped for newer ones, as the consumer was slow (never for files)
    shed: int = 0  # frames dropped undecoded as this machine was too slow (WebRTC)
    decode_errors: int = 0
    damaged: int = 0  # decoded frames that depend on one that was lost on the way (WebRTC)
    key_frames_requested: int = 0  # (WebRTC)
    packets_received: int = 0  # (WebRTC)
    packets_lost: int = 0  # and not repeated in time (WebRTC)
    reconnects: int = 0  # new sessions of the camera (WebRTC), new connections (others)
    stalls: int = 0  # no frame for `stall_timeout_s`
    last_frame_time: float | None = None  # unix seconds
    interval_s: float = 0.0  # between two received frames, averaged over the last ones; 0: unknown
    codec: str = ""  # as FFmpeg names it: "h264"
    clock: ClockName | None = None
    sender_clock_s: float | None = None  # the sender's clock minus ours, at its last report; None: no report
    width: int = 0
    height: int = 0
    state: SourceState = "starting"
    detail: str = ""  # the reason of the state
    remarks: dict[str, str] = field(default_factory=dict)  # sentences about errors that were corrected, by subject

    def count(self, time: float) -> None:
        """Count a received frame. time: its capture time in unix seconds."""
        gap_s = 0.0 if self.last_frame_time is None else time - self.last_frame_time
        if gap_s > 0:
            share = 1 / _AVERAGED if self.interval_s else 1.0
            self.interval_s += share * (gap_s - self.interval_s)
        self.received += 1
        self.last_frame_time = time


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedSession:
    """What is remembered of a publisher's session, or of an offer that was refused."""

    client: str  # the publisher's program, as its User-Agent header names it
    started: float  # unix seconds
    ended: float
    end: str  # why: a CloseReason, or "refused"
    detail: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    received: int = 0  # frames
    kept: int = 0
    damaged: int = 0
    packets_received: int = 0
    packets_lost: int = 0


class Source(Protocol):
    """A source of one camera's frames. `frames()` may be iterated once, by one consumer."""

    camera: str
    stats: SourceStats

    def frames(self) -> AsyncIterator[Frame]: ...

    async def close(self) -> None: ...
