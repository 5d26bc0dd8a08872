"""One camera's way in: source -> JPEG -> memory.append -> backlog.

A frame counts as remembered when `append` returns; from then on only retention takes it away. When it cannot be
remembered (a full disk) the frame is lost, counted and logged, and the camera goes on; when the system merely has no
descriptor or memory to spare, the frame is kept in hand and tried again. JPEG work and disk writes run in
worker threads, one frame at a time per camera; what arrives meanwhile is the source's affair (newest wins, counted).

Does not know where a source comes from, nor what becomes of a frame after the backlog.
"""

import asyncio
import io
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.ingest.backlog import Backlog
from agent.ingest.masks import Masks
from agent.ingest.metadata import Told
from agent.ingest.placing import Placed, Placing, rising
from agent.ingest.clock import Moment
from agent.metrics import Metrics
from agent.runtime import pools
from agent.runtime.shortage import is_shortage
from agent.runtime.supervisor import contained, words_of
from memory.errors import StorageError, StorageFull
from memory.records import Json
from memory.store import MemoryStore
from streaming.errors import MediaError
from streaming.frame import Frame, Source, SourceState

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
CameraState = Literal["live", "stalled", "offline"]

JPEG_QUALITY = 85
_FIRST_RETRY_S, _LAST_RETRY_S = 0.05, 1.0  # of a frame that the system has nothing to spare for


def encode_jpeg(image: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """JPEG bytes of an RGB picture, uint8 (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def smaller_jpeg(jpeg: bytes, width: int) -> bytes:
    """The picture at most `width` pixels across. Raises OSError (PIL) when it is damaged."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        if picture.width <= width:
            return jpeg
        size = (width, max(1, round(picture.height * width / picture.width)))
        picture.draft("RGB", size)  # the decoder itself leaves out detail that would be scaled away
        return encode_jpeg(np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR)))


def decode_jpeg(jpeg: bytes) -> NDArray[np.uint8]:
    """RGB picture, uint8 (H, W, 3), of stored JPEG bytes. Raises OSError (PIL) when they are damaged."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        return np.array(picture.convert("RGB"))


def camera_state(source: SourceState | None) -> CameraState:
    """live: frames flow. stalled: connected, but nothing comes. offline: no source, or one that cannot be reached."""
    match source:
        case "live":
            return "live"
        case "stalled":
            return "stalled"
        case None | "starting" | "reconnecting" | "ended" | "failed" | "closed":
            return "offline"


@dataclass(slots=True)
class IntakeCounters:
    """What happened to this camera's kept frames since the agent started."""

    remembered: int = 0
    lost: int = 0
    sessions: int = 0


class Intake:
    """One camera, over any number of sources one after the other; the memory continues across them."""

    def __init__(
        self,
        camera: str,
        store: MemoryStore,
        backlog: Backlog,
        metrics: Metrics,
        metadata: Mapping[str, Json] | None = None,
        masks: Masks | None = None,
        metadata_max_age_s: float = 3.0,
        clock: Callable[[], float] = time.time,
        read_clocks: Callable[[], Moment] | None = None,
        max_skew_s: float = 2.0,
    ) -> None:
        """`read_clocks`: what time it is, and how sure that is; None: frames are believed. `max_skew_s`: so far may a
        publisher's clock be ahead of ours."""
        self.camera = camera
        self.counters = IntakeCounters()
        self.source: Source | None = None
        self.newest_id: int | None = None  # of the last frame remembered since the agent started
        self.problem: str | None = None  # why frames are being lost, in words for an operator
        self.problem_since: float | None = None  # unix seconds
        self._clock = clock
        self._store = store
        self._backlog = backlog
        self._metrics = metrics
        self._metadata = dict(metadata or {})
        self._masks = masks or Masks(())
        self._told = Told(metadata_max_age_s)
        self._refused: deque[tuple[float, float]] = deque(maxlen=256)  # erased since the start
        self._max_skew_s = max_skew_s
        self._order = asyncio.Lock()  # at a takeover two sources may have a frame in hand at once
        newest = store.stats(camera).newest
        self._last_time = -math.inf if newest is None else newest
        self._placing = None if read_clocks is None else Placing(camera, store, read_clocks, max_skew_s)

    @property
    def state(self) -> CameraState:
        source = self.source  # read once: a scrape looks from another thread
        return camera_state(None if source is None else source.stats.state)

    @property
    def has_sent(self) -> bool:
        """Whether a frame of it has come since the agent started."""
        source = self.source
        return self.counters.remembered > 0 or (source is not None and source.stats.received > 0)

    async def run(self, source: Source) -> None:
        """Remember every frame of `source` until it ends. A later call with a new source takes the camera over."""
        replaced, self.source = self.source, source
        if replaced is not None:
            await replaced.close()
        self.counters.sessions += 1
        log.info("camera connected", extra={"camera": self.camera, "sessions": self.counters.sessions})
        try:
            async for frame in source.frames():
                with contained(f"keeping a frame of camera {self.camera}") as outcome:
                    await self._remember(frame)
                if outcome.error is not None:
                    self._lose(outcome.error)
        finally:
            if self.source is source:  # not taken over
                self.source = None
                if source.stats.state in ("stalled", "failed"):
                    self._say(f"its last session ended: {source.stats.detail or 'no pictures came any more'}")
            await source.close()
            log.info("camera disconnected", extra={"camera": self.camera})

    async def _remember(self, frame: Frame) -> None:
        async with self._order:
            try:
                placed = await self._place(frame)
                frame_id = await self._tried(self._write, frame, placed)
            except StorageError as error:  # a full or failing disk: this frame is lost, the next may not be
                self._lose(error)
                return
            if frame_id is None:
                return
            self._last_time = placed.time
        self.problem = self.problem_since = None
        self.newest_id = frame_id
        self.counters.remembered += 1
        self._backlog.put(frame_id)

    async def _tried(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What it returns, tried until the system has what it takes (descriptors, memory): the frame stays in hand."""
        pause_s = _FIRST_RETRY_S
        while True:
            try:
                return await pools.storage(function, *args, **kwargs)
            except (OSError, MemoryError, RuntimeError) as error:
                if not is_shortage(error):
                    raise
                if self.problem is None:
                    log.error("frame waits", extra={"camera": self.camera, "error": words_of(error)})
                self.problem = f"a frame waits to be written: {words_of(error)}"
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_RETRY_S)

    async def _place(self, frame: Frame) -> Placed:
        if self._placing is None:
            return Placed(rising(frame.time, self._last_time), frame.clock, math.inf)
        placed = await self._tried(self._placing.place, frame.time, frame.clock, self._last_time)
        self._last_time = placed.last_time  # as it is remembered now, whatever becomes of this frame
        return replace(placed, time=rising(placed.time, self._last_time))

    async def settle(self) -> None:
        """Gives what is remembered the right times, where the clock was set and that is believed by now."""
        if self._placing is None or self._order.locked():  # the frame in hand has just done it
            return
        async with self._order:
            self._last_time = await pools.storage(self._placing.settle, self._last_time)

    def _write(self, frame: Frame, placed: Placed) -> int | None:
        """None: it belongs to a time that was erased."""
        time = placed.time
        if self._is_refused(time):
            return None
        metadata = {**self._metadata, **self._told.at(time), "clock": placed.clock}
        jpeg = encode_jpeg(self._masks.apply(frame.image))
        frame_id = self._store.append(self.camera, time, jpeg, metadata, age_from=placed.age_from)
        if self._is_refused(time):  # the erasure came between the two
            self._store.erase(self.camera, time, time)
            return None
        return frame_id

    def tell(self, metadata: Mapping[str, Json], time: float, now: float) -> None:
        """What the publisher says was so at `time`, such as its pose: kept with frames from then on, for a while."""
        self._told.add(time, metadata, latest=now + self._max_skew_s)

    def refuse(self, after: float, before: float) -> None:
        """Frames of this time that are still on their way are not remembered: it has been erased. Any thread."""
        self._refused.append((after, before))

    def _is_refused(self, time: float) -> bool:
        return any(after <= time <= before for after, before in list(self._refused))

    def failed(self, error: BaseException) -> None:
        """The source ended with this error: shown as the camera's problem until a frame is remembered again."""
        self._say(str(error) if isinstance(error, MediaError) else f"its source failed: {words_of(error)}")

    def _say(self, problem: str) -> None:
        self.problem, self.problem_since = problem, self._clock()

    def _lose(self, error: BaseException) -> None:
        match error:
            case StorageFull():
                reason = "disk_full"
            case StorageError():
                reason = "disk_error"
            case _:
                reason = "failed"
        self.counters.lost += 1
        self._metrics.frames_lost.labels(camera=self.camera, reason=reason).inc()
        if self.problem is None:  # say it once, not once a second
            log.error("frame lost", extra={"camera": self.camera, "reason": reason, "error": str(error)})
        self._say(f"frames cannot be written: {words_of(error) if reason == 'failed' else error}")
