"""Alerts at work: encoded frames -> rules -> the judge -> the book. The tasks and hand-offs around `watcher.py`.

Nothing here keeps ingest or questions waiting: frames are handed over without a wait, the book is written in a worker
thread, and the judge takes one turn in the language lane at a time, after every question that waits.
Overload policy: frames wait in a bounded list, beyond it the oldest are dropped and counted (the gates miss them); frames
for the judge wait in a bounded list, beyond it the rule is told `judge_busy`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agent.alerts.dryrun import DryRun, Outcome, Report, Trial
from agent.alerts.judge import Judge
from agent.alerts.recorder import Recorder
from agent.alerts.rules import Rules
from agent.alerts.store import ALERTS_FILE, AlertStore
from agent.alerts.watch import Frame, Pending
from agent.alerts.watcher import LATE_S, Watcher
from agent.ask.answer import Answering
from agent.errors import DryRunBusy, Problem
from agent.metrics import Metrics
from agent.runtime import pools
from agent.runtime.supervisor import Work, contained, words_of
from agent.settings.rules import RuleSettings
from agent.settings.settings import Settings
from memory.errors import StorageError
from memory.store import MemoryStore

if TYPE_CHECKING:
    from model.features import TextFeatures

log = logging.getLogger(__name__)

MAX_FRAMES = 4096
BATCH_FRAMES = 256
FLUSH_S = 5.0
MAX_WAITING = 16  # frames waiting for a verdict; at a second each, a later one would be old news


class Engine:
    """See the module."""

    def __init__(
        self,
        watcher: Watcher,
        judge: Judge,
        answering: Answering,
        *,
        store: MemoryStore,
        metrics: Metrics,
        clock: Callable[[], float],
        zone_of: Callable[[str], str],
    ) -> None:
        self.watcher = watcher
        self.judge = judge
        self.num_dropped = 0  # frames that no rule saw
        self._answering, self._metrics, self._clock = answering, metrics, clock
        self._store, self._zone_of = store, zone_of
        self._trying = False
        self._begun = False
        self._frames: deque[Frame] = deque()
        self._waiting: deque[Pending] = deque()
        self._num_in_work = 0
        self._more_frames, self._more_waiting, self._settled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @property
    def num_waiting(self) -> int:
        """Frames that wait for a verdict."""
        return len(self._waiting)

    def frame(self, camera: str, frame_id: int, time: float, embedding: NDArray[np.float32]) -> None:
        """A frame has been encoded: embedding (D,) as the encoder gives it. Never waits; from the event loop."""
        if len(self._frames) >= MAX_FRAMES:
            self._frames.popleft()
            self.num_dropped += 1
        norm = max(float(np.linalg.norm(embedding)), 1e-12)
        self._frames.append(Frame(camera, frame_id, time, (embedding / norm).astype(np.float32)))
        self._settled.clear()
        self._more_frames.set()

    async def settled(self) -> None:
        """Until every frame handed over so far has been seen, and everything that was asked has been answered."""
        self._look_whether_settled()
        await self._settled.wait()

    def tasks(self) -> list[tuple[str, Work]]:
        """What runs as long as the agent does, by name. Each may be run again after a failure."""
        return [
            ("alerts: rules", self._watch),
            ("alerts: judge", self._judge),
            ("alerts: states", self._flush),
        ]

    async def begin(self) -> None:
        """Rules of the configuration and of the book begin to watch. One that cannot is tried again (`_flush`)."""
        with contained("ending alerts of rules that are gone"):
            await pools.alerts(self.watcher.begin)
        self._begun = True
        await self._arm()

    async def _arm(self) -> None:
        """Give every rule that does not watch yet its condition as a vector."""
        for rule in await pools.alerts(self.watcher.unarmed):
            with contained(f"reading the condition of rule {rule.name}") as outcome:
                unit = await self._unit(rule.settings.condition)
                await pools.alerts(self.watcher.arm, rule, unit)  # its lock may be held for as long as an erasure
            if outcome.error is not None:
                self.watcher.problems[rule.name] = f"its condition cannot be read: {words_of(outcome.error)}"

    async def _unit(self, condition: str) -> NDArray[np.float32]:
        features: TextFeatures = await self._answering.making.embed(condition)
        return features.unit

    def problems(self) -> dict[str, str]:
        """By rule, in words: why it cannot do its work. Rules that can are not named."""
        return self.watcher.rule_problems()

    # --- the three tasks ---

    async def _watch(self) -> None:
        if not self._begun:
            await self.begin()
        self._more_frames.set()  # of a run before this one that failed
        while True:
            await self._more_frames.wait()
            self._more_frames.clear()
            while self._frames:
                batch = [self._frames.popleft() for _ in range(min(BATCH_FRAMES, len(self._frames)))]
                self._num_in_work += 1
                try:
                    with contained("showing frames to the rules") as outcome:
                        room = MAX_WAITING - len(self._waiting)
                        self._waiting.extend(await pools.alerts(self.watcher.frames, batch, room))
                    if outcome.error is not None:
                        self.num_dropped += len(batch)
                finally:
                    self._num_in_work -= 1
                self._more_waiting.set()
            self._look_whether_settled()

    async def _judge(self) -> None:
        self._more_waiting.set()  # of a run before this one that failed
        while True:
            await self._more_waiting.wait()
            self._more_waiting.clear()
            while self._waiting:
                self._num_in_work += 1
                try:
                    await self._decide_or_refuse(self._waiting.popleft())
                finally:
                    self._num_in_work -= 1
            self._look_whether_settled()

    async def _decide_or_refuse(self, pending: Pending) -> None:
        """The rule is told that there is no verdict when judging fails in a way that nobody foresaw."""
        with contained(f"judging for rule {pending.rule}") as outcome:
            await self._decide(pending)
        if outcome.error is not None:
            with contained(f"telling rule {pending.rule} that there is no verdict"):
                await pools.alerts(self.watcher.refused, pending, "judge_unavailable", words_of(outcome.error))

    async def _decide(self, pending: Pending) -> None:
        """One judgement, whatever comes of it."""
        rule = await pools.alerts(self.watcher.wanted, pending)
        if rule is None:
            return
        if self._clock() - pending.time > LATE_S:
            await pools.alerts(self.watcher.refused, pending, "judge_busy")
            return
        started = perf_counter()
        try:
            vote = await self.judge.vote(rule, pending.camera, pending.frame_id, pending.time)
        except (Problem, StorageError) as error:
            self._metrics.judgements.labels(rule=pending.rule, reason="failed").inc()
            log.warning("no verdict", extra={"rule": pending.rule, "camera": pending.camera, "error": str(error)})
            await pools.alerts(self.watcher.refused, pending, "judge_unavailable", str(error))
            return
        self._metrics.stage_seconds.labels(stage="judge").observe(perf_counter() - started)
        self._metrics.judgements.labels(rule=pending.rule, reason=vote.verdict).inc()
        await pools.alerts(self.watcher.judged, pending, vote)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await pools.alerts(self.flush)
            if self._begun:
                await self._arm()

    def flush(self) -> None:
        """Write the states of rules down. A full disk is tried again later."""
        try:
            self.watcher.flush()
        except StorageError as error:
            log.error("states of rules not written", extra={"error": str(error)})

    def _look_whether_settled(self) -> None:
        if not (self._frames or self._waiting or self._num_in_work):
            self._settled.set()

    # --- rules ---

    async def put(self, name: str, settings: RuleSettings, *, new: bool = False, switched: bool = False) -> None:
        """Make or change a rule. Raises Problem, or StorageError when it cannot be kept."""
        unit = await self._unit(settings.condition)
        await pools.alerts(self.watcher.put, name, settings, unit, new=new, switched=switched)

    async def try_rule(self, trial: Trial, report: Report) -> Outcome:
        """What the rule would have done; one at a time. Raises DryRunBusy or another Problem."""
        if self._trying:
            raise DryRunBusy
        self._trying = True
        try:
            unit = await self._unit(trial.rule.condition)
            made = DryRun(trial, unit, store=self._store, judge=self.judge, zone_of=self._zone_of, report=report)
            return await made.run()
        finally:
            self._trying = False

    async def describe(self, name: str) -> dict[str, Any]:
        """A rule as REST shows it. Raises UnknownRule."""
        return await pools.alerts(self.watcher.describe, name)


def open_alert_store(settings: Settings) -> AlertStore:
    """The book in the data folder. Raises StorageError."""
    return AlertStore(
        settings.data_dir / ALERTS_FILE,
        max_alerts=settings.alerts.max_alerts,
        max_suppressed=settings.alerts.max_alerts,
    )


def open_engine(
    alert_store: AlertStore,
    store: MemoryStore,
    answering: Answering,
    *,
    settings: Settings,
    metrics: Metrics,
    clock: Callable[[], float],
    zone_of: Callable[[str], str],
    cameras: Callable[[], Iterable[str]],
    model: str,
) -> Engine:
    """The rules of `settings` and of the book, ready to run. `model`: who judges, as events name it. Raises StorageError."""
    watcher = Watcher(
        alert_store,
        Rules(alert_store, settings.rules),
        store,
        Recorder(alert_store, store, metrics=metrics, clock=clock, model=model),
        clock=clock,
        zone_of=zone_of,
        cameras=cameras,
    )
    judge = Judge(answering)
    return Engine(
        watcher,
        judge,
        answering,
        store=store,
        metrics=metrics,
        clock=clock,
        zone_of=zone_of,
    )
