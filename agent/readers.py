"""The metrics that are read from the agent's parts at the moment of a scrape (in a worker thread)."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from agent.metrics import Reader, Reading

if TYPE_CHECKING:
    from agent.app import Agent
    from agent.ingest.intake import Intake

_STORED = {
    "vilamp_memory_frames": ("Frames remembered.", "frames"),
    "vilamp_memory_encoded_frames": ("Frames remembered and encoded.", "encoded"),
    "vilamp_memory_bytes": ("Bytes on disk.", "bytes"),
    "vilamp_memory_oldest_time_seconds": ("Time of the oldest frame, unix.", "oldest"),
    "vilamp_memory_newest_time_seconds": ("Time of the newest frame, unix.", "newest"),
}
_STATUS = {
    "vilamp_memory_full": ("1 while the disk takes no more.", "full"),
    "vilamp_frames_evicted_total": ("Frames forgotten by the limits.", "evicted"),
    "vilamp_frames_erased_total": ("Frames erased on request.", "erased"),
    "vilamp_frames_damaged_total": ("Frames dropped as damaged.", "frames_damaged"),
}
_COUNTED = {
    "vilamp_frames_remembered_total": ("Frames remembered.", "remembered"),
    "vilamp_camera_sessions_total": ("Sources connected.", "sessions"),
}
_SESSION = {
    "vilamp_session_received_frames": ("Frames decoded in this session.", "received"),
    "vilamp_session_kept_frames": ("Frames kept in this session.", "kept"),
    "vilamp_session_dropped_frames": ("Frames kept, then dropped, in this session.", "dropped"),
    "vilamp_session_shed_frames": ("Frames let go undecoded, this machine being too slow.", "shed"),
    "vilamp_session_decode_errors": ("Packets of this session that could not be decoded.", "decode_errors"),
}


def readers(agent: "Agent") -> list[Reader]:
    """One reader per metric."""
    return [*_health(agent), *_memory(agent), *_cameras(agent), *_questions(agent), *_alerts(agent)]


def _health(agent: "Agent") -> Iterator[Reader]:
    def troubles() -> list[Reading]:
        health = agent.state.health()
        counts = Counter(trouble.check for trouble in health.troubles)
        return [({"stage": check}, float(counts[check])) for check in health.checks]

    def failures() -> list[Reading]:
        return [({"stage": task}, float(count)) for task, count in list(agent.supervisor.num_failures.items())]

    yield Reader("vilamp_problems", "Things that do not work, by what was checked.", ("stage",), troubles)
    yield Reader("vilamp_task_failures_total", "Failures of tasks that were started again.", ("stage",), failures)


def _memory(agent: "Agent") -> Iterator[Reader]:
    def stored(field: str) -> Iterator[Reading]:
        for camera in agent.store.cameras():
            value = getattr(agent.store.stats(camera), field)
            if value is not None:
                yield {"camera": camera}, float(value)

    def status(field: str) -> list[Reading]:
        return [({}, float(getattr(agent.store.status(), field)))]

    for name, (text, field) in _STORED.items():
        yield Reader(name, text, ("camera",), partial(stored, field))
    for name, (text, field) in _STATUS.items():
        yield Reader(name, text, (), partial(status, field))


def _cameras(agent: "Agent") -> Iterator[Reader]:
    def intakes() -> "list[Intake]":
        known = agent.cameras()
        return [intake for camera, intake in list(agent.intakes.items()) if camera in known]

    def counted(field: str) -> list[Reading]:
        return [({"camera": i.camera}, float(getattr(i.counters, field))) for i in intakes()]

    def session(field: str) -> list[Reading]:
        sources = [intake.source for intake in intakes()]
        return [({"camera": s.camera}, float(getattr(s.stats, field))) for s in sources if s is not None]

    def live() -> list[Reading]:
        return [({"camera": i.camera}, float(i.state == "live")) for i in intakes()]

    for name, (text, field) in _COUNTED.items():
        yield Reader(name, text, ("camera",), partial(counted, field))
    for name, (text, field) in _SESSION.items():
        yield Reader(name, text, ("camera",), partial(session, field))
    yield Reader("vilamp_camera_live", "1 while frames flow.", ("camera",), live)


def _questions(agent: "Agent") -> Iterator[Reader]:
    backlog, turns = agent.backlog, agent.answering.turns
    yield Reader("vilamp_backlog_frames", "Frames listed for the encoder.", (), lambda: [({}, len(backlog))])
    yield Reader(
        "vilamp_backlog_deferred_total", "Frames left to be found on disk.", (), lambda: [({}, backlog.num_deferred)]
    )
    yield Reader("vilamp_questions_open", "Questions in work or waiting.", (), lambda: [({}, turns.num_inside)])


def _alerts(agent: "Agent") -> Iterator[Reader]:
    engine = agent.alerts
    yield Reader("vilamp_judge_waiting", "Frames that wait for a verdict.", (), lambda: [({}, engine.num_waiting)])
    yield Reader(
        "vilamp_alert_frames_dropped_total", "Frames that no rule saw.", (), lambda: [({}, engine.num_dropped)]
    )
