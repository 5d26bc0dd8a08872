"""The alert engine: the tasks that take an alert from the encoded frame to the committed event.

    frame()      an encoded frame is queued
    _see         gate and state machine of every rule process it (watcher.py, gate.py, machine.py)
    _judge       the judge gives a verdict on each frame for which a state machine asks for one (judge.py)
    record       an alert that begins or ends becomes an event (recorder.py, event.py), committed (store.py, outbox.py)
    delivery     MQTT (agent/mqtt/session.py) and webhooks (webhooks.py) deliver the events that wait in the outbox

Ingest and questions never wait for alerts: a frame is queued without waiting, the alert store is written in a worker
thread, and each judge call waits behind all users' questions for the language model. Overload policy: when the frame
queue is full, its oldest frame is dropped and counted, and no gate gets it; when the judge's queue is full, a frame
gets no verdict, for the reason `judge_busy`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agent.alerts.dryrun import DryRun, Outcome, Report, Trial
from agent.alerts.judge import Judge
from agent.alerts.recorder import Recorder
from agent.alerts.rules import Rules
from agent.alerts.store import ALERTS_FILE, AlertStore
from agent.alerts.watcher import LATE_S, Frame, Pending, Watcher
from agent.ask.answer import Answering
from agent.ask.condition import problem_of
from agent.errors import BadRequest, DryRunBusy, Problem
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
FLUSH_S = 5.0  # between two writes of changed states
MAX_WAITING = 16  # frames waiting for a verdict; at a second each, a later one would be old news


class Engine:
    """Runs the rules: takes encoded frames, has some of them judged, and records alerts.

    Call every method on the event loop, except `flush`, which writes to disk.
    """

    def __init__(
        self,
        watcher: Watcher,
        judge: Judge,
        answering: Answering,
        *,
        memory: MemoryStore,
        metrics: Metrics,
        clock: Callable[[], float],
        zone_of: Callable[[str], str],
    ) -> None:
        self.watcher = watcher
        self.judge = judge
        self.num_dropped = 0  # frames that no rule has processed
        self._answering, self._metrics, self._clock = answering, metrics, clock
        self._memory, self._zone_of = memory, zone_of
        self._trying = False  # a dry run is running
        self._begun = False
        self._frames: deque[Frame] = deque()
        self._waiting: deque[Pending] = deque()
        self._num_in_work = self._num_judging = 0
        self._more_frames, self._more_waiting, self._settled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @property
    def num_waiting(self) -> int:
        """Number of frames that wait for a verdict."""
        return len(self._waiting)

    def frame(self, camera: str, frame_id: int, time: float, embedding: NDArray[np.float32]) -> None:
        """Queue an encoded frame for the rules, without waiting. embedding: (D,), of any length. time: unix seconds."""
        if len(self._frames) >= MAX_FRAMES:
            self._frames.popleft()
            self.num_dropped += 1
        norm = max(float(np.linalg.norm(embedding)), 1e-12)
        self._frames.append(Frame(camera, frame_id, time, (embedding / norm).astype(np.float32)))
        self._settled.clear()
        self._more_frames.set()

    async def settled(self) -> None:
        """Wait until the rules have processed every queued frame and every awaited verdict."""
        self._check_settled()
        await self._settled.wait()

    def tasks(self) -> list[tuple[str, Work]]:
        """Return the engine's tasks with their names, for the supervisor. Each may be started again after a failure."""
        return [
            ("alerts: rules", self._see),
            ("alerts: judge", self._judge),
            ("alerts: states", self._flush),
        ]

    async def begin(self) -> None:
        """End the alerts of removed rules, embed the conditions of all rules, and start them.

        A condition that cannot be embedded is tried again by the task `_flush`.
        """
        with contained("ending alerts of removed rules"):
            await pools.alerts(self.watcher.begin)
        self._begun = True
        await self._arm()

    async def _arm(self) -> None:
        """Compute the embeddings of the conditions of the rules that have not started yet, and start these rules."""
        for rule in await pools.alerts(self.watcher.unarmed):
            with contained(f"embedding the condition of rule {rule.name}") as outcome:
                unit = await self._unit(rule.settings.condition)
                # in a worker thread: an erasure may hold the watcher's lock for long
                await pools.alerts(self.watcher.arm, rule, unit)
            if outcome.error is not None:
                self.watcher.problems[rule.name] = f"its condition cannot be embedded: {words_of(outcome.error)}"

    async def _unit(self, condition: str) -> NDArray[np.float32]:
        features: TextFeatures = await self._answering.embed(condition)
        return features.unit

    def problems(self) -> dict[str, str]:
        """Return the problem of every rule that has one, as text for the operator, by rule name."""
        return self.watcher.rule_problems()

    # --- the three tasks ---

    async def _see(self) -> None:
        if not self._begun:
            await self.begin()
        self._more_frames.set()  # process the frames that a failed run left over
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
            self._check_settled()

    async def _judge(self) -> None:
        self._more_waiting.set()  # judge the frames that a failed run left over
        async with asyncio.TaskGroup() as judging:
            while True:
                await self._more_waiting.wait()
                self._more_waiting.clear()
                while self._waiting and self._num_judging < self._answering.answerer.concurrency:
                    self._num_judging += 1
                    self._num_in_work += 1
                    pending = self._waiting.popleft()
                    judging.create_task(self._decide_or_refuse(pending), name=f"alerts: judge {pending.rule}")
                self._check_settled()

    async def _decide_or_refuse(self, pending: Pending) -> None:
        """Judge one frame. On an unforeseen failure, record for the rule that there will be no verdict."""
        try:
            with contained(f"judging for rule {pending.rule}") as outcome:
                await self._decide(pending)
            if outcome.error is not None:
                with contained(f"telling rule {pending.rule} that there is no verdict"):
                    await pools.alerts(self.watcher.refused, pending, "judge_unavailable", words_of(outcome.error))
        finally:
            self._num_judging -= 1
            self._num_in_work -= 1
            self._more_waiting.set()

    async def _decide(self, pending: Pending) -> None:
        """Judge one frame and pass the verdict, or the reason why there is none, to the object that runs the rules."""
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
        """Store the states of the rules. When the disk fails, log the error: the next call tries again."""
        try:
            self.watcher.flush()
        except StorageError as error:
            log.error("states of rules not written", extra={"error": str(error)})

    def _check_settled(self) -> None:
        if not (self._frames or self._waiting or self._num_in_work):
            self._settled.set()

    # --- rules ---

    async def put(self, name: str, settings: RuleSettings, *, new: bool = False, switched: bool = False) -> None:
        """Create or change a rule; see `Rules.put`. Raises Problem, or StorageError when it cannot be stored.

        A condition that says nothing a camera can see is refused.
        """
        problem, is_nonsense = await self.doubts(settings.condition)
        if is_nonsense:
            raise BadRequest(f"The rule is refused: {problem}.", param="condition")
        unit = await self._unit(settings.condition)
        await pools.alerts(self.watcher.put, name, settings, unit, new=new, switched=switched)

    async def doubts(self, condition: str) -> tuple[str, bool]:
        """Return why a condition may not work, "" if it should, and whether it must be refused."""
        return await pools.questions(problem_of, condition, self._answering.answerer.judge_manner == "question")

    async def try_rule(self, trial: Trial, report: Report) -> Outcome:
        """Replay a rule over stored frames, one dry run at a time. Raises DryRunBusy or another Problem."""
        if self._trying:
            raise DryRunBusy
        self._trying = True
        try:
            unit = await self._unit(trial.rule.condition)
            run = DryRun(trial, unit, store=self._memory, judge=self.judge, zone_of=self._zone_of, report=report)
            return await run.run()
        finally:
            self._trying = False

    async def describe(self, name: str) -> dict[str, object]:
        """Return a rule as the REST API shows it. Raises UnknownRule."""
        return await pools.alerts(self.watcher.describe, name)


def open_alert_store(settings: Settings) -> AlertStore:
    """Open the alert store of the data folder. Raises StorageError."""
    return AlertStore(
        settings.data_dir / ALERTS_FILE,
        max_alerts=settings.alerts.max_alerts,
        max_suppressed=settings.alerts.max_alerts,
    )


def open_engine(
    alert_store: AlertStore,
    memory: MemoryStore,
    answering: Answering,
    *,
    settings: Settings,
    metrics: Metrics,
    clock: Callable[[], float],
    zone_of: Callable[[str], str],
    cameras: Callable[[], Iterable[str]],
    model: str,
) -> Engine:
    """Return the engine with the rules of the settings and of the alert store. Raises StorageError.

    clock: returns unix seconds. zone_of: returns a camera's time zone. cameras: returns the names of all cameras.
    model: name of the model that judges, written into every event.
    """
    watcher = Watcher(
        alert_store,
        Rules(alert_store, settings.rules),
        memory,
        Recorder(alert_store, memory, metrics=metrics, clock=clock, model=model),
        clock=clock,
        zone_of=zone_of,
        cameras=cameras,
    )
    return Engine(
        watcher,
        Judge(answering),
        answering,
        memory=memory,
        metrics=metrics,
        clock=clock,
        zone_of=zone_of,
    )
