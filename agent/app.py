"""The agent: connects cameras, memory, model, answers and alerts with each other, and runs them.

Every task runs under the supervisor, which restarts it after a failure, so no task can end the agent or another task.
Leaving the `async with` block of `Agent.running` ends all tasks, then closes the memory and the lanes (the queues of
work for the vision and the language model).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from agent.alerts.engine import Engine, open_alert_store, open_engine
from agent.alerts.outbox import MQTT, webhook_sink
from agent.alerts.store import erase_from_alerts
from agent.alerts.webhooks import Webhook, delivery_readers
from agent.ask.answer import Answering
from agent.ask.egress import Resolver, system_resolver
from agent.ask.model import load_model, make_answerer
from agent.ask.scope import known_cameras
from agent.health import HealthChecks
from agent.ingest.backlog import Backlog
from agent.ingest.cameras import Cameras, newest_if_aging
from agent.ingest.clock import Clock, running_s
from agent.ingest.encoder import Encoding
from agent.keep.disk import disk_problem
from agent.keep.erasing import Erasing
from agent.keep.housekeeping import Housekeeping
from agent.keep.memory import open_memory
from agent.metrics import Metrics, Reader, Reading, memory_readers, value_reader
from agent.mqtt.bridge import Bridge, open_bridge
from agent.runtime import pools
from agent.runtime.lanes import Lane
from agent.runtime.stopwatch import probe_lag
from agent.runtime.supervisor import Supervisor, Work
from agent.settings.settings import Settings
from memory.store import MemoryStore

if TYPE_CHECKING:
    from model.clip_encoder import ClipEncoder
    from model.video_model import VideoModel

BACKLOG_FRAMES = 4096


class Agent:
    """All parts of the running agent, which share one memory and one model."""

    def __init__(
        self,
        settings: Settings,
        store: MemoryStore,
        model: "VideoModel | ClipEncoder",
        clock: Callable[[], float] = time.time,
        resolve: Resolver = system_resolver,
        running_s: Callable[[], float] = running_s,
    ) -> None:
        """clock: returns the system clock's unix seconds. running_s: returns monotonic seconds. resolve: resolves the
        host name of a remote answerer."""
        self.settings, self.store, self.model = settings, store, model
        self.clock = clock
        self.started = clock()
        self.metrics = Metrics()
        self.health = HealthChecks()
        self.supervisor = Supervisor()
        self.clocks = Clock(clock, running_s, newest_if_aging(settings, store))
        self.backlog = Backlog(BACKLOG_FRAMES)
        self.cameras = Cameras(settings, store, self.backlog, self.metrics, self.supervisor, self.clocks)
        self.vision, self.language = Lane("vision"), Lane("language")
        self.answerer = make_answerer(
            settings,
            store,
            model,
            vision=self.vision,
            language=self.language,
            zone_of=self.cameras.zone_of,
            resolve=resolve,
            now=clock,
        )
        self.encoding = Encoding(
            store, model, self.vision, self.backlog, self.metrics, needs_patches=self.answerer.needs_patches
        )
        self.answering = Answering(
            store,
            model,
            self.answerer,
            language=self.language,
            settings=settings.answering,
            metrics=self.metrics,
            zone_of=self.cameras.zone_of,
            known=lambda: known_cameras(settings, store, self.cameras.names(), self.clocks.now()),
        )
        self.alert_store = open_alert_store(settings)
        self.alerts = self._engine()
        self.encoding.sighted = self.alerts.frame
        self.erasing = Erasing(settings.data_dir, clock=self.clocks.now, newest=lambda name: store.stats(name).newest)
        self.erasing.add("frames", self.cameras.erase)
        self.erasing.add("alerts", erase_from_alerts(self.alert_store))
        self.housekeeping = Housekeeping(settings, store, self.cameras, self.clocks, self.erasing)
        self.webhooks = [Webhook(name, each, self.alert_store, clock) for name, each in settings.webhooks.items()]
        self.bridge = self._bridge()
        self.alert_store.sinks = (*((MQTT,) if self.bridge else ()), *map(webhook_sink, settings.webhooks))
        self._add_checks()
        self._add_metrics()

    def _engine(self) -> Engine:
        settings = self.settings
        return open_engine(
            self.alert_store,
            self.store,
            self.answering,
            settings=settings,
            metrics=self.metrics,
            clock=self.clocks.now,
            zone_of=self.cameras.zone_of,
            cameras=self.cameras.names,
            model=self.answerer.model_name,
        )

    def _bridge(self) -> Bridge | None:
        return open_bridge(
            self.settings,
            self.store,
            self.alert_store,
            self.alerts.watcher,
            self.cameras,
            self.answering,
            self.health,
            self.metrics,
            clock=self.clock,
            model=self.model.info.name,
        )

    def _add_checks(self) -> None:
        add, encoding, answerer, bridge = self.health.add, self.encoding, self.answerer, self.bridge

        def encoder_problem() -> str | None:
            return encoding.test_problem or encoding.problem

        def encoder_delay() -> str | None:
            return None if encoder_problem() else encoding.delay_problem(self.clocks.now())

        def disk_full() -> str | None:
            full = "the disk is full: frames are being lost" if self.store.status().full else None
            return full or disk_problem(self.settings.data_dir)

        def failed_tasks() -> dict[str, str]:  # that of a camera is reported as the camera's problem
            failed = self.supervisor.problems().items()
            return {task: f"{task} {words}" for task, words in failed if not task.startswith("camera ")}

        add("encoder", "encoder", encoder_problem, stops=True)
        add("encoder", "encoder", encoder_delay)
        add("disk", "disk", disk_full, stops=True)
        add("memory", "housekeeping", lambda: self.housekeeping.problem)
        add("memory", "memory", lambda: self.store.problem)
        add("memory", "erasing", lambda: self.erasing.problem)
        add("disk", "disk", lambda: self.housekeeping.filling_problem)
        self.health.add("answerer", "question reader", lambda: self.answering.understanding.degraded or None)
        self.health.add_all("cameras", self.cameras.problems)
        self.health.add_all("rules", lambda: {f"rule {name}": why for name, why in self.alerts.problems().items()})
        add("answerer", "answerer", lambda: answerer.problem)
        add("clock", "clock", lambda: self.clocks.problem)
        self.health.add_all("clock", self.cameras.clock_problems)
        if bridge is not None:
            add(MQTT, MQTT, lambda: bridge.problem)
        for webhook in self.webhooks:
            add(webhook.sink, webhook.sink, partial(getattr, webhook, "problem"))
        self.health.add_all("tasks", failed_tasks)

    def _add_metrics(self) -> None:
        watch, backlog, turns, alerts = self.metrics.watch, self.backlog, self.answering.queue.turns, self.alerts
        watch(self.health.readers())

        def failures() -> list[Reading]:
            counts = list(self.supervisor.num_failures.items())
            return [({"stage": task}, float(count)) for task, count in counts]

        watch([Reader("vilamp_task_failures_total", "Failures of tasks, which were restarted.", ("stage",), failures)])
        watch(memory_readers(self.store))
        watch(self.cameras.readers())
        watch(delivery_readers(self.alert_store, self.webhooks))
        values: list[tuple[str, str, Callable[[], float]]] = [
            ("vilamp_backlog_frames", "Frames listed for the encoder.", lambda: len(backlog)),
            ("vilamp_backlog_deferred_total", "Frames not listed, found on disk later.", lambda: backlog.num_deferred),
            ("vilamp_questions_open", "Questions being answered or waiting.", lambda: turns.num_inside),
            ("vilamp_judge_waiting", "Frames waiting for a verdict.", lambda: alerts.num_waiting),
            ("vilamp_alert_frames_dropped_total", "Frames that no rule saw.", lambda: alerts.num_dropped),
        ]
        watch(value_reader(*value) for value in values)

    def _tasks(self) -> Iterator[tuple[str, Work]]:
        """Yield the name and the function of each task that runs as long as the agent."""
        yield "encoding", self.encoding.run
        yield "housekeeping", self.housekeeping.run
        yield "erasing", self.housekeeping.finish_erasures
        yield "event loop probe", partial(probe_lag, lambda lag_s: self.metrics.event_loop_lag.observe(lag_s))
        if self.encoding.test_problem is not None:
            yield "encoder test", self.encoding.test_again
        yield from self.alerts.tasks()
        if self.bridge is not None:
            yield MQTT, self.bridge.run
        for webhook in self.webhooks:
            yield webhook.sink, webhook.run
        yield from self.answerer.tasks()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Agent"]:
        """Context manager: run the agent inside the block, and yield it.

        Raises NoThreads if the system refuses the threads that it needs.
        """
        try:
            pools.start_all()
            asyncio.get_running_loop().set_default_executor(pools.start_threads("convert", pools.CORES))
            await self.encoding.test()
            await pools.erasing(self.erasing.resume)
            async with self.supervisor.running() as supervisor:
                for name, work in self._tasks():
                    supervisor.keep(name, work)
                self.cameras.connect_all()
                try:
                    yield self
                finally:
                    await self.cameras.close()
        finally:
            await pools.upkeep(self._close)

    def _close(self) -> None:
        with ExitStack() as closing:  # closes the last of the list first; one that fails does not stop the others
            for close in (
                self.store.close,
                self.alert_store.close,
                self.alerts.flush,
                self.language.close,
                self.vision.close,
            ):
                closing.callback(close)

    async def encoded(self) -> None:
        """Wait until every frame stored so far is encoded, or found to be impossible to encode."""
        await self.encoding.finish()


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Agent]:
    """Context manager: load the model, open the memory, run the agent inside the block, and yield it.

    Does not block the event loop. Raises ModelUnusable, memory.errors.StorageError, NoThreads.
    """
    model = await pools.upkeep(load_model, settings)
    store = await pools.upkeep(open_memory, settings, model)
    async with Agent(settings, store, model).running() as agent:
        yield agent
