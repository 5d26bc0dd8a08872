"""The agent: cameras in, answers out. It joins the parts and computes nothing itself.

The supervisor holds every task by name: seeing, alerts, each sink of messages, each connected camera, housekeeping, and one
that measures the event loop. None of them can end the agent or another task (`agent/runtime/supervisor.py`). Leaving the agent's
`async with` block ends them all, closes the lanes and then the memory.
"""

import asyncio
import logging
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.alerts.engine import Engine, open_alert_store, open_engine
from agent.ask.answer import Answering
from agent.ask.egress import Egress, Resolver, system_resolver
from agent.ask.probe import AnswererWatch
from agent.ask.remote import RemoteAnswerer
from agent.delivery import Delivery
from agent.errors import UnknownCamera
from agent.ingest.backlog import Backlog
from agent.ingest.encoder import Encoding, self_test
from agent.ingest.intake import Intake
from agent.ingest.masks import Masks
from agent.ingest.clock import Moment, WallClock, running_s
from agent.keep.erasing import Erasing, erase_from_alerts
from agent.keep.filling import filling_problem
from agent.keep.holdings import holdings
from agent.metrics import Metrics
from agent.readers import readers
from agent.runtime import pools
from agent.runtime.lanes import Lane
from agent.runtime.supervisor import Supervisor, contained, words_of
from agent.settings.memory import MemorySettings
from agent.settings.settings import CameraSettings, Settings
from agent.settings.types import check_slug
from agent.state import State
from agent.untrusted.plain import plain
from memory.limits import FolderLimits, Limits
from memory.store import MemoryStore
from streaming.errors import MediaError
from streaming.frame import FrameSettings, Source
from streaming.media import FileSource, open_source

if TYPE_CHECKING:
    from model.clip_encoder import ClipEncoder
    from model.video_model import VideoModel

log = logging.getLogger(__name__)

BACKLOG_FRAMES = 4096
HOUSEKEEPING_S = 5.0
RETEST_S = 30.0
LAG_PROBE_S = 0.1


class ModelUnusable(ValueError):
    """The configured checkpoint cannot be loaded (the operator's to change); the message says why."""


class Agent:
    """Everything that runs, over one memory and one model."""

    def __init__(
        self,
        settings: Settings,
        store: MemoryStore,
        model: "VideoModel | ClipEncoder",
        clock: Callable[[], float] = time.time,
        resolve: Resolver = system_resolver,
        running_s: Callable[[], float] = running_s,
    ) -> None:
        """`clock`: the system's, unix seconds; `running_s`: seconds of one that nobody sets."""
        self.settings = settings
        self.store = store
        self.model = model
        self.clock = clock
        self.started = clock()
        self.wallclock = WallClock(self._newest_if_aging())
        self._running_s = running_s
        self._clocks = threading.Lock()
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
        self.remote = self._remote(resolve)
        self.answering = Answering(
            store,
            model,
            vision=self.vision,
            language=self.language,
            settings=settings.answering,
            metrics=self.metrics,
            zone_of=self.zone_of,
            remote=self.remote,
        )
        self.alert_store = open_alert_store(settings)
        self.alerts = self._engine()
        self.erasing = Erasing(settings.data_dir, clock=self.now, newest=lambda camera: store.stats(camera).newest)
        self.erasing.add("frames", self._erase_frames)
        self.erasing.add("alerts", erase_from_alerts(self.alert_store))
        self.answerer = self._watch_answerer(resolve)
        self.delivery = Delivery(self)
        self.state = State(self)
        self.encoder_problem: str | None = "the encoder has not been tested yet"
        self.housekeeping_problem: str | None = None
        self.filling_problem: str | None = None  # in words: the disk will be full before the caps hold the memory
        self.intakes: dict[str, Intake] = {}
        self.supervisor = Supervisor()
        self.played: set[str] = set()  # cameras of the configuration that are files
        self.metrics.watch(readers(self))

    def _engine(self) -> Engine:
        settings = self.settings
        return open_engine(
            self.alert_store,
            self.store,
            self.answering,
            settings=settings,
            metrics=self.metrics,
            clock=self.now,
            zone_of=self.zone_of,
            cameras=self.cameras,
            model=settings.answerer.model or self.model.info.name,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Agent"]:
        """The agent at work. Raises NoThreads when the system refuses the threads that it needs."""
        try:
            pools.start_all()
            asyncio.get_running_loop().set_default_executor(pools.start_threads("convert", pools.CORES))
            self.encoder_problem = await self_test(self.model, self.vision)
            await pools.erasing(self.erasing.resume)
            async with self.supervisor.running() as supervisor:
                supervisor.keep("encoding", self.encoding.run)
                supervisor.keep("housekeeping", self._keep_house)
                supervisor.keep("erasing", self._finish_erasures)
                supervisor.keep("event loop probe", self._probe_lag)
                if self.encoder_problem is not None:
                    supervisor.keep("encoder test", self._test_encoder_again)
                for name, work in (*self.alerts.tasks(), *self.delivery.tasks()):
                    supervisor.keep(name, work)
                if self.answerer is not None:
                    supervisor.keep("answerer", self.answerer.run)
                for camera, url in self._pulled():
                    self._follow(camera, url)
                try:
                    yield self
                finally:
                    await self._stop()
        finally:
            await pools.upkeep(self._close)

    async def _stop(self) -> None:
        """All at once: one that takes its time (a large picture in its decoder) keeps no other waiting."""

        async def close(camera: str, source: Source) -> None:
            with contained(f"closing camera {camera}"):
                await source.close()

        sources = [(intake.camera, intake.source) for intake in list(self.intakes.values())]
        await asyncio.gather(*(close(camera, source) for camera, source in sources if source is not None))

    def _close(self) -> None:
        with ExitStack() as closing:  # last first; one that fails keeps no other open
            for close in (
                self.store.close,
                self.alert_store.close,
                self.alerts.flush,
                self.language.close,
                self.vision.close,
            ):
                closing.callback(close)

    # --- cameras ---

    def _pulled(self) -> list[tuple[str, str]]:
        """Names and addresses of the cameras that we connect to, rather than they to us."""
        cameras = self.settings.cameras.items()
        return [(name, camera.url) for name, camera in cameras if camera.url is not None and camera.enabled]

    def _follow(self, camera: str, url: str) -> None:
        """Connect to this camera for as long as the agent runs. A file is played once: again would be another history."""
        url = f"webcam:{url}" if url.startswith("/dev/") else url
        intake = self.intake_of(camera)

        async def follow() -> None:
            other_hosts = self.settings.camera(camera).other_hosts
            source = open_source(url, camera, self.frame_settings(camera), other_hosts=other_hosts)
            if isinstance(source, FileSource):
                self.played.add(camera)
                self.published(camera, source)
            else:
                await intake.run(source)

        self.supervisor.keep(f"camera {camera}", follow, failed=intake.failed)

    def frame_settings(self, camera: str) -> FrameSettings:
        """How often and how large this camera's frames are kept."""
        settings = self.settings.camera(camera)
        return FrameSettings(
            rate_hz=settings.rate_hz,
            max_width=settings.max_width,
            max_height=settings.max_width,  # upright or lying: the same picture, as sharp
            stall_timeout_s=self.settings.streaming.stall_timeout_s,
            max_skew_s=self.settings.streaming.max_skew_s,
        )

    def published(self, camera: str, source: Source) -> None:
        """A publisher has connected: remember what it sends until it ends or another takes over."""
        failed = self.intake_of(camera).failed
        self.supervisor.start(f"camera {camera}", partial(self.watch, camera, source), failed=failed)

    async def watch(self, camera: str, source: Source) -> None:
        """Remember every frame of `source`. A medium that cannot be used is logged and shown; the agent goes on."""
        intake = self.intake_of(camera)
        try:
            await intake.run(source)
        except MediaError as error:
            intake.failed(error)
            log.error("source failed", extra={"camera": camera, "error": str(error)})
        finally:
            if intake.source is None and camera not in self.cameras():  # a name that sent nothing is forgotten
                self.intakes.pop(camera, None)

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
                self.now,
                self.read_clocks,
                self.settings.streaming.max_skew_s,
            )
        return self.intakes[camera]

    def _newest_if_aging(self) -> float | None:
        """Time of the newest frame that is remembered; None where nothing is forgotten by age, or nothing is there."""
        settings = self.settings
        if settings.memory.max_age_s is None and all(each.max_age_s is None for each in settings.cameras.values()):
            return None
        newest = [self.store.stats(camera).newest for camera in self.store.cameras()]
        return max((time for time in newest if time is not None), default=None)

    def read_clocks(self) -> Moment:
        """What time it is, and how sure that is. Any thread."""
        with self._clocks:
            before = self.wallclock.problem
            moment = self.wallclock.now(self._running_s(), self.clock())
            if before is None and self.wallclock.problem is not None:
                log.warning("clock", extra={"problem": self.wallclock.problem})
            return moment

    def now(self) -> float:
        """Unix time by which frames are dated: a clock that has just been set is not followed yet. Any thread."""
        return self.read_clocks().time

    def _erase_frames(self, camera: str, after: float, before: float) -> int:
        """What is remembered, and what is on its way in."""
        intake = self.intakes.get(camera)
        if intake is not None:
            intake.refuse(after, min(before, self.now()))
        return self.store.erase(camera, after, before)

    def cameras(self) -> tuple[str, ...]:
        """Every camera that is configured, has sent a frame since the start, or is remembered."""
        sent = [name for name, intake in list(self.intakes.items()) if intake.has_sent]
        return tuple(sorted({*self.settings.cameras, *sent, *self.store.cameras()}))

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

    def _watch_answerer(self, resolve: Resolver) -> AnswererWatch | None:
        base_url = self.settings.answerer.base_url
        if self.remote is None or base_url is None:
            return None
        allowed = any(self.egress_of(camera) == "allowed" for camera in self.settings.cameras)
        egress: Egress = "allowed" if allowed else self.egress_of("")
        return AnswererWatch(base_url, headers=self.remote.headers, egress=egress, resolve=resolve)

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
            problem: str | None = None
            for work in (partial(self.store.expire, self.read_clocks().age_from), self.store.maintain):
                # one that fails (a full or failing disk) keeps no other waiting; the next round tries again
                with contained("housekeeping") as outcome:
                    await pools.upkeep(work)
                if outcome.error is not None:
                    problem = words_of(outcome.error)
            for intake in list(self.intakes.values()):
                with contained(f"correcting times of camera {intake.camera}") as outcome:
                    await intake.settle()
                if outcome.error is not None:
                    problem = words_of(outcome.error)
            with contained("looking at the disk"):
                self.filling_problem = await pools.upkeep(self._look_ahead)
            self.housekeeping_problem = problem

    async def _finish_erasures(self) -> None:
        """Go on with what could not be erased at once. A task of its own: an erasure may take minutes."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            with contained("erasing"):  # words of it stand in `Erasing.problem`
                await pools.erasing(self.erasing.resume)

    def _look_ahead(self) -> str | None:
        held = [holdings(name, self.store.stats(name), self.settings) for name in self.store.cameras()]
        return filling_problem(held, self.settings, shutil.disk_usage(self.settings.data_dir).free)

    async def _test_encoder_again(self) -> None:
        """The test at the start failed: until it passes, as its cause may go away (no memory to spare)."""
        while self.encoder_problem is not None:
            await asyncio.sleep(RETEST_S)
            self.encoder_problem = await self_test(self.model, self.vision)

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
                "card": plain(info.card),
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
    """Load the model, open the memory, run the agent. Each may take seconds and none blocks the event loop.

    Raises ModelUnusable, memory.errors.StorageError.
    """
    try:
        model = await pools.upkeep(load_model, settings)
    except (OSError, ValueError) as error:  # the folder is absent, or contradicts itself
        raise ModelUnusable(str(error)) from error
    store = await pools.upkeep(open_memory, settings, model)
    async with Agent(settings, store, model).running() as agent:
        yield agent
