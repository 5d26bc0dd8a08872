"""What works and what does not, in words: the one source for `/readyz`, `/v1/cameras`, the page, MQTT and metrics.

Green means that a question asked now is answered from pictures of now. Whatever spoils that is a `Trouble`. Most troubles
leave the agent `degraded`; one that `stops` it (nothing can be kept, or nothing can be asked) makes it not ready.

Parts say what is wrong with themselves in a `problem`; nothing is judged here but what follows from several parts.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.times import format_span, format_time
from memory.errors import FrameGone
from memory.files import opened

if TYPE_CHECKING:
    from agent.app import Agent
    from agent.ingest.intake import CameraState, Intake

MIN_FREE_BYTES = 64 << 20
MAX_BEHIND_S = 60.0  # a frame that has waited so long for the encoder is missing from answers
STALE_S = 3600.0  # so long does a camera that nobody configured stay a trouble after its session broke off
CHECKS = ("model", "encoder", "disk", "memory", "cameras", "rules", "answerer", "clock", "tasks")  # always shown


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that does not work."""

    check: str  # the kind of part, one of CHECKS or a sink's name: "cameras"
    part: str  # the part itself: "camera door"
    problem: str  # in words, for an operator
    stops: bool = False  # nothing can be kept, or nothing can be asked, while it lasts


@dataclass(frozen=True, slots=True)
class Health:
    """All troubles at one moment, and what was checked."""

    troubles: tuple[Trouble, ...]
    checks: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """False when nothing can be kept or nothing can be asked."""
        return not any(trouble.stops for trouble in self.troubles)

    @property
    def degraded(self) -> bool:
        """True when anything does not work."""
        return bool(self.troubles)

    def public(self) -> dict[str, Any]:
        """For anybody: no camera and no rule is named."""
        told = dict.fromkeys(self.checks, "ok")
        for check, group in groupby(sorted(self.troubles, key=lambda each: each.check), lambda each: each.check):
            troubles = list(group)
            if check in ("cameras", "rules"):
                several = len(troubles) > 1
                told[check] = (
                    f"{len(troubles)} {check if several else check[:-1]} {'do' if several else 'does'} not work"
                )
            else:
                told[check] = "; ".join(trouble.problem for trouble in troubles)
        return {"ready": self.ready, "degraded": self.degraded, "checks": told}

    def private(self) -> dict[str, Any]:
        """For whoever may ask questions: also each trouble with the part that it is about."""
        listed = [{"part": each.part, "problem": each.problem, "stops": each.stops} for each in self.troubles]
        return {**self.public(), "problems": listed}


class State:
    """Looks at one agent. Every method may read a database or the disk: call it in a worker thread."""

    def __init__(self, agent: "Agent", *, min_free_bytes: int = MIN_FREE_BYTES) -> None:
        self._agent = agent
        self.min_free_bytes = min_free_bytes

    def health(self) -> Health:
        """What works now. Also writes a small file, to see that the disk can be written."""
        sinks = self._agent.delivery.problems()
        return Health(tuple(self._troubles(sinks)), (*CHECKS, *sinks))

    def camera(self, camera: str) -> "CameraState":
        """live, stalled or offline."""
        intake = self._agent.intakes.get(camera)
        return "offline" if intake is None else intake.state

    def camera_problem(self, camera: str) -> str | None:
        """Why a question about this camera is not answered from pictures of now; None: nothing is known against it."""
        agent = self._agent
        if not agent.settings.camera(camera).enabled:
            return None
        intake = agent.intakes.get(camera)
        configured = camera in agent.settings.cameras
        if intake is not None and intake.problem is not None:
            lately = intake.problem_since is None or agent.now() - intake.problem_since < STALE_S
            return intake.problem if configured or lately or intake.state != "offline" else None
        match self.camera(camera):
            case "live":
                return None
            case "stalled":
                return self._with_last(camera, "it is connected but sends no pictures")
            case "offline":
                return self._with_last(camera, self._why_offline(camera, intake)) if configured else None

    def _why_offline(self, camera: str, intake: "Intake | None") -> str:
        source = None if intake is None else intake.source
        if source is not None:
            return source.stats.detail or "it is being connected to"
        if self._agent.settings.camera(camera).url is None:
            return "nobody publishes to it"
        return "its file has been played to the end" if camera in self._agent.played else "it is not connected"

    def _with_last(self, camera: str, words: str) -> str:
        newest = self._agent.store.stats(camera).newest
        if newest is None:
            return f"{words}; nothing of it is remembered"
        return f"{words}; its last picture is of {format_time(newest, self._agent.zone_of(camera))}"

    def _troubles(self, sinks: dict[str, str | None]) -> Iterator[Trouble]:
        agent = self._agent
        if (problem := agent.encoder_problem or agent.encoding.problem) is not None:
            yield Trouble("encoder", "encoder", problem, stops=True)
        elif (problem := agent.encoding.waiting_problem or self._encoder_behind()) is not None:
            yield Trouble("encoder", "encoder", problem)
        if (problem := self._disk_problem()) is not None:
            yield Trouble("disk", "disk", problem, stops=True)
        if agent.housekeeping_problem is not None:
            yield Trouble("memory", "housekeeping", f"housekeeping fails: {agent.housekeeping_problem}")
        for part, said in (("memory", agent.store.problem), ("erasing", agent.erasing.problem)):
            if said is not None:
                yield Trouble("memory", part, said)
        if agent.filling_problem is not None:
            yield Trouble("disk", "disk", agent.filling_problem)
        for camera in agent.cameras():
            if (problem := self.camera_problem(camera)) is not None:
                yield Trouble("cameras", f"camera {camera}", problem)
        for rule, problem in agent.alerts.problems().items():
            yield Trouble("rules", f"rule {rule}", problem)
        if agent.answerer is not None and agent.answerer.problem is not None:
            yield Trouble("answerer", "answerer", agent.answerer.problem)
        if (problem := agent.wallclock.problem) is not None:
            yield Trouble("clock", "clock", problem)
        for sink, problem in sinks.items():
            if problem is not None:
                yield Trouble(sink, sink, problem)
        for task, problem in agent.supervisor.problems().items():
            if not task.startswith("camera "):  # its camera says so
                yield Trouble("tasks", task, f"{task} {problem}")

    def _encoder_behind(self) -> str | None:
        store = self._agent.store
        for frame_id in store.pending(1):
            try:
                waited_s = self._agent.now() - store.record(frame_id).time
            except FrameGone:
                return None
            if waited_s > MAX_BEHIND_S:
                return f"the encoder is {format_span(waited_s)} behind: answers miss the pictures that still wait"
        return None

    def _disk_problem(self) -> str | None:
        if self._agent.store.status().full:
            return "the disk is full: frames are being lost"
        return disk_problem(self._agent.settings.data_dir, self.min_free_bytes)


def disk_problem(folder: Path, min_free_bytes: int) -> str | None:
    """None when `folder` can be written and has room; else what is wrong, in words."""
    probe = folder / ".ready"
    try:
        with opened(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:  # frames have this reserve of descriptors too
            os.write(fd, b"ready")
            os.fsync(fd)
        probe.unlink(missing_ok=True)  # another check may be under way
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"the data folder cannot be written: {error.strerror}"
    if free < min_free_bytes:
        return f"the disk is full: {free >> 20} MiB free, at least {min_free_bytes >> 20} MiB are needed"
    return None
