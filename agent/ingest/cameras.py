"""The cameras of one agent: their names and problems, who may publish as a camera, and the intake of each.

An intake stores the frames of one camera (`agent/ingest/intake.py`); a source delivers them, such as a connection to an
RTSP camera, a WebRTC publisher or a file.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from functools import partial

from agent.errors import UnknownCamera
from agent.ingest.backlog import Backlog
from agent.ingest.clock import EARLIEST, Clock
from agent.ingest.intake import CameraState, Intake
from agent.ingest.masks import Masks
from agent.metrics import Metrics, Reader, Reading
from agent.runtime.supervisor import Supervisor, contained
from agent.settings.settings import Settings
from agent.settings.types import check_slug
from agent.times import format_span, format_time
from memory.store import MemoryStore
from streaming.errors import MediaError
from streaming.frame import EndedSession, FrameSettings, Source
from streaming.media import FileSource, open_source

log = logging.getLogger(__name__)

LATE_S, LATE_FRAMES = 30.0, 3  # a live camera of which nothing is stored for so long, in s and in frames, has a problem
STALE_S = 3600.0  # how long the failed session of a camera that is not configured counts as a problem

PAST_SESSIONS = 10  # of a camera are remembered
_MAX_NAMES = 1000  # cameras whose sessions are remembered

_COUNTED = {
    "vilamp_frames_remembered_total": ("Frames remembered.", "remembered"),
    "vilamp_camera_sessions_total": ("Sources connected.", "sessions"),
}
_IN_TRANSIT = {
    "vilamp_frames_damaged_in_transit_total": ("Frames that depend on one lost on the way.", "damaged"),
    "vilamp_key_frames_requested_total": ("Key frames requested from publishers.", "key_frames_requested"),
}
_SESSION = {
    "vilamp_session_received_frames": ("Frames decoded in this session.", "received"),
    "vilamp_session_kept_frames": ("Frames kept in this session.", "kept"),
    "vilamp_session_dropped_frames": ("Frames kept, then dropped, in this session.", "dropped"),
    "vilamp_session_shed_frames": ("Frames dropped undecoded because this machine is too slow.", "shed"),
    "vilamp_session_decode_errors": ("Packets of this session that could not be decoded.", "decode_errors"),
}


class Cameras:
    """The agent's cameras: those that are configured, have sent a frame since the start, or have stored frames."""

    def __init__(
        self,
        settings: Settings,
        store: MemoryStore,
        backlog: Backlog,
        metrics: Metrics,
        supervisor: Supervisor,
        clock: Clock,
    ) -> None:
        self.intakes: dict[str, Intake] = {}  # by camera
        self._past: dict[str, deque[EndedSession]] = {}  # by camera, also of those that never sent a frame
        self.played: set[str] = set()  # configured cameras that are files
        self._settings = settings
        self._store = store
        self._backlog = backlog
        self._metrics = metrics
        self._supervisor = supervisor
        self._clock = clock

    def names(self) -> tuple[str, ...]:
        """Return all camera names, sorted. Thread-safe; may read the disk."""
        sent = [name for name, intake in list(self.intakes.items()) if intake.has_sent]
        return tuple(sorted({*self._settings.cameras, *sent, *self._store.cameras()}))

    def existing(self, named: tuple[str, ...]) -> tuple[str, ...]:
        """Return `named`, or all cameras when none is named. Raises UnknownCamera."""
        known = self.names()
        for camera in named:
            if camera not in known:
                raise UnknownCamera(camera, known)
        return named or known

    def state(self, camera: str) -> CameraState:
        """Return live, stalled or offline."""
        intake = self.intakes.get(camera)
        return "offline" if intake is None else intake.state

    def problems(self) -> dict[str, str]:
        """Return the problem of each camera that has one, as text for the operator, by "camera NAME"."""
        found = ((camera, self.problem(camera)) for camera in self.names())
        return {f"camera {camera}": problem for camera, problem in found if problem is not None}

    def problem(self, camera: str) -> str | None:
        """Return why no current frames of this camera are stored, as text for the operator; None if there is no problem."""
        intake = self.intakes.get(camera)
        configured = camera in self._settings.cameras
        if not self._settings.camera(camera).enabled:
            return None
        if intake is not None and intake.problem is not None:
            since = intake.problem_since
            recent = since is None or self._clock.now() - since < STALE_S
            return intake.problem if configured or recent or intake.state != "offline" else None
        match self.state(camera):
            case "live":
                idle_s = 0.0 if intake is None else intake.idle_s
                late_s = max(LATE_S, LATE_FRAMES / self._settings.camera(camera).rate_hz)
                words = f"it is connected, but no picture of it was stored for {format_span(idle_s)}"
                return self._with_last(camera, words) if idle_s > late_s else None
            case "stalled":
                return self._with_last(camera, "it is connected but sends no pictures")
            case "offline":
                return self._with_last(camera, self._why_offline(camera, intake)) if configured else None

    def clock_problems(self) -> dict[str, str]:
        """Return what is wrong with the clock of each connected camera, as text for the operator, by "camera NAME"."""
        problems = {}
        for camera, intake in list(self.intakes.items()):
            source, now = intake.source, self._clock.now()
            off_s = None if source is None else source.stats.sender_clock_s
            # a camera that was never set reports the time since its start; nothing is wrong with this machine then
            if off_s is None or abs(off_s) <= self._settings.streaming.max_skew_s or now + off_s < EARLIEST:
                continue
            way = "ahead of" if off_s > 0 else "behind"
            problems[f"camera {camera}"] = (
                f"a camera's clock is {format_span(abs(off_s))} {way} this machine's: one of them is wrong. Its pictures "
                "have their time of arrival; set the same NTP server on both"
            )
        return problems

    def _why_offline(self, camera: str, intake: Intake | None) -> str:
        source = None if intake is None else intake.source
        if source is not None:
            return source.stats.detail or "it is being connected to"
        if self._settings.camera(camera).url is None:
            past = self.past_sessions(camera)
            return "nobody publishes to it" + (f" (the last session: {past[0].end})" if past else "")
        return "its file has been played to the end" if camera in self.played else "it is not connected"

    def _with_last(self, camera: str, words: str) -> str:
        newest = self._store.stats(camera).newest
        if newest is None:
            return f"{words}; no picture of it is stored"
        return f"{words}; its last picture is of {format_time(newest, self.zone_of(camera))}"

    def zone_of(self, camera: str) -> str:
        """Return the time zone in which this camera's times are shown."""
        return self._settings.camera(camera).timezone

    def frame_settings(self, camera: str) -> FrameSettings:
        """Return at which rate and size this camera's frames are stored."""
        settings = self._settings.camera(camera)
        return FrameSettings(
            rate_hz=settings.rate_hz,
            max_width=settings.max_width,
            max_height=settings.max_width,  # portrait pictures are stored as sharp as landscape ones
            stall_timeout_s=self._settings.streaming.stall_timeout_s,
            max_skew_s=self._settings.streaming.max_skew_s,
        )

    def intake_of(self, camera: str) -> Intake:
        """Return the camera's intake. The first call creates it."""
        if camera not in self.intakes:
            settings = self._settings.camera(camera)
            self.intakes[camera] = Intake(
                camera,
                self._store,
                self._backlog,
                self._metrics,
                settings.metadata,
                masks=Masks(settings.masks),
                metadata_max_age_s=self._settings.streaming.metadata_max_age_s,
                clock=self._clock,
                max_skew_s=self._settings.streaming.max_skew_s,
            )
        return self.intakes[camera]

    def session_ended(self, camera: str, session: EndedSession) -> None:
        """Remember a publisher's session that has ended."""
        past = self._past.pop(camera, None) or deque(maxlen=PAST_SESSIONS)
        past.append(session)
        self._past[camera] = past  # the last one in order
        if len(self._past) > _MAX_NAMES:
            del self._past[next(iter(self._past))]

    def past_sessions(self, camera: str) -> list[EndedSession]:
        """Return the last sessions of the camera's publishers, the newest first. Thread-safe."""
        return list(self._past.get(camera, ()))[::-1]

    def may_publish(self, camera: str) -> str | None:
        """Return why nobody may publish as `camera`, as text for the publisher; None if publishing is allowed."""
        try:
            check_slug(camera)
        except ValueError as error:
            return str(error)
        configured = self._settings.cameras.get(camera)
        if configured is not None and configured.url is not None:
            return f"'{camera}' is a camera that this server connects to by itself; publish under another name"
        if configured is not None and not configured.enabled:
            return f"the camera '{camera}' is switched off (cameras.{camera}.enabled)"
        if configured is None and not self._settings.allow_new_cameras:
            return f"there is no camera '{camera}', and new ones are not allowed (allow_new_cameras)"
        return None

    def connect_all(self) -> None:
        """Start a task for every enabled camera that has a url. It keeps the connection while the agent runs."""
        for name, camera in self._settings.cameras.items():
            if camera.url is not None and camera.enabled:
                self._connect(name)

    def _connect(self, camera: str) -> None:
        """Start the task that connects to the camera, again after each failure. A file is played only once."""
        intake = self.intake_of(camera)

        async def follow() -> None:
            given = self._settings.camera(camera)
            frames, transport, other_hosts = self.frame_settings(camera), given.transport, given.other_hosts
            source = open_source(given.address, camera, frames, transport=transport, other_hosts=other_hosts)
            if isinstance(source, FileSource):
                self.played.add(camera)
                self.publish(camera, source)
                return
            try:
                await intake.run(source)
            except MediaError as error:  # of a file behind an address, which is not read again either
                intake.failed(error)
            if source.stats.state in ("ended", "failed"):
                self.played.add(camera)

        self._supervisor.keep(f"camera {camera}", follow, failed=intake.failed)

    def publish(self, camera: str, source: Source) -> None:
        """Start a task that stores the frames of `source`, until it ends or another source replaces it."""
        failed = self.intake_of(camera).failed
        self._supervisor.start(f"camera {camera}", partial(self.watch, camera, source), failed=failed)

    async def watch(self, camera: str, source: Source) -> None:
        """Store every frame of `source`, until it ends.

        If it cannot be read, the reason is reported as the camera's problem.
        """
        intake = self.intake_of(camera)
        try:
            await intake.run(source)
        except MediaError as error:
            intake.failed(error)
            log.error("source failed", extra={"camera": camera, "error": str(error)})
        finally:
            if intake.source is None and camera not in self.names():  # it sent nothing, so the camera is not listed
                self.intakes.pop(camera, None)

    async def close(self) -> None:
        """Close all sources concurrently, so that one that is decoding a large picture does not delay the others."""

        async def close(camera: str, source: Source) -> None:
            with contained(f"closing camera {camera}"):
                await source.close()

        sources = [(intake.camera, intake.source) for intake in list(self.intakes.values())]
        await asyncio.gather(*(close(camera, source) for camera, source in sources if source is not None))

    def erase(self, camera: str, after: float, before: float) -> int:
        """Erase the camera's frames in [after, before]. Frames of this period that are still being processed are not stored.

        Returns how many stored frames were erased. Thread-safe.
        """
        intake = self.intakes.get(camera)
        if intake is not None:
            intake.refuse(after, min(before, self._clock.now()))
        return self._store.erase(camera, after, before)

    def readers(self) -> Iterator[Reader]:
        """Yield the metrics of the cameras, each with a value for every camera."""

        def intakes() -> list[Intake]:
            known = self.names()
            return [intake for camera, intake in list(self.intakes.items()) if camera in known]

        def counted(field: str) -> list[Reading]:
            return [({"camera": each.camera}, float(getattr(each.counters, field))) for each in intakes()]

        def session(field: str) -> list[Reading]:
            sources = [intake.source for intake in intakes()]
            return [
                ({"camera": each.camera}, float(getattr(each.stats, field))) for each in sources if each is not None
            ]

        def in_transit(field: str) -> list[Reading]:
            return [({"camera": each.camera}, float(each.in_transit(field))) for each in intakes()]

        def live() -> list[Reading]:
            return [({"camera": each.camera}, float(each.state == "live")) for each in intakes()]

        for name, (text, field) in _COUNTED.items():
            yield Reader(name, text, ("camera",), partial(counted, field))
        for name, (text, field) in _IN_TRANSIT.items():
            yield Reader(name, text, ("camera",), partial(in_transit, field))
        for name, (text, field) in _SESSION.items():
            yield Reader(name, text, ("camera",), partial(session, field))
        yield Reader("vilamp_camera_live", "1 while frames flow.", ("camera",), live)


def newest_if_aging(settings: Settings, store: MemoryStore) -> float | None:
    """Return the unix time of the newest stored frame; None if there is none, or if no age limit is set for frames."""
    if settings.memory.keep is None and all(each.keep is None for each in settings.cameras.values()):
        return None
    newest = [store.stats(camera).newest for camera in store.cameras()]
    return max((time for time in newest if time is not None), default=None)
