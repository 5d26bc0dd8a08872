"""The gate: does a camera's picture look more like a rule's condition than it usually does?

In: one number per frame, the cosine of the frame's embedding with the condition's, and the frame's time. Out: a score
in units of that camera's own spread about its own running background, and whether the gate is open, with hysteresis.
Because the unit is the camera's own, a rule needs no calibration by hand: not for the place, the light or the encoder.

Pure: time comes in as an argument, the state is a value that can be written as JSON. It knows no pictures, no model and
no rules; what an open gate means is the machine's to say.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import Field, model_validator

from agent.config_types import Part


class GateSettings(Part):
    """When a frame is unusual enough to be looked at. Scores are in spreads of the camera's own background."""

    on: float = Field(default=5.0, gt=0, le=100, description="the gate opens at this score")
    off: float = Field(default=2.5, gt=0, le=100, description="an open gate closes below this score")
    background_s: float = Field(default=180.0, gt=0, le=86400, description="seconds in which the background is learnt")
    open_factor: float = Field(default=10.0, ge=1, description="how much slower it is learnt while the gate is open")
    warm_up_frames: int = Field(default=20, ge=2, le=10_000, description="frames before the gate may open")
    min_spread: float = Field(default=0.005, gt=0, le=1, description="a spread is taken to be at least this cosine")

    @model_validator(mode="after")
    def _hysteresis(self) -> "GateSettings":
        if self.off > self.on:
            raise ValueError("off must not be above on: the gate would open and close at every frame")
        return self


@dataclass(frozen=True, slots=True)
class GateState:
    """What is remembered of one rule at one camera."""

    level: float = 0.0  # running background of the similarity, a cosine
    spread: float = 0.0  # running mean distance from it, a cosine
    num_frames: int = 0
    time: float | None = None  # unix seconds of the last frame
    open: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; `from_json` gives the same state back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "GateState":
        """Raises TypeError for keys that are not of a gate."""
        return cls(**value)


@dataclass(frozen=True, slots=True)
class GateReading:
    """What the gate says of one frame. `rose`: it has just opened."""

    score: float
    open: bool
    rose: bool


def step(settings: GateSettings, state: GateState, *, time: float, similarity: float) -> tuple[GateState, GateReading]:
    """The next state, and what the gate says of the frame seen at `time` (unix seconds).

    similarity: cosine in -1..1. A frame that is not newer than the last changes nothing but is still read.
    """
    away = similarity - state.level
    unit = max(state.spread, settings.min_spread)
    warm = state.num_frames >= settings.warm_up_frames
    score = away / unit if warm else 0.0
    is_open = score >= (settings.off if state.open else settings.on)
    reading = GateReading(score, is_open, is_open and not state.open)
    if state.time is not None and time <= state.time:
        return state, reading
    if not warm:
        share = 1 / (state.num_frames + 1)
    else:
        elapsed = 0.0 if state.time is None else time - state.time
        share = -math.expm1(-elapsed / (settings.background_s * (settings.open_factor if is_open else 1.0)))
        away = min(max(away, -settings.on * unit), settings.on * unit)
    spread = state.spread if is_open else state.spread + share * (abs(away) - state.spread)
    return replace(
        state,
        level=state.level + share * away,
        spread=spread,
        num_frames=state.num_frames + 1,
        time=time,
        open=is_open,
    ), reading
