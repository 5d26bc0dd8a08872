"""Health: what does not work at the moment, in words. The one source for `/readyz`, `/v1/cameras`, MQTT and metrics.

The agent is ready while frames can be stored and questions asked; it is degraded while anything does not work. Each part
describes its own problem; this file only collects the descriptions.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from agent.metrics import Reader, Reading
from memory.files import opened

MIN_FREE_BYTES = 64 << 20
CHECKS = ("model", "encoder", "disk", "memory", "cameras", "rules", "answerer", "clock", "tasks")  # always shown


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that does not work."""

    check: str  # its kind: one of CHECKS, or the name of a sink
    part: str  # its name, such as "camera door"
    problem: str  # in words, for an operator
    stops: bool = False  # True: no frame can be stored, or no question asked, until it is solved


@dataclass(frozen=True, slots=True)
class Health:
    """All troubles at one moment, and which checks were made."""

    troubles: tuple[Trouble, ...]
    checks: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """False while no frame can be stored or no question asked."""
        return not any(trouble.stops for trouble in self.troubles)

    @property
    def degraded(self) -> bool:
        """True while anything does not work."""
        return bool(self.troubles)

    def public(self) -> dict[str, Any]:
        """Return a summary for anybody, without the names of cameras and rules."""
        checks = dict.fromkeys(self.checks, "ok")
        for check, group in groupby(sorted(self.troubles, key=lambda each: each.check), lambda each: each.check):
            troubles = list(group)
            if check in ("cameras", "rules"):
                several = len(troubles) > 1
                checks[check] = (
                    f"{len(troubles)} {check if several else check[:-1]} {'do' if several else 'does'} not work"
                )
            else:
                checks[check] = "; ".join(trouble.problem for trouble in troubles)
        return {"ready": self.ready, "degraded": self.degraded, "checks": checks}

    def private(self) -> dict[str, Any]:
        """Return the summary and each trouble with the name of its part, for callers who may ask questions."""
        listed = [{"part": each.part, "problem": each.problem, "stops": each.stops} for each in self.troubles]
        return {**self.public(), "problems": listed}


class HealthChecks:
    """The checks of one agent, in the order in which their troubles are listed."""

    def __init__(self) -> None:
        self._names = list(CHECKS)
        self._checks: list[Callable[[], Iterator[Trouble]]] = []

    def add(self, check: str, part: str, problem: Callable[[], str | None], *, stops: bool = False) -> None:
        """Add a part. `problem` returns what is wrong with it, or None; it may read the disk."""

        def troubles() -> Iterator[Trouble]:
            if (found := problem()) is not None:
                yield Trouble(check, part, found, stops)

        if check not in self._names:
            self._names.append(check)
        self._checks.append(troubles)

    def add_all(self, check: str, problems: Callable[[], Mapping[str, str]]) -> None:
        """Add parts whose number varies. `problems` returns those that do not work, with what is wrong."""
        self._checks.append(lambda: (Trouble(check, part, problem) for part, problem in problems().items()))

    def run(self) -> Health:
        """Make all checks. Blocking: some read the disk, one writes a small file."""
        return Health(tuple(trouble for troubles in self._checks for trouble in troubles()), tuple(self._names))

    def readers(self) -> list[Reader]:
        """Return the metric that counts troubles by check."""

        def counts() -> list[Reading]:
            health = self.run()
            num = Counter(trouble.check for trouble in health.troubles)
            return [({"stage": check}, float(num[check])) for check in health.checks]

        return [Reader("vilamp_problems", "Things that do not work, by check.", ("stage",), counts)]


def disk_problem(folder: Path, min_free_bytes: int = MIN_FREE_BYTES) -> str | None:
    """Return why frames cannot be stored in `folder`, in words; None if it can be written and has room."""
    probe = folder / ".ready"
    try:
        with opened(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:  # from the descriptors reserved for frames
            os.write(fd, b"ready")
            os.fsync(fd)
        probe.unlink(missing_ok=True)  # another check may run at the same time
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"the data folder cannot be written: {error.strerror}"
    if free < min_free_bytes:
        return f"the disk is full: {free >> 20} MiB free, at least {min_free_bytes >> 20} MiB are needed"
    return None
