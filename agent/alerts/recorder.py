"""Commit what a rule's state machine returned for a camera: its new state, the alert event, and suppressed alerts.

An alert event is published only after it is committed. Does not decide when an alert begins or ends.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from pydantic import TypeAdapter

from agent.alerts.event import AlertEvent, EventFrame, clip_path, event_id, new_alert_id
from agent.alerts.machine import Action, Held, Off, On, RuleState, resumed
from agent.alerts.store import AlertStore, Suppressed
from agent.metrics import Metrics
from agent.settings.rules import RuleSettings
from memory.errors import FrameGone, StorageError
from memory.store import MemoryStore

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Watch:
    """One rule at one camera: the state of its state machine, its active alert and its counters."""

    rule: str
    camera: str
    state: RuleState = field(default_factory=RuleState)
    alert_id: str | None = None  # of the active alert
    condition: str = ""  # the rule's condition when that alert began
    judge_calls: int = 0
    suppressed: Counter[str] = field(default_factory=Counter)  # by reason
    written: bool = False  # True: the alert store holds this state

    def to_json(self) -> dict[str, object]:
        """Return the rule's state and counters at this camera as JSON types for the alert store; see `read`."""
        return {
            "machine": asdict(self.state),
            "alert_id": self.alert_id,
            "condition": self.condition,
            "judge_calls": self.judge_calls,
            "suppressed": dict(self.suppressed),
        }

    @classmethod
    def read(cls, rule: str, camera: str, value: Mapping[str, object]) -> "Watch":
        """Return the Watch that `to_json` wrote as `value`, or a new one if another version wrote it."""
        try:
            watch = _WATCH.validate_python(
                {**value, "rule": rule, "camera": camera, "state": value["machine"], "written": True}
            )
        except (KeyError, ValueError) as error:
            log.warning("state not read", extra={"rule": rule, "camera": camera, "error": str(error)})
            return cls(rule, camera)
        watch.state = resumed(watch.state)
        return watch

    def describe(self, *, enabled: bool, snoozed_until: float) -> dict[str, object]:
        """Return the state of the rule at this camera as the REST API shows it (docs/alerts.md)."""
        state = self.state
        return {
            "on": state.phase == "on",
            "checking": state.phase == "checking",
            "since": state.since,
            "last_alert": state.last_alert,
            "gate_score": round(state.score, 3),
            "gate_open": state.gate.open,
            "time": state.time,
            "enabled": enabled,
            "snoozed_until": snoozed_until,
            "judge_calls": self.judge_calls,
            "suppressed": dict(self.suppressed),
        }


_WATCH = TypeAdapter(Watch)


class Recorder:
    """Writes states, alert events and suppressed alerts to the alert store. Not thread-safe: the watcher holds its lock."""

    def __init__(
        self, alert_store: AlertStore, memory: MemoryStore, *, metrics: Metrics, clock: Callable[[], float], model: str
    ) -> None:
        """model: name of the model that judges, written into every event. clock: returns unix seconds."""
        self.link: Callable[[str], str] = lambda path: path  # returns the signed URL for a path of this server
        self.image_topic: Callable[[str, str], str | None] = lambda camera, rule: None  # the snapshot's MQTT topic
        self._alert_store, self._memory, self._metrics = alert_store, memory, metrics
        self._clock, self._model = clock, model

    def record(
        self,
        watch: Watch,
        state: RuleState,
        actions: Sequence[Action],
        rule: RuleSettings | None,
        *,
        last: bool = False,
    ) -> None:
        """Commit the new state of a rule at a camera, with the alert event and the suppressed alerts among `actions`.

        rule: may be None if no alert begins. last: the rule no longer runs at this camera, so its stored state is
        deleted. Raises StorageError, and then `watch` is unchanged.
        """
        now = self._clock()
        event, snapshot = self._event(watch, actions, rule, now)
        held = [action for action in actions if isinstance(action, Held)]
        new = replace(watch, state=state, suppressed=watch.suppressed + Counter(action.reason for action in held))
        # An erasure deletes frames first and alerts second. Because of this lock, it deletes alerts before or after
        # this commit: if before, `_is_erased` finds the frame missing; if after, it deletes the alert too.
        with self._alert_store.lock:
            if event is not None and self._is_erased(actions):
                event, snapshot, new.alert_id = None, None, None
            elif event is not None:
                new.alert_id = event.id.rpartition("-")[0] if event.event_type == "on" else None
                new.condition = event.condition
            self._alert_store.commit(
                watch.rule,
                watch.camera,
                None if last else new.to_json(),
                event=event,
                snapshot=snapshot,
                suppressed=[Suppressed(watch.rule, watch.camera, h.time, h.reason, h.score, h.frame_id) for h in held],
                now=now,
            )
        watch.state, watch.alert_id, watch.condition = state, new.alert_id, new.condition
        watch.suppressed, watch.written = new.suppressed, True
        self._count(watch, event, held)

    def _count(self, watch: Watch, event: AlertEvent | None, held: Sequence[Held]) -> None:
        for action in held:
            self._metrics.alerts_suppressed.labels(rule=watch.rule, reason=action.reason).inc()
        if event is None:
            return
        if event.event_type == "on":
            self._metrics.alerts.labels(rule=watch.rule, camera=watch.camera).inc()
        log.info("alert", extra={"rule": watch.rule, "camera": watch.camera, "event_type": event.event_type})

    def _event(
        self, watch: Watch, actions: Sequence[Action], rule: RuleSettings | None, now: float
    ) -> tuple[AlertEvent | None, bytes | None]:
        """Return the event for an alert that begins or ends in `actions`, and its picture (JPEG). None: there is none."""
        for action in actions:
            if isinstance(action, On) and rule is not None:
                snapshot = self._picture(action.frame_id) if rule.snapshot else None
                topic = None if snapshot is None else self.image_topic(watch.camera, watch.rule)
                return self._made(watch, action, new_alert_id(), rule.condition, now, topic), snapshot
            if isinstance(action, Off) and watch.alert_id is not None:
                return self._made(watch, action, watch.alert_id, watch.condition, now), None
        return None, None

    def _made(
        self, watch: Watch, action: On | Off, alert_id: str, condition: str, now: float, image_topic: str | None = None
    ) -> AlertEvent:
        if isinstance(action, On):
            votes, end_time, message = (action.num_yes, action.num_votes), None, condition
        else:
            votes, end_time, message = (action.num_no, action.num_no), action.end_time, f"no longer: {condition}"
        clip_end = action.time if end_time is None else end_time
        return AlertEvent(
            event_type="on" if isinstance(action, On) else "off",
            id=event_id(alert_id, "on" if isinstance(action, On) else "off"),
            rule=watch.rule,
            camera=watch.camera,
            condition=condition,
            message=f"{watch.camera}: {message}",
            start_time=action.start_time,
            time=action.time,
            end_time=end_time,
            confirmations=votes,
            score=round(action.score, 3),
            model=self._model,
            latency_s=round(max(0.0, now - action.time), 3),
            frames=tuple(EventFrame(i, time, self.link(f"/v1/frames/{i}.jpg")) for i, time in action.frames),
            clip_url=self.link(clip_path(watch.camera, action.start_time, clip_end)),
            image_topic=image_topic,
        )

    def _is_erased(self, actions: Sequence[Action]) -> bool:
        """Return True when `actions` begin an alert whose frame was erased while its verdict was awaited."""
        try:
            for action in actions:
                if isinstance(action, On):
                    self._memory.record(action.frame_id)
        except FrameGone:
            return True
        return False

    def _picture(self, frame_id: int) -> bytes | None:
        try:
            return self._memory.jpeg(frame_id)
        except (FrameGone, StorageError):  # an alert without its picture is still an alert
            return None
