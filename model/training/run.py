"""Train the built-in model from nothing to a checkpoint folder (`make train`), in stages with a time limit each.

Stage 1 trains the encoders. Stage 2 trains projector, merging maps and language model on histories of growing length
(see `model.training.data`). The last stage trains the classifier of `model.training.familiarity`. Each stage ends with
writing the checkpoint. Reports go to `curves.jsonl`, one per line. A stage marked as done in `progress.json` is
skipped; one that was interrupted (by --slice-seconds or because the process ended) continues from its last saved state.
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.config_json import config_from_json
from model.familiarity import write_familiarity
from model.network import VilampNetwork
from model.tokens import ClipTokenizer, LanguageTokenizer, read_tokenizer
from model.training import recipe
from model.training.answers import AnswerTrainer
from model.training.data import FrameBatch, Frames, History, MixedHistories, loader
from model.training.familiarity import train as train_familiarity
from model.training.feed import Feed, FramePool, HistoryShelf
from model.training.pointing import Pointing
from model.training.slices import load_state, save_state
from model.training.store import FeatureStore
from model.training.texts import Texts
from model.training.tokenizers import CLIP_SPECIAL, train_clip_tokenizer, train_language_tokenizer
from model.training.towers import TowerHeads, TowerTrainer, augment, average_precision, flip_some
from model.video_model import VideoModel
from model.world.questions import Query, vocabulary_texts
from model.world.things import COLOURS, KINDS

# Windows of stage 2: shortest and longest, questions per step, and the share of the stage's time after which they are used.
LENGTHS = (
    (1, 6, 96, 0.0),
    (7, 16, 96, 0.0),
    (17, 64, 64, 0.0),
    (65, 160, 64, 0.03),
    (161, 400, 48, 0.06),
    (401, 600, 40, 0.1),
    (601, 3000, 24, 0.6),
)
CPU_SHARE = 1 / 6  # of the questions per step, on a CPU
SAVE_EVERY_S = 120.0


@dataclass
class Run:
    """The options of a training run: where its files go, on which device, how much and how long."""

    folder: Path
    device: torch.device
    workers: int
    seed: int
    histories: int  # most histories drawn for stage 2
    familiarity_worlds: int = 0  # worlds for the last stage; 0 skips it
    slice_s: float = math.inf  # seconds after which the run stops, to be continued by another call
    start: Path | None = None  # a checkpoint to start from: encoders unchanged, other parts trained further
    answer_rate: float = 1e-3  # peak learning rate of stage 2
    console: Console = field(default_factory=Console)
    started: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """Whether the time given to this process (the slice) is over."""
        return time.monotonic() - self.started > self.slice_s

    def state(self, stage: str) -> Path:
        """Return the path of the file with the saved state of an unfinished stage."""
        return self.folder / f"{stage}.safetensors"

    def report(self, stage: str, **figures: float) -> None:
        """Print a line with these figures and append it to curves.jsonl."""
        line = {"stage": stage, "t": round(time.monotonic() - self.started, 1)} | {
            k: round(v, 4) for k, v in figures.items()
        }
        with (self.folder / "curves.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.console.print("  ".join(f"{k} {v}" for k, v in line.items()), highlight=False)


def new_checkpoint(seed: int) -> Checkpoint:
    """Return a checkpoint with random weights at the recipe's sizes, and tokenizers trained on the world's texts."""
    torch.manual_seed(seed)
    texts = [text for text in vocabulary_texts() for _ in range(4)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_language_tokenizer(texts, folder, 1200, recipe.CONTEXT_TOKENS)
        train_clip_tokenizer(texts, folder / "clip", 1400, recipe.TEXT_TOKENS)
        language = LanguageTokenizer(read_tokenizer(folder))
        clip_backend = read_tokenizer(folder / "clip")
    clip = ClipTokenizer(clip_backend, recipe.TEXT_TOKENS)
    start, end = (int(clip_backend.token_to_id(token) or 0) for token in CLIP_SPECIAL)
    config = config_from_json(
        recipe.language_config(len(language), min(language.stop_ids)),
        recipe.tower_config(),
        recipe.clip_config(clip_backend.get_vocab_size(), start, end),
    )
    return Checkpoint(config, VilampNetwork(config), language, clip)


def learning_rate(peak: float, step: int, share: float, warmup_steps: int = 300) -> float:
    """Return the learning rate: linear warm-up by step, then a cosine down to 2 % of `peak`.

    share: the part of the stage's time that has passed.
    """
    return peak * min(1.0, (step + 1) / warmup_steps) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def pixels(network: VilampNetwork, images: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Return the normalised input of CLIP and of the vision tower for B images, uint8 (B, S, S, 3), S pixels wide.

    generator: for random augmentation; None: no augmentation.
    """
    scaled = images.permute(0, 3, 1, 2).float() / 255
    if generator is not None:
        scaled = augment(scaled, generator)
    out = []
    for image in (network.config.dual_encoder.image, network.config.vision.image):
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (image.mean, image.std))
        out.append((scaled - mean) / std)
    return out[0], out[1]


def train_towers(run: Run, checkpoint: Checkpoint, seconds: float, shelf: HistoryShelf) -> bool:
    """Train the encoders (stage 1). Return False if not finished. A third of the workers make data for stage 2."""
    network, device = checkpoint.network, run.device
    heads = TowerHeads(recipe.VISION_WIDTH, recipe.VISION_WIDTH, len(KINDS), len(COLOURS)).to(device)
    trainer = TowerTrainer(network.dual_encoder, network.vision_tower, heads, learning_rate=1e-3)
    parts = {"clip": network.dual_encoder, "tower": network.vision_tower, "heads": heads}
    progress = load_state(run.state("towers"), parts, trainer.optimizer)
    seed = run.seed + 100_000 * progress.slices
    generator = torch.Generator(device).manual_seed(seed)
    pool = FramePool(400_000 if device.type == "cuda" else 4_000, device)
    drawing = max(1, run.workers * 3 // 4)
    frames = Feed(loader(Frames(seed, 64), drawing), pool.add)
    histories = Feed(loader(MixedHistories(run.seed + 1), max(1, run.workers - drawing)), shelf.add)
    texts = Texts(checkpoint.clip_tokenizer, device, seed)
    batch = 1024 if device.type == "cuda" else 32
    while pool.received < 4 * batch:
        time.sleep(0.2)
    began, first, step, sums = (
        time.monotonic() - progress.seconds,
        progress.step,
        progress.step,
        torch.zeros(4, device=device),
    )
    saved = time.monotonic()
    while (share := (time.monotonic() - began) / seconds) < 1 and not run.over:
        if (
            step - first
        ) * batch > 8 * pool.received:  # wait for more drawings, so that each is used at most eight times on average
            time.sleep(0.01)
            continue
        sample = pool.sample(batch, generator)
        images, kinds, colours = flip_some(sample["images"], sample["kinds"], sample["colours"], generator)
        labels = FrameBatch(sample["pairs"], kinds.long(), colours.long())
        with torch.autocast(device.type, torch.bfloat16):
            loss = trainer.loss(*pixels(network, images, generator), labels, texts.sample(384))
        trainer.step(loss.total, learning_rate(1e-3, step, share))
        sums += torch.stack([loss.total.detach(), loss.image_text, loss.patches, loss.pairs])
        step += 1
        if step % 100 == 0:
            total, contrast, dense, pairs = (sums / 100).tolist()
            sums.zero_()
            figures = tower_figures(network, texts, pool, generator) if step % 500 == 0 else {}
            run.report("towers", step=step, frames=pool.received, histories=shelf.received, loss=total, image_text=contrast,
                       patches=dense, pairs=pairs, **figures)  # fmt: skip
        if time.monotonic() - saved > SAVE_EVERY_S:
            saved = time.monotonic()
            save_state(
                run.state("towers"), parts, trainer.optimizer, replace(progress, seconds=saved - began, step=step)
            )
    frames.stop()
    histories.stop()
    run.report("towers", step=step, frames=pool.received, **tower_figures(network, texts, pool, generator))
    save_state(run.state("towers"), parts, trainer.optimizer, replace(progress, seconds=share * seconds, step=step))
    return share >= 1


@torch.no_grad()
def tower_figures(
    network: VilampNetwork, texts: Texts, pool: FramePool, generator: torch.Generator
) -> dict[str, float]:
    """Return the average precision of finding frames of the pool by names such as "red car", to show progress."""
    sample = pool.sample(2048 if run_is_gpu(pool.device) else 64, generator)
    names = [(f"a {c} {k}", Query(kind=k, colour=c)) for k in KINDS for c in COLOURS]
    batch = texts.encode(names)
    with torch.autocast(pool.device.type, torch.bfloat16):
        image = network.embed_images(pixels(network, sample["images"], None)[0])
        text = network.embed_texts(batch.ids)
    scores = (
        torch.nn.functional.normalize(image.float(), dim=-1) @ torch.nn.functional.normalize(text.float(), dim=-1).T
    )
    return {"ap": average_precision(scores, batch.truth(sample["pairs"]))}


def run_is_gpu(device: torch.device) -> bool:
    """Return whether to use the sizes of pools and batches that suit a GPU."""
    return device.type == "cuda"


@torch.no_grad()
def encode_history(network: VilampNetwork, history: History, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the normalised embeddings (N, D) and the M patches (N, M, C) of each of a history's N pictures."""
    embeddings, patches = [], []
    for chunk in history.images.split(1024):
        clip_pixels, tower_pixels = pixels(network, chunk.to(device), None)
        with torch.autocast(device.type, torch.bfloat16):
            embeddings.append(torch.nn.functional.normalize(network.embed_images(clip_pixels).float(), dim=-1))
            patches.append(network.vision_features(tower_pixels).half())
    return torch.cat(embeddings), torch.cat(patches)


def train_answers(run: Run, checkpoint: Checkpoint, seconds: float, shelf: HistoryShelf) -> bool:
    """Train the rest (stage 2) on histories, which workers keep adding to the shelf. Return False if not finished."""
    network, device = checkpoint.network, run.device
    capacity = 1_300_000 if run_is_gpu(device) else 120_000
    store = FeatureStore(capacity, (network.config.num_patches, recipe.VISION_WIDTH), recipe.EMBEDDING_DIM, device)
    trainer = AnswerTrainer(checkpoint, store, run.answer_rate, run.seed)
    pointing = Pointing(checkpoint, store, [run.seed, 2], size=128 if run_is_gpu(device) else 64)
    parts = {"network": network}
    progress = load_state(run.state("answers"), parts, trainer.optimizer)
    trainer.rng = np.random.default_rng([run.seed, progress.slices])
    seed = run.seed + 1000 + 100_000 * progress.slices
    feed = Feed(loader(MixedHistories(seed + 1), run.workers), shelf.add)
    while shelf.received < 2:
        time.sleep(0.2)
    began, step, window, on_it = time.monotonic() - progress.seconds, progress.step, [], []
    saved = time.monotonic()
    while (share := (time.monotonic() - began) / seconds) < 1 and not run.over:
        take_in(network, shelf, store, device, limit=4 if run_is_gpu(device) else 1)
        if shelf.received >= run.histories:
            feed.stop()
        items = next_items(trainer, store, share)
        with torch.autocast(device.type, torch.bfloat16):
            loss, right = trainer.loss(trainer.batch(items))
        pointed = pointing.loss()
        trainer.step(loss + pointed.total, learning_rate(run.answer_rate, step, share))
        window.append((float(loss.detach()), items, right.tolist()))
        on_it.append(pointed.weight_on_it)
        step += 1
        if step % 200 == 0:
            report_answers(run, step, shelf, window, on_it)
            window, on_it = [], []
        if time.monotonic() - saved > SAVE_EVERY_S:
            saved = time.monotonic()
            save_state(
                run.state("answers"), parts, trainer.optimizer, replace(progress, seconds=saved - began, step=step)
            )
    feed.stop()
    if window:
        report_answers(run, step, shelf, window, on_it)
    save_state(run.state("answers"), parts, trainer.optimizer, replace(progress, seconds=share * seconds, step=step))
    return share >= 1


def report_answers(
    run: Run, step: int, shelf: HistoryShelf, window: list[tuple[float, list[Any], list[float]]], on_it: list[float]
) -> None:
    """Report the mean results of the training steps since the last report.

    window: losses and answers of those steps; on_it: share of merging weights on patches that show what is asked about.
    """
    loss, points = float(np.mean([each[0] for each in window])), float(np.mean(on_it))
    run.report("answers", step=step, histories=shelf.received, loss=loss, on_it=points, **by_family(window))


def take_in(network: VilampNetwork, shelf: HistoryShelf, store: FeatureStore, device: torch.device, limit: int) -> None:
    """Encode up to `limit` histories waiting on the shelf and add their features to the store."""
    for _ in range(min(limit, len(shelf.waiting))):
        history = shelf.waiting.popleft()
        store.add(history, *encode_history(network, history, device))


def next_items(trainer: AnswerTrainer, store: FeatureStore, share: float) -> list[Any]:
    """Return the questions of the next training step, about windows (parts of histories) of similar length.

    share: the part of the stage's time that has passed, which decides how long windows may be.
    """
    open_classes = [c for c in LENGTHS if share >= c[3]]
    for _ in range(20):
        shortest, longest, size, _ = open_classes[trainer.rng.integers(len(open_classes))]
        size = size if run_is_gpu(trainer.device) else max(2, int(size * CPU_SHARE))
        if items := store.sample(trainer.rng, size, shortest, longest):
            return items
    raise RuntimeError("no window of any length has a question: the world makes none")


def by_family(window: list[tuple[float, list[Any], list[float]]]) -> dict[str, float]:
    """Return the share of right answers (every token the most likely one), by question family and by window length."""
    groups: dict[str, list[float]] = {}
    for _, items, right in window:
        for item, value in zip(items, right, strict=True):
            groups.setdefault(item.question.family, []).append(value)
            groups.setdefault(f"n{next(c[1] for c in LENGTHS if item.count <= c[1])}", []).append(value)
    return {name: float(np.mean(values)) for name, values in sorted(groups.items())}


def save(run: Run, checkpoint: Checkpoint) -> None:
    """Write the checkpoint folder, in half precision to halve its size."""
    save_checkpoint(
        run.folder / "checkpoint", checkpoint.network, checkpoint.tokenizer, checkpoint.clip_tokenizer,
        dtype=torch.float16, max_shard_bytes=14_000_000,
    )  # fmt: skip


def stages(run: Run, seconds: tuple[float, float]) -> Iterator[str]:
    """Run the training stages that are left until this process's time is over. Yield each one's name at its end."""
    progress_path = run.folder / "progress.json"
    done = json.loads(progress_path.read_text()) if progress_path.exists() else []
    shelf = HistoryShelf(
        2500 if run_is_gpu(run.device) else 200
    )  # a history is 17 MB of pictures; CPUs are slow to use them up
    if run.start is not None and not done:
        checkpoint = load_checkpoint(run.start, device=run.device)
        done.append("towers")
    elif "towers" in done:
        checkpoint = load_checkpoint(run.folder / "checkpoint", device=run.device)
    else:
        checkpoint = new_checkpoint(run.seed)
        checkpoint.network.to(run.device)
    for name, stage, limit in (("towers", train_towers, seconds[0]), ("answers", train_answers, seconds[1])):
        if name in done or limit <= 0:
            continue
        checkpoint.network.train()
        finished = stage(run, checkpoint, limit, shelf)
        checkpoint.network.eval()
        save(run, checkpoint)
        if not finished:
            return
        done.append(name)
        progress_path.write_text(json.dumps(done))
        run.state(name).unlink()
        yield name
        if run.over:
            return
    if "familiarity" not in done and run.familiarity_worlds:
        familiarity = train_familiarity(VideoModel(checkpoint), run.familiarity_worlds, run.seed)
        write_familiarity(run.folder / "checkpoint", familiarity)
        done.append("familiarity")
        progress_path.write_text(json.dumps(done))
        yield "familiarity"


def main(argv: list[str] | None = None) -> int:
    """Run the command line of `make train` and `vilamp train`. Return the exit status."""
    parser = argparse.ArgumentParser(prog="vilamp train", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("out/training"), help="checkpoint, curves and progress go here"
    )
    parser.add_argument("--tower-seconds", type=float, default=540.0)
    parser.add_argument("--answer-seconds", type=float, default=600.0)
    workers = max(1, (os.cpu_count() or 2) - 1)
    parser.add_argument(
        "--workers", type=int, default=workers, help="processes that draw (default: one a core but one)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--start", type=Path, help="a checkpoint folder to train on: its encoders are kept, the rest learns further"
    )
    parser.add_argument("--answer-rate", type=float, default=1e-3, help="peak learning rate of stage 2")
    parser.add_argument("--histories", type=int, default=6000, help="histories to draw for stage 2")
    parser.add_argument("--familiarity-worlds", type=int, default=800, help="worlds to draw for the last stage")
    parser.add_argument(
        "--slice-seconds", type=float, default=math.inf, help="stop after so long; called again it goes on"
    )
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    device = torch.device(args.device)
    run = Run(
        args.folder,
        device,
        args.workers,
        args.seed,
        args.histories,
        args.familiarity_worlds,
        slice_s=args.slice_seconds,
        start=args.start,
        answer_rate=args.answer_rate,
    )
    ended = list(stages(run, (args.tower_seconds, args.answer_seconds)))
    run.console.print(f"stages done in this run: {', '.join(ended) or 'none'}")
    if run.over:
        run.console.print("this slice is over: run the same command again")
    return 0
