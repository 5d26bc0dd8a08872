"""The intake of a camera: stamp each frame, apply the masks, write it as JPEG to the memory, and list it for the encoder.

A frame counts as remembered once it is stored; later only the memory's limits or an erasure delete it. A frame that
cannot be stored (a full disk) is lost, counted and logged, and the next one is tried. If the system lacks a file
descriptor or memory for a moment, the frame is tried again. JPEG work and disk writes run in worker threads, one frame
at a time for each camera. Meanwhile the source keeps the newest frame that arrives, and drops and counts the others.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

from agent.ingest.backlog import Backlog
from agent.ingest.clock import Clock, Stamp, Stamper, rising, running_s
from agent.ingest.jpeg import encode_jpeg
from agent.ingest.masks import Masks
from agent.ingest.metadata import MetadataHistory
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

_FIRST_RETRY_S, _LAST_RETRY_S = 0.05, 1.0  # while the system lacks descriptors or memory


def camera_state(source: SourceState | None) -> CameraState:
    """Return the state of a camera from that of its source (None: it has none).

    live: frames arrive. stalled: connected, but no frames arrive. offline: everything else.
    """
    return source if source == "live" or source == "stalled" else "offline"


@dataclass(slots=True)
class IntakeCounters:
    """Counts of one camera since the agent started."""

    remembered: int = 0  # frames
    lost: int = 0  # frames
    sessions: int = 0
    damaged: int = 0  # frames of ended sessions that depended on one that was lost on the way
    key_frames_requested: int = 0  # by ended sessions


class Intake:
    """Stores the frames of one camera, from any number of sources one after the other."""

    def __init__(
        self,
        camera: str,
        store: MemoryStore,
        backlog: Backlog,
        metrics: Metrics,
        metadata: Mapping[str, Json] | None = None,
        *,
        masks: Masks | None = None,
        metadata_max_age_s: float = 3.0,
        clock: Clock | None = None,
        max_skew_s: float = 2.0,
    ) -> None:
        """metadata: stored with every frame. max_skew_s: how many seconds a publisher's clock may be ahead of `clock`.

        metadata_max_age_s: for how long metadata that a publisher sends is stored with the frames that follow.
        """
        self.camera = camera
        self.counters = IntakeCounters()
        self.source: Source | None = None
        self._running: list[Source] = []  # `source`, and others that are about to end
        self.newest_id: int | None = None  # of the last frame remembered since the agent started
        self.problem: str | None = None  # why no frames are stored, as text for the operator
        self.problem_since: float | None = None  # unix seconds
        self._clock = clock or Clock(time.time, running_s)
        self._store = store
        self._backlog = backlog
        self._metrics = metrics
        self._metadata = dict(metadata or {})
        self._masks = masks or Masks(())
        self._published = MetadataHistory(metadata_max_age_s)
        self._erased: deque[tuple[float, float]] = deque(maxlen=256)  # periods erased since the start
        self._max_skew_s = max_skew_s
        self._stored_at = 0.0  # monotonic seconds: the last frame was stored, or the session began
        self._order = asyncio.Lock()  # when a source replaces another, both may have a frame to store
        newest = store.stats(camera).newest
        self._last_time = -math.inf if newest is None else newest
        self._stamper = Stamper(camera, store, self._clock.read, max_skew_s)

    @property
    def state(self) -> CameraState:
        source = self.source  # read once: another thread may ask
        return camera_state(None if source is None else source.stats.state)

    @property
    def has_sent(self) -> bool:
        """True once a frame has arrived since the agent started."""
        source = self.source
        return self.counters.remembered > 0 or (source is not None and source.stats.received > 0)

    @property
    def idle_s(self) -> float:
        """Seconds since a frame was stored, or since the session began."""
        return self._clock.read().running - self._stored_at

    def in_transit(self, field: str) -> int:
        """Return `damaged` or `key_frames_requested` of all sessions, ended or not."""
        return int(sum(getattr(each, field) for each in (self.counters, *(one.stats for one in list(self._running)))))

    async def run(self, source: Source) -> None:
        """Store every frame of `source` until it ends. A later call with another source closes and replaces this one."""
        replaced, self.source = self.source, source
        self._running.append(source)
        if replaced is not None:
            await replaced.close()
        self.counters.sessions += 1
        self._stored_at = self._clock.read().running
        log.info("camera connected", extra={"camera": self.camera, "sessions": self.counters.sessions})
        try:
            async for frame in source.frames():
                with contained(f"keeping a frame of camera {self.camera}") as outcome:
                    await self._remember(frame)
                if outcome.error is not None:
                    self._lose(outcome.error)
        finally:
            if self.source is source:  # no other source has replaced it
                self.source = None
                if source.stats.state in ("stalled", "failed"):
                    self._report(f"its last session ended: {source.stats.detail or 'no pictures arrived any more'}")
            await source.close()
            self._running.remove(source)
            self.counters.damaged += source.stats.damaged
            self.counters.key_frames_requested += source.stats.key_frames_requested
            log.info("camera disconnected", extra={"camera": self.camera})

    async def _remember(self, frame: Frame) -> None:
        async with self._order:
            try:
                stamp = await self._retry(self._stamper.stamp, frame.time, frame.clock, self._last_time)
                self._last_time = stamp.last_time  # stored frames may have new times, even if this one is not stored
                time = rising(stamp.time, self._last_time)
                frame_id = await self._retry(self._write, frame, time, stamp)
            except StorageError as error:  # a full or failing disk: this frame is lost, the next may not be
                self._lose(error)
                return
            if frame_id is None:
                return
            self._last_time = time
        self.problem = self.problem_since = None
        self._stored_at = self._clock.read().running
        self.newest_id = frame_id
        self.counters.remembered += 1
        self._backlog.put(frame_id)

    async def _retry(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of `function`, called in the storage thread pool.

        It is called again, after pauses, while the system lacks file descriptors or memory.
        """
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

    def _write(self, frame: Frame, time: float, stamp: Stamp) -> int | None:
        """Store the frame under the time in `stamp`, and return its id.

        None: it lies in a period that was erased, so it is not stored.
        """
        if self._is_erased(time):
            return None
        metadata = {**self._metadata, **self._published.at(time), "clock": stamp.clock}
        if frame.damaged:
            metadata["damaged"] = True
        jpeg = encode_jpeg(self._masks.apply(frame.image))
        frame_id = self._store.append(self.camera, time, jpeg, metadata, age_from=stamp.age_from)
        if self._is_erased(time):  # erased between the check above and the append
            self._store.erase(self.camera, time, time)
            return None
        return frame_id

    async def settle(self) -> None:
        """Correct the times of stored frames if the system clock was set and its new time is believed by now."""
        if self._order.locked():  # storing the current frame does it
            return
        async with self._order:
            self._last_time = await pools.storage(self._stamper.settle, self._last_time)

    def add_metadata(self, metadata: Mapping[str, Json], time: float, now: float) -> None:
        """Have `metadata`, which a publisher sent for `time`, stored with the frames of that time and shortly after.

        time, now: unix seconds.
        """
        self._published.add(time, metadata, latest=now + self._max_skew_s)

    def refuse(self, after: float, before: float) -> None:
        """Do not store frames in [after, before] (unix seconds) that arrive or are written later: the period was
        erased. Thread-safe."""
        self._erased.append((after, before))

    def _is_erased(self, time: float) -> bool:
        return any(after <= time <= before for after, before in list(self._erased))

    def failed(self, error: BaseException) -> None:
        """Make `error`, which ended the source, the camera's problem until the next frame is stored."""
        self._report(str(error) if isinstance(error, MediaError) else f"its source failed: {words_of(error)}")

    def _report(self, problem: str) -> None:
        self.problem, self.problem_since = problem, self._clock.now()

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
        if self.problem is None:  # log it once, not once a second
            log.error("frame lost", extra={"camera": self.camera, "reason": reason, "error": str(error)})
        self._report(f"frames cannot be written: {words_of(error) if reason == 'failed' else error}")
