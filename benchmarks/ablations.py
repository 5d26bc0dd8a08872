"""Measure what each part of the method contributes: the same questions, with one thing changed at a time.

    python -m benchmarks.ablations [--cache FOLDER]

Variants ("arms") of selection (DKS, query top-K, uniform), merging (DFM, mean pooling, keyframes only), K, tau and alpha, on
held-out drawn worlds. Only families of questions that the model has learnt are asked; the others would add noise.
Every arm gets the same questions and is compared with the product by an exact sign test.
Writes eval-ablations.json and accuracy-cost.png: right answers against tokens given to the language model, and time.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from agent.ask.keyframes import Selection
from agent.evaluation.arms import Asker, merging_otherwise
from agent.evaluation.clips import Clip, features_of, world_clips
from agent.evaluation.run import dks_alone, is_needle
from agent.evaluation.scores import share
from benchmarks import features
from benchmarks.machine import add_out, machine, measured_path, picture_path, show, write_result
from model.config import Composer
from model.video_model import VideoModel
from model.world.questions import Question, is_correct

LEARNT = ("colour", "count", "existence", "last_seen", "when")
COUNTS = (1, 4, 8, 16, 64)
TAUS = (0.5, 0.85, 0.95, 0.98, 0.99)
RECALL_TAUS = (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
ALPHA_FACTORS = (0.1, 10.0, 100.0)
Column = tuple[Clip, Asker, list[Question]]


@dataclass(frozen=True)
class Setting:
    """One arm: how keyframes are chosen and how the other frames are merged (None: as trained)."""

    group: str
    arm: Selection
    composer: Composer | None = None
    temperature: float | None = None


def settings(model: VideoModel) -> dict[str, Setting]:
    """Return all arms by name. The first is "product"."""
    base, trained = Selection.of(model.info.defaults), model.merger.temperature
    found = {
        "product": Setting("product", base),
        "top-K": Setting("selection", replace(base, rule="top_k")),
        "uniform": Setting("selection", replace(base, rule="uniform")),
        "mean pooling": Setting("merging", base, "average_pooling"),
        "keyframes only": Setting("merging", base, "none"),
        "keyframes only, K = 8": Setting("merging", of_size(base, 8), "none"),
    }
    found |= {f"K = {count}": Setting("K", of_size(base, count)) for count in COUNTS}
    found |= {f"tau = {tau}": Setting("tau", replace(base, tau=tau)) for tau in TAUS if tau != base.tau}
    found |= {
        f"alpha = {trained * factor:.3g}": Setting("alpha", base, None, trained * factor) for factor in ALPHA_FACTORS
    }
    return found


def of_size(base: Selection, num_keyframes: int) -> Selection:
    """Return the arm with `count` keyframes, at most a quarter of them reserved for the newest frames."""
    return replace(base, num_keyframes=num_keyframes, recent=min(base.recent, num_keyframes // 4))


def chosen_questions(clip: Clip, most: int, rng: np.random.Generator) -> list[Question]:
    """Return at most `most` questions of a clip, taken from each family in turn."""
    left = {
        family: [q for q in rng.permutation(np.array(clip.questions, object)) if q.family == family]
        for family in LEARNT
    }
    found: list[Question] = []
    while len(found) < most and any(left.values()):
        found += [questions.pop() for questions in left.values() if questions][: most - len(found)]
    return found


def run(model: VideoModel, setting: Setting, columns: list[Column]) -> Iterator[dict[str, Any]]:
    """Ask every question. Returns one row per question."""
    other = merging_otherwise(model, composer=setting.composer, temperature=setting.temperature)
    for clip, asker, questions in columns:
        for question in questions:
            answer = asker.ask(question.text, setting.arm, other)
            yield {
                "world": clip.name,
                "family": question.family,
                "question": question.text,
                "answer": answer.text,
                "right": is_correct(question, answer.text),
                "tokens": answer.num_tokens,
                "ms": answer.total_ms,
            }


def summary(rows: list[dict[str, Any]], product: list[dict[str, Any]]) -> dict[str, Any]:
    """Return right answers, cost, and the differences from the product on the same questions."""
    lost = sum(p["right"] and not r["right"] for p, r in zip(product, rows, strict=True))
    won = sum(r["right"] and not p["right"] for p, r in zip(product, rows, strict=True))
    return share(row["right"] for row in rows) | {
        "lost": lost,
        "won": won,
        "p": round(sign_test(lost, won), 4),
        "tokens": float(np.median([row["tokens"] for row in rows])),
        "ms": float(np.median([row["ms"] for row in rows])),
        "families": {f: share(r["right"] for r in rows if r["family"] == f) for f in LEARNT},
    }


def sign_test(lost: int, won: int) -> float:
    """Return the two-sided p-value of lost and won answers if neither arm is better. 0 and 6 -> 0.031."""
    total = lost + won
    tail = sum(comb(total, k) for k in range(min(lost, won) + 1)) / 2**total
    return min(1.0, 2 * tail)


def recall_by_tau(model: VideoModel, columns: list[Column]) -> list[dict[str, Any]]:
    """Measure DKS alone for each tau, with raw and background-relative redundancy. tau None is top-K.

    Recall is over single events. Coverage is the share of visits with a keyframe, for questions that need several visits.
    """
    rows = []
    base = dks_alone(model.info.defaults)
    for redundancy in ("raw", "background"):
        for tau in (*RECALL_TAUS, 2.0):
            arm = replace(base, tau=tau, redundancy=redundancy)
            hits, visits, taken = [], [], []
            for clip, asker, _ in columns:
                seconds = clip.times - clip.start_unix
                for question in clip.questions:
                    if not (is_needle(question) or len(question.spans) > 1):
                        continue
                    chosen = seconds[arm(asker.window, model.embed_text(question.text).unit).rows]
                    shown = [bool(((chosen >= a) & (chosen <= b)).any()) for a, b in question.spans]
                    taken.append(len(chosen))
                    if is_needle(question):
                        hits += shown
                    elif question.family in ("count", "existence", "colour"):
                        visits += shown
            row = {"redundancy": redundancy, "tau": None if tau == 2.0 else tau, "taken": float(np.mean(taken))}
            rows.append(row | {"recall": share(hits), "coverage": share(visits)})
    return rows


def plot(measured: dict[str, Any], out: Path) -> None:
    """Plot right answers against tokens and against time, one point per arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    colours = {"product": "black", "selection": "tab:red", "merging": "tab:orange", "K": "tab:blue", "latest": "grey"}
    for place, (cost, label) in enumerate((("tokens", "visual tokens given to the language model"),
                                           ("ms", "milliseconds from question to answer")), 1):  # fmt: skip
        axes = figure.add_subplot(1, 2, place)
        shown = sorted((each[cost], name) for name, each in measured.items() if each["group"] in colours)
        apart, last = 0.03 * shown[-1][0], -np.inf
        for value, name in shown:
            each = measured[name]
            last = max(value, last + apart)  # points of the same cost are drawn side by side
            low, high = each["interval"]
            reach = [[each["mean"] - low], [high - each["mean"]]]
            axes.errorbar(last, each["mean"], reach, fmt="o", color=colours[each["group"]], capsize=2)
            below = low > 0.4
            axes.annotate(name, (last, low - 0.02 if below else high + 0.02), rotation=90, fontsize=7, ha="center",
                          va="top" if below else "bottom")  # fmt: skip
        axes.set_xlabel(label)
        axes.set_ylabel("right answers, 95 % intervals")
        axes.set_ylim(0, 1.02)
    figure.savefig(out, dpi=110)


def latest(model: VideoModel, columns: list[Column]) -> list[dict[str, Any]]:
    """Answer from the last four frames only."""
    arm = Selection.of(model.info.defaults)
    short = [(clip, asker.latest(4), questions) for clip, asker, questions in columns]
    return list(run(model, Setting("latest", arm), short))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--worlds", type=int, default=4, help="per seed")
    parser.add_argument("--questions", type=int, default=7, help="per world")
    parser.add_argument("--only", nargs="+", help="names of arms (default: all)")
    parser.add_argument("--cache", type=Path, help="folder for features, to be read again another time")
    parser.add_argument("--threads", type=int, default=1, help="torch's")
    add_out(parser)
    args = parser.parse_args()
    here = machine(threads=args.threads)
    show(here)
    model = VideoModel.load(features.BUILTIN, num_threads=args.threads)
    rng = np.random.default_rng(0xAB1A)
    with Progress() as progress:
        clips = [clip for seed in args.seeds for clip in world_clips(seed, args.frames, args.worlds)]
        columns: list[Column] = [
            (clip, Asker(model, features_of(model, clip, args.cache), clip.times),
             chosen_questions(clip, args.questions, rng))
            for clip in progress.track(clips, description="encoding")
        ]  # fmt: skip
        recalls = recall_by_tau(model, columns)
        for row in recalls:
            print_recall(row)
        arms = {n: s for n, s in settings(model).items() if not args.only or n in (*args.only, "product")}
        measured, product = {}, []
        for name, setting in progress.track(arms.items(), description="arms"):
            rows = list(run(model, setting, columns))
            product = product or rows
            measured[name] = {"group": setting.group} | summary(rows, product)
            print_arm(name, measured[name])
        measured["last 4 frames"] = {"group": "latest"} | summary(latest(model, columns), product)
        print_arm("last 4 frames", measured["last 4 frames"])
    result = {"frames": args.frames, "seeds": args.seeds, "worlds_per_seed": args.worlds, "families": LEARNT}
    result |= {"trained_alpha": model.merger.temperature, "arms": measured, "recall_by_tau": recalls}
    write_result(measured_path(args.out, "eval-ablations.json"), here, result)
    plot(measured, picture_path(args.out, "accuracy-cost.png"))


def print_recall(row: dict[str, Any]) -> None:
    """Print one line."""
    recall, coverage = row["recall"], row["coverage"]
    print(f"{row['redundancy']}, tau {row['tau'] or 'any'}: recall {recall['mean']:.1%} of {recall['count']}, coverage "
          f"{coverage['mean']:.1%} of {coverage['count']}, {row['taken']:.0f} taken", flush=True)  # fmt: skip


def print_arm(name: str, each: dict[str, Any]) -> None:
    """Print one line."""
    low, high = each["interval"]
    print(f"{name:24} {each['mean']:6.1%} ({low:.0%} to {high:.0%}) of {each['count']}; against the product lost {each['lost']}, "
          f"won {each['won']}, p {each['p']}; {each['tokens']:.0f} tokens, {each['ms']:.0f} ms", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
