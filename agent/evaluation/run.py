"""Measure how well a checkpoint selects keyframes and answers questions about labelled video (`vilamp eval`).

Clips are drawn worlds of the evaluation split, or videos with logs (`agent.evaluation.clips`). Each frame is encoded
once. Questions go through the product's own code, with greedy decoding (`agent.evaluation.arms`). As in the agent,
questions about the present search the newest frames only, and some questions are answered in steps. For comparison,
each question is also asked directly about the whole history. The report is a dict, written as JSON.

DKS is the paper's differential keyframe selection. A needle is a short event in a long history that a question is
about.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from agent.ask.keyframes import Selection
from agent.evaluation.arms import Asker
from agent.evaluation.clips import Clip, features_of, labelled_videos, video_clip, world_clip
from agent.evaluation.scores import HARD_GUESS, Asked, Needle, Tally, bins_below, summarise
from agent.settings.settings import AnsweringSettings
from model.features import Defaults
from model.hub import BUILTIN
from model.video_model import VideoModel
from model.world.codec import Codec
from model.world.questions import Question, is_correct, questions
from model.world.scene import Scene

MOST_NEEDLE_FRAMES = 20
NUM_LATEST = AnsweringSettings().now_frames  # frames of the baseline without memory, and of questions about now
LONG = 5000  # frames from which on questions are drawn three times of each world: there are few worlds


def shown_rows(clip: Clip, question: Question) -> np.ndarray:
    """Return a (N,) bool mask of the frames that show the answer to the question."""
    seconds = clip.times - clip.start_unix
    shown = np.zeros(len(seconds), bool)
    for start, end in question.spans:
        shown |= (seconds >= start) & (seconds <= end)
    return shown


def dks_alone(defaults: Defaults) -> Selection:
    """Return the keyframe selection whose recall is measured: the paper's differential keyframe selection (DKS) alone.

    It leaves keyframes unused that are not relevant, and reserves none for the newest frames.

    recall: the share of the events asked about that a keyframe shows.
    """
    return replace(Selection.of(defaults), recent=0, fill="none")


def needle_hits(asker: Asker, clip: Clip, question: Question, arm: Selection) -> Needle:
    """Return whether keyframes chosen by `arm` show the short event (needle) that the question is about.

    Also return the probabilities that frames at equal distances (mean over 8 offsets) and random frames show it.
    """
    num_frames = len(clip.times)
    chosen = arm(asker.window, asker.model.embed_text(question.text).unit)
    shown = shown_rows(clip, question)
    places = min(arm.num_keyframes, num_frames)
    step = num_frames / places
    phases = [np.unique((np.arange(places) * step + phase * step).astype(int)) for phase in np.arange(8) / 8]
    uniform = float(np.mean([shown[rows].any() for rows in phases]))
    missed = np.prod([(num_frames - shown.sum() - i) / (num_frames - i) for i in range(places)])
    length_s = float(clip.times[-1] - clip.start_unix) + 1
    depth = question.spans[0][0] / length_s
    return Needle(depth, bool(shown[chosen.rows].any()), uniform, float(1 - max(missed, 0)))


def is_needle(question: Question) -> bool:
    """Return whether the question is about a single event of at most 20 frames ("needle"), named by a thing's look."""
    return (
        len(question.spans) == 1
        and question.spans[0][1] - question.spans[0][0] <= MOST_NEEDLE_FRAMES
        and question.query is not None
        and question.query.second is None
        and (question.query.kind is not None or question.query.colour is not None)
        and question.family not in ("present", "count", "left_behind")
    )


def evaluate(
    model: VideoModel,
    clips: Iterable[Clip],
    tally: Tally,
    *,
    cache: Path | None = None,
    on_question: Callable[[Clip, int], None] = lambda clip, done: None,
) -> None:
    """Ask all questions of all clips (labelled videos), and add the results to `tally`.

    on_question: called with a clip and the number of its questions that have been asked.
    """
    for clip in clips:
        began = time.perf_counter()
        asker = Asker(model, features_of(model, clip, cache), clip.times, zones_of(clip))
        tally.seconds["encode"] += time.perf_counter() - began
        on_question(clip, 0)
        began = time.perf_counter()
        for done, (sink, asked) in enumerate(_ask_all(asker, clip), 1):
            getattr(tally, sink).append(asked)
            on_question(clip, done)
        arm = dks_alone(model.info.defaults)
        tally.needles += [needle_hits(asker, clip, q, arm) for q in clip.questions if is_needle(q)]
        tally.seconds["answer"] += time.perf_counter() - began


def _ask_all(asker: Asker, clip: Clip) -> Iterator[tuple[str, Asked]]:
    """Ask all questions of a clip, and yield ("asked", result), or ("present", result) for those about the present."""
    for question in clip.questions:
        yield "asked", _ask_one(asker, question)
    for moment in clip.moments:
        yield "present", _ask_one(asker.as_of(moment.row), moment.question)


def _ask_one(asker: Asker, question: Question) -> Asked:
    arm = Selection.of(asker.model.info.defaults)
    whole = asker.ask(question.text, arm).text
    newest = asker.latest(NUM_LATEST)
    if asker.is_composed(question.text):
        answer, latest = (each.ask_in_steps(question.text, arm) for each in (asker, newest))
    else:
        latest = newest.ask(question.text, arm).text
        reading = asker.understood(question.text).reading
        answer = latest if reading is not None and reading.kind == "present" else whole
    right = (is_correct(question, each) for each in (answer, latest, whole))
    return Asked(question, answer, *right)


def zones_of(clip: Clip) -> list[str | None] | None:
    """Return the zone (place name) in each frame's metadata, None if the clip is not a drawn world."""
    if clip.scene is None:
        return None
    seconds = clip.times - clip.start_unix
    return [clip.scene.metadata_at(float(second)).get("zone") for second in seconds]


def training_questions(count: int = 20) -> list[Question]:
    """Return questions of training worlds, from which the baseline that guesses without video learns."""
    found: list[Question] = []
    for number in range(count):
        rng = np.random.default_rng([0x60E5, number])
        scene = Scene.from_seed(number, duration_s=600.0, split="train")
        found += questions(scene, 1_700_000_000.0, np.arange(600.0), rng, "train")
    return found


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed arguments of `vilamp eval`."""
    parser = argparse.ArgumentParser(prog="vilamp eval", description="Recall and accuracy on labelled video.")
    parser.add_argument("--model", default="builtin", help="checkpoint folder, or 'builtin'")
    parser.add_argument("--frames", type=int, default=600, help="frames per history (N) of drawn worlds")
    parser.add_argument("--seeds", default="11,12,13", help="drawn worlds, held out from training")
    parser.add_argument("--worlds", type=int, default=0, help="worlds per seed (0: enough for about 2,400 frames)")
    parser.add_argument(
        "--rounds",
        type=int,
        default=0,
        help=f"draw questions so often of each world, none twice (0: 3 from {LONG:,} frames on, else 1)",
    )
    parser.add_argument("--moments", type=int, default=-1, help="moments of each world at which the present is asked "
                        "about (default: about 24 a seed)")  # fmt: skip
    parser.add_argument("--empty-every", type=int, default=1, help="where nothing goes on before a fixed camera, draw and "
                        "encode only every so manieth frame, which stands for those after it")  # fmt: skip
    parser.add_argument("--codec", choices=("h264", "vp8"), help="the worlds' frames go through this codec first")
    parser.add_argument("--bits-per-pixel", type=float, default=0.07, help="of the codec; 0.07 is 720p30 at 2 Mbit/s")
    parser.add_argument("--videos", type=Path, help="instead of drawn worlds: a folder of videos, each with its log as "
                        "`vilamp world` writes it")  # fmt: skip
    parser.add_argument("--rate", type=float, default=1.0, help="frames a second taken of each video")
    parser.add_argument("--cache", type=Path, help="folder for features, to be read again another time")
    parser.add_argument("--patch-storage", default="float16", choices=("float16", "int8"), help="how patches are kept")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args(argv)


def clip_groups(args: argparse.Namespace) -> tuple[dict[str, Any], list[list[Callable[[], Clip]]]]:
    """Return a description of the clips for the report, and functions that make them, grouped by seed or video."""
    if args.videos is not None:
        paths = labelled_videos(args.videos)
        about = {"videos": [path.name for path in paths], "rate_hz": args.rate}
        return about, [[lambda path=path: video_clip(path, args.rate)] for path in paths]  # type: ignore[misc]
    worlds = args.worlds or max(1, 2400 // args.frames)
    rounds = args.rounds or (3 if args.frames >= LONG else 1)
    moments = -(-24 // worlds) if args.moments < 0 else args.moments
    codec = None if args.codec is None else Codec(args.codec, args.bits_per_pixel)
    seeds = [int(seed) for seed in args.seeds.split(",")]

    def world(seed: int, number: int) -> Clip:
        return world_clip(
            seed * 1009 + number,
            args.frames,
            rounds=rounds,
            moments=moments,
            codec=codec,
            empty_every=args.empty_every,
        )

    about = {"frames": args.frames, "seeds": seeds, "worlds_per_seed": worlds, "rounds": rounds}
    about["empty_every"] = args.empty_every
    about["codec"] = None if codec is None else codec.name
    return about, [[lambda s=s, n=n: world(s, n) for n in range(worlds)] for s in seeds]  # type: ignore[misc]


def main(argv: list[str] | None = None) -> int:
    """Run `vilamp eval` and return its exit status."""
    from rich.console import Console
    from rich.progress import Progress

    args = parse(argv)
    folder = BUILTIN if args.model == "builtin" else Path(args.model)
    model = VideoModel.load(folder, device=args.device, num_threads=args.threads, patch_dtype=args.patch_storage)
    try:
        about, groups = clip_groups(args)
    except (ValueError, OSError) as error:
        print(error)  # noqa: T201 - the command's own words
        return 1
    tallies = [Tally() for _ in groups]
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("histories", total=sum(map(len, groups)))
        for group, tally in zip(groups, tallies, strict=True):
            for make in group:
                evaluate(model, [make()], tally, cache=args.cache, on_question=_shown(progress))
                progress.advance(bar)
    report = about | {"defaults": asdict(model.info.defaults)} | summarise(tallies, training_questions())
    report["seconds"] = {key: sum(t.seconds[key] for t in tallies) for key in ("encode", "answer")}
    print_report(Console(), report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _shown(progress: Any) -> Callable[[Clip, int], None]:
    """Return a callback that shows a progress bar for the questions of the current clip."""
    bar = progress.add_task("questions", total=None)

    def show(clip: Clip, done: int) -> None:
        total = len(clip.questions) + len(clip.moments)
        progress.update(bar, description=clip.name, completed=done, total=total, visible=done < total)

    return show


def print_report(console: Any, report: dict[str, Any]) -> None:
    """Print one evaluation as a table."""
    from rich.table import Table

    title = f"N = {report['frames']}" if "frames" in report else ", ".join(report["videos"])
    columns = ("", "right", "+-", "95 %", "questions", "question-only guess", "majority answer", "last 4 frames")
    table = Table(*columns, title=title)
    present = {"question_only_guess": report["present"]["majority_answer"]} | report["present"]
    rows = [*report["families"].items(), ("all families", report["all_families"])]
    if present["questions"]:
        rows += [("present, at many moments", present), ("the same, of all frames", present | present["whole_history"])]
    for name, row in rows:
        shares = [row[key] for key in ("question_only_guess", "majority_answer", "last_4_frames")]
        low, high = row["interval"]
        table.add_row(name, f"{row['mean']:.0%}", f"{row['spread']:.0%}", f"{low:.0%} to {high:.0%}",
                      str(row["questions"]), *(f"{value:.0%}" for value in shares))  # fmt: skip
    console.print(table)
    hard, recall = report["hard_families"], report["dks_recall"]
    console.print(
        f"families that a guess gets right in at most {HARD_GUESS:.0%} ({', '.join(hard['families'])}): "
        f"{hard['mean']:.0%} +- {hard['spread']:.0%} of {hard['questions']} questions"
    )
    console.print(
        f"keyframe recall over {recall['needles']} single events: DKS {recall['mean']:.1%} +- {recall['spread']:.1%}, "
        f"uniform {report['uniform_recall']['mean']:.0%}, random {report['random_recall']['mean']:.0%}"
    )
    depths = report["dks_recall_by_depth"]
    console.print("by tenth of the history, oldest first: "
                  + " ".join(f"{each['mean']:.0%}/{each['count']}" for each in depths)
                  + f"; wholly below the mean: {bins_below(depths) or 'none'}")  # fmt: skip
