"""`vilamp model check` and `vilamp world`: test a model checkpoint, and write a video of the simulated world."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.common import CliError, say

if TYPE_CHECKING:
    from model.config import ModelConfig
    from model.sizing import Footprint, Plan

TEST_QUESTION = "Is there a person now?"


def run_check(args: argparse.Namespace) -> int:
    """Print the size of a checkpoint and the memory it needs, then load and run it once. Return the exit code.

    Raises CliError.
    """
    from model.checkpoint import read_config
    from model.clip_encoder import is_clip
    from model.hub import resolve
    from model.sizing import Plan, parameters

    plan = Plan(args.device, args.dtype, args.patch_storage, args.language_4bit)
    try:
        folder = resolve(args.folder)
        if is_clip(folder):
            try_clip(args.folder, folder, plan)
            return 0
        config = read_config(folder)
        counts = parameters(config)
        print_sizes(args.folder, config, counts)
        print_memory(config, counts, plan, sorted({1_000, args.frames}))
        if not args.sizes_only:
            try_out(folder, plan)
    except (OSError, ValueError, RuntimeError) as error:
        raise CliError(f"{args.folder}: {error}") from error
    return 0


def run_fetch(args: argparse.Namespace) -> int:
    """Download a checkpoint and say how to use it. Return the exit code. Raises CliError."""
    from model.config import ConfigError
    from model.hub import RECOMMENDED, RECOMMENDED_MB, fetch

    name = args.name or RECOMMENDED
    size = f" ({RECOMMENDED_MB} MB)" if name == RECOMMENDED else ""
    say(f"fetching {name}{size}; Ctrl-C stops, and the same command continues")
    try:
        folder = fetch(name, args.to)
    except ConfigError as error:
        raise CliError(str(error)) from error
    say(f"it is in {folder}")
    say(f"use it with model.path: {name if args.to is None else folder.absolute()}")
    return 0


def try_clip(name: str, folder: Path, plan: "Plan") -> None:
    """Load a CLIP encoder, test it and print the result.

    Such an encoder is used without a local language model, when a server writes the answers.
    """
    from model.clip_encoder import ClipEncoder

    encoder = ClipEncoder.load(folder, name=name, device=plan.device, dtype=plan.dtype)
    frame_bytes = 4 * encoder.info.embedding_dim
    encoder.self_test()
    say(f"{name}: {encoder.info.card}")
    say(f"memory: {frame_bytes} bytes a frame, {10_000 * frame_bytes / 1e6:.0f} MB for 10,000; no patches")
    say("self-test passed")


def print_sizes(name: str, config: "ModelConfig", counts: dict[str, int]) -> None:
    """Print the parts of a checkpoint, with their dimensions and their numbers of weights."""
    vision, language, dual = config.vision, config.language, config.dual_encoder
    lines = {
        "checkpoint": f"{name} ({sum(counts.values()) / 1e6:,.1f} M weights)",
        "card": config.live.card,
        "merging": f"{config.composer}, stored patches: {config.live.patch_features}",
        "vision tower": f"{vision.image.image_size} px, {config.num_patches} patches of {vision.tower.hidden_size}, "
        f"{vision.tower.num_hidden_layers - 1} layers",
        "relevance": f"{dual.image.image_size} px, {dual.projection_dim} numbers, {dual.max_text_tokens} text tokens",
        "language model": f"{language.num_hidden_layers} layers of {language.hidden_size}, {language.vocab_size} words, "
        f"reads {config.context_tokens} tokens",
        "keyframes": f"{config.num_keyframes}, {config.keyframe_tokens} tokens each; tau {config.tau}, "
        f"floor {config.floor}",
    }
    for title, text in lines.items():
        if text:
            say(f"{title:<16} {text}")
    say("weights (millions)")
    for title, count in counts.items():
        say(f"  {title:<14} {count / 1e6:10,.2f}")


def print_memory(config: "ModelConfig", counts: dict[str, int], plan: "Plan", frames: list[int]) -> None:
    """Print how much memory each part needs, and which graphics card is large enough.

    frames: numbers of stored frames to compute this for, one column each.
    """
    from model.sizing import footprint, smallest_card

    needs = [footprint(config, counts, num_frames, plan) for num_frames in frames]
    bits = ", language model in 4 bits" if plan.language_4bit else ""
    say(f"\nmemory in GB ({plan.dtype} weights, {plan.patch_storage} patches{bits})")
    say(f"  {'frames':<34}" + "".join(f"{need.num_frames:>12,}" for need in needs))
    for title in counts:
        print_bytes(f"weights: {title}", [need.weights[title] for need in needs])
    parts = {"KV cache": "kv_cache", "work (estimate)": "work", f"on the device ({plan.device})": "device"}
    parts |= {"patches": "patches", "scalars": "scalars", "embeddings, summaries": "embeddings"}
    for title, part in {**parts, "history, in the machine's memory": "history"}.items():
        print_bytes(title, [getattr(need, part) for need in needs])
    say("  pictures: as the camera sends them; 20 to 100 kB a frame on disk")
    for need in needs:
        card = smallest_card(need.device)
        fits = "no single usual graphics card" if card is None else f"a graphics card of {card} GB"
        together = (need.device + need.history) / 1e9
        say(
            f"fits, {need.num_frames:,} frames ({need.num_tokens:,} tokens): {fits} and {need.history / 1e9:.2f} GB "
            f"of the machine's memory; without a card {together:.2f} GB of it"
        )
    say(this_machine(needs[-1], plan))


def print_bytes(title: str, sizes: list[int]) -> None:
    """Print one line of the table of memory sizes. sizes: bytes, printed in GB."""
    say(f"  {title:<34}" + "".join(f"{size / 1e9:>12.3f}" for size in sizes))


def this_machine(need: "Footprint", plan: "Plan") -> str:
    """Return a line that says whether this machine has enough memory for the model and its history."""
    from model.machine import device_bytes, host_bytes

    host, card = host_bytes(), device_bytes(plan.device)
    wanted = need.history + (need.device if plan.device == "cpu" else 0)
    parts = [] if host is None else [f"{host / 1e9:.1f} GB of memory, {'enough' if wanted < host else 'too little'}"]
    if plan.device != "cpu":
        enough = card is not None and need.device < card
        parts.append("no such device" if card is None else f"{card / 1e9:.1f} GB on {plan.device}, "
                     f"{'enough' if enough else 'too little'}")  # fmt: skip
    return f"this machine: {'; '.join(parts) or 'its memory is not known'} (for {need.num_frames:,} frames)"


def try_out(folder: Path, plan: "Plan") -> None:
    """Load a checkpoint, test it, answer one question, and print the results. Raises ValueError, RuntimeError."""
    import numpy as np

    from model.history import ArrayHistory
    from model.select import ArrayCandidates, select_keyframes
    from model.video_model import VideoModel

    started = time.perf_counter()
    model = VideoModel.load(folder, device=plan.device, dtype=plan.dtype, patch_dtype=plan.patch_storage,
                            language_4bit=plan.language_4bit)  # fmt: skip
    say(f"\nloaded in {time.perf_counter() - started:.1f} s on {plan.device}, {plan.dtype}")
    model.self_test()
    started = time.perf_counter()
    rng = np.random.default_rng(0)
    history = ArrayHistory(model.encode([rng.integers(0, 256, (96, 128, 3), np.uint8) for _ in range(3)]))
    encoded_s = (time.perf_counter() - started) / 3
    query = model.embed_text(TEST_QUESTION)
    keyframes = select_keyframes(ArrayCandidates(history.unit_embeddings(), query.unit), num_keyframes=2)
    clocks = [f"12:00:0{row}" for row in keyframes.rows] if model.info.defaults.timestamps else None
    started = time.perf_counter()
    context = model.build_context(history, keyframes, query)
    words = "".join(model.stream(TEST_QUESTION, context, timestamps=clocks, max_new_tokens=8))
    say(f"self-test passed: encoded at {1000 * encoded_s:.0f} ms a frame; three frames of noise, asked")
    say(f"  {TEST_QUESTION!r}, gave {words!r} in {time.perf_counter() - started:.1f} s")


def run_world(args: argparse.Namespace) -> int:
    """Write a video of the simulated world, and a file with its true events. Return the exit code. Raises CliError."""
    from rich.console import Console
    from rich.progress import Progress

    from model.world.video import write_video

    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("drawing")
        try:
            truth = write_video(
                args.out,
                seed=args.seed,
                minutes=args.minutes,
                rate_hz=args.fps,
                style=args.style,
                on_frame=lambda done, total: progress.update(bar, completed=done, total=total),
            )
        except (OSError, ValueError) as error:
            raise CliError(f"{args.out}: {error}") from error
    say(f"{args.out} and {truth}")
    return 0
