"""The nouns of watching: an encoded frame, a frame that waits for the judge, and one rule at one camera."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.alerts.machine import RuleState, resumed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """An encoded frame: its embedding as a unit vector (D,) float32."""

    camera: str
    frame_id: int
    time: float  # unix seconds
    unit: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pending:
    """A frame that a rule wants judged."""

    rule: str
    camera: str
    frame_id: int
    time: float


@dataclass(slots=True)
class Watch:
    """One rule at one camera: the machine's state, and what is counted."""

    rule: str
    camera: str
    state: RuleState = field(default_factory=RuleState)
    alert_id: str | None = None  # of the alert that is on
    condition: str = ""  # with which it fired
    judge_calls: int = 0
    suppressed: Counter[str] = field(default_factory=Counter)
    written: bool = False  # as it is, it is in the book

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "machine": self.state.to_json(),
            "alert_id": self.alert_id,
            "condition": self.condition,
            "judge_calls": self.judge_calls,
            "suppressed": dict(self.suppressed),
        }

    @classmethod
    def read(cls, rule: str, camera: str, value: Mapping[str, Any]) -> "Watch":
        """As it was written; what another version wrote begins anew."""
        try:
            state = resumed(RuleState.from_json(value["machine"]))
            counted = Counter(value["suppressed"])
            return cls(rule, camera, state, value["alert_id"], value["condition"], value["judge_calls"], counted, True)
        except (TypeError, KeyError, ValueError) as error:
            log.warning("state not read", extra={"rule": rule, "camera": camera, "error": str(error)})
            return cls(rule, camera)

    def describe(self, *, enabled: bool, snoozed_until: float) -> dict[str, Any]:
        """As REST shows it (docs/alerts.md)."""
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
