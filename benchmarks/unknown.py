"""Count how often the built-in model answers about pictures it was not trained on, and refuses those of its own world.

    python -m benchmarks.unknown --footage ../shared/footage --worlds 300

Each history has `--frames` frames, one a second, and is asked `QUESTION`; a clip is cut into as many as it holds.
Foreign: real clips, photographs (`--photographs`, one frame each), noise, plain grey. Familiar: worlds of the evaluation
split, which the classifier never saw.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image
from rich.progress import track

from benchmarks.machine import add_out, machine, measured_path, show, write_result
from model.familiarity import CANNOT_TELL
from model.history import ArrayHistory
from model.select import ArrayCandidates, select_keyframes
from model.video_model import VideoModel
from model.world.draw import degrade, draw
from model.world.scene import Scene

QUESTION = "has a red car been here?"
FIRST_WORLD = 60_000
BUILTIN = Path(__file__).parents[1] / "model" / "builtin"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--footage", type=Path, default=Path("../shared/footage"), help="folder of real clips")
    parser.add_argument("--photographs", type=Path, help="folder of PNG or JPEG files")
    parser.add_argument("--worlds", type=int, default=300)
    parser.add_argument("--frames", type=int, default=10)
    add_out(parser)
    args = parser.parse_args()
    here = machine()
    show(here)
    model = VideoModel.load(BUILTIN, num_threads=1)
    foreign = {
        path.stem: [refuses(model, piece) for piece in pieces(path, args.frames)]
        for path in sorted(args.footage.glob("*.mp4"))
    }
    if args.photographs:
        pictures = [np.array(Image.open(path).convert("RGB")) for path in sorted(args.photographs.iterdir())]
        foreign["photographs"] = [refuses(model, [picture]) for picture in pictures]
    rng = np.random.default_rng(0)
    shape = args.frames, 180, 320, 3
    foreign["noise"] = [refuses(model, list(rng.integers(0, 256, shape, np.uint8))) for _ in range(10)]
    foreign["plain grey"] = [refuses(model, list(np.full(shape, grey, np.uint8))) for grey in range(5, 255, 25)]
    seeds = range(FIRST_WORLD, FIRST_WORLD + args.worlds)
    familiar = [refuses(model, world(seed, args.frames)) for seed in track(seeds, "its own world")]
    for name, refused in foreign.items():
        print(f"{name:24} {len(refused):3} histories, answered all the same: {len(refused) - sum(refused)}")
    asked = sum(map(len, foreign.values()))
    confident = asked - sum(map(sum, foreign.values()))
    print(f"foreign: answered all the same {confident} of {asked}")
    print(f"its own world: refused needlessly {sum(familiar)} of {len(familiar)}")
    figures = {name: {"asked": len(refused), "refused": sum(refused)} for name, refused in foreign.items()}
    write_result(
        measured_path(args.out, "bench-unknown.json"),
        here,
        {"foreign": figures, "worlds": {"asked": len(familiar), "refused": sum(familiar)}},
    )


def refuses(model: VideoModel, pictures: list[np.ndarray]) -> bool:
    """Return whether the model says that it cannot tell, on the path of a live question."""
    history = ArrayHistory()
    history.extend(model.encode(pictures))
    query, defaults = model.embed_text(QUESTION), model.info.defaults
    embeddings = history.unit_embeddings()
    keyframes = select_keyframes(
        ArrayCandidates(embeddings, query.unit),
        num_keyframes=defaults.num_keyframes,
        tau=defaults.tau,
        floor=defaults.floor,
        recent=defaults.recent,
        background=embeddings.mean(0, keepdims=True),
        background_floor=defaults.background_floor,
    )
    context = model.build_context(history, keyframes, query)
    clocks = ["12:00:00"] * len(keyframes.rows)
    return next(iter(model.stream(QUESTION, context, timestamps=clocks, max_new_tokens=1)), "") == CANNOT_TELL


def pieces(path: Path, count: int) -> Iterator[list[np.ndarray]]:
    """Return histories of `count` frames of a clip, one frame a second. The last one may be shorter."""
    kept: list[np.ndarray] = []
    due = 0.0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time is None or frame.time < due:
                continue
            due += 1.0
            kept.append(frame.reformat(width=640, height=360, format="rgb24").to_ndarray())
            if len(kept) == count:
                yield kept
                kept = []
    if kept:
        yield kept


def world(seed: int, count: int) -> list[np.ndarray]:
    """Return `count` consecutive seconds of a world, from anywhere in its ten minutes."""
    rng = np.random.default_rng([0xBE, seed])
    scene = Scene.from_seed(seed, duration_s=600.0, split="eval", density=1.0)
    start = rng.uniform(0, 600 - count)
    return [degrade(draw(scene, start + second, 320, 180), rng) for second in range(count)]


if __name__ == "__main__":
    main()
