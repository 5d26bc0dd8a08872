"""Real clips seen by a real detector: keyframes, false visits and the alert gate beside quiet hours. For `benchmarks.visits`.

The relevance of a frame to a question is the detector's heat of the class that the question names. The clips lie in ../shared.
Quiet frames are made of a clip's own empty ones, with their noise and a slow drift of light.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from agent.alerts.gate import GateState, step
from agent.settings.rules import GateSettings
from benchmarks.selection_rules import Case, Counts, History, count_found, table, unit, within
from model.visits import find_visits

SHARED = Path(__file__).resolve().parents[2] / "shared"
QUIET_FRAMES = (0, 3000, 10_000)
QUIET_HOURS = 20
GATE_QUIET_S = 1800  # before, in the middle of and after each clip
NEAR_S = 3.0  # the gate may open so long before or after an event
SCALES = (1.0, 0.1)  # of the relevance: an encoder whose embeddings lie closer together
LONGEST_RUN = 8  # real frames in a row, in quiet hours that are made of them without added noise


def quiet_relevance(quiet: np.ndarray, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Relevance of a camera with nothing happening: values of quiet frames, their noise once more, a slow drift of light."""
    noise = float(np.median(np.abs(np.diff(quiet)))) * 1.48
    drift = np.cumsum(rng.normal(size=num_frames)) * noise * 0.02
    made: np.ndarray = rng.choice(quiet, num_frames) + rng.normal(size=num_frames) * noise + drift
    return made


def run_footage(eyes: Path, seed: int) -> dict[str, Any]:
    """Keyframes on real clips, alone and beside quiet frames made of their own empty ones; and false visits in quiet hours."""
    sys.path.insert(0, str(SHARED / "eyes"))
    from centernet import LABELS, Detector  # type: ignore[import-not-found]

    detector, rng, found = Detector(eyes), np.random.default_rng(seed), Counts()
    truth = json.loads((SHARED / "footage" / "ground_truth.json").read_text())
    seen = {
        clip: look(detector, SHARED / "footage" / clip, rate_hz)
        for clip, rate_hz in {clip: rate_hz for clip, rate_hz, _, _ in FOOTAGE}.items()
    }
    quiet: list[dict[str, Any]] = []
    gate: list[dict[str, Any]] = []
    for clip, _, classes, words in FOOTAGE:
        heat, pooled, times = seen[clip]
        spans = spans_of(truth[clip]["events"], words, times)
        relevance = heat[:, [LABELS.index(name) for name in classes]].max(axis=1)
        for num_quiet in QUIET_FRAMES:
            history = with_quiet(pooled, relevance, times, spans, num_quiet, rng)
            count_found([Case(history, spans, "visits")], (8,), (str(num_quiet), clip), found)
        quiet.append({"clip": clip, "classes": classes, **quiet_hours(relevance, times, spans, rng)})
        gate += [{"clip": clip, "scale": scale, **gate_opens(scale * relevance, times, spans, rng)} for scale in SCALES]
    return {"keyframes": table(found), "quiet": quiet, "gate": gate}


def spans_of(
    events: list[dict[str, Any]], words: tuple[str, ...], times: np.ndarray
) -> tuple[tuple[float, float], ...]:
    """Seconds of the events whose text has one of the words."""
    named = [event for event in events if any(word in event["text"] for word in words)]
    return tuple((float(event["start"]), float(event["end"] or times[-1])) for event in named)


def quiet_hours(
    relevance: np.ndarray, times: np.ndarray, spans: tuple[tuple[float, float], ...], rng: np.random.Generator
) -> dict[str, Any]:
    """Visits found where nothing happens: in the clip's own quiet stretches, and an hour, in hours made of them.

    made: single quiet frames in any order, with their noise once more and a drift of light. resampled: runs of up to
    LONGEST_RUN quiet frames as they came.
    """
    calm = np.flatnonzero(~np.any([within(times, span) for span in spans], axis=0))
    runs = [run for run in np.split(calm, np.flatnonzero(np.diff(calm) > 1) + 1) if len(run)]
    rate_hz = 1 / float(np.median(np.diff(times)))
    num_frames = int(QUIET_HOURS * 3600 * rate_hz)
    pieces: list[np.ndarray] = []
    while sum(map(len, pieces)) < num_frames:
        run = runs[rng.choice(len(runs), p=np.array(list(map(len, runs))) / len(calm))]
        begin = int(rng.integers(len(run)))
        pieces.append(run[begin : begin + LONGEST_RUN])
    seconds = np.arange(num_frames) / rate_hz
    made = quiet_relevance(relevance[calm], num_frames, rng)
    resampled = relevance[np.concatenate(pieces)[:num_frames]]
    return {
        "real_seconds": round(len(calm) / rate_hz, 1),
        "real": sum(len(find_visits(relevance[run], times[run], [len(run)])) for run in runs),
        "hours_each": QUIET_HOURS,
        "made_per_hour": len(find_visits(made, seconds, [num_frames])) / QUIET_HOURS,
        "resampled_per_hour": len(find_visits(resampled, seconds, [num_frames])) / QUIET_HOURS,
    }


def gate_opens(
    relevance: np.ndarray, times: np.ndarray, spans: tuple[tuple[float, float], ...], rng: np.random.Generator
) -> dict[str, Any]:
    """Events during which the gate of a rule is open, and how often it opens in the quiet hours around them."""
    inside = np.any([within(times, span) for span in spans], axis=0)
    calm = np.flatnonzero(~inside)
    middle = int(calm[np.argmin(np.abs(calm - len(times) // 2))])
    rate_hz = 1 / float(np.median(np.diff(times)))
    count = int(GATE_QUIET_S * rate_hz)
    made = [quiet_relevance(relevance[calm], count, rng) for _ in range(3)]
    signal = np.concatenate([made[0], relevance[:middle], made[1], relevance[middle:], made[2]])
    seconds = np.arange(len(signal)) / rate_hz
    moved = [(start + quiet, end + quiet) for start, end in spans
             for quiet in (GATE_QUIET_S * (1 if start < times[middle] else 2),)]  # fmt: skip
    state, is_open, rose = GateState(), np.zeros(len(signal), bool), np.zeros(len(signal), bool)
    for row, similarity in enumerate(signal.tolist()):
        state, reading = step(GateSettings(), state, time=float(seconds[row]), similarity=similarity)
        is_open[row], rose[row] = reading.open, reading.rose or reading.surged
    near = np.any([(seconds > start - NEAR_S) & (seconds < end + NEAR_S) for start, end in moved], axis=0)
    return {
        "found": sum(bool(is_open[within(seconds, span)].any()) for span in moved),
        "of": len(moved),
        "false_opens": int((rose & ~near).sum()),
        "quiet_hours": round(float((~near).sum()) / rate_hz / 3600, 2),
    }


FOOTAGE = (  # clip, frames a second, classes that stand for the question, words of the events that answer it
    ("indoor_onebyone.mp4", 2, ("person",), ("man", "woman")),
    ("road_overhead_cars.mp4", 4, ("car", "truck", "cell phone", "parking meter"), ("hatchback", "sedan", "sports")),
    ("bottles_table.mp4", 2, ("person",), ("hand",)),
    ("robot_corridor_1fps.mp4", 1, ("person",), ("person",)),
    ("robot_corridor_1fps.mp4", 1, ("sink", "toilet"), ("fountain",)),
)


def look(detector: Any, path: Path, rate_hz: float) -> tuple[np.ndarray, ...]:
    """Heat of every class, pooled features and seconds of a clip's frames, sampled at `rate_hz`."""
    import av

    heat, pooled, times = [], [], []
    with av.open(str(path)) as container:
        first: float | None = None
        for frame in container.decode(container.streams.video[0]):
            first = frame.time if first is None else first
            if frame.time - first + 1e-6 < len(times) / rate_hz:
                continue
            heat.append(detector.heat(frame.to_ndarray(format="rgb24")))
            pooled.append(detector.pooled())
            times.append(frame.time - first)
    return np.array(heat), np.array(pooled), np.array(times)


def with_quiet(
    pooled: np.ndarray,
    relevance: np.ndarray,
    times: np.ndarray,
    spans: tuple[tuple[float, float], ...],
    quiet: int,
    rng: np.random.Generator,
) -> History:
    """The clip, and after it `quiet` frames made of those without an event, with their noise and a drift of light."""
    embeddings = unit(pooled)
    if not quiet:
        return History(embeddings, relevance, times)
    calm = np.flatnonzero(~np.any([within(times, span) for span in spans], axis=0))
    step = np.median(np.abs(np.diff(embeddings, axis=0)), axis=0) * 1.48
    drift = np.cumsum(rng.normal(size=(quiet, 1)) * 0.3, axis=0) * step * 0.2
    picked = rng.choice(calm, quiet)
    more = embeddings[picked] + rng.normal(size=(quiet, embeddings.shape[1])) * step + drift
    noise = float(np.median(np.abs(np.diff(relevance)))) * 1.48
    longer = np.concatenate([relevance, relevance[picked] + rng.normal(size=quiet) * noise])
    after = times[-1] + (1 + np.arange(quiet)) * float(np.median(np.diff(times)))
    return History(unit(np.concatenate([embeddings, more])), longer, np.concatenate([times, after]))
