"""Measure keyframe selection for a fixed camera, where most frames are alike: which redundancy rule and which tau?

    python -m benchmarks.fixed_camera [--cache FOLDER]

DKS alone (no filling, no reserved frames) on drawn worlds of a fixed camera, for thresholds tau on raw embeddings, as
published, and on embeddings relative to the camera's background. Recall: single events of at most 20 frames with a keyframe.
Coverage: visits with a keyframe, for questions that need several visits, such as counts. No language model is used.
Writes eval-fixed-camera.json and eval-fixed-camera.png.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.progress import track

from agent.evaluation.arms import Asker
from agent.evaluation.clips import features_of, world_clip
from agent.evaluation.run import LONG
from benchmarks import features
from benchmarks.ablations import Column, print_recall, recall_by_tau
from benchmarks.machine import add_out, machine, measured_path, picture_path, show, write_result
from model.video_model import VideoModel


def fixed_worlds(
    model: VideoModel, seeds: list[int], num_frames: int, worlds: int, empty_every: int, cache: Path | None
) -> list[Column]:
    """Return those of the seeds' first `worlds` worlds that have a fixed camera."""
    numbers = [seed * 1009 + number for seed in seeds for number in range(worlds)]
    clips = [world_clip(number, num_frames, rounds=3, empty_every=empty_every) for number in numbers]
    fixed = [clip for clip in clips if clip.scene is not None and clip.scene.style == "fixed"]
    return [
        (clip, Asker(model, features_of(model, clip, cache), clip.times), [])
        for clip in track(fixed, description=f"{num_frames} frames")
    ]


def plot(measured: dict[str, Any], out: Path) -> None:
    """Plot recall and coverage against tau, raw and relative, one panel per length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(measured), 3.4), layout="constrained")
    for place, (frames, each) in enumerate(measured.items(), 1):
        axes = figure.add_subplot(1, len(measured), place)
        for redundancy, colour in (("raw", "tab:orange"), ("background", "tab:blue")):
            rows = [row for row in each["rows"] if row["redundancy"] == redundancy]
            ticks = range(len(rows))
            axes.plot(ticks, [row["recall"]["mean"] for row in rows], color=colour, label=f"{redundancy}, recall")
            axes.plot(
                ticks, [row["coverage"]["mean"] for row in rows], "--", color=colour, label=f"{redundancy}, coverage"
            )
            axes.set_xticks(ticks, [row["tau"] or "none" for row in rows], fontsize=7)
        axes.set_title(f"{int(frames):,} frames, fixed camera", fontsize=10)
        axes.set_xlabel("tau")
        axes.set_ylim(0, 1.02)
        axes.legend(fontsize=7, loc="lower right")
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--frames", type=int, nargs="+", default=[600, 10000])
    parser.add_argument("--worlds", type=int, nargs="+", default=[4, 1], help="per seed, for each length")
    parser.add_argument("--empty-every", type=int, default=4, help=f"from {LONG:,} frames on: where nobody is about, draw and "
                        "encode only every so manieth frame, which stands for those after it (1: every frame)")  # fmt: skip
    parser.add_argument("--cache", type=Path, help="folder for features, to be read again another time")
    parser.add_argument("--threads", type=int, default=1, help="torch's")
    add_out(parser)
    args = parser.parse_args()
    here = machine(threads=args.threads)
    show(here)
    model = VideoModel.load(features.BUILTIN, num_threads=args.threads)
    measured: dict[str, Any] = {}
    for num_frames, worlds in zip(args.frames, args.worlds, strict=True):
        every = args.empty_every if num_frames >= LONG else 1
        columns = fixed_worlds(model, args.seeds, num_frames, worlds, every, args.cache)
        measured[str(num_frames)] = {"worlds": len(columns), "rows": recall_by_tau(model, columns)}
        print(f"{num_frames} frames, {len(columns)} worlds of a fixed camera, seeds {args.seeds}")
        for row in measured[str(num_frames)]["rows"]:
            print_recall(row)
    write_result(measured_path(args.out, "eval-fixed-camera.json"), here, {"seeds": args.seeds, "frames": measured})
    plot(measured, picture_path(args.out, "eval-fixed-camera.png"))


if __name__ == "__main__":
    main()
