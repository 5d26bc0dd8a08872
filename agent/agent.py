"""The agent: cameras in, answers out. It joins the parts and computes nothing itself.

One TaskGroup holds every task by name: one for seeing, one per connected camera, one for housekeeping, one that measures
the event loop. Leaving the agent's `async with` block ends them all, closes the lanes and then the memory.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.alerts.engine import open_book, open_engine
from agent.answering import Answering
from agent.backlog import Backlog
from agent.config import CameraSettings, Settings
from agent.config_types import check_slug
from agent.delivery import Delivery
from agent.egress import Egress, Resolver, system_resolver
from agent.encoding import Encoding, self_test
from agent.erasing import Erasing, erase_from_book
from agent.intake import Intake
from agent.lanes import Lane
from agent.masks import Masks
from agent.memory_settings import MemorySettings
from agent.metrics import Metrics
from agent.problems import UnknownCamera
from agent.readers import readers
from agent.remote import RemoteAnswerer
from memory.errors import StorageError
from memory.limits import Limits
from memory.sharing import FolderLimits
from memory.store import MemoryStore
from streaming.errors import MediaError
from streaming.frame import FrameSettings, Source
from streaming.media import open_source

if TYPE_CHECKING:
    from model.clip_encoder import ClipEncoder
    from model.video_model import VideoModel

log = logging.getLogger(__name__)

BACKLOG_FRAMES = 4096
HOUSEKEEPING_S = 5.0
LAG_PROBE_S = 0.1


class Agent:
    """Everything that runs, over one memory and one model."""

    def __init__(
        self,
        settings: Settings,
        store: MemoryStore,
        model: "VideoModel | ClipEncoder",
        clock: Callable[[], float] = time.time,
        resolve: Resolver = system_resolver,
    ) -> None:
        self.settings = settings
        self.store = store
        self.model = model
        self.clock = clock
        self.started = clock()
        self.metrics = Metrics()
        self.backlog = Backlog(BACKLOG_FRAMES)
        self.vision, self.language = Lane("vision"), Lane("language")
        self.encoding = Encoding(
            store,
            model,
            self.vision,
            self.backlog,
            self.metrics,
            batch_size=settings.model.batch_size,
            needs_patches=settings.answerer.kind == "local",
            sighted=lambda *frame: self.alerts.frame(*frame),
        )
        self.answering = Answering(
            store,
            model,
            vision=self.vision,
            language=self.language,
            settings=settings.answering,
            metrics=self.metrics,
            zone_of=self.zone_of,
            remote=self._remote(resolve),
        )
        self.book = open_book(settings)
        self.alerts = open_engine(
            self.book,
            store,
            self.answering,
            settings=settings,
            metrics=self.metrics,
            clock=clock,
            zone_of=self.zone_of,
            cameras=self.cameras,
            model=settings.answerer.model or model.info.name,
        )
        self.erasing = Erasing(settings.data_dir)
        self.erasing.add("frames", self._erase_frames)
        self.erasing.add("alerts", erase_from_book(self.book))
        self.delivery = Delivery(self)
        self.encoder_problem: str | None = "the encoder has not been tested yet"
        self.intakes: dict[str, Intake] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self.metrics.watch(readers(self))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Agent"]:
        """The agent at work. An error in one of its tasks ends the block."""
        try:
            self.encoder_problem = await self_test(self.model, self.vision)
            await asyncio.to_thread(self.erasing.resume)
            async with asyncio.TaskGroup() as self._tasks:
                running = [
                    self._tasks.create_task(self.encoding.run(), name="see"),
                    self._tasks.create_task(self.alerts.run(), name="alert"),
                    self._tasks.create_task(self.delivery.run(), name="deliver"),
                    self._tasks.create_task(self._keep_house(), name="keep house"),
                    self._tasks.create_task(self._probe_lag(), name="probe lag"),
                    *(
                        self._tasks.create_task(self._follow(camera, url), name=f"camera {camera}")
                        for camera, url in self._pulled()
                    ),
                ]
                try:
                    yield self
                finally:
                    await self._stop(running)
        except BaseExceptionGroup as group:
            if len(group.exceptions) > 1:
                raise
            raise group.exceptions[0] from None  # what the block itself raised, or the one task that failed
        finally:
            self._tasks = None
            await asyncio.to_thread(self._close)

    async def _stop(self, running: list[asyncio.Task[None]]) -> None:
        for intake in self.intakes.values():
            if intake.source is not None:
                await intake.source.close()
        for task in running:
            task.cancel()

    def _close(self) -> None:
        self.vision.close()
        self.language.close()
        self.alerts.flush()
        self.book.close()
        self.store.close()

    # --- cameras ---

    def _pulled(self) -> list[tuple[str, str]]:
        """Names and addresses of the cameras that we connect to, rather than they to us."""
        cameras = self.settings.cameras.items()
        return [(name, camera.url) for name, camera in cameras if camera.url is not None and camera.enabled]

    async def _follow(self, camera: str, url: str) -> None:
        url = f"webcam:{url}" if url.startswith("/dev/") else url
        await self.watch(camera, open_source(url, camera, self.frame_settings(camera)))

    def frame_settings(self, camera: str) -> FrameSettings:
        """How often and how large this camera's frames are kept."""
        settings = self.settings.camera(camera)
        return FrameSettings(
            rate_hz=settings.rate_hz,
            max_width=settings.max_width,
            stall_timeout_s=self.settings.streaming.stall_timeout_s,
            max_skew_s=self.settings.streaming.max_skew_s,
        )

    def published(self, camera: str, source: Source) -> None:
        """A publisher has connected: remember what it sends until it ends or another takes over."""
        if self._tasks is None:
            raise RuntimeError("the agent is not running")
        self._tasks.create_task(self.watch(camera, source), name=f"camera {camera}")

    async def watch(self, camera: str, source: Source) -> None:
        """Remember every frame of `source`. A source that fails is logged; the agent goes on."""
        intake = self.intake_of(camera)
        try:
            await intake.run(source)
        except MediaError as error:
            intake.problem = str(error)
            log.error("source failed", extra={"camera": camera, "error": str(error)})

    def intake_of(self, camera: str) -> Intake:
        """Its way in, made now if it is the first time."""
        if camera not in self.intakes:
            settings = self.settings.camera(camera)
            self.intakes[camera] = Intake(
                camera,
                self.store,
                self.backlog,
                self.metrics,
                settings.metadata,
                Masks(settings.masks),
                self.settings.streaming.metadata_max_age_s,
            )
        return self.intakes[camera]

    def _erase_frames(self, camera: str, after: float, before: float) -> int:
        """What is remembered, and what is on its way in."""
        intake = self.intakes.get(camera)
        if intake is not None:
            intake.refuse(after, min(before, self.clock()))
        return self.store.erase(camera, after, before)

    def cameras(self) -> tuple[str, ...]:
        """Every camera that is configured, has published, or is remembered."""
        return tuple(sorted({*self.settings.cameras, *list(self.intakes), *self.store.cameras()}))

    def existing(self, named: tuple[str, ...]) -> tuple[str, ...]:
        """`named`, or all cameras when none is named. Raises UnknownCamera."""
        known = self.cameras()
        for camera in named:
            if camera not in known:
                raise UnknownCamera(camera, known)
        return named or known

    def may_publish(self, camera: str) -> str | None:
        """None when `camera` can be published to; else why not, in words."""
        try:
            check_slug(camera)
        except ValueError as error:
            return str(error)
        configured = self.settings.cameras.get(camera)
        if configured is not None and configured.url is not None:
            return f"'{camera}' is a camera that this server connects to by itself; publish under another name"
        if configured is not None and not configured.enabled:
            return f"the camera '{camera}' is switched off (cameras.{camera}.enabled)"
        if configured is None and not self.settings.allow_new_cameras:
            return f"there is no camera '{camera}', and new ones are not allowed (allow_new_cameras)"
        return None

    def zone_of(self, camera: str) -> str:
        """The time zone in which this camera's times are shown."""
        return self.settings.camera(camera).timezone

    def egress_of(self, camera: str) -> Egress:
        """Where this camera's pictures may be sent."""
        return self.settings.camera(camera).egress

    def _remote(self, resolve: Resolver) -> RemoteAnswerer | None:
        answerer = self.settings.answerer
        if answerer.kind == "local":
            return None
        return RemoteAnswerer(answerer, egress_of=self.egress_of, zone_of=self.zone_of, resolve=resolve)

    # --- the rest ---

    async def encoded(self) -> None:
        """Until every frame remembered so far has been encoded (or found impossible to encode)."""
        self.encoding.idle.clear()
        self.backlog.look_again()
        await self.encoding.idle.wait()

    async def _keep_house(self) -> None:
        """What memory wants done now and then: expiry by wall clock, and syncing what was written."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            try:
                await asyncio.to_thread(self.store.expire, self.clock())
                await asyncio.to_thread(self.store.maintain)
                await asyncio.to_thread(self.erasing.resume)
            except StorageError as error:  # the disk is full or failing: the next round tries again
                log.error("housekeeping failed", extra={"error": str(error)})

    async def _probe_lag(self) -> None:
        """How long the event loop keeps others waiting, as a metric: what blocks it shows here first."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_PROBE_S
            await asyncio.sleep(LAG_PROBE_S)
            self.metrics.event_loop_lag.observe(max(0.0, loop.time() - due))

    def model_card(self) -> dict[str, Any]:
        """The model as `/v1/models` shows it."""
        info = self.model.info
        return {
            "id": info.name,
            "object": "model",
            "created": int(self.started),
            "owned_by": "vilamp",
            "vilamp": {
                "card": info.card,
                "answerer": self.settings.answerer.model if self.settings.answerer.kind == "openai" else info.name,
                "conversations": self.settings.answerer.kind == "openai",  # earlier turns are read
                "patches_per_frame": info.patches_per_frame,
                "keyframe_tokens": info.keyframe_tokens,
                "embedding_dim": info.embedding_dim,
                "context_tokens": info.context_tokens,
                "max_visual_tokens": info.max_visual_tokens,
            },
        }


def load_model(settings: Settings) -> "VideoModel | ClipEncoder":
    """The configured checkpoint, downloaded if it is named by a hub id that is not in the cache. Takes seconds: torch is
    imported here. Raises model.config.ConfigError or OSError."""
    chosen = settings.model
    # two lanes share the cores, and on a busy machine every operation waits for the slowest thread
    threads = chosen.num_threads or max(1, (os.cpu_count() or 1) // 2)
    from model.clip_encoder import ClipEncoder, is_clip
    from model.config import ConfigError
    from model.hub import resolve
    from model.video_model import VideoModel

    folder = resolve(chosen.path)
    if is_clip(folder):
        if settings.answerer.kind == "local":
            raise ConfigError("this is CLIP, which chooses frames but cannot answer: set answerer (docs/laptop.md)")
        return ClipEncoder.load(
            folder,
            name=Path(chosen.path).name,
            device=chosen.device,
            dtype=chosen.dtype,
            num_threads=threads,
        )
    return VideoModel.load(
        folder,
        device=chosen.device,
        dtype=chosen.dtype,
        num_threads=threads,
        patch_dtype=chosen.patch_storage,
        language_4bit=chosen.language_4bit,
        name=Path(chosen.path).name,
    )


def open_memory(settings: Settings, model: "VideoModel | ClipEncoder") -> MemoryStore:
    """The memory in the data folder, in the shape of the model's features. Raises memory.errors.StorageError."""
    info = model.info
    return MemoryStore(
        settings.data_dir / "memory",
        embedding_dim=info.embedding_dim,
        limits=_limits(CameraSettings(), settings.memory),
        camera_limits={name: _limits(camera, settings.memory) for name, camera in settings.cameras.items()},
        folder_limits=FolderLimits(settings.memory.max_frames, settings.memory.max_bytes),
        patch_shape=(info.patches_per_frame, info.patch_width),
        patch_dtype=info.patch_dtype,
        num_scalars=info.num_scalars,
        encoder=info.fingerprint,
    )


def _limits(camera: CameraSettings, memory: MemorySettings) -> Limits:
    """What one camera may keep; beyond `hot_frames` it is an archive."""
    hot_frames = min(camera.max_frames, camera.hot_frames)
    age_s = min((age for age in (camera.max_age_s, memory.max_age_s) if age is not None), default=None)
    return Limits(frames=camera.max_frames, bytes=camera.max_bytes, age_s=age_s, hot_frames=hot_frames)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Agent]:
    """Load the model, open the memory, run the agent. Each may take seconds and none blocks the event loop."""
    model = await asyncio.to_thread(load_model, settings)
    store = await asyncio.to_thread(open_memory, settings, model)
    async with Agent(settings, store, model).running() as agent:
        yield agent
