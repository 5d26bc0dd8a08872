"""Hide one visitor in up to 10,000 frames ("VideoNIAH"): is it found, and is the question about it answered?

    python -m benchmarks.needles [--cache FOLDER]

Haystacks are worlds of a fixed camera from the evaluation split. In empty stretches one frame in four is drawn and encoded
and replaces those after it (`--empty-every 1` draws them all). A needle is a visitor of a unique kind and colour: the frames
in which it crosses the picture are drawn again with it and encoded. The towers see one frame at a time, so this gives the
same features as drawing the whole video again. Shorter haystacks are stretches of the longest one, rotated where they would
begin before it or end after it, with continuous clock times.

Two results. Recall: DKS alone (no filling, no reserved frames) in the longest haystack, needles in each tenth of it. Answers:
"when did the red car come?", right within two seconds of the visit, by length and depth, for DKS, query top-K and uniform
choice with the same number of keyframes and tokens. Writes eval-needles.json, needles.png and recall-by-depth.png.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from agent.ask.keyframes import Selection
from agent.evaluation.arms import Asker
from agent.evaluation.clips import DRAW_SIZE, Clip, features_of, world_clip
from agent.evaluation.run import dks_alone
from agent.evaluation.scores import NUM_BINS, Needle, bins_below, by_depth, share
from benchmarks import features
from benchmarks.machine import add_out, machine, measured_path, picture_path, show, write_result
from model.features import FrameFeatures
from model.history import ArrayHistory
from model.preprocess import relevance_pixels
from model.select import ArrayCandidates, select_keyframes
from model.video_model import VideoModel
from model.world import phrases
from model.world.answers import Query, Question, clock_slot, is_correct
from model.world.draw import degrade, draw
from model.world.needle import Visitor, absent, add_visitor
from model.world.questions import with_articles

SIZES = (2000, 4000, 6000, 8000, 10000)
ARMS = ("dks", "top_k", "uniform")
RECALL_PHRASES = (phrases.EXISTENCE, phrases.WHEN, phrases.LAST_SEEN, phrases.WHERE)


@dataclass(frozen=True)
class Haystack:
    """One world, with the features of all its frames."""

    clip: Clip
    features: list[FrameFeatures]
    embeddings: np.ndarray  # (N, D) unit


@dataclass(frozen=True)
class Hidden:
    """A needle: pictures of the frames that show it, by row of its haystack."""

    haystack: Haystack
    visitor: Visitor
    pictures: dict[int, np.ndarray]


def haystacks(
    model: VideoModel, seeds: list[int], num_frames: int, empty_every: int, cache: Path | None
) -> list[Haystack]:
    """Return each seed's first world with a fixed camera."""
    found = []
    for seed in seeds:
        clips = (world_clip(seed * 1009 + number, num_frames, empty_every=empty_every) for number in range(20))
        clip = next(clip for clip in clips if clip.scene is not None and clip.scene.style == "fixed")
        kept = features_of(model, clip, cache)
        found.append(Haystack(clip, kept, ArrayHistory(kept).unit_embeddings()))
    return found


def hide(haystack: Haystack, depth: int, rng: np.random.Generator) -> Hidden:
    """Return a new visitor somewhere in this tenth of the haystack."""
    scene, length = haystack.clip.scene, len(haystack.features)
    assert scene is not None
    options = absent(scene)
    visitor = None
    while visitor is None:
        kind, colour = options[rng.integers(len(options))]
        start = float(rng.uniform(depth, depth + 1)) / NUM_BINS * (length - 12)
        visitor = add_visitor(scene, kind, colour, start, rng)
    pictures = [degrade(draw(visitor.scene, float(row), *DRAW_SIZE), rng) for row in visitor.rows]
    return Hidden(haystack, visitor, dict(zip(visitor.rows, pictures, strict=True)))


def embedded(model: VideoModel, pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Return (n, D) unit embeddings, as `VideoModel.encode` gives them, without the patches."""
    config = model.config
    pixels = relevance_pixels(list(pictures), config.dual_encoder.image, whole_frame=config.live.whole_frame)
    with torch.inference_mode():
        raw = model.network.embed_images(torch.from_numpy(pixels)).float().numpy()
    unit: np.ndarray = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    return unit


def found_alone(
    model: VideoModel, needle: Hidden, embeddings: np.ndarray, arm: Selection, rng: np.random.Generator
) -> bool:
    """Return whether selection alone takes a frame that shows the visitor well. embeddings: (N, D) unit, with the needle."""
    choices = RECALL_PHRASES[rng.integers(len(RECALL_PHRASES))]["eval"]
    thing = f"{needle.visitor.colour} {needle.visitor.kind}"
    text = with_articles(choices[rng.integers(len(choices))].format(thing=thing, come="come"))
    chosen = select_keyframes(
        ArrayCandidates(embeddings, model.embed_text(text).unit),
        num_keyframes=arm.num_keyframes,
        tau=arm.tau,
        floor=arm.floor,
        recent=0,
        fill="none",
        background=embeddings.mean(0, keepdims=True) if arm.redundancy == "background" else None,
        background_floor=arm.background_floor,
    )
    return bool(np.isin(chosen.rows, needle.visitor.clear).any())


def called_otherwise(needle: Hidden, rng: np.random.Generator) -> Hidden:
    """Return the same frames under the name of something that never comes, of another kind and colour.

    A control: who finds them for that question found them by chance.
    """
    visitor = needle.visitor
    options = [(k, c) for k, c in absent(visitor.scene) if k != visitor.kind and c != visitor.colour]
    kind, colour = options[rng.integers(len(options))]
    return replace(needle, visitor=replace(visitor, kind=kind, colour=colour))


def placed(
    model: VideoModel, needle: Hidden, size: int, depth: int, rng: np.random.Generator
) -> tuple[Asker, Question]:
    """Return the needle in the middle of this tenth of a haystack of `size` frames, and the question about it."""
    whole, visitor = needle.haystack, needle.visitor
    length, first = len(whole.features), visitor.clear[0]
    begin = first - int((depth + 0.5) / NUM_BINS * size)
    rows = [(begin + place) % length for place in range(size)]
    frames = dict(zip(visitor.rows, model.encode(list(needle.pictures.values())), strict=True))
    kept = [frames.get(row, whole.features[row]) for row in rows]
    span = (float(first - begin), float(visitor.clear[-1] - begin))
    options = phrases.WHEN["eval"]
    text = options[rng.integers(len(options))].format(thing=f"{visitor.colour} {visitor.kind}", come="come")
    query = Query(visitor.kind, visitor.colour)
    start = whole.clip.start_unix
    question = Question("when", text, clock_slot(*span), query, (span,), start)
    return Asker(model, kept, start + np.arange(size)), question


def answers(
    model: VideoModel, needles: Iterator[Hidden], sizes: tuple[int, ...], repeats: int, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Ask every arm about the same needles. Returns one row per needle, length and depth."""
    product = Selection.of(model.info.defaults)
    for repeat in range(repeats):
        for size in sizes:
            for depth in range(NUM_BINS):
                needle = next(needles)
                asker, question = placed(model, needle, size, depth, rng)
                row: dict[str, Any] = {"repeat": repeat, "frames": size, "depth": depth, "question": question.text}
                first = int(question.spans[0][0])
                shown = [first - needle.visitor.clear[0] + clear for clear in needle.visitor.clear]
                for name in ARMS:
                    answer = asker.ask(question.text, replace(product, selection=name))
                    row[name] = {
                        "answer": answer.text,
                        "right": is_correct(question, answer.text),
                        "found": bool(np.isin(answer.rows, shown).any()),
                        "tokens": answer.num_tokens,
                        "ms": round(answer.total_ms),
                    }
                yield row


def summary(rows: list[dict[str, Any]], sizes: tuple[int, ...]) -> dict[str, Any]:
    """Return right answers by arm: in total, by length, by depth, and by both."""
    report: dict[str, Any] = {}
    for name in ARMS:
        cells = [
            [share(row[name]["right"] for row in rows if (row["frames"], row["depth"]) == (size, depth))["mean"]
             for depth in range(NUM_BINS)] for size in sizes
        ]  # fmt: skip
        report[name] = {
            "all": share(row[name]["right"] for row in rows),
            "found": share(row[name]["found"] for row in rows),
            "by_frames": {size: share(row[name]["right"] for row in rows if row["frames"] == size) for size in sizes},
            "by_depth": [share(row[name]["right"] for row in rows if row["depth"] == d) for d in range(NUM_BINS)],
            "cells": cells,
            "tokens": float(np.mean([row[name]["tokens"] for row in rows])),
        }
    return report


def plot_answers(report: dict[str, Any], sizes: tuple[int, ...], out: Path) -> None:
    """Plot three heat maps side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    titles = {"dks": "DKS (the product)", "top_k": "query top-K", "uniform": "uniform choice"}
    for place, name in enumerate(ARMS, 1):
        axes = figure.add_subplot(1, 3, place)
        image = axes.imshow(np.array(report[name]["cells"]).T, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        axes.set_xticks(range(len(sizes)), [f"{size // 1000}K" for size in sizes])
        axes.set_yticks(range(NUM_BINS), [f"{10 * depth + 5} %" for depth in range(NUM_BINS)])
        axes.set_xlabel("frames in the history")
        axes.set_ylabel("depth of the needle")
        right = report[name]["all"]
        low, high = right["interval"]
        axes.set_title(f"{titles[name]}: {right['mean']:.0%} ({low:.0%} to {high:.0%})", fontsize=10)
    figure.colorbar(image, ax=figure.axes, label="right answers")
    figure.savefig(out, dpi=110)


def plot_recall(bins: list[dict[str, Any]], uniform: float, out: Path) -> None:
    """Plot recall by depth with its intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    means = np.array([each["mean"] for each in bins])
    reach = np.abs(np.array([each["interval"] for each in bins]).T - means)
    axes.bar(range(NUM_BINS), means, color="#7aa6c2")
    axes.errorbar(range(NUM_BINS), means, reach, fmt="none", ecolor="black", capsize=3)
    axes.axhline(sum(each["mean"] * each["count"] for each in bins) / sum(each["count"] for each in bins),
                 color="black", linewidth=0.8, label="mean")  # fmt: skip
    axes.axhline(uniform, color="tab:red", linewidth=0.8, linestyle="--", label="uniform choice")
    axes.set_xticks(range(NUM_BINS), [f"{10 * depth}-{10 * depth + 10} %" for depth in range(NUM_BINS)], fontsize=7)
    axes.set_xlabel("depth in 10,000 frames (0 %: oldest)")
    axes.set_ylabel("DKS recall, 95 % intervals")
    axes.set_ylim(0, 1.02)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(out, dpi=110)


def recall(
    model: VideoModel, stacks: list[Haystack], per_bin: int, keep: int, rng: np.random.Generator, progress: Progress
) -> tuple[dict[str, Any], list[Hidden]]:
    """Return recall by depth, and the first `keep` needles."""
    arm = dks_alone(model.info.defaults)
    scores: dict[str, list[Needle]] = {"dks": [], "top_k": []}
    uniform, kept, control = [], [], []
    bar = progress.add_task("recall", total=per_bin * NUM_BINS)
    for number in range(per_bin):
        for depth in range(NUM_BINS):
            needle = hide(stacks[number % len(stacks)], depth, rng)
            embeddings = needle.haystack.embeddings.copy()
            embeddings[list(needle.pictures)] = embedded(model, needle.pictures.values())
            state = rng.bit_generator.state
            for name in scores:
                rng.bit_generator.state = state  # the same wording for both
                how = replace(arm, tau=2.0) if name == "top_k" else arm
                scores[name].append(
                    Needle((depth + 0.5) / NUM_BINS, found_alone(model, needle, embeddings, how, rng), 0, 0)
                )
            control.append(found_alone(model, called_otherwise(needle, rng), embeddings, arm, rng))
            uniform.append(min(1.0, len(needle.visitor.clear) * arm.num_keyframes / len(needle.haystack.features)))
            if len(kept) < keep:
                kept.append(needle)
            progress.advance(bar)
    report: dict[str, Any] = {"uniform": float(np.mean(uniform)), "asked_for_another_thing": share(control)}
    for name, found in scores.items():
        bins = by_depth(found)
        report[name] = share(n.found for n in found) | {"by_depth": bins, "bins_wholly_below_mean": bins_below(bins)}
    return report, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--per-bin", type=int, default=200, help="needles for recall in each tenth")
    parser.add_argument("--repeats", type=int, default=2, help="needles asked about at each length and depth")
    parser.add_argument("--empty-every", type=int, default=4, help="where nobody is about, draw and encode only every so "
                        "manieth frame, which stands for those after it (1: every frame)")  # fmt: skip
    parser.add_argument("--cache", type=Path, help="folder for features, to be read again another time")
    parser.add_argument("--threads", type=int, default=1, help="torch's")
    add_out(parser)
    args = parser.parse_args()
    here = machine(threads=args.threads)
    show(here)
    model = VideoModel.load(features.BUILTIN, num_threads=args.threads)
    rng, sizes = np.random.default_rng(0x41EE), tuple(args.sizes)
    with Progress() as progress:
        stacks = haystacks(model, args.seeds, max(sizes), args.empty_every, args.cache)
        wanted = args.repeats * len(sizes) * NUM_BINS
        found, needles = recall(model, stacks, args.per_bin, wanted, rng, progress)
        measured: dict[str, Any] = {"seeds": args.seeds, "empty_every": args.empty_every, "recall": found}
        print_recall(found)
        write_result(measured_path(args.out, "eval-needles.json"), here, measured)
        plot_recall(found["dks"]["by_depth"], found["uniform"], picture_path(args.out, "recall-by-depth.png"))
        bar = progress.add_task("answers", total=wanted)
        rows = []
        for row in answers(model, (needles[i % len(needles)] for i in range(wanted)), sizes, args.repeats, rng):
            rows.append(row)
            progress.advance(bar)
    measured["answers"] = summary(rows, sizes)
    measured["rows"] = rows
    for name in ARMS:
        print(name, measured["answers"][name]["all"], measured["answers"][name]["by_frames"])
    write_result(measured_path(args.out, "eval-needles.json"), here, measured)
    plot_answers(measured["answers"], sizes, picture_path(args.out, "needles.png"))


def print_recall(found: dict[str, Any]) -> None:
    """Print one line per selection."""
    for name in ("dks", "top_k"):
        each = found[name]
        bins = " ".join(f"{b['mean']:.1%}" for b in each["by_depth"])
        print(f"recall, {name}: {each['mean']:.1%} of {each['count']}; by depth {bins}; "
              f"wholly below the mean: {each['bins_wholly_below_mean'] or 'none'}")  # fmt: skip


if __name__ == "__main__":
    main()
