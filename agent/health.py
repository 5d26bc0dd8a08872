"""Health: what does not work at the moment, as text for the operator. Used by `/readyz`, `/v1/cameras`, MQTT and metrics.

The agent is ready while frames can be stored and questions asked; it is degraded while anything does not work. Each
part of the agent describes its own problem; this module only collects the descriptions.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from agent.metrics import Reader, Reading

CHECKS = ("model", "encoder", "disk", "memory", "cameras", "rules", "answerer", "clock", "tasks")  # always shown


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that does not work."""

    check: str  # kind of the part: one of CHECKS, "mqtt" or "webhook:<name>"
    part: str  # name of the part, such as "camera door"
    problem: str  # text for the operator
    stops: bool = False  # True: until it is solved, no frame can be stored or no question asked


@dataclass(frozen=True, slots=True)
class Health:
    """The result of all checks at one moment: the troubles found, and the names of the checks made."""

    troubles: tuple[Trouble, ...]
    checks: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Whether frames can be stored and questions asked."""
        return not any(trouble.stops for trouble in self.troubles)

    @property
    def degraded(self) -> bool:
        """Whether anything does not work."""
        return bool(self.troubles)

    def public(self) -> dict[str, Any]:
        """Return the summary for any caller, even without a token, as JSON types. It contains no names of cameras and rules."""
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
        """Return the summary for callers who may ask questions, as JSON types. It lists each trouble with its part."""
        listed = [{"part": each.part, "problem": each.problem, "stops": each.stops} for each in self.troubles]
        return {**self.public(), "problems": listed}


class HealthChecks:
    """The checks of one agent, in the order in which their troubles are listed."""

    def __init__(self) -> None:
        self._names = list(CHECKS)
        self._checks: list[Callable[[], Iterator[Trouble]]] = []

    def add(self, check: str, part: str, problem: Callable[[], str | None], *, stops: bool = False) -> None:
        """Add the check of one part.

        problem: returns what is wrong with the part, or None; it may read the disk. stops: see `Trouble`.
        """

        def troubles() -> Iterator[Trouble]:
            if (found := problem()) is not None:
                yield Trouble(check, part, found, stops)

        if check not in self._names:
            self._names.append(check)
        self._checks.append(troubles)

    def add_all(self, check: str, problems: Callable[[], Mapping[str, str]]) -> None:
        """Add the check of parts whose number varies. problems: returns what is wrong, by the name of the part."""
        self._checks.append(lambda: (Trouble(check, part, problem) for part, problem in problems().items()))

    def run(self) -> Health:
        """Make all checks, and return the result. Blocking: some read the disk, and one writes a small file."""
        return Health(tuple(trouble for troubles in self._checks for trouble in troubles()), tuple(self._names))

    def readers(self) -> list[Reader]:
        """Return a list with one metric, the number of troubles of each check."""

        def counts() -> list[Reading]:
            health = self.run()
            num = Counter(trouble.check for trouble in health.troubles)
            return [({"stage": check}, float(num[check])) for check in health.checks]

        return [Reader("vilamp_problems", "Things that do not work, by check.", ("stage",), counts)]
