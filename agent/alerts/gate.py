"""The gate: does a camera's picture look more like a rule's condition than it usually does?

Input: the time of each frame, and its similarity, which is the cosine of the frame's embedding with the condition's.
Output: whether the gate is open, and a score. The score is how far the similarity is above the camera's running average
(the background), divided by its usual deviation from that average (the spread). So a rule needs no calibration for the
place, the light or the encoder. The gate opens at one threshold and closes at a lower one (hysteresis).

Pure functions: time is an argument, and the state is a value that can be written as JSON. Uses no pictures and no model.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from agent.settings.rules import GateSettings

# Chosen by measurements on worlds that the model was not trained on (docs/alerts-evaluation.md). They suit every camera
# and encoder, because a score is measured in spreads of the camera's own background.
SURGE = 1.5  # an open gate surges when the rise above the background reaches this multiple of its last peak
OPEN_FACTOR = 4.0  # the background is learnt this many times slower while the gate is open
QUARTER_OF_STEPS = 1.77  # mean distance of normal noise, in units of the step that a quarter of the steps are below
WARM_UP_FRAMES = 30  # before the gate may open; later no frame counts for more than 1/30 of the background
LEAST_SHARE = 1e-3  # the spread counts as at least this share of the largest rise seen: drawn pictures have no noise
MIN_SPREAD = 1e-6  # cosine; a smaller spread is rounding, as of pictures that are repeated bit by bit


@dataclass(frozen=True, slots=True)
class GateState:
    """The state of one rule's gate at one camera: whether it is open, and the background that it has learnt.

    The background is how similar the camera's frames usually are to the rule's condition.
    """

    level: float = 0.0  # running background of the similarity, a cosine
    spread: float = 0.0  # running mean distance from the level, a cosine
    largest: float = 0.0  # largest distance from the level so far, a cosine
    first: tuple[float, ...] = ()  # similarities of the warm-up, while it lasts
    warm: bool = False
    time: float | None = None  # unix seconds of the last frame
    open: bool = False
    peak: float = 0.0  # rise above the level when the gate opened, or at the last surge since then, a cosine


@dataclass(frozen=True, slots=True)
class GateReading:
    """What a rule's gate (the cheap check before the judge is asked) says about one frame.

    rose: the gate opened at this frame. surged: it was open before, and the rise has grown much further (SURGE times),
    as when something that was half in view comes in, or when another thing comes.
    """

    score: float
    open: bool
    rose: bool
    surged: bool = False


def step(settings: GateSettings, state: GateState, *, time: float, similarity: float) -> tuple[GateState, GateReading]:
    """Return the next state of a rule's gate, and its reading (open or not, and the score) for the frame at `time`.

    time: unix seconds. similarity: of the frame and the rule's condition, a cosine in -1..1. A frame that is not newer
    than the last one gets a reading but does not change the state.
    """
    newer = state.time is None or time > state.time
    if not state.warm:
        state = _warmed(state, time, similarity) if newer else state
        return state, GateReading(0.0, False, False)
    away = similarity - state.level
    largest = max(state.largest, abs(away))
    unit = max(state.spread, LEAST_SHARE * largest, MIN_SPREAD)
    score = away / unit
    is_open = score >= (settings.off if state.open else settings.on)
    rose = is_open and not state.open
    surged = is_open and state.open and away >= SURGE * state.peak
    reading = GateReading(score, is_open, rose, surged)
    if not newer or state.time is None:
        return state, reading
    peak = away if rose or surged else state.peak
    # an event, however strong, moves the background no more than an event at the threshold does
    away = min(max(away, -settings.on * unit), settings.on * unit)
    seconds = settings.background_s * (OPEN_FACTOR if is_open else 1.0)
    share = min(-math.expm1((state.time - time) / seconds), 1 / WARM_UP_FRAMES)
    spread = state.spread if is_open else state.spread + share * (abs(away) - state.spread)
    level = state.level + share * away
    return replace(state, level=level, spread=spread, largest=largest, time=time, open=is_open, peak=peak), reading


def _warmed(state: GateState, time: float, similarity: float) -> GateState:
    """Return the state of a gate with one more frame of the warm-up, in which it learns the camera's usual similarity.

    The last frame of the warm-up sets the first level and spread.

    Both come from the third of the similarities that lie closest together: the level is the middle of that third, and
    the spread is its width, which for normal noise is about the mean distance from the middle. So the background is
    right even when half of the warm-up frames show events. A few frames may lie close together by chance, so the spread
    is at least what the smaller steps from frame to frame say.

    Worked example, six frames: .20 .21 .50 .61 .22 .48 -> the closest two are .20 .21: level .205, width .01; a quarter
    of the steps .01 .29 .11 .39 .26 is below .11: spread 1.8 * .11.
    """
    first = (*state.first, similarity)
    if len(first) < WARM_UP_FRAMES:
        return replace(state, first=first, time=time)
    ranked = sorted(first)
    count = max(2, math.ceil(len(ranked) / 3))
    low, high = min(zip(ranked, ranked[count - 1 :], strict=False), key=lambda ends: ends[1] - ends[0])
    steps = sorted(abs(after - before) for before, after in pairwise(first))
    spread = max(high - low, QUARTER_OF_STEPS * steps[len(steps) // 4])
    return GateState(level=(low + high) / 2, spread=spread, largest=ranked[-1] - ranked[0], warm=True, time=time)
