"""Which rule finds what a question is about, with few keyframes? Selection by visits against the rules of other papers.

    python -m benchmarks.visits [--cache FOLDER] [--eyes MODELS] [--parts worlds cones noise answers quiet footage]

Found: a keyframe lies within a span of time that proves the answer. *Single*: questions that one event proves. *Visits*: the
events of questions that several prove, such as counts. No rule reserves places for the newest frames, and none fills gaps.
No language model takes part. Seeds come from the commit's hash, so that nobody picks them.

worlds   drawn worlds of the evaluation split, fixed and moving cameras, 64 to 10,000 frames
cones    a constant added to all embeddings before they become unit vectors, as in encoders whose cosines are all alike
noise    Gaussian noise added to the embeddings, in units of their spread, until the rules break
answers  answers of the built-in model over the rules' choices: right answers, visual tokens, milliseconds
quiet    visits found in quiet hours made of a world's quiet frames, with their noise and a slow drift of light
footage  real clips beside quiet frames, seen by a real detector: --eyes names the folder of its weights
         (../shared/eyes/README.md says where they come from); needs ../shared

Writes visits.json and visits.png.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from agent.ask.keyframes import Selection
from agent.ask.reader import verdict_of
from agent.evaluation.arms import Asker
from agent.evaluation.clips import Clip, features_of, world_clip
from agent.evaluation.run import zones_of
from agent.evaluation.scores import share, wilson
from benchmarks.machine import add_out, machine, measured_path, picture_path, show, write_result
from benchmarks.selection_rules import RULES, History
from model.hub import BUILTIN
from model.video_model import VideoModel
from model.visits import find_visits
from model.world.answers import is_correct

COUNTS = (4, 8, 16, 32)
LENGTHS = {64: 8, 600: 4, 1000: 6, 10_000: 2}  # frames: worlds
EMPTY_EVERY = 6  # of the longest worlds' empty frames only so many are drawn
CONES = (0.0, 2.0, 8.0)
NOISES = (0.0, 1.0, 3.0, 6.0, 10.0)
ANSWER_FRAMES, ANSWER_WORLDS = 1000, 4
QUIET_HOURS, RATE_HZ = 20, 1.0
SLACK_S = 0.5
SHARED = Path(__file__).resolve().parents[2] / "shared"
QUIET_FRAMES = (0, 3000, 10_000)


@dataclass(frozen=True)
class Case:
    """One question's history, and the spans of seconds (of the same clock as `history.times`) that prove its answer."""

    history: History
    spans: tuple[tuple[float, float], ...]
    kind: str


Counts = dict[tuple[str, ...], list[int]]


def seed_of_commit() -> int:
    """The first 32 bits of the checked-out commit's hash."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    return int(head[:8], 16)


def world_cases(model: VideoModel, clip: Clip, embeddings: np.ndarray) -> list[Case]:
    """The questions of a drawn world that are about its past."""
    seconds = clip.times - clip.start_unix
    cases = []
    for question in clip.questions:
        spans = tuple(span for span in question.spans if _within(seconds, span).any())
        if question.family != "present" and spans:
            text = model.embed_text(question.text).unit
            kind = "single" if len(spans) == 1 else "visits"
            cases.append(Case(History(embeddings, embeddings @ text, seconds, text), spans, kind))
    return cases


def _within(times: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    inside: np.ndarray = (times >= span[0] - SLACK_S) & (times <= span[1] + SLACK_S)
    return inside


def count_found(cases: Iterable[Case], counts: Iterable[int], key: tuple[str, ...], into: Counts) -> None:
    """Add what each rule finds with each number of keyframes: key + (kind, K, rule) -> [found, of]."""
    for case in cases:
        for count in counts:
            for name, rule in RULES.items():
                shown = case.history.times[rule(case.history, count)]
                entry = into.setdefault((*key, case.kind, str(count), name), [0, 0])
                entry[0] += sum(bool(_within(shown, span).any()) for span in case.spans)
                entry[1] += len(case.spans)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1."""
    scaled: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def worlds(
    model: VideoModel, seed: int, lengths: dict[int, int], cache: Path | None
) -> Iterator[tuple[int, Clip, np.ndarray]]:
    """Frames of each history, its clip, and the unit embeddings of its frames."""
    for num_frames, number in lengths.items():
        for world in track(range(number), description=f"{num_frames} frames"):
            empty_every = EMPTY_EVERY if num_frames >= 5000 else 1
            clip = world_clip((seed + world) % 2**31, num_frames, rounds=2, empty_every=empty_every)
            yield num_frames, clip, unit(np.stack([frame.embedding for frame in features_of(model, clip, cache)]))


def run_worlds(model: VideoModel, seed: int, lengths: dict[int, int], cache: Path | None) -> Counts:
    """Recall by length of the history and style of the camera."""
    found: Counts = {}
    for num_frames, clip, embeddings in worlds(model, seed, lengths, cache):
        style = "fixed" if clip.scene is not None and clip.scene.style == "fixed" else "moving"
        count_found(world_cases(model, clip, embeddings), COUNTS, (str(num_frames), style), found)
    return found


def run_changed(model: VideoModel, seed: int, cache: Path | None, *, cones: bool) -> Counts:
    """Recall with 8 keyframes where the embeddings lie in a cone, or are noisy."""
    found: Counts = {}
    rng = np.random.default_rng(seed)
    for _, clip, embeddings in worlds(model, seed, {1000: 2}, cache):
        cases = world_cases(model, clip, embeddings)
        spread = embeddings.std(axis=0)
        for strength in CONES if cones else NOISES:
            if cones:
                axis = rng.normal(size=embeddings.shape[1])
                changed = unit(embeddings + strength * axis / np.linalg.norm(axis))
            else:
                changed = unit(embeddings + strength * spread * rng.normal(size=embeddings.shape))
            other = [
                replace(case, history=replace(case.history, embeddings=changed, relevance=changed @ case.history.text))
                for case in cases
                if case.history.text is not None
            ]
            count_found(other, (8,), (f"{strength:g}",), found)
    return found


def run_quiet(model: VideoModel, seed: int, cache: Path | None) -> dict[str, Any]:
    """False visits an hour, in hours that are made of the quiet frames of drawn worlds of a fixed camera."""
    num_frames = int(QUIET_HOURS * 3600 * RATE_HZ)
    false = defaultdict(list)
    rng = np.random.default_rng(seed)
    for _, clip, embeddings in worlds(model, seed, {1000: 2}, cache):
        if clip.scene is None:
            continue
        seconds = clip.times - clip.start_unix
        calm = np.flatnonzero(~clip.scene.may_show(seconds)) if clip.scene.style == "fixed" else np.arange(0)
        if not len(calm):
            continue
        for case in world_cases(model, clip, embeddings)[:10]:
            relevance = quiet_relevance(case.history.relevance[calm], num_frames, rng)
            found = find_visits(relevance, np.arange(num_frames) / RATE_HZ, (num_frames,))
            false[clip.name].append(len(found) / QUIET_HOURS)
    rates = [rate for each in false.values() for rate in each]
    return {
        "hours_each": QUIET_HOURS,
        "histories": len(rates),
        "false_visits_per_hour": float(np.mean(rates)) if rates else None,
        "most": max(rates, default=None),
    }


def run_answers(model: VideoModel, seed: int, cache: Path | None) -> dict[str, Any]:
    """Right answers of the built-in model, as the product asks, and their cost, with different choices of keyframes."""
    product = Selection.of(model.info.defaults, rule="dks")
    arms = {"DKS, 32 of which 4 newest": product}
    arms |= {f"visits, {count}": replace(product, rule="visits", recent=0, num_keyframes=count) for count in COUNTS[1:]}
    arms |= {f"DKS, {count}, none newest": replace(product, recent=0, num_keyframes=count) for count in COUNTS[1:]}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for world in range(ANSWER_WORLDS):
        clip = world_clip((seed + world) % 2**31, ANSWER_FRAMES)
        asker = Asker(model, features_of(model, clip, cache), clip.times, zones_of(clip))
        for question in track(clip.questions, description=f"world {world + 1}"):
            plan = asker.plan(question.text)
            for name, arm in arms.items():
                answer = asker.ask(question.text, arm, in_steps=plan is not None)
                said = verdict_of(answer.text) if plan is not None else answer.text
                rows[name].append(
                    {
                        "family": question.family,
                        "right": is_correct(question, said),
                        "tokens": answer.num_tokens,
                        "ms": answer.total_ms,
                    }
                )
    return {
        name: share(row["right"] for row in each)
        | {key: float(np.median([row[key] for row in each])) for key in ("tokens", "ms")}
        | {
            "families": {
                family: share(row["right"] for row in each if row["family"] == family)
                for family in sorted({row["family"] for row in each})
            }
        }
        for name, each in rows.items()
    }


def quiet_relevance(quiet: np.ndarray, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Relevance of a camera with nothing happening: values of quiet frames, their noise once more, a slow drift of light."""
    noise = float(np.median(np.abs(np.diff(quiet)))) * 1.48
    drift = np.cumsum(rng.normal(size=num_frames)) * noise * 0.02
    made: np.ndarray = rng.choice(quiet, num_frames) + rng.normal(size=num_frames) * noise + drift
    return made


def run_footage(eyes: Path, seed: int) -> Counts:
    """Recall with 8 keyframes on real clips, alone and beside quiet frames made of their own empty ones."""
    sys.path.insert(0, str(SHARED / "eyes"))
    from centernet import LABELS, Detector  # type: ignore[import-not-found]

    truth = json.loads((SHARED / "footage" / "ground_truth.json").read_text())
    detector, rng, found = Detector(eyes), np.random.default_rng(seed), Counts()
    seen: dict[str, tuple[np.ndarray, ...]] = {}
    for clip, rate_hz, classes, words in FOOTAGE:
        if clip not in seen:
            seen[clip] = look(detector, SHARED / "footage" / clip, rate_hz)
        heat, pooled, times = seen[clip]
        events = [event for event in truth[clip]["events"] if any(word in event["text"] for word in words)]
        spans = tuple((float(event["start"]), float(event["end"] or times[-1])) for event in events)
        relevance = heat[:, [LABELS.index(name) for name in classes]].max(axis=1)
        for quiet in QUIET_FRAMES:
            history = with_quiet(pooled, relevance, times, spans, quiet, rng)
            count_found([Case(history, spans, "visits")], (8,), (str(quiet), clip), found)
    return found


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
    calm = np.flatnonzero(~np.any([_within(times, span) for span in spans], axis=0))
    step = np.median(np.abs(np.diff(embeddings, axis=0)), axis=0) * 1.48
    drift = np.cumsum(rng.normal(size=(quiet, 1)) * 0.3, axis=0) * step * 0.2
    picked = rng.choice(calm, quiet)
    more = embeddings[picked] + rng.normal(size=(quiet, embeddings.shape[1])) * step + drift
    noise = float(np.median(np.abs(np.diff(relevance)))) * 1.48
    longer = np.concatenate([relevance, relevance[picked] + rng.normal(size=quiet) * noise])
    after = times[-1] + (1 + np.arange(quiet)) * float(np.median(np.diff(times)))
    return History(unit(np.concatenate([embeddings, more])), longer, np.concatenate([times, after]))


def table(found: Counts) -> list[dict[str, Any]]:
    """Counts as rows with shares and 95 % intervals (Wilson)."""
    rows = []
    for key, (right, count) in found.items():
        low, high = wilson(right, count)
        *about, kind, places, rule = key
        rows.append(
            {
                "about": about, "kind": kind, "keyframes": int(places), "rule": rule, "found": right, "of": count,
                "share": right / count, "low": low, "high": high,
            }
        )  # fmt: skip
    return rows


def summed(rows: list[dict[str, Any]], places: int) -> list[list[str]]:
    """Lines for the terminal: found and of, over all cameras, by kind, first part of `about`, and rule."""
    total: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        if row["keyframes"] == places:
            entry = total.setdefault((row["about"][0], row["kind"], row["rule"]), [0, 0])
            entry[0] += row["found"]
            entry[1] += row["of"]
    return [[*key, f"{right} of {count}", f"{right / count:.1%}"] for key, (right, count) in total.items()]


def print_table(title: str, first: str, lines: list[list[str]]) -> None:
    """Print a table; the last two columns are what was found."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title)
    for column in (first, "kind", "rule", "found", ""):
        shown.add_column(column)
    for line in lines:
        shown.add_row(*line)
    Console().print(shown)


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    """Share of visits found against the number of keyframes, a panel for each length of the history."""
    from matplotlib.figure import Figure

    lengths = sorted({int(row["about"][0]) for row in rows})
    figure = Figure(figsize=(3.4 * len(lengths), 3.2), layout="constrained")
    for place, length in enumerate(lengths, 1):
        axes = figure.add_subplot(1, len(lengths), place)
        for rule in RULES:
            shares = []
            for count in COUNTS:
                some = [
                    row for row in rows
                    if row["about"][0] == str(length) and row["kind"] == "visits"
                    and row["keyframes"] == count and row["rule"] == rule
                ]  # fmt: skip
                shares.append(sum(row["found"] for row in some) / max(1, sum(row["of"] for row in some)))
            axes.plot(range(len(COUNTS)), shares, "o-" if rule == "visits" else ".-", label=rule, linewidth=1)
        axes.set_xticks(range(len(COUNTS)), list(map(str, COUNTS)))
        axes.set_ylim(0, 1.03)
        axes.set_title(f"{length:,} frames", fontsize=10)
        axes.set_xlabel("keyframes")
    figure.axes[0].set_ylabel("share of visits found")
    figure.axes[-1].legend(fontsize=7, loc="lower right")
    figure.savefig(out, dpi=110)


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder where features of drawn worlds are kept")
    parser.add_argument("--eyes", type=Path, help="folder with the weights of the detector")
    parser.add_argument("--parts", nargs="+", default=["worlds", "cones", "noise", "answers", "quiet", "footage"])
    parser.add_argument("--seed", type=int, help="default: from the commit's hash")
    parser.add_argument("--most-frames", type=int, default=max(LENGTHS), help="leave out longer histories")
    add_out(parser)
    args = parser.parse_args()
    seed = seed_of_commit() if args.seed is None else args.seed
    about = machine(seed=seed)
    show(about)
    result: dict[str, Any] = {}
    model = VideoModel.load(BUILTIN, num_threads=1)
    if "worlds" in args.parts:
        lengths = {frames: number for frames, number in LENGTHS.items() if frames <= args.most_frames}
        result["worlds"] = table(run_worlds(model, seed, lengths, args.cache))
        plot(result["worlds"], picture_path(args.out, "visits.png"))
        for places in COUNTS:
            print_table(f"Drawn worlds, {places} keyframes", "frames", summed(result["worlds"], places))
    for part, cones in (("cones", True), ("noise", False)):
        if part in args.parts:
            result[part] = table(run_changed(model, seed, args.cache, cones=cones))
            print_table(f"{part}, 8 keyframes", "strength", summed(result[part], 8))
    if "answers" in args.parts:
        result["answers"] = run_answers(model, seed, args.cache)
        for name, each in result["answers"].items():
            print(
                f"{name:28} {each['mean']:.1%} of {each['count']} right, {each['tokens']:.0f} tokens, {each['ms']:.0f} ms"
            )
    if "quiet" in args.parts:
        result["quiet"] = run_quiet(model, seed, args.cache)
        print(result["quiet"])
    if "footage" in args.parts and args.eyes is None:
        print("footage: left out, because --eyes names no folder")
    elif "footage" in args.parts:
        result["footage"] = table(run_footage(args.eyes, seed))
        print_table("Real clips, 8 keyframes", "quiet frames", summed(result["footage"], 8))
    write_result(measured_path(args.out, "visits.json"), about, result)


if __name__ == "__main__":
    main()
