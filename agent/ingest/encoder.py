"""The encoder task: computes the features of stored frames, in batches over all cameras, and stores them in the memory.

Features are the embedding of a frame and its patches (embeddings of parts of the picture). They are computed from the
stored JPEG, so they can be computed again at any time. A slow encoder delays answers but loses no frame. New frames
(the backlog) are encoded first, then frames that wait on disk, then frames whose patches were lost in a restart; of
each, the oldest first.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agent.ingest.backlog import Backlog
from agent.ingest.jpeg import decode_jpeg
from agent.metrics import Metrics
from agent.runtime import pools
from agent.runtime.lanes import Lane
from agent.runtime.shortage import is_shortage
from agent.runtime.supervisor import contained, words_of
from agent.times import format_span
from memory.errors import FrameGone, StorageError
from memory.store import MemoryStore

if TYPE_CHECKING:
    from model.clip_encoder import ClipEncoder
    from model.features import FrameFeatures
    from model.video_model import VideoModel

log = logging.getLogger(__name__)

Sighted = Callable[[str, int, float, NDArray[np.float32]], None]  # camera, frame_id, time, embedding (D,), any norm

BATCH_SIZE = 8  # frames of all cameras; larger batches are hardly faster, and a question waits for the current batch
_FIRST_RETRY_S, _LAST_RETRY_S = 0.5, 30.0
_MAX_TRIES = 3  # for a frame that fails although the encoder works
RETEST_S = 30.0
MAX_BEHIND_S = 60.0  # if a frame has waited longer for the encoder, a problem is reported: answers miss it


@dataclass(frozen=True, slots=True)
class _Picture:
    frame_id: int
    camera: str
    time: float  # unix seconds
    image: NDArray[np.uint8]


class EncoderBroken(Exception):
    """The model can encode no frame at the moment."""


class NotNow(Exception):
    """No frame of a batch can be read at the moment: the disk fails, or the system lacks file descriptors or memory."""


class Encoding:
    """Encodes the frames of the memory. Its task `run` never ends by itself."""

    def __init__(
        self,
        store: MemoryStore,
        model: "VideoModel | ClipEncoder",
        vision: Lane,
        backlog: Backlog,
        metrics: Metrics,
        needs_patches: bool = True,
    ) -> None:
        self.test_problem: str | None = "the encoder has not been tested yet"
        self.problem: str | None = None  # why the encoder fails, as text for the operator
        self.waiting_problem: str | None = None  # why some frames cannot be read or stored while it works
        self.sighted: Sighted = lambda camera, frame_id, time, embedding: None  # called with every encoded frame
        self.idle = asyncio.Event()  # set while nothing is left to encode
        self._store = store
        self._model = model
        self._vision = vision
        self._backlog = backlog
        self._metrics = metrics
        self._needs_patches = needs_patches  # False when a remote model answers, which gets the pictures themselves
        self._given_up: set[int] = set()  # frames that cannot be encoded; few, as a JPEG is damaged only with the disk
        self._num_refused: Counter[int] = Counter()
        self._waiting: set[int] = set()  # frames that could not be read or stored at the last try
        self._aside: set[int] = set()  # the frames of `_waiting` that are not tried again before the pause is over
        self._pause_s = _FIRST_RETRY_S

    async def finish(self) -> None:
        """Wait until every frame stored so far is encoded, or found to be impossible to encode."""
        self.idle.clear()
        self._backlog.look_again()
        await self.idle.wait()

    async def test(self) -> None:
        """Run the model's self-test, and set `test_problem` to what is wrong, None if the test passes."""
        self.test_problem = await self._test()

    async def test_again(self) -> None:
        """Repeat a failed self-test every RETEST_S until it passes, because its cause (such as no free memory) may end."""
        while self.test_problem is not None:
            await asyncio.sleep(RETEST_S)
            await self.test()

    def delay_problem(self, now: float) -> str | None:
        """Return why answers miss frames although the encoder works, as text for the operator. None: they miss none.

        now: unix seconds. Blocking.
        """
        if self.waiting_problem is not None:
            return self.waiting_problem
        for frame_id in self._store.pending(1):
            try:
                waited_s = now - self._store.record(frame_id).time
            except FrameGone:
                return None
            if waited_s > MAX_BEHIND_S:
                return f"the encoder is {format_span(waited_s)} behind: answers miss the frames that still wait"
        return None

    async def run(self) -> None:
        """Encode frames until cancelled. When the encoder fails, it is tried again after growing pauses; frames wait on
        disk."""
        retry_s = _FIRST_RETRY_S
        self._backlog.look_again()  # finds the batch that a failed run was encoding
        while True:
            frame_ids = await self._next_batch()
            if not frame_ids:
                if not self._backlog.behind and not self._aside:
                    self.problem = None
                    self._none_waits()
                    self.idle.set()
                await self._backlog.wait()
                self.idle.clear()
                continue
            try:
                await self._encode(frame_ids)
            except EncoderBroken as error:
                self._backlog.behind = True  # the batch will be found on disk
                self.problem = f"the encoder fails: {error}"
                log.error("encoder fails", extra={"error": str(error), "retry_s": retry_s})
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _LAST_RETRY_S)
            except NotNow:  # `_set_aside` has logged it
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _LAST_RETRY_S)
            else:
                retry_s, self.problem = _FIRST_RETRY_S, None
                self._waiting -= set(frame_ids) - self._aside
                if not self._waiting:
                    self._none_waits()

    async def _next_batch(self) -> list[int]:
        if frame_ids := self._backlog.take(BATCH_SIZE):
            return frame_ids
        if not self._backlog.behind:
            return []
        mark = self._backlog.mark
        frame_ids = await pools.pictures(self._on_disk)
        if not frame_ids:
            self._backlog.caught_up(mark)
        return frame_ids

    def _on_disk(self) -> list[int]:
        """Return the ids of the oldest frames that were never encoded, at most a batch.

        If there are none, return the oldest whose patches were lost in a restart.
        """
        aside = self._aside.copy()
        pending = self._store.pending(BATCH_SIZE + len(aside))
        if wanted := [frame_id for frame_id in pending if frame_id not in aside]:
            return wanted[:BATCH_SIZE]
        if not self._needs_patches:
            return []
        left_out = self._given_up | aside
        lost = self._store.pending_patches(BATCH_SIZE + len(left_out))
        return [frame_id for frame_id in lost if frame_id not in left_out][:BATCH_SIZE]

    async def _encode(self, frame_ids: Sequence[int]) -> None:
        started = perf_counter()
        pictures, unread = await pools.pictures(self._read, frame_ids)
        if unread:
            self._set_aside(unread)
        if not pictures:
            if unread:
                raise NotNow
            return
        for picture, features in await self._features(pictures):
            try:
                remembered = await pools.storage(self._attach, picture, features)
            except ValueError as error:  # an embedding is finite, but too large for half precision
                self._skip(picture.frame_id, "refused", error)
            except (StorageError, MemoryError) as error:
                self._set_aside({picture.frame_id: error})
            else:
                if remembered:
                    self.sighted(picture.camera, picture.frame_id, picture.time, features.embedding)
                    self._metrics.frames_encoded.labels(camera=picture.camera).inc()
        self._metrics.stage_seconds.labels(stage="encode").observe(perf_counter() - started)

    def _read(self, frame_ids: Sequence[int]) -> tuple[list[_Picture], dict[int, BaseException]]:
        """Return the decoded pictures, and by frame id the error of each frame that cannot be read now.

        Frames deleted meanwhile are in neither. A frame with a damaged JPEG is in neither and is never tried again.
        """
        pictures: list[_Picture] = []
        unread: dict[int, BaseException] = {}
        for frame_id in frame_ids:
            try:
                jpeg, record = self._store.jpeg(frame_id), self._store.record(frame_id)
            except FrameGone:
                self._metrics.encode_failures.labels(reason="gone").inc()
                continue
            except (StorageError, MemoryError) as error:
                unread[frame_id] = error
                continue
            try:
                pictures.append(_Picture(frame_id, record.camera, record.time, decode_jpeg(jpeg)))
            except (OSError, ValueError, MemoryError) as error:  # from the decoder
                if is_shortage(error):
                    unread[frame_id] = error
                else:
                    self._skip(frame_id, "unreadable", error)
        return pictures, unread

    def _set_aside(self, failed: Mapping[int, BaseException]) -> None:
        """Schedule another try for these frames after a pause that grows each time. Other frames are encoded meanwhile."""
        self._metrics.encode_failures.labels(reason="not_now").inc(len(failed))
        if not self._aside:
            asyncio.get_running_loop().call_later(self._pause_s, self._try_again)
        self._aside.update(failed)
        self._waiting.update(failed)
        num, reason = len(self._waiting), next(iter(failed.values()))
        frames = "1 frame waits" if num == 1 else f"{num} frames wait"
        problem = f"{frames} to be encoded, as the disk or the system refuses: {words_of(reason)}"
        if self.waiting_problem is None:
            log.error("frames cannot be encoded now", extra={"error": words_of(reason)})
        self.waiting_problem = problem

    def _none_waits(self) -> None:
        self.waiting_problem, self._pause_s = None, _FIRST_RETRY_S
        self._waiting.clear()

    def _try_again(self) -> None:
        self._aside.clear()
        self._pause_s = min(2 * self._pause_s, _LAST_RETRY_S)
        self._backlog.look_again()

    async def _features(self, pictures: list[_Picture]) -> list[tuple[_Picture, "FrameFeatures"]]:
        """Return the pictures that can be encoded, with their features.

        They are encoded as one batch; if that fails, one by one, so that one bad picture does not stop the others. A
        frame counts as bad only if other frames can be encoded or the self-test passes. Raises EncoderBroken when none
        can be.
        """
        features: list[FrameFeatures] = []
        with contained("encoding a batch") as batch:
            features = await self._vision.run(self._encode_finite, [picture.image for picture in pictures])
        if batch.error is None:
            return list(zip(pictures, features, strict=True))
        self._metrics.encode_failures.labels(reason="batch").inc()
        done: list[tuple[_Picture, FrameFeatures]] = []
        failed: list[tuple[_Picture, BaseException]] = []
        for picture in pictures:
            with contained(f"encoding frame {picture.frame_id}") as alone:
                done.append((picture, (await self._vision.run(self._encode_finite, [picture.image]))[0]))
            if alone.error is not None:
                failed.append((picture, alone.error))
        if done or await self._test() is None:
            for picture, reason in failed:
                if is_shortage(reason):
                    self._set_aside({picture.frame_id: reason})
                else:
                    self._refused(picture.frame_id, reason)
        if not done:
            raise EncoderBroken(words_of(failed[0][1]))
        return done

    def _encode_finite(self, images: list[NDArray[np.uint8]]) -> list["FrameFeatures"]:
        features = self._model.encode(images)
        if not all(np.isfinite(each.embedding).all() and np.isfinite(each.summary).all() for each in features):
            raise ValueError("the encoder returned numbers that are not finite")
        return features

    def _refused(self, frame_id: int, error: BaseException) -> None:
        """Schedule another try for a frame that failed although the encoder works; after _MAX_TRIES failures, give it up."""
        self._num_refused[frame_id] += 1
        if self._num_refused[frame_id] < _MAX_TRIES:
            self._backlog.look_again()
        else:
            del self._num_refused[frame_id]
            self._skip(frame_id, "refused", error)

    def _skip(self, frame_id: int, reason: str, error: BaseException) -> None:
        self._given_up.add(frame_id)
        self._store.abandon(frame_id)
        self._metrics.encode_failures.labels(reason=reason).inc()
        log.warning("frame cannot be encoded", extra={"frame_id": frame_id, "reason": reason, "error": str(error)})

    def _attach(self, picture: _Picture, features: "FrameFeatures") -> bool:
        return self._store.attach(
            picture.frame_id,
            embedding=features.embedding,
            patches=features.patches,
            scalars=features.scalars,
            summary=features.summary,
        )

    async def _test(self) -> str | None:
        """Run the model's self-test. Return what is wrong, as text for the operator; None if it passes.

        It checks that two pictures, and two texts, get different embeddings of finite numbers.
        """
        with contained("the encoder's self-test") as outcome:
            await self._vision.run(self._model.self_test)
        match outcome.error:
            case None:
                return None
            case RuntimeError() | ValueError() as error:
                return str(error)
            case error:
                return words_of(error)
