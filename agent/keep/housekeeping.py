"""Housekeeping: the regular work on the data folder, done every few seconds.

Deletes frames by age, syncs written data to disk, corrects the times of frames after the system clock was set,
estimates when the disk will be full, and completes erasures that were interrupted.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from functools import partial

from agent.ingest.cameras import Cameras
from agent.ingest.clock import Clock
from agent.keep.caps import this_machine
from agent.keep.erasing import Erasing
from agent.keep.filling import filling_problem
from agent.keep.holdings import holdings
from agent.runtime import pools
from agent.runtime.supervisor import contained, words_of
from agent.settings.settings import Settings
from memory.store import MemoryStore

PERIOD_S = 5.0


class Housekeeping:
    """Has two tasks, `run` and `finish_erasures`. A step that fails (a full or failing disk) is tried again next time."""

    def __init__(
        self, settings: Settings, store: MemoryStore, cameras: Cameras, clock: Clock, erasing: Erasing
    ) -> None:
        self.problem: str | None = None  # why the last round failed, as text for the operator
        self.filling_problem: str | None = None  # advice if the disk will be full before the memory's limits
        self._settings = settings
        self._store = store
        self._cameras = cameras
        self._clock = clock
        self._erasing = erasing

    async def run(self) -> None:
        """Run all steps every PERIOD_S until cancelled. A step that fails does not stop the others."""
        while True:
            await asyncio.sleep(PERIOD_S)
            steps: list[tuple[str, Callable[[], Awaitable[object]]]] = [
                ("deleting frames by age", partial(pools.upkeep, self._store.expire, self._clock.read().age_from)),
                ("syncing the memory", partial(pools.upkeep, self._store.maintain)),
            ]
            for camera, intake in list(self._cameras.intakes.items()):
                steps.append((f"correcting times of camera {camera}", intake.settle))
            problem: str | None = None
            for name, step in steps:
                with contained(name) as outcome:
                    await step()
                if outcome.error is not None:
                    problem = words_of(outcome.error)
            with contained("estimating when the disk is full"):
                self.filling_problem = await pools.upkeep(self._look_ahead)
            self.problem = problem

    async def finish_erasures(self) -> None:
        """Complete unfinished erasures every PERIOD_S until cancelled. A separate task, as an erasure may take minutes."""
        while True:
            await asyncio.sleep(PERIOD_S)
            with contained("erasing"):  # `Erasing.problem` says why it failed
                await pools.erasing(self._erasing.resume)

    def _look_ahead(self) -> str | None:
        machine = this_machine(self._settings.data_dir)
        held = [holdings(name, self._store.stats(name), self._settings, machine) for name in self._store.cameras()]
        return filling_problem(held, self._settings, machine, shutil.disk_usage(self._settings.data_dir).free)
