"""What the machine decides, made into events and committed: only then is it counted, and only then can it be published.

Does not know when an alert is due. Reads the clock that it is given, for latencies.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from agent.alerts.clip import clip_path
from agent.alerts.event import AlertEvent, EventFrame, event_id, new_alert_id
from agent.alerts.machine import Action, Held, Off, On, RuleState
from agent.alerts.store import AlertStore, Suppressed
from agent.alerts.watch import Watch
from agent.metrics import Metrics
from agent.settings.rules import RuleSettings
from memory.errors import FrameGone, StorageError
from memory.store import MemoryStore

log = logging.getLogger(__name__)


class Recorder:
    """See the module. Not thread-safe: whoever watches holds the lock."""

    def __init__(
        self, alert_store: AlertStore, store: MemoryStore, *, metrics: Metrics, clock: Callable[[], float], model: str
    ) -> None:
        self.link: Callable[[str], str] = lambda path: path  # a path of ours as others can open it
        self.image_topic: Callable[[str, str], str | None] = lambda camera, rule: None
        self._alert_store, self._store, self._metrics = alert_store, store, metrics
        self._clock, self._model = clock, model

    def tell(
        self,
        watch: Watch,
        state: RuleState,
        actions: Sequence[Action],
        rule: RuleSettings | None,
        *,
        last: bool = False,
    ) -> None:
        """Commit `state` with what the actions tell. `rule` may be None where no alert begins; `last`: the watch ends.

        Raises StorageError, and then `watch` is as it was.
        """
        now = self._clock()
        event, snapshot = self._event(watch, actions, rule, now)
        held = [action for action in actions if isinstance(action, Held)]
        new = Watch(watch.rule, watch.camera, state, watch.alert_id, watch.condition, watch.judge_calls)
        new.suppressed = watch.suppressed + Counter(action.reason for action in held)
        if event is not None:
            new.alert_id, new.condition = event.id.rpartition("-")[0], event.condition
            new.alert_id = new.alert_id if event.event_type == "on" else None
        with (
            self._alert_store.lock
        ):  # an erasure removes frames first, then alerts: it comes wholly before this, or wholly after
            if event is not None and self._is_erased(actions):
                event, snapshot, new.alert_id = None, None, None
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
        """The event that the actions hold, if any, and its picture."""
        for action in actions:
            if isinstance(action, On) and rule is not None:
                snapshot = self._picture(action.frame_id) if rule.snapshot else None
                topic = None if snapshot is None else self.image_topic(watch.camera, watch.rule)
                return self._on(watch, action, rule.condition, topic, now), snapshot
            if isinstance(action, Off) and watch.alert_id is not None:
                return self._off(watch, action, watch.alert_id, now), None
        return None, None

    def _on(self, watch: Watch, on: On, condition: str, image_topic: str | None, now: float) -> AlertEvent:
        return AlertEvent(
            event_type="on",
            id=event_id(new_alert_id(), "on"),
            rule=watch.rule,
            camera=watch.camera,
            condition=condition,
            message=f"{watch.camera}: {condition}",
            start_time=on.start_time,
            time=on.time,
            end_time=None,
            confirmations=(on.num_yes, on.num_votes),
            score=round(on.score, 3),
            model=self._model,
            latency_s=round(max(0.0, now - on.time), 3),
            frames=self._frames(on.frames),
            clip_url=self.link(clip_path(watch.camera, on.start_time, on.time)),
            image_topic=image_topic,
        )

    def _off(self, watch: Watch, off: Off, alert_id: str, now: float) -> AlertEvent:
        return AlertEvent(
            event_type="off",
            id=event_id(alert_id, "off"),
            rule=watch.rule,
            camera=watch.camera,
            condition=watch.condition,
            message=f"{watch.camera}: no longer: {watch.condition}",
            start_time=off.start_time,
            time=off.time,
            end_time=off.end_time,
            confirmations=(off.num_no, off.num_no),
            score=round(off.score, 3),
            model=self._model,
            latency_s=round(max(0.0, now - off.time), 3),
            frames=self._frames(off.frames),
            clip_url=self.link(clip_path(watch.camera, off.start_time, off.end_time)),
            image_topic=None,
        )

    def _frames(self, frames: Iterable[tuple[int, float]]) -> tuple[EventFrame, ...]:
        return tuple(EventFrame(i, time, self.link(f"/v1/frames/{i}.jpg")) for i, time in frames)

    def _is_erased(self, actions: Sequence[Action]) -> bool:
        """The frame that an alert begins with went while its verdict was awaited: nothing is told of it."""
        try:
            for action in actions:
                if isinstance(action, On):
                    self._store.record(action.frame_id)
        except FrameGone:
            return True
        return False

    def _picture(self, frame_id: int) -> bytes | None:
        try:
            return self._store.jpeg(frame_id)
        except (FrameGone, StorageError):  # an alert without its picture is still an alert
            return None
