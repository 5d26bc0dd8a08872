"""Replay a rule over stored frames, with the gate and the state machine of the live path and the times of the frames.

A verdict takes effect `latency_s` after its frame (0: before the next frame). Whether an operator disabled or snoozed
the rule is ignored: the replay shows what the rule itself would have done. Has no side effects except those of the
judge, which the caller passes in.
"""

import asyncio
import heapq
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from agent.alerts.gate import GateState
from agent.alerts.gate import step as gate_step
from agent.alerts.machine import (
    Action,
    Actions,
    Ask,
    Budget,
    Held,
    Off,
    On,
    Refusal,
    RuleState,
    Sighting,
    Vote,
    hindrance,
    judged,
    refused,
    saw,
    spend,
)
from agent.settings.rules import RuleSettings

BREATH_FRAMES = 256  # frames between two yields to the event loop

Camera = str
Judging = Callable[[Camera, Ask], Awaitable[Vote | Refusal]]


@dataclass(slots=True)
class Fired:
    """An alert the rule would have raised."""

    camera: str
    on: On
    off: Off | None = None  # None: the alert is still active at the end of the replay


@dataclass(slots=True)
class Replayed:
    """What the rule would have done: the alerts, the suppressed alerts (`held`) and the verdicts."""

    alerts: list[Fired] = field(default_factory=list)
    held: list[tuple[Camera, Held]] = field(default_factory=list)
    verdicts: Counter[str] = field(
        default_factory=Counter
    )  # by verdict (yes, no, unclear) or by the reason why there was none
    num_frames: int = 0
    time: float = -math.inf  # of the newest frame replayed

    @property
    def num_judged(self) -> int:
        """Number of calls of the judge (a language model) that returned a verdict."""
        return sum(self.verdicts[word] for word in ("yes", "no", "unclear"))


class Replay:
    """The replay of one rule at some cameras. `result` is up to date after every frame."""

    def __init__(
        self,
        rule: RuleSettings,
        judge: Judging,
        *,
        zone_of: Callable[[Camera], str],
        armed_from: float = -math.inf,
        latency_s: float = 0.0,
    ) -> None:
        """Prepare the replay of one rule.

        judge: returns the verdict on a frame, or the reason why there is none. zone_of: returns a camera's time zone.
        armed_from: unix seconds. From earlier frames the rule only learns what is usual at the camera: they cause no
        alert.
        """
        self.result = Replayed()
        self._rule, self._judge, self._zone_of = rule, judge, zone_of
        self._armed_from, self._latency_s = armed_from, latency_s
        self._states: dict[Camera, RuleState] = {}
        self._on: dict[Camera, Fired] = {}
        self._budget: Budget | None = None
        self._due: list[tuple[float, int, Camera, Ask, Vote | Refusal]] = []
        self._order = count()

    async def run(self, frames: Iterable[tuple[Camera, Sighting]]) -> Replayed:
        """Replay all frames, which must be in time order, and return the result. Raises what the judge raises."""
        for number, (camera, seen) in enumerate(frames):
            if number % BREATH_FRAMES == 0:
                await asyncio.sleep(0)
            await self.see(camera, seen)
        self._deliver_due(math.inf)
        return self.result

    async def see(self, camera: Camera, seen: Sighting) -> None:
        """Replay one frame through the rule, and ask the judge (a language model) if a verdict is needed."""
        self._deliver_due(seen.time)
        state = self._states.get(camera) or RuleState()
        if seen.time < self._armed_from:
            gate, _ = gate_step(self._rule.gate, state.gate, time=seen.time, similarity=seen.similarity)
            self._states[camera] = RuleState(gate=gate)
            return
        self.result.num_frames += 1
        self.result.time = seen.time
        held_by = hindrance(
            self._rule, time=seen.time, zone=self._zone_of(camera), enabled=True, snoozed_until=0.0, late=False
        )
        for action in self._take(camera, saw(self._rule, state, seen, held_by)):
            if isinstance(action, Ask):
                answer = await self._answer(camera, action)
                due = action.time + self._latency_s
                heapq.heappush(self._due, (due, next(self._order), camera, action, answer))
        if self._latency_s == 0:
            self._deliver_due(seen.time)

    async def _answer(self, camera: Camera, ask: Ask) -> Vote | Refusal:
        self._budget, affordable = spend(self._rule, self._budget, ask.time)
        return await self._judge(camera, ask) if affordable else "rate_limited"

    def _deliver_due(self, until: float) -> None:
        """Apply the verdicts that take effect at or before `until` (unix seconds)."""
        while self._due and self._due[0][0] <= until:
            _, _, camera, ask, answer = heapq.heappop(self._due)
            state = self._states[camera]
            if isinstance(answer, Vote):
                self.result.verdicts[answer.verdict] += 1
                self._take(camera, judged(self._rule, state, answer))
            else:
                self.result.verdicts[answer] += 1
                self._take(camera, refused(self._rule, state, ask.time, answer))

    def _take(self, camera: Camera, step: tuple[RuleState, Actions]) -> Sequence[Action]:
        self._states[camera], actions = step
        for action in actions:
            if isinstance(action, On):
                self._on[camera] = Fired(camera, action)
                self.result.alerts.append(self._on[camera])
            elif isinstance(action, Off):
                self._on.pop(camera).off = action
            elif isinstance(action, Held):
                self.result.held.append((camera, action))
        return actions


def openings(rule: RuleSettings, frames: Iterable[tuple[Camera, Sighting]], armed_from: float = -math.inf) -> int:
    """Return how often the rule's gate opens from `armed_from` (unix seconds) on.

    While the gate is open, frames resemble the rule's condition, and the judge (a language model) is asked. So this
    estimates how many judge calls a threshold causes, without making them.
    """
    states: dict[Camera, GateState] = {}
    number = 0
    for camera, seen in frames:
        state = states.get(camera) or GateState()
        states[camera], reading = gate_step(rule.gate, state, time=seen.time, similarity=seen.similarity)
        number += reading.rose and seen.time >= armed_from
    return number


def with_gate(rule: RuleSettings, factor: float) -> RuleSettings:
    """Return the rule with both thresholds of its gate (the cheap check before the judge) multiplied by `factor`.

    No threshold becomes more than 100.
    """
    most = 100.0 / max(rule.gate.on, rule.gate.off)
    factor = min(factor, most)
    gate = rule.gate.model_copy(update={"on": rule.gate.on * factor, "off": rule.gate.off * factor})
    return rule.model_copy(update={"gate": gate})
