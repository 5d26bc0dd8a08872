"""Which rule finds what a question is about, with few keyframes? Selection by visits against the rules of other papers.

    python -m benchmarks.visits [--cache FOLDER] [--eyes MODELS] [--parts worlds cones ...] [--lengths 1000 10000]

Found: a keyframe lies within a span of time that proves the answer. *Single*: questions that one event proves. *Visits*: the
events of questions that several prove, such as counts. No rule reserves places for the newest frames, and none fills gaps.
No language model takes part. Seeds come from the commit's hash, so that nobody picks them.

worlds   drawn worlds of the evaluation split, fixed and moving cameras, 64 to 10,000 frames
cones    a constant added to all embeddings before they become unit vectors, as in encoders whose cosines are all alike
noise    Gaussian noise added to the embeddings, in units of their spread, until the rules break
cameras  questions over four cameras at once, with the places that each camera has
stays    things that stay for long (`benchmarks.long_stays`): both visits that a question needs
needles  one visitor in 10,000 frames (`benchmarks.needles`)
answers  answers of the built-in model over the rules' choices: right answers, visual tokens, milliseconds
quiet    visits found in quiet hours made of a world's quiet frames, with their noise and a slow drift of light
footage  real clips beside quiet frames, and false visits in their quiet hours (`benchmarks.footage`), seen by a real
         detector: --eyes names the folder of its weights; needs ../shared

Writes visits.json and visits.png. Parts that are not run keep what the file holds, each with the seed of its run.
"""

import argparse
import json
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from agent.ask.keyframes import Selection
from agent.ask.sentences import verdict_of
from agent.evaluation.arms import Asker
from agent.evaluation.clips import Clip, features_of, world_clip
from agent.evaluation.run import zones_of
from agent.evaluation.scores import share
from benchmarks.footage import quiet_relevance, run_footage
from benchmarks.machine import add_out, machine, measured_path, picture_path, show, write_result
from benchmarks.needles import embedded
from benchmarks.selection_rules import RULES, Case, Counts, History, count_found, table, unit, within
from benchmarks.visit_cases import run_cameras, run_needles, run_stays
from model.hub import BUILTIN
from model.video_model import VideoModel
from model.visits import find_visits
from model.world.answers import is_correct

COUNTS = (4, 8, 16, 32)
LENGTHS = {64: 8, 600: 4, 1000: 6, 10_000: 4}  # frames: worlds
EMPTY_EVERY = 6  # of the longest worlds' empty frames only so many are drawn
CONES = (0.0, 2.0, 8.0)
NOISES = (0.0, 1.0, 3.0, 6.0, 10.0)
ANSWER_FRAMES, ANSWER_WORLDS = 1000, 4
QUIET_HOURS, RATE_HZ = 20, 1.0
CAMERA_FRAMES, CAMERA_WORLDS = 600, 8


def seed_of_commit() -> int:
    """The first 32 bits of the checked-out commit's hash."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    return int(head[:8], 16)


def world_cases(model: VideoModel, clip: Clip, embeddings: np.ndarray) -> list[Case]:
    """The questions of a drawn world that are about its past."""
    seconds = clip.times - clip.start_unix
    cases = []
    for question in clip.questions:
        spans = tuple(span for span in question.spans if within(seconds, span).any())
        if question.family != "present" and spans:
            text = model.embed_text(question.text).unit
            kind = "single" if len(spans) == 1 else "visits"
            cases.append(Case(History(embeddings, embeddings @ text, seconds, text), spans, kind))
    return cases


def worlds(model: VideoModel, seed: int, lengths: dict[int, int]) -> Iterator[tuple[int, Clip, np.ndarray]]:
    """Frames of each history, its clip, and the unit embeddings of its frames."""
    for num_frames, number in lengths.items():
        for world in track(range(number), description=f"{num_frames} frames"):
            empty_every = EMPTY_EVERY if num_frames >= 5000 else 1
            clip = world_clip((seed + world) % 2**31, num_frames, rounds=2, empty_every=empty_every)
            yield num_frames, clip, embeddings_of(model, clip)


def embeddings_of(model: VideoModel, clip: Clip) -> np.ndarray:
    """Unit embeddings of a clip's frames, without patches."""
    pictures, parts = clip.pictures(), []
    while some := list(islice(pictures, 64)):
        parts.append(embedded(model, some))
    drawn = np.concatenate(parts)
    return drawn if clip.picture_of is None else drawn[list(clip.picture_of)]


def style_of(clip: Clip) -> str:
    """Of the camera: fixed or moving."""
    return "fixed" if clip.scene is not None and clip.scene.style == "fixed" else "moving"


def run_worlds(model: VideoModel, seed: int, lengths: dict[int, int]) -> Counts:
    """Recall by length of the history and style of the camera."""
    found: Counts = {}
    for num_frames, clip, embeddings in worlds(model, seed, lengths):
        count_found(world_cases(model, clip, embeddings), COUNTS, (str(num_frames), style_of(clip)), found)
    return found


def cameras(model: VideoModel, seed: int) -> Iterator[tuple[list[Case], np.ndarray]]:
    """The questions and the embeddings of single cameras."""
    for _, clip, embeddings in worlds(model, seed, {CAMERA_FRAMES: CAMERA_WORLDS}):
        yield world_cases(model, clip, embeddings), embeddings


def run_changed(model: VideoModel, seed: int, *, cones: bool) -> Counts:
    """Recall with 8 keyframes where the embeddings lie in a cone, or are noisy."""
    found: Counts = {}
    rng = np.random.default_rng(seed)
    for _, clip, embeddings in worlds(model, seed, {1000: 2}):
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


def run_quiet(model: VideoModel, seed: int) -> dict[str, Any]:
    """False visits an hour, in hours that are made of the quiet frames of drawn worlds of a fixed camera."""
    num_frames = int(QUIET_HOURS * 3600 * RATE_HZ)
    false = defaultdict(list)
    rng = np.random.default_rng(seed)
    for _, clip, embeddings in worlds(model, seed, {1000: 2}):
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
            composed = asker.is_composed(question.text)
            for name, arm in arms.items():
                answer = asker.ask(question.text, arm, in_steps=composed)
                said = verdict_of(answer.text) if composed else answer.text
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


def summed(rows: list[dict[str, Any]], places: int) -> list[list[str]]:
    """Lines for the terminal: found and of, over all cameras, by kind, first part of `about`, and rule."""
    total: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        if row["keyframes"] == places:
            entry = total.setdefault((row["about"][0], row["kind"], row["rule"]), [0, 0])
            entry[0] += row["found"]
            entry[1] += row["of"]
    return [[*key, f"{right} of {count}", f"{right / count:.1%}"] for key, (right, count) in total.items()]


def print_table(title: str, lines: list[list[str]]) -> None:
    """Print a table; the last two columns are what was found."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title)
    for column in ("about", "kind", "rule", "found", ""):
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


PARTS = ("worlds", "cones", "noise", "cameras", "stays", "needles", "answers", "quiet", "footage")


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder where features for the answers are kept")
    parser.add_argument("--eyes", type=Path, help="folder with the weights of the detector")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seed", type=int, help="default: from the commit's hash")
    parser.add_argument("--lengths", type=int, nargs="+", choices=list(LENGTHS), default=list(LENGTHS))
    add_out(parser)
    args = parser.parse_args()
    seed = seed_of_commit() if args.seed is None else args.seed
    about = machine(seed=seed)
    show(about)
    path = measured_path(args.out, "visits.json")
    result: dict[str, Any] = json.loads(path.read_text())["measured"] if path.exists() else {}
    seeds = result.setdefault("seeds", {})
    model = VideoModel.load(BUILTIN, num_threads=1)
    lengths = {frames: LENGTHS[frames] for frames in args.lengths}
    runs: dict[str, Callable[[], Any]] = {
        "worlds": lambda: table(run_worlds(model, seed, lengths)),
        "cones": lambda: table(run_changed(model, seed, cones=True)),
        "noise": lambda: table(run_changed(model, seed, cones=False)),
        "cameras": lambda: run_cameras(model, cameras(model, seed)),
        "stays": lambda: run_stays(model, seed),
        "needles": lambda: run_needles(model, seed),
        "answers": lambda: run_answers(model, seed, args.cache),
        "quiet": lambda: run_quiet(model, seed),
        "footage": lambda: run_footage(args.eyes, seed) if args.eyes else None,
    }
    for part in args.parts:
        found = runs[part]()
        if part == "worlds":
            found = [row for row in result.get(part, []) if int(row["about"][0]) not in lengths] + found
            plot(found, picture_path(args.out, "visits.png"))
        seeds.update({f"{part}, {frames}": seed for frames in lengths} if part == "worlds" else {part: seed})
        if found is not None:
            result[part] = found
        report(part, found)
        write_result(path, about, result)


def report(part: str, found: Any) -> None:
    """Print what a part found: tables for those with rows."""
    if part not in ("worlds", "cones", "noise"):
        print(part, json.dumps(found, indent=1))
        return
    for places in COUNTS if part == "worlds" else (8,):
        print_table(f"{part}, {places} keyframes", summed(found, places))


if __name__ == "__main__":
    main()
