"""Measure where merging looks: how much of a frame's one token is the thing that the question names.

    python -m benchmarks.pointing

Held-out worlds, a picture every third second. The evaluation's questions are asked about each clearly visible thing. Measured:
the share of merging's weights on the patches that show it, with the frame compared with itself and with a keyframe some
seconds earlier; whether something is outlined where it is, and where it is not; and the distance of the outlines' centre.
`--model` measures another checkpoint of the drawn world. Writes eval-pointing.json and pointing.png.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from agent.evaluation.clips import DRAW_SIZE
from agent.evaluation.scores import share
from benchmarks import features
from benchmarks.machine import add_out, machine, measured_path, picture_path, show, write_result
from model.history import ArrayHistory
from model.pointing import boxes_of, centres, shown
from model.video_model import VideoModel
from model.world import phrases
from model.world.draw import degrade, draw
from model.world.questions import with_articles
from model.world.scene import Scene, patch_labels
from model.world.things import COLOURS, KINDS, Visible

EVERY_S = 3
EARLIER = 4  # pictures from a frame back to the keyframe it is compared with
ASKED = [*phrases.EXISTENCE["eval"], *phrases.WHEN["eval"], *phrases.WHERE["eval"]]
NUM_SHOWN = 8


def measure(model: VideoModel, seed: int, num_worlds: int, seconds: int) -> list[dict[str, Any]]:
    """Return one row for each thing in each picture."""
    rows: list[dict[str, Any]] = []
    for number in range(num_worlds):
        scene = Scene.from_seed(seed * 1009 + number, duration_s=float(seconds), split="eval", density=2.0)
        rng = np.random.default_rng([seed, number])
        times = [float(t) for t in range(0, seconds, EVERY_S)]
        pictures = [degrade(draw(scene, t, *DRAW_SIZE), rng) for t in times]
        history = ArrayHistory(model.encode(pictures))
        for row, t in enumerate(times):
            labels = np.stack(patch_labels(scene, t, model.config.side)).reshape(2, -1)
            for visible in scene.visible_at(t, min_fraction=0.6):
                its = (labels == [[KINDS.index(visible.kind)], [COLOURS.index(visible.colour)]]).all(0)
                if visible.action == "closed" or not its.any():
                    continue
                text = _text(visible, rng)
                found = one(model, history, row, its, text) | {"seed": seed, "text": text}
                if len(rows) % 23 == 0:
                    found["picture"] = pictures[row]
                absent = _absent(labels, rng)
                rows.append(found | {"false": _outlined(model, history, row, _text(absent, rng))})
    return rows


def one(model: VideoModel, history: ArrayHistory, row: int, its: np.ndarray, text: str) -> dict[str, Any]:
    """Return weights and outlines of one frame for one question. its: (M,) bool, the patches of the thing."""
    query = model.embed_text(text).merge_query
    found: dict[str, Any] = {"area": float(its.mean())}
    for name, keyframes in (("itself", []), ("keyframe", [max(0, row - EARLIER)])):
        if keyframes == [row]:
            continue
        merged = model.merger.merge(history, np.array(keyframes, np.int64), query, keep_weights=True)
        assert merged.weights is not None
        weights = merged.weights[int(np.searchsorted(merged.rows, row))].numpy()
        found[name] = float(weights[its].sum())
    presence = model.merger.presence(history, np.array([row]), query)
    if presence is not None:
        found["outlined"] = bool(shown(presence)[0])
        found["apart"] = abs(float(centres(presence)[0] - centres(its[None].astype(np.float32))[0]))
        found["boxes"] = boxes_of(presence[0])
    return found


def _text(thing: Visible | tuple[str, str], rng: np.random.Generator) -> str:
    kind, colour = (thing.kind, thing.colour) if isinstance(thing, Visible) else thing
    form = ASKED[rng.integers(len(ASKED))]
    return with_articles(form.format(thing=f"{colour} {kind}", come="open" if kind == "door" else "come"))


def _absent(labels: np.ndarray, rng: np.random.Generator) -> tuple[str, str]:
    """Return a kind and colour that no patch shows together, one of them often being there."""
    here = {(int(kind), int(colour)) for kind, colour in labels.T if kind >= 0}
    kinds, colours = ({pair[i] for pair in here} for i in (0, 1))
    near = [(k, c) for k in range(len(KINDS)) for c in range(len(COLOURS)) if (k in kinds) != (c in colours)]
    kind, colour = near[rng.integers(len(near))]
    return KINDS[kind], COLOURS[colour]


def _outlined(model: VideoModel, history: ArrayHistory, row: int, text: str) -> bool | None:
    presence = model.merger.presence(history, np.array([row]), model.embed_text(text).merge_query)
    return None if presence is None else bool(shown(presence)[0])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over things. For checkpoints that point also shares of outlines with intervals."""
    report: dict[str, Any] = {"things": len(rows)}
    for name in ("area", "itself", "keyframe"):
        report[name] = float(np.mean([row[name] for row in rows if name in row]))
    pointed = [row for row in rows if "outlined" in row]
    if pointed:
        report["outlined"] = share(row["outlined"] for row in pointed)
        report["outlined though not there"] = share(row["false"] for row in pointed)
        report["centre within a sixth of the picture"] = share(row["apart"] < 1 / 6 for row in pointed)
    return report


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot some pictures with their outlines, under the question."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    some = [row for row in rows if "picture" in row][:NUM_SHOWN]
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    for axes, row in zip(figure.subplots(2, NUM_SHOWN // 2).ravel(), some, strict=False):
        height, width = row["picture"].shape[:2]
        axes.imshow(row["picture"])
        for left, top, right, bottom in row.get("boxes", ()):
            corner, size = (left * width, top * height), ((right - left) * width, (bottom - top) * height)
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="#ffc400", linewidth=2))
        axes.set_title(row["text"], fontsize=8)
        axes.axis("off")
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=features.BUILTIN, help="checkpoint folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--worlds", type=int, default=8, help="of each seed")
    parser.add_argument("--seconds", type=int, default=150, help="of each world")
    parser.add_argument("--threads", type=int, default=1, help="torch's")
    add_out(parser)
    args = parser.parse_args()
    here = machine(threads=args.threads)
    show(here)
    model = VideoModel.load(args.model, num_threads=args.threads)
    rows = [row for seed in track(args.seeds, "worlds") for row in measure(model, seed, args.worlds, args.seconds)]
    report = summary(rows)
    for name, value in report.items():
        print(f"{name}: {value}")
    args.out.mkdir(parents=True, exist_ok=True)
    plot(rows, picture_path(args.out, "pointing.png"))
    write_result(
        measured_path(args.out, "eval-pointing.json"),
        here,
        {"seeds": args.seeds, "worlds": args.worlds, "summary": report},
    )


if __name__ == "__main__":
    main()
