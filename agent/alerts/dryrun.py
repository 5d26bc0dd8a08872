"""A dry run: try a rule on stored frames, and return the alerts, their evidence and the number of judge calls.

Frames and embeddings come from the memory; verdicts come from the real judge, which is called at most once for a frame.
Overload policy: one dry run at a time; its judge calls wait behind all other uses of the language model; after
`max_judgements` calls the dry run stops early, and its outcome has `complete` False.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.alerts.judge import Judge
from agent.alerts.machine import Ask, Refusal, Sighting, Vote
from agent.alerts.replay import Fired, Replay, Replayed, openings, with_gate
from agent.alerts.watcher import WARM_S
from agent.errors import NoFrames, Problem
from agent.runtime import pools
from agent.runtime.lanes import Priority
from agent.settings.rules import RuleSettings
from memory.errors import StorageError
from memory.store import MemoryStore
from memory.window import Window

Report = Callable[[float, int], None]  # called with the progress (0..1) and the number of judge calls so far

FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)  # by which a sweep multiplies the gate's thresholds
_BLOCK = 4096  # rows whose embeddings are read at once
_MAX_HELD = 1000  # suppressed alerts in the list; the counts include all of them


@dataclass(frozen=True, slots=True)
class Trial:
    """A request for a dry run: the rule to try, and the frames to try it on.

    sweep: also try other thresholds of the gate, the cheap check before the judge (a language model) is asked.
    max_judgements: limit of judge calls, those of the sweep included.
    """

    rule: RuleSettings
    cameras: tuple[str, ...]
    after: float | None = None  # unix seconds
    before: float | None = None
    sweep: bool = False
    max_judgements: int = 500


@dataclass(frozen=True, slots=True)
class SweepRow:
    """What the rule would have done with the thresholds `on` and `off` of its gate.

    The gate is the cheap check that decides whether the judge (a language model) looks at a frame.

    num_openings: how often the gate opened. num_alerts, num_judged: None if `max_judgements` was reached before the end.
    """

    on: float
    off: float
    num_openings: int
    num_alerts: int | None
    num_judged: int | None


@dataclass(slots=True)
class Outcome:
    """The result of a dry run.

    after, before: times of the first and the last frame. num_unencoded: frames without an embedding, which were left
    out. complete: False if `max_judgements` was reached before the last frame. num_openings: how often the gate, the
    cheap check before the judge is asked, opened.
    """

    trial: Trial
    after: float
    before: float
    num_unencoded: int
    result: Replayed
    complete: bool
    num_openings: int
    num_asked: int = 0  # judge calls made, the sweep included
    sweep: list[SweepRow] = field(default_factory=list)


class _Past:
    """The stored frames of a period in time order.

    Iterating yields (camera, Sighting) pairs, created one at a time to save memory.
    """

    def __init__(self, window: Window, similarities: NDArray[np.float32]) -> None:
        self.times = window.times
        self.num_unencoded = window.unencoded
        self._window, self._similarities = window, similarities
        self._order = np.argsort(window.times, kind="stable")

    def __iter__(self) -> Iterator[tuple[str, Sighting]]:
        window = self._window
        for row in self._order:
            camera = window.cameras[int(window.camera_index[row])]
            seen = Sighting(int(window.frame_ids[row]), float(self.times[row]), float(self._similarities[row]))
            yield camera, seen


class _Exhausted(Exception):
    """Raised when the judge (a language model) has to be asked again but was already asked `max_judgements` times."""


class DryRun:
    """Runs one trial. Create a new object for each trial."""

    def __init__(
        self,
        trial: Trial,
        unit: NDArray[np.float32],
        *,
        store: MemoryStore,
        judge: Judge,
        zone_of: Callable[[str], str],
        report: Report = lambda done, num_asked: None,
    ) -> None:
        """unit: (D,), the rule's condition as a unit vector. zone_of: returns a camera's time zone."""
        self._trial, self._unit, self._store, self._judge = trial, unit, store, judge
        self._zone_of, self._report = zone_of, report
        self._verdicts: dict[tuple[str, int], Vote | Refusal] = {}
        self._span = (0.0, 1.0)

    async def run(self) -> Outcome:
        """Replay the rule and return the outcome. Raises NoFrames when no frame is stored in the window."""
        trial = self._trial
        frames = await pools.upkeep(self._past)
        armed_from = -math.inf if trial.after is None else trial.after
        times = frames.times[frames.times >= armed_from]
        if not len(times):
            raise NoFrames("No frames are stored in that window: widen after/before.")
        self._span = (float(times.min()), float(times.max()))
        result, complete = await self._replay(trial.rule, frames, armed_from)
        outcome = Outcome(trial, *self._span, frames.num_unencoded, result, complete, 0)
        outcome.num_openings = await pools.upkeep(openings, trial.rule, frames, armed_from)
        if trial.sweep:
            outcome.sweep = await self._sweep(frames, armed_from, outcome)
        outcome.num_asked = len(self._verdicts)
        return outcome

    def _past(self) -> _Past:
        """Return the frames of the tested period and of the WARM_S before it, from which the usual similarity is
        learnt.
        """
        trial = self._trial
        after = None if trial.after is None else trial.after - WARM_S
        window = self._store.window(trial.cameras, after, trial.before)
        similarities = np.zeros(window.num_frames, np.float32)
        for start in range(0, window.num_frames, _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, window.num_frames))
            similarities[rows] = window.embeddings(rows) @ self._unit
        return _Past(window, similarities)

    async def _replay(self, rule: RuleSettings, frames: _Past, armed_from: float) -> tuple[Replayed, bool]:
        replay = Replay(rule, self._ask, zone_of=self._zone_of, armed_from=armed_from)
        try:
            return await replay.run(frames), True
        except _Exhausted:
            return replay.result, False

    async def _ask(self, camera: str, ask: Ask) -> Vote | Refusal:
        key = (camera, ask.frame_id)
        if key not in self._verdicts:
            if len(self._verdicts) >= self._trial.max_judgements:
                raise _Exhausted
            self._verdicts[key] = await self._verdict(camera, ask)
            first, last = self._span
            self._report((ask.time - first) / max(last - first, 1e-9), len(self._verdicts))
        return self._verdicts[key]

    async def _verdict(self, camera: str, ask: Ask) -> Vote | Refusal:
        try:
            return await self._judge.vote(self._trial.rule, camera, ask.frame_id, ask.time, Priority.DRY_RUN)
        except (Problem, StorageError):
            return "judge_unavailable"

    async def _sweep(self, frames: _Past, armed_from: float, base: Outcome) -> list[SweepRow]:
        """Replay the rule with other thresholds of its gate, the cheap check before the judge (a language model).

        Return one row for each, by rising threshold. frames: all frames of the replay. base: the result with the rule's
        own thresholds.

        The higher thresholds are tried first, because they need fewer judge calls, most of which have been made already.
        """
        rows = []
        for factor in sorted(FACTORS, key=lambda each: (each < 1, -each)):
            rule = with_gate(self._trial.rule, factor)
            result, complete = base.result, base.complete
            if factor != 1:
                result, complete = await self._replay(rule, frames, armed_from)
            known = (len(result.alerts), result.num_judged) if complete else (None, None)
            number = await pools.upkeep(openings, rule, frames, armed_from)
            rows.append(SweepRow(rule.gate.on, rule.gate.off, number, *known))
        return sorted(rows, key=lambda each: each.on)


def describe(outcome: Outcome, link: Callable[[int], str]) -> dict[str, object]:
    """Return the outcome as the REST API shows it (docs/alerts.md). link: returns the URL of a frame's picture."""
    result = outcome.result
    hours = max((result.time - outcome.after) / 3600, 1 / 3600)
    held = [
        {"camera": camera, "time": h.time, "reason": h.reason, "score": round(h.score, 3), "frame_id": h.frame_id}
        for camera, h in result.held
    ]
    return {
        "object": "dry_run",
        "rule": outcome.trial.rule.model_dump(mode="json"),
        "cameras": list(outcome.trial.cameras),
        "after": outcome.after,
        "before": outcome.before,
        "complete": outcome.complete,
        "until": result.time,
        "frames": result.num_frames,
        "unencoded": outcome.num_unencoded,
        "alerts": [_alert(each, link) for each in result.alerts],
        "suppressed": held[:_MAX_HELD],
        "suppressed_counts": dict(Counter(h.reason for _, h in result.held)),
        "gate_openings": outcome.num_openings,
        "judge_calls": result.num_judged,
        "judge_calls_per_hour": round(result.num_judged / hours, 2),
        "judge_share": round(result.num_judged / max(result.num_frames, 1), 4),
        "verdicts": dict(result.verdicts),
        "judge_calls_made": outcome.num_asked,
        "sweep": [
            {
                "on": round(each.on, 3),
                "off": round(each.off, 3),
                "gate_openings": each.num_openings,
                "alerts": each.num_alerts,
                "judge_calls": each.num_judged,
            }
            for each in outcome.sweep
        ],
    }


def _alert(fired: Fired, link: Callable[[int], str]) -> dict[str, object]:
    on, off = fired.on, fired.off
    return {
        "camera": fired.camera,
        "start_time": on.start_time,
        "time": on.time,
        "end_time": None if off is None else off.end_time,
        "confirmations": [on.num_yes, on.num_votes],
        "score": round(on.score, 3),
        "frames": [{"id": frame_id, "time": time, "url": link(frame_id)} for frame_id, time in on.frames],
    }
