"""Milliseconds per stage, in the order in which the stages ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


class Stopwatch:
    """Times named stages; a stage entered twice adds up."""

    def __init__(self) -> None:
        self.started = perf_counter()
        self.timings_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block under `name`, however it is left."""
        begun = perf_counter()
        try:
            yield
        finally:
            self.timings_ms[name] = self.timings_ms.get(name, 0.0) + 1000 * (perf_counter() - begun)

    def total_ms(self) -> float:
        """Since this stopwatch was made."""
        return 1000 * (perf_counter() - self.started)
