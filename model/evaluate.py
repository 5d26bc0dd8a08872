"""How well a checkpoint selects and answers, on labelled video: recall of keyframe selection and exact-match accuracy.

In: a model and labelled clips (frames with times, questions with answers and the spans that prove them).
Out: one report (a dict, written as JSON). Worlds of the evaluation split are the default source of clips; any other
labelled set fits the same type.
The steps are those of a live question: encode each frame once, embed the question, select, merge, answer.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from model.history import ArrayHistory
from model.select import ArrayCandidates, Keyframes, select_keyframes
from model.video_model import VideoModel
from model.world.draw import degrade, draw
from model.world.questions import Question, is_correct, majority_accuracy, question_only_guess, questions
from model.world.scene import Scene

DRAW_SIZE = (320, 180)
MOST_NEEDLE_FRAMES = 20
HARD_GUESS = 0.25  # families that the best guess from the question alone gets right at most so often


@dataclass(frozen=True)
class Clip:
    """One labelled history. `pictures` is called once and yields (H, W, 3) uint8, one for each of `times` (unix seconds)."""

    name: str
    times: np.ndarray
    pictures: Callable[[], Iterator[np.ndarray]]
    questions: tuple[Question, ...]
    start_unix: float


@dataclass
class Tally:
    """Counts of one seed. `needles`: (share of the history before the event, DKS hit, uniform hit, random hit)."""

    right: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    needles: list[tuple[float, bool, float, float]] = field(default_factory=list)
    asked: list[Question] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def world_clips(seed: int, num_frames: int, count: int) -> Iterator[Clip]:
    """`count` worlds of the evaluation split, one frame a second. The same seed gives the same clips."""
    for number in range(count):
        scene_seed = seed * 1009 + number
        rng = np.random.default_rng([0xE7A1, scene_seed, num_frames])
        scene = Scene.from_seed(scene_seed, duration_s=float(max(num_frames, 20)), split="eval", density=1.0)
        times = np.arange(num_frames, dtype=np.float64)
        start_unix = float(rng.integers(1_900_000_000, 2_000_000_000))
        asked = tuple(questions(scene, start_unix, times, rng, "eval"))

        def pictures(scene: Scene = scene, times: np.ndarray = times, seed: int = scene_seed) -> Iterator[np.ndarray]:
            noise = np.random.default_rng([0x0D15, seed])
            return (degrade(draw(scene, float(t), *DRAW_SIZE), noise) for t in times)

        yield Clip(f"world-{scene_seed}", start_unix + times, pictures, asked, start_unix)


def encode_clip(model: VideoModel, clip: Clip, batch: int = 64) -> ArrayHistory:
    """Every frame encoded once, as live frames are."""
    history = ArrayHistory()
    waiting: list[np.ndarray] = []
    for picture in clip.pictures():
        waiting.append(picture)
        if len(waiting) == batch:
            history.extend(model.encode(waiting))
            waiting = []
    if waiting:
        history.extend(model.encode(waiting))
    return history


def ask(model: VideoModel, history: ArrayHistory, clip: Clip, question: Question) -> tuple[str, Keyframes]:
    """The product's path for one question, greedy."""
    defaults, query = model.info.defaults, model.embed_text(question.text)
    embeddings = history.unit_embeddings()
    keyframes = select_keyframes(
        ArrayCandidates(embeddings, query.unit),
        num_keyframes=defaults.num_keyframes,
        tau=defaults.tau,
        floor=defaults.floor,
        recent=defaults.recent,
        background=embeddings.mean(0, keepdims=True) if defaults.redundancy == "background" else None,
        background_floor=defaults.background_floor,
    )
    context = model.build_context(history, keyframes, query)
    stamps = [datetime.fromtimestamp(t, UTC).strftime("%H:%M:%S") for t in clip.times[keyframes.rows]]
    pieces = model.stream(question.text, context, timestamps=stamps if defaults.timestamps else None, max_new_tokens=24)
    return "".join(pieces).strip(), keyframes


def needle_hits(
    model: VideoModel, history: ArrayHistory, clip: Clip, question: Question
) -> tuple[float, bool, float, float]:
    """(depth of the event in the history, found by DKS alone?, chance of uniform choice, chance of random choice).

    DKS alone: no filling and no reserved frames. Uniform choice is tried at every phase; random choice has a closed form.
    """
    defaults, num_frames = model.info.defaults, history.num_frames
    embeddings = history.unit_embeddings()
    chosen = select_keyframes(
        ArrayCandidates(embeddings, model.embed_text(question.text).unit),
        num_keyframes=defaults.num_keyframes,
        tau=defaults.tau,
        floor=defaults.floor,
        recent=0,
        fill="none",
        background=embeddings.mean(0, keepdims=True) if defaults.redundancy == "background" else None,
        background_floor=defaults.background_floor,
    )
    seconds = clip.times - clip.start_unix
    shown = np.zeros(num_frames, bool)
    for start, end in question.spans:
        shown |= (seconds >= start) & (seconds <= end)
    places = min(defaults.num_keyframes, num_frames)
    step = num_frames / places
    phases = [np.unique((np.arange(places) * step + phase * step).astype(int)) for phase in np.arange(8) / 8]
    uniform = float(np.mean([shown[rows].any() for rows in phases]))
    missed = np.prod([(num_frames - shown.sum() - i) / (num_frames - i) for i in range(places)])
    return question.spans[0][0] / max(num_frames, 1), bool(shown[chosen.rows].any()), uniform, float(1 - max(missed, 0))


def is_needle(question: Question) -> bool:
    """One event, at most 20 frames long, asked for by what was seen."""
    return (
        len(question.spans) == 1
        and question.spans[0][1] - question.spans[0][0] <= MOST_NEEDLE_FRAMES
        and question.query is not None
        and question.query.second is None
        and (question.query.kind is not None or question.query.colour is not None)
        and question.family not in ("present", "count", "left_behind")
    )


def evaluate(
    model: VideoModel, clips: Iterable[Clip], tally: Tally, on_clip: Callable[[], None] = lambda: None
) -> None:
    """Ask every question of every clip and count."""
    for clip in clips:
        began = time.perf_counter()
        history = encode_clip(model, clip)
        tally.seconds["encode"] += time.perf_counter() - began
        for question in clip.questions:
            began = time.perf_counter()
            answer, _ = ask(model, history, clip, question)
            tally.seconds["answer"] += time.perf_counter() - began
            tally.right[question.family].append(is_correct(question, answer))
            tally.asked.append(question)
            tally.answers.append(answer)
            if is_needle(question):
                tally.needles.append(needle_hits(model, history, clip, question))
        on_clip()


def summarise(tallies: Sequence[Tally], trained_on: Sequence[Question]) -> dict[str, Any]:
    """Mean and spread over seeds of everything counted, with the guesses that need no video beside it."""
    families = sorted({family for tally in tallies for family in tally.right})
    asked = [question for tally in tallies for question in tally.asked]
    guess, majority = question_only_guess(trained_on, asked), majority_accuracy(asked)
    rows = {
        family: _spread([_mean(tally.right[family]) for tally in tallies if tally.right[family]])
        | {
            "questions": sum(len(tally.right[family]) for tally in tallies),
            "question_only_guess": guess.get(family, 0.0),
            "majority_answer": majority.get(family, 0.0),
        }
        for family in families
    }
    hard = [family for family in families if rows[family]["question_only_guess"] <= HARD_GUESS]
    few = [_mean([value for family in hard for value in tally.right[family]]) for tally in tallies]
    every = [_mean([value for values in tally.right.values() for value in values]) for tally in tallies if tally.right]
    return {
        "families": rows,
        "all_families": _spread(every) | {"questions": len(asked), "question_only_guess": guess["all"],
                                           "majority_answer": majority["all"]},
        "hard_families": _spread(few) | {"families": hard, "questions": sum(rows[family]["questions"] for family in hard)},
        "dks_recall": _spread([_mean([n[1] for n in tally.needles]) for tally in tallies if tally.needles])
        | {"needles": sum(len(tally.needles) for tally in tallies)},
        "uniform_recall": _spread([_mean([n[2] for n in tally.needles]) for tally in tallies if tally.needles]),
        "random_recall": _spread([_mean([n[3] for n in tally.needles]) for tally in tallies if tally.needles]),
    }  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Mean over seeds, and half the distance between the worst and the best seed."""
    if not values:
        return {"mean": 0.0, "spread": 0.0}
    return {"mean": statistics.fmean(values), "spread": (max(values) - min(values)) / 2}


def training_questions(count: int = 20) -> list[Question]:
    """Questions of training worlds: what a guesser that never sees the video may learn from."""
    found: list[Question] = []
    for number in range(count):
        rng = np.random.default_rng([0x60E5, number])
        scene = Scene.from_seed(number, duration_s=600.0, split="train")
        found += questions(scene, 1_700_000_000.0, np.arange(600.0), rng, "train")
    return found


def main(argv: list[str] | None = None) -> int:
    """Command line of `vilamp eval`."""
    from rich.console import Console
    from rich.progress import Progress

    parser = argparse.ArgumentParser(prog="vilamp eval", description="Recall and accuracy on held-out drawn worlds.")
    parser.add_argument("--model", default="builtin", help="checkpoint folder, or 'builtin'")
    parser.add_argument("--frames", type=int, default=600, help="frames per history (N)")
    parser.add_argument("--seeds", default="11,12,13")
    parser.add_argument("--worlds", type=int, default=0, help="worlds per seed (0: enough for about 2,400 frames)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    folder = Path(__file__).parent / "builtin" if args.model == "builtin" else Path(args.model)
    model = VideoModel.load(folder, device=args.device, num_threads=args.threads)
    worlds = args.worlds or max(1, 2400 // args.frames)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    tallies = [Tally() for _ in seeds]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{len(seeds) * worlds} worlds of {args.frames} frames", total=len(seeds) * worlds)
        for seed, tally in zip(seeds, tallies, strict=True):
            evaluate(model, world_clips(seed, args.frames, worlds), tally, lambda: progress.advance(task))
    report = {"frames": args.frames, "seeds": seeds, "worlds_per_seed": worlds, "defaults": asdict(model.info.defaults)}
    report |= summarise(tallies, training_questions())
    report["seconds"] = {key: sum(t.seconds[key] for t in tallies) for key in ("encode", "answer")}
    print_report(Console(), report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def print_report(console: Any, report: dict[str, Any]) -> None:
    """The table of one evaluation."""
    from rich.table import Table

    table = Table(
        "", "right", "+-", "questions", "question-only guess", "majority answer", title=f"N = {report['frames']}"
    )
    for name, row in [*report["families"].items(), ("all families", report["all_families"])]:
        table.add_row(name, f"{row['mean']:.0%}", f"{row['spread']:.0%}", str(row["questions"]),
                      f"{row['question_only_guess']:.0%}", f"{row['majority_answer']:.0%}")  # fmt: skip
    console.print(table)
    hard, recall = report["hard_families"], report["dks_recall"]
    console.print(
        f"families that a guess gets right in at most {HARD_GUESS:.0%} ({', '.join(hard['families'])}): "
        f"{hard['mean']:.0%} +- {hard['spread']:.0%} of {hard['questions']} questions"
    )
    console.print(
        f"keyframe recall over {recall['needles']} single events: DKS {recall['mean']:.0%} +- {recall['spread']:.0%}, "
        f"uniform {report['uniform_recall']['mean']:.0%}, random {report['random_recall']['mean']:.0%}"
    )
