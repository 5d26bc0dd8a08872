"""Measure time: the stages of one piece of work, and the delay of the event loop."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

LAG_PROBE_S = 0.1


class Stopwatch:
    """Measures milliseconds per named stage, in the order in which the stages ended. Repeated stages are added up."""

    def __init__(self) -> None:
        self.started = perf_counter()
        self.timings_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Context manager: add the block's duration to stage `name`, even if the block raises."""
        begun = perf_counter()
        try:
            yield
        finally:
            self.timings_ms[name] = self.timings_ms.get(name, 0.0) + 1000 * (perf_counter() - begun)

    def total_ms(self) -> float:
        """Return the milliseconds since this stopwatch was created."""
        return 1000 * (perf_counter() - self.started)


async def probe_lag(observe: Callable[[float], object]) -> None:
    """Every LAG_PROBE_S, call `observe` with the event loop's delay in seconds. Never returns."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_PROBE_S
        await asyncio.sleep(LAG_PROBE_S)
        observe(max(0.0, loop.time() - due))
