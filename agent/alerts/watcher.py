"""Runs all rules at all their cameras: takes frames and verdicts, records alerts, and returns the frames to judge.

The state of each rule at each camera is held in memory. It is stored in the alert store in one transaction with each
alert or suppressed alert, and otherwise every few seconds (`flush`), so a kill loses no alert and only seconds of the
gates' background. When the alert store cannot be written, no alert begins or ends: the state stays as it was, and the
judge is asked again.

Thread-safe: one lock serialises all calls. Awaits nothing.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import RLock

import numpy as np
from numpy.typing import NDArray

from agent.alerts.gate import GateState
from agent.alerts.gate import step as gate_step
from agent.alerts.machine import (
    Actions,
    Ask,
    Budget,
    Hindrance,
    Refusal,
    RuleState,
    Sighting,
    Vote,
    ended,
    hindrance,
    judged,
    refused,
    resumed,
    saw,
    spend,
)
from agent.alerts.recorder import Recorder, Watch
from agent.alerts.rules import Rule, Rules, RuleView
from agent.alerts.store import AlertStore
from agent.errors import BadRequest, UnknownCamera
from agent.runtime.supervisor import contained, words_of
from agent.settings.rules import RuleSettings
from memory.errors import StorageError
from memory.store import MemoryStore

log = logging.getLogger(__name__)

LATE_S = 300.0  # a frame encoded later than this after its capture causes no alert: it is old news
WARM_S = 900.0  # seconds of past frames from which the gate of a rule that starts at a camera learns the background
WARM_FRAMES = 2000
MAX_UNJUDGED = 3  # missed verdicts in a row before the rule reports a problem
_UNREAD = "its judge's answers are none of yes, no and unclear"


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """An encoded frame. unit: its embedding as a unit vector, (D,) float32."""

    camera: str
    frame_id: int
    time: float  # unix seconds
    unit: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pending:
    """A frame that waits for the verdict of the judge (a language model) on one rule."""

    rule: str
    camera: str
    frame_id: int
    time: float


class Watcher:
    """Runs the rules, and holds a `Watch` (state and counters) for each rule at each camera."""

    def __init__(
        self,
        alert_store: AlertStore,
        rules: Rules,
        memory: MemoryStore,
        recorder: Recorder,
        *,
        clock: Callable[[], float],
        zone_of: Callable[[str], str],
        cameras: Callable[[], Iterable[str]],
    ) -> None:
        self.recorder = recorder
        self.problems: dict[str, str] = {}  # by rule: why it cannot watch; `problem` also knows of missed verdicts
        self._alert_store, self._rules, self._memory = alert_store, rules, memory
        self._clock, self._zone_of, self._cameras = clock, zone_of, cameras
        self._lock = RLock()
        self._units: dict[str, NDArray[np.float32]] = {}  # by rule: the unit vector (D,) of its condition
        self._budgets: dict[str, Budget] = {}
        self._watches = {key: Watch.read(*key, value) for key, value in alert_store.states().items()}
        self._unjudged: dict[tuple[str, str], tuple[int, str]] = {}  # missed verdicts in a row, and why
        self._seen: dict[str, int] = {}  # by camera: id of the newest frame processed
        for watch in self._watches.values():
            self._seen[watch.camera] = max(self._seen.get(watch.camera, 0), watch.state.frame_id)

    def begin(self) -> None:
        """End the active alerts of rules that were removed or disabled while the agent was not running.
        Call after setting the alert store's `sinks`, which receive the events of these alerts."""
        try:
            with self._lock:
                self._end_stale()
        except StorageError as error:  # the agent starts nevertheless; the next start tries again
            log.error("alerts of removed rules stay active", extra={"error": str(error)})

    # --- frames and verdicts ---

    def arm(self, rule: Rule, unit: NDArray[np.float32]) -> None:
        """Start a rule that `unarmed` returned. unit: (D,), its condition as a unit vector.

        Does nothing when the rule was changed, removed or armed meanwhile.
        """
        with self._lock:
            if rule in self.unarmed():
                self._arm(rule.name, unit)

    def _arm(self, name: str, unit: NDArray[np.float32]) -> None:
        self._units[name] = unit
        self.problems.pop(name, None)

    def unarmed(self) -> list[Rule]:
        """Return the rules that have not started because their condition is not embedded yet."""
        with self._lock:
            return [rule for rule in self._rules.all() if rule.name not in self._units]

    def frames(self, frames: Iterable[Frame], room: int) -> list[Pending]:
        """Process these frames with every rule that watches their camera. Return at most `room` frames to judge."""
        pending: list[Pending] = []
        with self._lock:
            for frame in frames:
                if frame.frame_id <= self._seen.get(frame.camera, 0):
                    continue  # encoded again: after a restart, or because it failed at first
                self._seen[frame.camera] = frame.frame_id
                for rule in self._rules.all():
                    if rule.name in self._units and rule.settings.watches(frame.camera):
                        with contained(f"showing a frame to rule {rule.name}") as outcome:
                            pending += self._show(rule, frame, room - len(pending))
                        if outcome.error is not None:
                            self.problems[rule.name] = f"it cannot look at frames: {words_of(outcome.error)}"
                        else:
                            self.problems.pop(rule.name, None)
        return pending

    def _show(self, rule: Rule, frame: Frame, room: int) -> list[Pending]:
        watch = self._watches.get((rule.name, frame.camera)) or self._new_watch(rule, frame)
        seen = Sighting(frame.frame_id, frame.time, float(self._units[rule.name] @ frame.unit))
        held_by = self._hindrance(rule, frame.camera, frame.time)
        pending = []
        for ask in self._take(watch, saw(rule.settings, watch.state, seen, held_by)):
            reason = self._refusal(rule, ask, room)
            if reason is not None:
                self._take(watch, refused(rule.settings, watch.state, ask.time, reason))
            else:
                pending.append(Pending(rule.name, frame.camera, ask.frame_id, ask.time))
        return pending

    def _refusal(self, rule: Rule, ask: Ask, room: int) -> Refusal | None:
        if room < 1:
            return "judge_busy"
        self._budgets[rule.name], affordable = spend(rule.settings, self._budgets.get(rule.name), ask.time)
        return None if affordable else "rate_limited"

    def _hindrance(self, rule: Rule, camera: str, time: float) -> Hindrance | None:
        return hindrance(
            rule.settings,
            time=time,
            zone=self._zone_of(camera),
            enabled=self._rules.is_enabled(rule.name, camera),
            snoozed_until=self._rules.snoozed_until(rule.name, camera),
            late=self._clock() - time > LATE_S,
        )

    def wanted(self, pending: Pending) -> RuleSettings | None:
        """Return the settings of the rule of `pending`, or None when the rule no longer waits for this verdict."""
        with self._lock:
            watch = self._watches.get((pending.rule, pending.camera))
            if watch is None or watch.state.asked != pending.time:
                return None
            return self._rules.named(pending.rule).settings

    def judged(self, pending: Pending, vote: Vote) -> None:
        """Apply the verdict `vote` to its rule. It is ignored when the rule no longer waits for it."""
        with self._lock:
            watch = self._watches.get((pending.rule, pending.camera))
            if watch is not None:
                rule = self._rules.named(pending.rule)
                watch.judge_calls += 1
                self._note_verdict(pending, None if vote.was_read else _UNREAD)
                held_by = self._hindrance(rule, pending.camera, vote.time)
                self._take(watch, judged(rule.settings, watch.state, vote, held_by))

    def refused(self, pending: Pending, reason: Refusal, error: str = "") -> None:
        """Record that no verdict will come for `pending`. error: the judge's error message if it failed."""
        with self._lock:
            if reason == "judge_unavailable":
                self._note_verdict(pending, error or "its judge failed")
            watch = self._watches.get((pending.rule, pending.camera))
            if watch is not None:
                settings = self._rules.named(pending.rule).settings
                self._take(watch, refused(settings, watch.state, pending.time, reason))

    def _note_verdict(self, pending: Pending, missed: str | None) -> None:
        """Count a missing verdict, with its reason `missed`. None: a verdict came, so the count restarts."""
        key = (pending.rule, pending.camera)
        if missed is None:
            self._unjudged.pop(key, None)
        else:
            self._unjudged[key] = (self._unjudged.get(key, (0, ""))[0] + 1, missed)

    def problem(self, name: str) -> str | None:
        """Return why this rule does not work (no start, failing frames, missed verdicts), as text. None: it works."""
        with self._lock:
            if name in self.problems:
                return self.problems[name]
            for (rule, camera), (number, missed) in self._unjudged.items():
                if rule == name and number >= MAX_UNJUDGED:
                    return f"it could not be judged the last {number} times at camera {camera}: {missed.rstrip('.')}"
            return self._rules.blind(name, self._cameras())

    def rule_problems(self) -> dict[str, str]:
        """Return the problem of every rule that has one, by name."""
        named = {rule.name: self.problem(rule.name) for rule in self.rules()}
        return {name: problem for name, problem in named.items() if problem is not None}

    def _new_watch(self, rule: Rule, frame: Frame) -> Watch:
        """Start `rule` at the frame's camera. It first learns what is usual there from the last WARM_S seconds."""
        gate = GateState()
        window = self._memory.window((frame.camera,), frame.time - WARM_S, float(np.nextafter(frame.time, 0.0)))
        rows = np.arange(max(0, window.num_frames - WARM_FRAMES), window.num_frames)
        similarities = window.embeddings(rows) @ self._units[rule.name]
        for row, similarity in zip(rows, similarities, strict=True):
            time = float(window.times[row])
            gate, _ = gate_step(rule.settings.gate, gate, time=time, similarity=float(similarity))
        watch = Watch(rule.name, frame.camera, RuleState(gate=gate))
        self._watches[rule.name, frame.camera] = watch
        return watch

    def _take(self, watch: Watch, step: tuple[RuleState, Actions]) -> list[Ask]:
        """Apply what the state machine returned, and return the frames that the judge is to be asked about.

        Alerts and suppressed alerts are committed with the state. If that fails, the state stays and nothing is returned.
        """
        state, actions = step
        if all(isinstance(action, Ask) for action in actions):
            watch.state, watch.written = state, False
        else:
            try:
                self.recorder.record(watch, state, actions, self._rules.named(watch.rule).settings)
            except StorageError as error:
                log.error("alert not written", extra={"rule": watch.rule, "camera": watch.camera, "error": str(error)})
                watch.state = resumed(watch.state)
                return []
        return [action for action in actions if isinstance(action, Ask)]

    def flush(self) -> None:
        """Store the states that have changed since they were last stored. Raises StorageError."""
        with self._lock:
            changed = {key: watch for key, watch in self._watches.items() if not watch.written}
            if changed:
                self._alert_store.put_states({key: watch.to_json() for key, watch in changed.items()})
            for watch in changed.values():
                watch.written = True

    # --- rules and switches ---

    def rules(self) -> list[Rule]:
        """Return all rules, sorted by name."""
        with self._lock:
            return self._rules.all()

    def named(self, name: str) -> Rule:
        """Return the rule called `name`. Raises UnknownRule."""
        with self._lock:
            return self._rules.named(name)

    def put(
        self, name: str, settings: RuleSettings, unit: NDArray[np.float32], *, new: bool = False, switched: bool = False
    ) -> None:
        """Create or change a rule. A change of condition or gate thresholds ends its active alerts and its states.

        unit: (D,), the condition as a unit vector. new, switched: see `Rules.put`. Raises RuleConflict, StorageError.
        """
        with self._lock:
            old = next((rule.settings for rule in self._rules.all() if rule.name == name), None)
            self._rules.put(name, settings, new=new, switched=switched)
            self._arm(name, unit)
            if old is not None and (old.condition, old.gate) != (settings.condition, settings.gate):
                self._drop(watch for watch in self._watches.values() if watch.rule == name)
            self._end_stale()

    def remove(self, name: str) -> None:
        """Remove a rule and end its active alerts. Raises UnknownRule, RuleConflict or StorageError."""
        with self._lock:
            self._rules.remove(name)
            self._units.pop(name, None)
            self._budgets.pop(name, None)
            self.problems.pop(name, None)
            self._end_stale()

    def set_enabled(self, rule: str, camera: str | None, enabled: bool) -> None:
        """Enable or disable a rule at one camera, or at all (None).

        Raises UnknownRule, UnknownCamera, BadRequest or StorageError.
        """
        self._check_camera(rule, camera)
        with self._lock:
            self._rules.switch(rule, camera, enabled)
            self._end_stale()

    def snooze(self, rule: str, camera: str | None, until: float) -> None:
        """Snooze a rule at one camera, or at all (None): no alert begins before `until` (unix seconds).
        A past time ends the snooze. Raises the errors of `set_enabled`."""
        self._check_camera(rule, camera)
        with self._lock:
            self._rules.snooze(rule, camera, until)

    def _check_camera(self, rule: str, camera: str | None) -> None:
        """Refuse a camera that does not exist or that the rule does not watch: an MQTT topic may contain any name.
        Raises UnknownCamera or BadRequest."""
        if camera is None:
            return
        known = tuple(self._cameras())
        if camera not in known:
            raise UnknownCamera(camera, known)
        if not self.named(rule).settings.watches(camera):
            raise BadRequest(f"The rule '{rule}' does not watch the camera '{camera}'.", param="camera")

    def _end_stale(self) -> None:
        """End the alerts of disabled rules, and delete the states of removed rules and cameras."""
        rules = {rule.name: rule.settings for rule in self._rules.all()}
        gone = [w for w in self._watches.values() if w.rule not in rules or not rules[w.rule].watches(w.camera)]
        self._drop(gone)
        for watch in self._watches.values():
            if not self._rules.is_enabled(watch.rule, watch.camera):
                self._take(watch, ended(watch.state, self._now(watch)))

    def _drop(self, watches: Iterable[Watch]) -> None:
        for watch in list(watches):
            state, actions = ended(watch.state, self._now(watch))
            self.recorder.record(watch, state, actions, None, last=True)
            del self._watches[watch.rule, watch.camera]
            self._unjudged.pop((watch.rule, watch.camera), None)

    def _now(self, watch: Watch) -> float:
        return max(self._clock(), watch.state.time or 0.0)

    # --- descriptions ---

    def describe(self, name: str) -> dict[str, object]:
        """Return the rule as the REST API shows it (docs/alerts.md). Raises UnknownRule."""
        with self._lock:
            rule = self._rules.named(name)
            state = {
                watch.camera: watch.describe(
                    enabled=self._rules.is_enabled(name, watch.camera),
                    snoozed_until=self._rules.snoozed_until(name, watch.camera),
                )
                for watch in sorted(self._watches.values(), key=lambda each: each.camera)
                if watch.rule == name
            }
            return {
                "object": "rule",
                "name": name,
                "source": rule.source,
                **rule.settings.model_dump(mode="json"),
                "enabled": self._rules.is_enabled(name),
                "snoozed_until": self._rules.snoozed_until(name),
                "problem": self.problem(name),
                "state": state,
            }

    def views(self) -> list[RuleView]:
        """Return the state of every rule at every camera that it watches, as MQTT shows it."""
        cameras = list(self._cameras())
        with self._lock:
            return [
                RuleView(
                    rule=rule.name,
                    camera=camera,
                    on=self._is_on(rule.name, camera),
                    enabled=self._rules.is_enabled(rule.name, camera),
                    snoozed_until=self._rules.snoozed_until(rule.name, camera),
                )
                for rule in self._rules.all()
                for camera in cameras
                if rule.settings.watches(camera)
            ]

    def _is_on(self, rule: str, camera: str) -> bool:
        watch = self._watches.get((rule, camera))
        return watch is not None and watch.state.phase == "on"
