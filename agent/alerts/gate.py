"""The gate: does a camera's picture look more like a rule's condition than it usually does?

In: one number per frame, the cosine of the frame's embedding with the condition's, and the frame's time. Out: a score in
units of the camera's own spread around its own running background, and whether the gate is open, with hysteresis. Because
the unit is the camera's own, a rule needs no calibration for the place, the light or the encoder.

Pure: time comes in as an argument, the state is a value that can be written as JSON. Knows no pictures and no model.
"""

import math
from dataclasses import dataclass, replace

from agent.settings.rules import GateSettings

# Measured in docs/alerts-evaluation.md on worlds the model was not trained on; they suit every camera, because scores
# are in spreads of the camera's own background.
SURGE = 1.5  # an open gate surges at this multiple of its last peak
OPEN_FACTOR = 4.0  # how much slower the background is learnt while the gate is open
WARM_UP_FRAMES = 30  # before the gate may open; later no frame weighs more than 1/30
MIN_SPREAD = 0.002  # cosine; a smaller spread is noise of the embedding


@dataclass(frozen=True, slots=True)
class GateState:
    """The gate of one rule at one camera."""

    level: float = 0.0  # running background of the similarity, a cosine
    spread: float = 0.0  # running mean distance from the level, a cosine
    first: tuple[float, ...] = ()  # similarities of the warm-up, while it lasts
    warm: bool = False
    time: float | None = None  # unix seconds of the last frame
    open: bool = False
    peak: float = 0.0  # score at which it opened, or at the last surge since


@dataclass(frozen=True, slots=True)
class GateReading:
    """The gate at one frame. `rose`: it has just opened. `surged`: it was open, and the score has grown much further:
    something half in view has come in, or something else has come."""

    score: float
    open: bool
    rose: bool
    surged: bool = False


def step(settings: GateSettings, state: GateState, *, time: float, similarity: float) -> tuple[GateState, GateReading]:
    """Return the next state and the reading for the frame at `time` (unix seconds).

    similarity: cosine in -1..1. A frame that is not newer than the last changes nothing but is still read.
    """
    newer = state.time is None or time > state.time
    if not state.warm:
        state = _warmed(state, time, similarity) if newer else state
        return state, GateReading(0.0, False, False)
    away = similarity - state.level
    unit = max(state.spread, MIN_SPREAD)
    score = away / unit
    is_open = score >= (settings.off if state.open else settings.on)
    rose = is_open and not state.open
    surged = is_open and state.open and score >= SURGE * state.peak
    reading = GateReading(score, is_open, rose, surged)
    if not newer or state.time is None:
        return state, reading
    # an event, however strong, moves the background no more than one at the threshold
    away = min(max(away, -settings.on * unit), settings.on * unit)
    seconds = settings.background_s * (OPEN_FACTOR if is_open else 1.0)
    share = min(-math.expm1((state.time - time) / seconds), 1 / WARM_UP_FRAMES)
    spread = state.spread if is_open else state.spread + share * (abs(away) - state.spread)
    peak = score if rose or surged else state.peak
    return replace(state, level=state.level + share * away, spread=spread, time=time, open=is_open, peak=peak), reading


def _warmed(state: GateState, time: float, similarity: float) -> GateState:
    """Add one frame to the warm-up; at its end set the background to where the similarities lie closest together.

    That is the narrowest third of them, so events may fill half of the warm-up and more. For normal noise, the width of
    that third is about the mean distance from the middle.

    Worked example, six frames: .20 .50 .21 .61 .22 .48 -> the narrowest two are .20 .21: level .205, spread .01.
    """
    first = (*state.first, similarity)
    if len(first) < WARM_UP_FRAMES:
        return replace(state, first=first, time=time)
    ranked = sorted(first)
    count = max(2, math.ceil(len(ranked) / 3))
    low, high = min(zip(ranked, ranked[count - 1 :], strict=False), key=lambda ends: ends[1] - ends[0])
    return GateState(level=(low + high) / 2, spread=high - low, warm=True, time=time)
