"""The metrics that are read from the agent's parts at the moment of a scrape."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from agent.metrics import Reader, Reading

if TYPE_CHECKING:
    from agent.agent import Agent

_PER_CAMERA = ("camera",)


def readers(agent: "Agent") -> list[Reader]:
    """One reader per metric."""

    def stored(name: str) -> Iterator[Reading]:
        for camera in agent.store.cameras():
            value = getattr(agent.store.stats(camera), name)
            if value is not None:
                yield {"camera": camera}, float(value)

    def received(name: str) -> Iterator[Reading]:
        for camera, intake in agent.intakes.items():
            if intake.source is not None:
                yield {"camera": camera}, float(getattr(intake.source.stats, name))

    def counted(name: str) -> Iterator[Reading]:
        for camera, intake in agent.intakes.items():
            yield {"camera": camera}, float(getattr(intake.counters, name))

    def live() -> Iterator[Reading]:
        for camera, intake in agent.intakes.items():
            yield {"camera": camera}, float(intake.state == "live")

    def one(value: float) -> Iterator[Reading]:
        yield {}, value

    def status(name: str) -> Iterator[Reading]:
        yield {}, float(getattr(agent.store.status(), name))

    return [
        Reader("vilamp_memory_full", "1 while the disk takes no more.", (), lambda: status("full")),
        Reader("vilamp_frames_evicted_total", "Frames forgotten by the limits.", (), lambda: status("evicted")),
        Reader("vilamp_frames_damaged_total", "Frames dropped as damaged.", (), lambda: status("frames_damaged")),
        Reader("vilamp_memory_frames", "Frames remembered.", _PER_CAMERA, lambda: stored("frames")),
        Reader(
            "vilamp_memory_encoded_frames", "Frames remembered and encoded.", _PER_CAMERA, lambda: stored("encoded")
        ),
        Reader("vilamp_memory_bytes", "Bytes on disk.", _PER_CAMERA, lambda: stored("bytes")),
        Reader("vilamp_memory_oldest_time_seconds", "Oldest frame, unix.", _PER_CAMERA, lambda: stored("oldest")),
        Reader("vilamp_memory_newest_time_seconds", "Newest frame, unix.", _PER_CAMERA, lambda: stored("newest")),
        Reader("vilamp_frames_remembered_total", "Frames remembered.", _PER_CAMERA, lambda: counted("remembered")),
        Reader("vilamp_camera_sessions_total", "Sources connected.", _PER_CAMERA, lambda: counted("sessions")),
        Reader("vilamp_camera_live", "1 while frames flow.", _PER_CAMERA, live),
        Reader(
            "vilamp_session_received_frames",
            "Frames decoded in this session.",
            _PER_CAMERA,
            lambda: received("received"),
        ),
        Reader("vilamp_session_kept_frames", "Frames kept in this session.", _PER_CAMERA, lambda: received("kept")),
        Reader(
            "vilamp_session_dropped_frames",
            "Kept, then dropped, in this session.",
            _PER_CAMERA,
            lambda: received("dropped"),
        ),
        Reader("vilamp_backlog_frames", "Frames listed for the encoder.", (), lambda: one(len(agent.backlog))),
        Reader(
            "vilamp_backlog_deferred_total",
            "Frames left to be found on disk.",
            (),
            lambda: one(agent.backlog.num_deferred),
        ),
        Reader(
            "vilamp_questions_open", "Questions in work or waiting.", (), lambda: one(agent.answering.turns.num_inside)
        ),
    ]
