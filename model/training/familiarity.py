"""Train the classifier of foreign pictures (`model.familiarity`), those unlike the drawn world; the last stage of `make
train`.

    python -m model.training.familiarity model/builtin

It uses the finished encoders. Familiar pictures are of worlds of the training split. Foreign pictures are the same,
changed into something that the world never shows (a small part enlarged, upside down, on its side, inverted, other
colours), and synthetic ones: random overlapping shapes, clouds of noise, plain walls. Photographs are not used, so that
photographs and real clips are a fair test.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.progress import track
from torch import nn

from model.familiarity import Familiarity, layout_statistics, write_familiarity
from model.storage import stored_values
from model.video_model import VideoModel
from model.world.draw import degrade, draw
from model.world.scene import Scene

FIRST_SEED = 3_000_000  # seeds of worlds that no other stage uses
SIZE = (320, 180)
PER_WORLD = 4
NUM_DIRECTIONS, HIDDEN = 256, 32
SHRINK = 0.05  # share of the mean variance that is added to the variance of each direction
LIMIT = 5.0  # log odds above which a picture is foreign: the classifier must be sure
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 60, 256, 3e-3, 0.1
World = tuple[np.ndarray, np.ndarray]  # statistics (PER_WORLD, F): familiar, foreign


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkpoint folder; familiarity.safetensors is written into it")
    parser.add_argument("--worlds", type=int, default=800, help=f"worlds drawn, {PER_WORLD} pictures of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    model = VideoModel.load(args.folder, device=args.device)
    familiarity = train(model, args.worlds, args.seed)
    write_familiarity(args.folder, familiarity)
    return 0


def train(model: VideoModel, num_worlds: int, seed: int) -> Familiarity:
    """Paint and encode pictures of `num_worlds` random scenes, and fit the classifier that recognises them as familiar.

    Prints its accuracy on a tenth of the scenes, which is not used for fitting.
    """
    seeds = range(FIRST_SEED + seed * num_worlds, FIRST_SEED + (seed + 1) * num_worlds)
    worlds = [world(model, each) for each in track(seeds, "drawing and encoding")]
    kept = max(1, num_worlds // 10)
    familiarity = fit(worlds[kept:], seed)
    familiar, foreign = (_scores(familiarity, [each[side] for each in worlds[:kept]]) for side in (0, 1))
    print(  # noqa: T201 - a training program reports
        f"held out: {np.mean(np.median(familiar, axis=1) > LIMIT):.1%} of {kept} familiar worlds called foreign, "
        f"{np.mean(foreign > LIMIT):.1%} of {foreign.size} foreign pictures found"
    )
    return familiarity


def _scores(familiarity: Familiarity, statistics: list[np.ndarray]) -> np.ndarray:
    rows = familiarity.inputs(np.concatenate(statistics))
    hidden = np.maximum(rows @ familiarity.hidden_weight.T + familiarity.hidden_bias, 0)
    scores: np.ndarray = hidden @ familiarity.out_weight + familiarity.out_bias
    return scores.reshape(len(statistics), PER_WORLD)


def world(model: VideoModel, seed: int) -> World:
    """Return the layout statistics of PER_WORLD pictures of one random scene, and of as many foreign pictures.

    Foreign pictures are unlike those that the model is trained on. seed: decides the scene and the pictures.
    """
    rng = np.random.default_rng([0xFA, seed])
    scene = Scene.from_seed(seed, duration_s=600.0, split="train", density=1.0)
    plain = [draw(scene, float(t), *SIZE) for t in rng.uniform(0, 600, PER_WORLD)]
    kinds = rng.permutation(len(FOREIGN))[:PER_WORLD]
    foreign = [FOREIGN[kind](picture, rng) for kind, picture in zip(kinds, plain, strict=True)]
    # leave half of the foreign pictures without camera noise, so that noise cannot be the difference
    soiled = [degrade(picture, rng) if rng.random() < 0.5 else picture for picture in foreign]
    features = model.encode([*(degrade(picture, rng) for picture in plain), *soiled])
    statistics = layout_statistics(np.stack([stored_values(each).numpy() for each in features]))
    return statistics[:PER_WORLD], statistics[PER_WORLD:]


def fit(worlds: list[World], seed: int) -> Familiarity:
    """Return the classifier that tells foreign pictures (unlike the training data) from familiar ones.

    Computes the principal directions of the familiar pictures' statistics, then trains a small network on them. worlds:
    the statistics of the familiar and of the foreign pictures of each scene.
    """
    torch.manual_seed(seed)
    familiar, foreign = (np.concatenate([each[side] for each in worlds]) for side in (0, 1))
    base = _directions(familiar)
    inputs = torch.from_numpy(np.concatenate([base.inputs(familiar), base.inputs(foreign)]))
    wanted = torch.cat([torch.zeros(len(familiar)), torch.ones(len(foreign))])
    network = nn.Sequential(nn.Linear(inputs.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for batch in _batches(len(inputs)):
        loss = nn.functional.binary_cross_entropy_with_logits(network(inputs[batch])[:, 0], wanted[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    first, _, last = (dict(layer.named_parameters()) for layer in network)
    return replace(
        base,
        hidden_weight=first["weight"].detach().numpy(),
        hidden_bias=first["bias"].detach().numpy(),
        out_weight=last["weight"][0].detach().numpy(),
        out_bias=last["bias"].detach().numpy(),
    )


def _batches(count: int) -> Iterator[torch.Tensor]:
    for _ in range(EPOCHS):
        yield from torch.randperm(count).split(BATCH)


def _directions(familiar: np.ndarray) -> Familiarity:
    mean = familiar.mean(axis=0)
    variances, vectors = np.linalg.eigh(np.cov(familiar.T))
    variances, vectors = variances[::-1], vectors[:, ::-1]
    count = min(NUM_DIRECTIONS, len(variances) - 1)
    added = SHRINK * variances.mean()
    lengths = np.sqrt(variances[:count] + added)
    empty, one = np.zeros(0, np.float32), np.ones(1, np.float32)
    return Familiarity(
        mean=mean.astype(np.float32),
        # train with the values as they are stored, as these are what will be loaded
        directions=(vectors[:, :count] / lengths).astype(np.float16).astype(np.float32),
        lengths=lengths.astype(np.float32),
        rest=one * np.float32(variances[count:].mean() + added),
        hidden_weight=empty,
        hidden_bias=empty,
        out_weight=empty,
        out_bias=empty,
        limit=one * np.float32(LIMIT),
    )


# --- pictures that the world never shows ---


def _resized(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize(SIZE, Image.Resampling.BILINEAR))


def _part(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random part of the picture, 12 to 45 % of each side, enlarged to the size of the whole.

    It shows a wall or a road without a scene around it.
    """
    share, (height, width) = rng.uniform(0.12, 0.45), picture.shape[:2]
    rows, columns = int(share * height), int(share * width)
    top, left = rng.integers(0, height - rows), rng.integers(0, width - columns)
    return _resized(picture[top : top + rows, left : left + columns])


def _upside_down(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.ascontiguousarray(picture[::-1])


def _on_its_side(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _resized(np.rot90(picture, int(rng.choice([1, 3]))))


def _inverted(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 255 - picture


def _other_colours(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.5:
        return np.ascontiguousarray(picture[..., [1, 2, 0] if rng.random() < 0.5 else [2, 0, 1]])
    return np.clip(picture * rng.uniform(1.5, 3.0) - rng.uniform(0, 160), 0, 255).astype(np.uint8)


def _dead_leaves(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a picture of the size of `picture` with overlapping discs and boxes in random colours.

    Their sizes follow a power law, which makes it similar to natural pictures (Lee et al., 2001).
    """
    base, spread = rng.integers(0, 256, 3), rng.uniform(10, 80)
    image = Image.new("RGB", SIZE, tuple(int(value) for value in rng.integers(0, 256, 3)))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(5, 250))):
        radius = min(float(rng.pareto(1.5)) * 6 + 3, 200.0)
        x, y = rng.uniform(0, SIZE[0]), rng.uniform(0, SIZE[1])
        colour = tuple(int(value) for value in np.clip(base + rng.normal(0, spread, 3), 0, 255))
        shape = pen.ellipse if rng.random() < 0.6 else pen.rectangle
        shape([x - radius, y - radius * 0.75, x + radius, y + radius * 0.75], fill=colour)
    return np.asarray(image)


def _clouds(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a picture of the size of `picture` with random noise of several sizes, from fine grain to soft clouds."""
    width, height = SIZE
    slope, total = rng.uniform(0.3, 1.1), np.zeros((height, width, 3))
    for octave in range(7):
        coarse = rng.integers(0, 256, (max(2, height >> octave), max(2, width >> octave), 3)).astype(np.uint8)
        total += 2.0 ** (octave * slope) * np.asarray(Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC))
    total = (total - total.mean((0, 1))) / total.std()
    return np.clip(rng.uniform(30, 220, 3) + rng.uniform(3, 60) * total, 0, 255).astype(np.uint8)


def _plain(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a picture of the size of `picture`, all in one random colour or grey, sometimes with a little noise."""
    colour = rng.integers(0, 256, 3) if rng.random() < 0.5 else np.full(3, rng.integers(0, 256))
    grain = rng.normal(0, rng.uniform(0, 10), picture.shape) if rng.random() < 0.7 else 0.0
    return np.clip(colour + np.zeros(picture.shape) + grain, 0, 255).astype(np.uint8)


FOREIGN = (_part, _upside_down, _on_its_side, _inverted, _other_colours, _dead_leaves, _clouds, _plain)


if __name__ == "__main__":
    raise SystemExit(main())
