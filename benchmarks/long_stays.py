"""Measure what redundancy is for: one thing stays for minutes, and a question needs frames of something else as well.

    python -m benchmarks.long_stays

Worlds of a fixed camera from the evaluation split, 1,000 frames. A visitor of a unique kind and colour stays for 10 seconds
to 10 minutes. Another unique visitor crosses the picture, and the first one crosses it once more, well before or after its
stay. Two questions are asked. "Was the red truck seen before or after the blue dog?" needs a keyframe of each; only the
keyframes are measured, because this model has not learnt order when asked directly. "How often did you see a red truck
come?" needs a keyframe of each visit; the answer is "two", also counted visit by visit as the product does. Frames with a
visitor are drawn again and encoded; a shorter stay reuses the same pictures, except for those in which it leaves.

The same questions for four ways to choose 32 keyframes: DKS as in the product, DKS with the published tau, query top-K and
uniform choice. Writes eval-long-stays.json and long-stays.png.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from agent.ask.keyframes import Selection
from agent.evaluation.arms import Asker
from agent.evaluation.clips import DRAW_SIZE
from agent.evaluation.scores import share
from benchmarks import features
from benchmarks.machine import add_out, machine, measured_path, picture_path, show, write_result
from benchmarks.needles import Haystack, haystacks
from model.features import FrameFeatures
from model.video_model import VideoModel
from model.world import phrases
from model.world.answers import Question, is_correct
from model.world.draw import degrade, draw
from model.world.needle import Visitor, absent, add_visitor
from model.world.questions import with_articles

NUM_FRAMES = 1000
STAYS = (10, 60, 200, 600)  # seconds; one frame a second
APART_S = 15.0
MOST_STAY_S = 800
PUBLISHED_TAU = 0.85


@dataclass(frozen=True)
class Trio:
    """One visitor that stays (one Visitor per length of the stay), another that passes, and the first one passing again."""

    haystack: Haystack
    staying: dict[int, Visitor]
    passing: Visitor
    again: Visitor


def trio(haystack: Haystack, stays: tuple[int, ...], rng: np.random.Generator) -> Trio:
    """Return three visits well apart from one another. The passing visitor has another kind and colour than the staying one."""
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
            rng.bit_generator.state = state  # the same visit with another length
            found[stay] = add_visitor(scene, *staying_as, comes, rng, stay_s=float(stay))
        free = [t for t in range(2, length - 14) if t + 9 + APART_S < comes or t > comes + longest + 8 + APART_S]
        starts = [float(t) for t in rng.permutation(free)[:2]]
        if len(starts) < 2 or abs(starts[0] - starts[1]) < 9 + APART_S:
            continue
        passing, again = (
            add_visitor(scene, *passing_as, starts[0], rng),
            add_visitor(scene, *staying_as, starts[1], rng),
        )
        staying = {stay: visitor for stay, visitor in found.items() if visitor is not None}
        if passing is not None and again is not None and len(staying) == len(stays):
            return Trio(haystack, staying, passing, again)


def drawn(model: VideoModel, visitor: Visitor, rows: list[int], rng: np.random.Generator) -> dict[int, FrameFeatures]:
    """Return the features of these rows of a haystack, drawn with the visitor."""
    pictures = [degrade(draw(visitor.scene, float(row), *DRAW_SIZE), rng) for row in rows]
    return dict(zip(rows, model.encode(pictures), strict=True))


def histories(model: VideoModel, three: Trio, rng: np.random.Generator) -> Iterator[tuple[int, Asker]]:
    """Yield (stay, its history), the longest stay first. A shorter stay uses the same frames until the visitor leaves."""
    passing = drawn(model, three.passing, list(three.passing.rows), rng)
    passing |= drawn(model, three.again, list(three.again.rows), rng)
    seen: dict[int, FrameFeatures] = {}
    longest = max(three.staying)
    for stay in sorted(three.staying, reverse=True):
        visitor = three.staying[stay]
        if stay == longest:
            frames = seen = drawn(model, visitor, list(visitor.rows), rng)
        else:
            gone = [row for row in visitor.rows if row >= visitor.scene.actors[-1].times[2]]
            frames = {row: seen[row] for row in visitor.rows if row in seen} | drawn(model, visitor, gone, rng)
        whole = three.haystack
        kept = [passing.get(row) or frames.get(row) or each for row, each in enumerate(whole.features)]
        yield stay, Asker(model, kept, whole.clip.start_unix + np.arange(len(kept)))


def asked_for(three: Trio, rng: np.random.Generator) -> dict[str, str]:
    """Return the two questions. The first one may name either thing first."""
    staying = next(iter(three.staying.values()))
    names = [f"{each.colour} {each.kind}" for each in (staying, three.passing)]
    a, b = names if rng.random() < 0.5 else names[::-1]
    order, count = (each["eval"][rng.integers(len(each["eval"]))] for each in (phrases.ORDER, phrases.COUNT))
    return {
        "order": with_articles(order.format(a=a, b=b)),
        "count": with_articles(count.format(thing=names[0], come="come")),
    }


def arms(product: Selection) -> dict[str, Selection]:
    """Return the arms that are compared."""
    return {
        "DKS": product,
        "DKS, tau 0.85": replace(product, tau=PUBLISHED_TAU),
        "query top-K": replace(product, rule="top_k"),
        "uniform": replace(product, rule="uniform"),
    }


def asked(model: VideoModel, three: Trio, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Return one row per length of the stay, with what every arm finds and answers."""
    texts = asked_for(three, rng)
    for stay, asker in histories(model, three, rng):
        row: dict[str, Any] = {"stay_s": stay, "questions": texts}
        for name, arm in arms(Selection.of(model.info.defaults)).items():
            order = arm(asker.window, model.embed_text(texts["order"]).unit).rows
            count = asker.ask(texts["count"], arm)
            stayed, rows = three.staying[stay].clear, count.rows
            row[name] = {
                "places": int(np.isin(order, stayed).sum()),
                "order_found": bool(np.isin(order, stayed).any() and np.isin(order, three.passing.clear).any()),
                "count_found": bool(np.isin(rows, stayed).any() and np.isin(rows, three.again.clear).any()),
                "answer": count.text,
                "right": is_correct(Question("count", texts["count"], "two", None), count.text),
            }
        row["in_steps"] = asker.ask_in_steps(texts["count"], Selection.of(model.info.defaults))
        yield row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By arm and length of the stay: needed visits found, counts right, and keyframes that show the stay."""
    report: dict[str, Any] = {}
    for name in (key for key in rows[0] if isinstance(rows[0][key], dict) and "places" in rows[0][key]):
        report[name] = {}
        for stay in sorted({row["stay_s"] for row in rows}):
            found = [row[name] for row in rows if row["stay_s"] == stay]
            shares = {key: share(each[key] for each in found) for key in ("order_found", "count_found", "right")}
            report[name][stay] = shares | {"places": float(np.mean([each["places"] for each in found]))}
    return report


def right_in_steps(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return right counts made visit by visit, by length of the stay."""
    stays = sorted({row["stay_s"] for row in rows})
    return {stay: share(row["in_steps"] == "two" for row in rows if row["stay_s"] == stay) for stay in stays}


def plot(report: dict[str, Any], in_steps: dict[int, dict[str, Any]], out: Path) -> None:
    """Plot visits found, counts right and keyframes of the stay, against the length of the stay."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.2), layout="constrained")
    titles = {
        "order_found": '"before or after?": both found', "count_found": '"how often?": both visits found',
        "right": '"how often?": answered "two"', "places": '"before or after?": keyframes of the stay',
    }  # fmt: skip
    for place, (key, title) in enumerate(titles.items(), 1):
        axes = figure.add_subplot(1, 4, place)
        for name, by_stay in report.items():
            values = [each[key]["mean"] if key != "places" else each[key] for each in by_stay.values()]
            axes.plot(list(by_stay), values, marker="o", label=name)
        if key == "right":
            means = [each["mean"] for each in in_steps.values()]
            axes.plot(list(in_steps), means, marker="s", color="black", label="visit by visit")
            axes.legend(fontsize=7, loc="center left", handles=[axes.lines[-1]])
        axes.set_xscale("log")
        axes.set_xticks(list(by_stay), [str(stay) for stay in by_stay])
        axes.minorticks_off()
        axes.set_xlabel("seconds that it stays, of 1,000")
        axes.set_title(title, fontsize=9)
        axes.set_ylim(0, 33 if key == "places" else 1.03)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7, loc="lower left")
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--trios", type=int, default=12, help="sets of visitors in each seed's world")
    parser.add_argument("--stays", type=int, nargs="+", default=list(STAYS), help="seconds")
    parser.add_argument("--cache", type=Path, help="folder for features, to be read again another time")
    parser.add_argument("--threads", type=int, default=1, help="torch's")
    add_out(parser)
    args = parser.parse_args()
    if max(args.stays) > MOST_STAY_S:
        parser.error(f"of {NUM_FRAMES} s at most {MOST_STAY_S} can be a stay: two more visits must fit beside it")
    here = machine(threads=args.threads)
    show(here)
    model = VideoModel.load(features.BUILTIN, num_threads=args.threads)
    rng = np.random.default_rng(0x57A1)
    rows: list[dict[str, Any]] = []
    with Progress() as progress:
        stacks = haystacks(model, args.seeds, NUM_FRAMES, 1, args.cache)
        bar = progress.add_task("visitors", total=len(stacks) * args.trios)
        for number in range(args.trios):
            for seed, stack in zip(args.seeds, stacks, strict=True):
                three = trio(stack, tuple(args.stays), rng)
                rows += [{"seed": seed, "number": number} | row for row in asked(model, three, rng)]
                progress.advance(bar)
    report = summary(rows)
    for name, by_stay in report.items():
        for stay, each in by_stay.items():
            found = ", ".join(f"{key} {each[key]['mean']:.0%}" for key in ("order_found", "count_found", "right"))
            print(f"{name}, {stay} s: {found}, places {each['places']:.1f}")
    in_steps = right_in_steps(rows)
    print("visit by visit:", {stay: each["mean"] for stay, each in in_steps.items()})
    measured = {"seeds": args.seeds, "by_arm": report, "right_in_steps": in_steps, "rows": rows}
    write_result(measured_path(args.out, "eval-long-stays.json"), here, measured)
    plot(report, in_steps, picture_path(args.out, "long-stays.png"))


if __name__ == "__main__":
    main()
