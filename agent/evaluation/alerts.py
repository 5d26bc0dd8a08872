"""Evaluate alert rules on drawn worlds that the model was not trained on.

A world is an artificial video whose events are known. It is drawn, stored and encoded once, as live frames are. Then
each of twelve rules (`alert_truth.RULE_TYPES`) runs over it with the product's code: the gate, which opens while frames
are similar to the rule's condition; the judge, the language model that is asked whether the condition is true of a
frame; and the machine, which turns the judge's verdicts into alerts. Each rule runs in three variants ("arms"): the
gate alone, the judge alone (on a part of each world, as it judges every frame), and both.

The delay of an alert is simulated time (until the frame that confirmed it) plus measured time (to encode that frame and
to judge it). The time that a message broker needs is not included.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agent.alerts.gate import WARM_UP_FRAMES, GateReading, GateState
from agent.alerts.gate import step as gate_step
from agent.alerts.judge import Judge
from agent.alerts.machine import Ask, Refusal, Sighting, Vote
from agent.alerts.replay import Replay, Replayed
from agent.ask.answer import Answering
from agent.ask.egress import system_resolver
from agent.ask.model import make_answerer
from agent.ask.scope import known_cameras
from agent.evaluation.alert_truth import Armed, Score, arm, score
from agent.ingest.jpeg import decode_jpeg, encode_jpeg
from agent.keep.memory import open_memory
from agent.metrics import Metrics
from agent.runtime.lanes import Lane
from agent.settings.rules import GateSettings, JudgeSettings, RuleSettings
from agent.settings.settings import Settings
from memory.store import MemoryStore
from model.world.draw import degrade, draw
from model.world.scene import Scene

if TYPE_CHECKING:
    from model.video_model import VideoModel

CAMERA = "world"
START_UNIX = 1_767_254_400.0  # 2026-01-01 08:00:00 UTC
DRAW_SIZE = (320, 180)
ARMS = ("gate", "judge", "both")
SWEPT = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # thresholds of the gate that are tried
TRACED = "car of a colour"  # the report keeps the gate's scores of this type of rule
PROMPT_S = 2.0  # the gate opens in time if it is open within so many seconds after an event begins

Steps = Callable[[str, int, int], None]


@dataclass(slots=True)
class World:
    """One world, stored in a memory and encoded. Frame n shows second n of the scene."""

    seed: int
    scene: Scene
    store: MemoryStore
    answering: Answering
    frame_ids: list[int]
    units: NDArray[np.float32]  # (N, D)
    encode_s: float  # per frame, measured

    @property
    def times(self) -> NDArray[np.float64]:
        """The second of the scene that each frame shows, (N,)."""
        return np.arange(len(self.frame_ids), dtype=np.float64)


@dataclass(slots=True)
class Run:
    """The result of one rule in one drawn world and one variant: the "gate" or the "judge" alone, or "both"."""

    seed: int
    rule: str
    condition: str
    arm: str
    seconds: float
    result: Score
    num_asked: int
    verdicts: dict[str, int]
    judge_s: list[float] = field(default_factory=list)  # of each verdict


@contextmanager
def world_in_memory(model: "VideoModel", seed: int, num_frames: int, on_step: Steps) -> Iterator[World]:
    """Context manager: draw, store and encode the world of this seed, one frame a second, in a temporary memory.

    The camera is fixed; its lens faults are the same in all frames, and its noise is drawn anew for each.
    """
    scene = Scene.from_seed(seed, duration_s=float(num_frames), style="fixed", split="eval")
    vision, language = Lane("vision"), Lane("language")
    with tempfile.TemporaryDirectory(prefix="vilamp-eval-alerts-") as folder:
        settings = Settings(data_dir=Path(folder))
        store = open_memory(settings, model)
        try:
            answerer = make_answerer(
                settings,
                store,
                model,
                vision=vision,
                language=language,
                zone_of=lambda camera: "UTC",
                now=time.time,
                resolve=system_resolver,
            )
            answering = Answering(
                store,
                model,
                answerer,
                language=language,
                settings=settings.answering,
                metrics=Metrics(),
                zone_of=lambda camera: "UTC",
                known=lambda: known_cameras(settings, store, (), START_UNIX),
            )
            world = World(seed, scene, store, answering, [], np.empty((0, 0), np.float32), 0.0)
            _fill(world, model, num_frames, on_step)
            yield world
        finally:
            store.close()
            vision.close()
            language.close()


def _fill(world: World, model: "VideoModel", num_frames: int, on_step: Steps) -> None:
    noise = np.random.default_rng([world.seed, 0x015E])
    units, took = [], []
    for t in range(num_frames):
        lens = np.random.default_rng([world.seed, 0xFA])
        jpeg = encode_jpeg(degrade(draw(world.scene, float(t), *DRAW_SIZE), lens, noise))
        frame_id = world.store.append(CAMERA, START_UNIX + t, jpeg)
        began = time.perf_counter()
        features = model.encode([decode_jpeg(jpeg)])[0]
        took.append(time.perf_counter() - began)
        world.store.attach(frame_id, **asdict(features))
        world.frame_ids.append(frame_id)
        units.append(features.embedding / max(float(np.linalg.norm(features.embedding)), 1e-12))
        on_step(f"world {world.seed}", t + 1, num_frames)
    world.units = np.stack(units).astype(np.float32)
    world.encode_s = statistics.median(took)


def settings_for(armed: Armed, gate: GateSettings) -> RuleSettings:
    """Return the rule's settings: the defaults, without pauses between alerts, so that no event is suppressed."""
    return RuleSettings(condition=armed.condition, gate=gate, hold_s=0.0, cooldown_s=0.0)


def sightings(world: World, unit: NDArray[np.float32], start: int = 0, stop: int | None = None) -> list[Sighting]:
    """Return the world's frames from start to stop, each with its cosine similarity to the rule's condition.

    unit: the condition's embedding, a (D,) unit vector.
    """
    similarities = world.units @ unit
    rows = range(start, len(world.frame_ids) if stop is None else stop)
    return [Sighting(world.frame_ids[n], START_UNIX + n, float(similarities[n])) for n in rows]


class _Asked:
    """Asks the judge (the language model) about frames and measures the time. took: seconds, by frame id."""

    def __init__(self, world: World, rule: RuleSettings) -> None:
        self.judge_s: list[float] = []
        self.took: dict[int, float] = {}
        self._judge, self._rule = Judge(world.answering), rule

    async def __call__(self, camera: str, ask: Ask) -> Vote | Refusal:
        began = time.perf_counter()
        vote = await self._judge.vote(self._rule, camera, ask.frame_id, ask.time)
        self.took[ask.frame_id] = time.perf_counter() - began
        self.judge_s.append(self.took[ask.frame_id])
        return vote


async def both(world: World, armed: Armed, unit: NDArray[np.float32], gate: GateSettings) -> Run:
    """Run the rule as a live agent does, and return the result.

    The judge (the language model) is asked about frames only while the gate is open, that is, while frames are similar
    to the rule's condition.
    """
    rule = settings_for(armed, gate)
    judge = _Asked(world, rule)
    replay = Replay(rule, judge, zone_of=lambda camera: "UTC")
    done = await replay.run((CAMERA, seen) for seen in sightings(world, unit))
    return _run(world, armed, "both", float(len(world.frame_ids)), done, judge)


async def gate_alone(world: World, armed: Armed, unit: NDArray[np.float32], gate: GateSettings) -> Run:
    """Run the rule without the judge, the language model. Return the result.

    The verdict is "yes" while the gate is open, that is, while frames are similar to the rule's condition; else "no".
    """
    seen = sightings(world, unit)
    is_open = {each.frame_id: reading.open for each, reading in zip(seen, readings(gate, seen), strict=True)}

    async def verdict(camera: str, ask: Ask) -> Vote | Refusal:
        return Vote(ask.frame_id, ask.time, "yes" if is_open[ask.frame_id] else "no")

    replay = Replay(_eager(settings_for(armed, gate)), verdict, zone_of=lambda camera: "UTC")
    done = await replay.run((CAMERA, each) for each in seen)
    return _run(world, armed, "gate", float(len(world.frame_ids)), done, None)


async def judge_alone(world: World, armed: Armed, span: tuple[int, int]) -> Run:
    """Run the rule on the frames of `span` with a gate that is always open. Return the result.

    To open the gate (the cheap check that normally decides which frames are judged), it first gets frames with
    similarity -1, from which it learns the background, and then 1 for each frame of `span`.
    """
    rule = _eager(settings_for(armed, GateSettings()))
    judge = _Asked(world, rule)
    start, stop = span
    frames = sightings(world, np.zeros(world.units.shape[1], np.float32), start, stop)
    wide_open = [Sighting(each.frame_id, each.time, 1.0) for each in frames]
    learning = [Sighting(0, START_UNIX + start - WARM_UP_FRAMES + n, -1.0) for n in range(WARM_UP_FRAMES)]
    replay = Replay(rule, judge, zone_of=lambda camera: "UTC", armed_from=START_UNIX + start)
    done = await replay.run((CAMERA, each) for each in [*learning, *wide_open])
    return _run(world, armed, "judge", float(stop - start), done, judge, span)


def _eager(rule: RuleSettings) -> RuleSettings:
    """Return the rule with settings that ask for a verdict on every frame."""
    every = JudgeSettings.model_validate(
        {**rule.judge.model_dump(), "recheck_s": rule.judge.every_s, "per_minute": 600}
    )
    return rule.model_copy(update={"judge": every})


def readings(gate: GateSettings, seen: Sequence[Sighting]) -> list[GateReading]:
    """Return, for each frame, the reading of the rule's gate: a score, and whether the gate is open.

    The score is how far the frame's similarity to the rule's condition is above the usual one.
    """
    state, found = GateState(), []
    for each in seen:
        state, reading = gate_step(gate, state, time=each.time, similarity=each.similarity)
        found.append(reading)
    return found


def _run(
    world: World, armed: Armed, name: str, seconds: float, done: Replayed, judge: _Asked | None,
    span: tuple[int, int] | None = None,
) -> Run:  # fmt: skip
    took = {} if judge is None else judge.took
    alerts = [
        (each.on.time - START_UNIX, each.on.time - START_UNIX + world.encode_s + took.get(each.on.frame_id, 0.0))
        for each in done.alerts
    ]
    truth = armed.truth
    if span is not None:
        inside = [e for e in truth.events if span[0] <= e.first_s and e.start_s < span[1]]
        outside = [(e.first_s, e.last_s) for e in truth.events if e not in inside]
        truth = type(truth)(tuple(inside), (*truth.doubtful, *outside))
    asked = [] if judge is None else judge.judge_s
    return Run(
        world.seed, armed.type.name, armed.condition, name, seconds, score(truth, alerts), len(asked),
        dict(done.verdicts), asked,
    )  # fmt: skip


def stretch(armed: Armed, num_frames: int, length: int) -> tuple[int, int]:
    """Return the range (start, stop) of `length` frames around the rule's first true event.

    Without events, they are the first `length` frames. num_frames: of the whole world.
    """
    begin = armed.truth.events[0].start_s - length / 3 if armed.truth.events else 0.0
    start = int(min(max(begin, 0), max(num_frames - length, 0)))
    return start, min(start + length, num_frames)


def sweep(world: World, armed: Armed, unit: NDArray[np.float32], gate: GateSettings) -> list[dict[str, float]]:
    """Return, for each gate threshold in SWEPT, a dict with the results of the gate.

    These are the number of events, for how many of them the gate opens in time, how often it opens, and the share of
    frames for which it is open.
    """
    seen, rows = sightings(world, unit), []
    for on in SWEPT:
        found = readings(gate.model_copy(update={"on": on, "off": on / 2}), seen)
        is_open = np.array([reading.open for reading in found])
        in_time = [
            bool(is_open[max(0, int(e.first_s)) : int(np.ceil(e.start_s + PROMPT_S)) + 1].any())
            for e in armed.truth.events
        ]
        rows.append({"on": on, "events": len(in_time), "in_time": sum(in_time),
                     "openings": sum(reading.rose for reading in found), "open_share": float(is_open.mean())})  # fmt: skip
    return rows


def trace(world: World, armed: Armed, unit: NDArray[np.float32], gate: GateSettings) -> dict[str, Any]:
    """Return the score of the rule's gate at every frame, and the true events, as JSON types for a plot."""
    scores = [round(reading.score, 2) for reading in readings(gate, sightings(world, unit))]
    events = [(event.start_s, event.last_s) for event in armed.truth.events]
    return {"seed": world.seed, "condition": armed.condition, "scores": scores, "events": events}


# --- the report ---


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the totals of all runs of one variant: over all rules, and by type of rule."""
    names = list(dict.fromkeys(run.rule for run in runs))
    return {**_totals(runs), "by_rule": {name: _totals([run for run in runs if run.rule == name]) for name in names}}


def _totals(runs: Sequence[Run]) -> dict[str, Any]:
    events = sum(run.result.num_events for run in runs)
    found = sum(sum(run.result.found) for run in runs)
    seconds = sum(run.seconds for run in runs)
    delays = [delay for run in runs for delay in run.result.delays_s]
    asked, judge_s = sum(run.num_asked for run in runs), [each for run in runs for each in run.judge_s]
    false = [len(run.result.false_s) / run.seconds * 3600 for run in runs]
    return {
        "rule_hours": seconds / 3600,
        "events": events,
        "found": found,
        "recall": found / events if events else None,
        "false_alerts": sum(len(run.result.false_s) for run in runs),
        "false_alerts_per_rule_hour": sum(len(run.result.false_s) for run in runs) / seconds * 3600,
        "worst_false_alerts_per_hour": max(false, default=0.0),
        "repeats": sum(run.result.num_repeats for run in runs),
        "doubtful": sum(run.result.num_doubtful for run in runs),
        "judge_calls": asked,
        "judge_share": asked / seconds,  # one frame a second
        "worst_judge_share": max((run.num_asked / run.seconds for run in runs), default=0.0),
        "delay_s": {"median": _quantile(delays, 0.5), "p95": _quantile(delays, 0.95), "max": max(delays, default=None)},
        "judge_s": {"median": _quantile(judge_s, 0.5), "p95": _quantile(judge_s, 0.95)},
    }


def _quantile(values: Sequence[float], q: float) -> float | None:
    return float(np.quantile(values, q)) if values else None


async def evaluate(
    model: "VideoModel",
    seeds: Sequence[int],
    num_frames: int,
    *,
    gate: GateSettings,
    judge_alone_frames: int,
    on_step: Steps = lambda what, done, total: None,
) -> dict[str, Any]:
    """Run all rules in all worlds and return the report.

    judge_alone_frames: on how many frames each rule runs with the judge alone; 0 leaves this variant out. on_step:
    called with the progress.
    """
    runs: list[Run] = []
    swept: list[dict[str, Any]] = []
    traces: list[dict[str, Any]] = []
    encode_s = []
    for seed in seeds:
        with world_in_memory(model, seed, num_frames, on_step) as world:
            encode_s.append(world.encode_s)
            rules = arm(world.scene, world.times, np.random.default_rng([0xA1E7, seed]))
            for number, armed in enumerate(rules):
                unit = model.embed_text(armed.condition).unit
                runs += [await gate_alone(world, armed, unit, gate), await both(world, armed, unit, gate)]
                if judge_alone_frames:
                    runs.append(await judge_alone(world, armed, stretch(armed, num_frames, judge_alone_frames)))
                if armed.type.name == TRACED:
                    traces.append(trace(world, armed, unit, gate))
                swept.append({"seed": seed, "rule": armed.type.name, "rows": sweep(world, armed, unit, gate)})
                on_step(f"rules in world {seed}", number + 1, len(rules))
    return {
        "seeds": list(seeds),
        "minutes": num_frames / 60,
        "frames_per_world": num_frames,
        "rate_hz": 1.0,
        "gate": gate.model_dump(),
        "judge": JudgeSettings().model_dump(),
        "confirm": RuleSettings(condition="-").confirm.model_dump(),
        "encode_s_per_frame": statistics.median(encode_s),
        "arms": {name: summarise(picked) for name in ARMS if (picked := [r for r in runs if r.arm == name])},
        "sweep": _sweep_totals(swept),
        "traces": traces,
        "runs": [{**asdict(run), "judge_s": None} for run in runs],
    }


def _sweep_totals(swept: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    rows = []
    for number, on in enumerate(SWEPT):
        at = [each["rows"][number] for each in swept]
        rows.append({
            "on": on,
            "recall_in_time": sum(row["in_time"] for row in at) / max(sum(row["events"] for row in at), 1),
            "openings_per_hour": float(np.mean([row["openings"] for row in at])),
            "open_share": float(np.mean([row["open_share"] for row in at])),
        })  # fmt: skip
    return rows
