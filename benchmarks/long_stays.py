"""What redundancy is for: one thing stays for minutes, another only passes, and a question names both.

    python -m benchmarks.long_stays

Worlds of a fixed camera from the evaluation split, 1,000 frames. A visitor of a kind and colour that never comes otherwise comes
and stays for 10 seconds to 10 minutes; a second one, as unique, crosses the picture before or after. "Was the red truck seen
before or after the blue dog?" needs a keyframe of each. Frames with a visitor are drawn again with it and encoded, the others
are those of the world; a shorter stay is the same pictures, of which the last are drawn anew as it leaves.

The same questions for four ways to choose 32 keyframes: DKS as the product does, DKS with the published tau, query top-K and
uniform choice. Writes docs/eval-long-stays.json and long-stays.png.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from benchmarks import features
from benchmarks.machine import add_out, machine, show, write_result
from benchmarks.needles import Haystack, haystacks
from model.evaluate_arms import Arm, Asker
from model.evaluate_clips import DRAW_SIZE
from model.evaluate_scores import share
from model.features import FrameFeatures
from model.video_model import VideoModel
from model.world import phrases
from model.world.answers import Query, Question, is_correct
from model.world.draw import degrade, draw
from model.world.needle import Visitor, absent, add_visitor
from model.world.questions import with_articles

NUM_FRAMES = 1000
STAYS = (10, 60, 200, 600)  # seconds, which are frames
APART_S = 15.0
PUBLISHED_TAU = 0.85


@dataclass(frozen=True)
class Pair:
    """One that stays (a Visitor for each length of the stay) and one that passes, in a haystack."""

    haystack: Haystack
    staying: dict[int, Visitor]
    passing: Visitor


def pair(haystack: Haystack, stays: tuple[int, ...], rng: np.random.Generator) -> Pair:
    """Two visitors of different kinds and colours, the second well before the first comes or after the longest stay."""
    scene, length = haystack.clip.scene, len(haystack.features)
    assert scene is not None
    longest = max(stays)
    while True:
        options = absent(scene)
        staying_as = options[rng.integers(len(options))]
        others = [each for each in options if each[0] != staying_as[0] and each[1] != staying_as[1]]
        passing_as = others[rng.integers(len(others))]
        comes = float(rng.uniform(5, length - longest - 20))
        state = rng.bit_generator.state
        found = {}
        for stay in stays:
            rng.bit_generator.state = state  # the same visit, but for its length
            found[stay] = add_visitor(scene, *staying_as, comes, rng, stay_s=float(stay))
        free = [t for t in range(2, length - 14) if t + 9 + APART_S < comes or t > comes + longest + 8 + APART_S]
        if not free:
            continue
        passing = add_visitor(scene, *passing_as, float(rng.choice(free)), rng)
        staying = {stay: visitor for stay, visitor in found.items() if visitor is not None}
        if passing is not None and len(staying) == len(stays):
            return Pair(haystack, staying, passing)


def drawn(model: VideoModel, visitor: Visitor, rows: list[int], rng: np.random.Generator) -> dict[int, FrameFeatures]:
    """Features of these rows of a haystack with the visitor in them."""
    pictures = [degrade(draw(visitor.scene, float(row), *DRAW_SIZE), rng) for row in rows]
    return dict(zip(rows, model.encode(pictures), strict=True))


def histories(model: VideoModel, both: Pair, rng: np.random.Generator) -> Iterator[tuple[int, Asker]]:
    """(stay, its history), the longest stay first: a shorter one is the same frames until it leaves."""
    passing = drawn(model, both.passing, list(both.passing.rows), rng)
    seen: dict[int, FrameFeatures] = {}
    longest = max(both.staying)
    for stay in sorted(both.staying, reverse=True):
        visitor = both.staying[stay]
        if stay == longest:
            frames = seen = drawn(model, visitor, list(visitor.rows), rng)
        else:
            gone = [row for row in visitor.rows if row >= visitor.scene.actors[-1].times[2]]
            frames = {row: seen[row] for row in visitor.rows if row in seen} | drawn(model, visitor, gone, rng)
        whole = both.haystack
        kept = [passing.get(row) or frames.get(row) or each for row, each in enumerate(whole.features)]
        yield stay, Asker(model, kept, whole.clip.start_unix + np.arange(len(kept)))


def question(both: Pair, stay: int, start_unix: float, rng: np.random.Generator) -> Question:
    """Was the one seen before or after the other? Either may be named first."""
    visitors = [both.staying[stay], both.passing][:: 1 if rng.random() < 0.5 else -1]
    spans = tuple((float(each.clear[0]), float(each.clear[-1])) for each in visitors)
    a, b = visitors
    options = phrases.ORDER["eval"]
    text = options[rng.integers(len(options))].format(a=f"{a.colour} {a.kind}", b=f"{b.colour} {b.kind}")
    query = Query(a.kind, a.colour, Query(b.kind, b.colour))
    answer = "before" if spans[0] < spans[1] else "after"
    return Question("order", with_articles(text), answer, query, spans, start_unix)


def arms(product: Arm) -> dict[str, Arm]:
    """What is compared."""
    return {
        "dks": product,
        "dks, tau 0.85": replace(product, tau=PUBLISHED_TAU),
        "top_k": replace(product, selection="top_k"),
        "uniform": replace(product, selection="uniform"),
    }


def asked(model: VideoModel, both: Pair, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """One row for each length of the stay, with what every arm finds and says."""
    for stay, asker in histories(model, both, rng):
        wanted = question(both, stay, both.haystack.clip.start_unix, rng)
        row: dict[str, Any] = {"stay_s": stay, "question": wanted.text, "truth": wanted.answer}
        for name, arm in arms(Arm.product(model.info.defaults)).items():
            answer = asker.ask(wanted.text, arm)
            rows = answer.keyframes.rows
            row[name] = {
                "answer": answer.text,
                "right": is_correct(wanted, answer.text),
                "of_the_staying": int(np.isin(rows, both.staying[stay].clear).sum()),
                "of_the_passing": int(np.isin(rows, both.passing.clear).sum()),
            }
        yield row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By arm and length of the stay: both found, answers right, and how many places the staying one takes."""
    report: dict[str, Any] = {}
    for name in (key for key, value in rows[0].items() if isinstance(value, dict)):
        report[name] = {}
        for stay in sorted({row["stay_s"] for row in rows}):
            found = [row[name] for row in rows if row["stay_s"] == stay]
            report[name][stay] = {
                "both_found": share(each["of_the_staying"] > 0 < each["of_the_passing"] for each in found),
                "passing_found": share(each["of_the_passing"] > 0 for each in found),
                "right": share(each["right"] for each in found),
                "places_of_the_staying": float(np.mean([each["of_the_staying"] for each in found])),
            }
    return report


def plot(report: dict[str, Any], out: Path) -> None:
    """Both found, answers right and places taken, against the length of the stay."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for place, (key, label) in enumerate(
        (("both_found", "both are among the keyframes"), ("right", "answers right"),
         ("places_of_the_staying", "keyframes of the one that stays")), 1
    ):  # fmt: skip
        axes = figure.add_subplot(1, 3, place)
        for name, by_stay in report.items():
            values = [each[key]["mean"] if isinstance(each[key], dict) else each[key] for each in by_stay.values()]
            axes.plot(list(by_stay), values, marker="o", label=name)
        axes.set_xscale("log")
        axes.set_xticks(list(by_stay), [str(stay) for stay in by_stay])
        axes.set_xlabel("seconds that it stays, of 1,000")
        axes.set_title(label, fontsize=10)
        axes.set_ylim(0, 33 if key == "places_of_the_staying" else 1.03)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7, loc="lower left")
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--pairs", type=int, default=10, help="pairs of visitors in each seed's world")
    parser.add_argument("--stays", type=int, nargs="+", default=list(STAYS), help="seconds")
    parser.add_argument("--cache", type=Path, help="folder for features, to be read again another time")
    parser.add_argument("--threads", type=int, default=1, help="torch's")
    add_out(parser)
    args = parser.parse_args()
    here = machine(threads=args.threads)
    show(here)
    model = VideoModel.load(features.BUILTIN, num_threads=args.threads)
    rng = np.random.default_rng(0x57A1)
    rows: list[dict[str, Any]] = []
    with Progress() as progress:
        stacks = haystacks(model, args.seeds, NUM_FRAMES, 1, args.cache)
        bar = progress.add_task("pairs", total=len(stacks) * args.pairs)
        for number in range(args.pairs):
            for seed, stack in zip(args.seeds, stacks, strict=True):
                both = pair(stack, tuple(args.stays), rng)
                rows += [{"seed": seed, "pair": number} | row for row in asked(model, both, rng)]
                progress.advance(bar)
    report = summary(rows)
    for name, by_stay in report.items():
        for stay, each in by_stay.items():
            print(f"{name}, {stay} s: both found {each['both_found']['mean']:.0%}, right {each['right']['mean']:.0%}, "
                  f"places of the staying {each['places_of_the_staying']:.1f}")  # fmt: skip
    write_result(args.out / "eval-long-stays.json", here, {"seeds": args.seeds, "by_arm": report, "rows": rows})
    plot(report, args.out / "long-stays.png")


if __name__ == "__main__":
    main()
