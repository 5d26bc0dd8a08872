"""`vilamp model`, `world`, `eval` and `train`: what belongs to the network and its drawn world."""

import argparse
import time

from agent.cli_common import EXIT_USAGE, CliError


def run_check(args: argparse.Namespace) -> int:
    """Load a checkpoint, encode one grey picture, say sizes and the memory a history needs. Raises CliError."""
    import numpy as np

    from agent.config import ModelSettings
    from model.video_model import VideoModel

    folder = ModelSettings(path=args.folder).folder
    started = time.perf_counter()
    try:
        model = VideoModel.load(folder, device=args.device, dtype=args.dtype)
    except (OSError, ValueError) as error:
        raise CliError(f"{folder}: {error}") from error
    loaded_s = time.perf_counter() - started
    model.encode([np.full((96, 128, 3), 127, np.uint8)])
    for name, value in vars_of(model.info):
        print(f"{name:<20} {value}")
    print(f"{'loaded in':<20} {loaded_s:.1f} s on {args.device}, {args.dtype}")
    print_memory(model.info.patches_per_frame, model.info.patch_width, model.info.embedding_dim, args.frames)
    return 0


def vars_of(info: object) -> list[tuple[str, object]]:
    """(name, value) of every field of a dataclass, defaults within it under their own names."""
    from dataclasses import fields, is_dataclass

    listed: list[tuple[str, object]] = []
    for field in fields(info):  # type: ignore[arg-type]
        value = getattr(info, field.name)
        if is_dataclass(value):
            listed += [(f"{field.name}.{name}", inner) for name, inner in vars_of(value)]
        else:
            listed.append((field.name, value))
    return listed


def print_memory(patches_per_frame: int, patch_width: int, embedding_dim: int, num_frames: int) -> None:
    """The bytes of a history: M patches of C halves and three floats each; one embedding and one summary."""
    patches = patches_per_frame * (2 * patch_width + 3 * 4)
    summary = 4 * embedding_dim + 4 * patch_width
    print(f"\nmemory of {num_frames} frames:")
    for name, each in (("patches", patches), ("summaries", summary), ("together", patches + summary)):
        print(f"  {name:<10} {each / 1e3:10.1f} kB a frame  {each * num_frames / 1e9:8.2f} GB")
    print("  pictures: as the camera sends them; 20 to 100 kB a frame on disk")


def run_world(args: argparse.Namespace) -> int:
    """Write a video of the drawn world. Raises CliError."""
    if not 0 < args.minutes <= 24 * 60:
        raise CliError("--minutes: must be above 0 and at most 1440", EXIT_USAGE)
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
    print(f"{args.out} and {truth}")
    return 0


def run_eval(args: argparse.Namespace) -> int:
    """Hand over to `python -m model.evaluate`."""
    from model.evaluate import main

    return int(main(args.rest) or 0)


def run_train(args: argparse.Namespace) -> int:
    """Hand over to `python -m model.training`."""
    from model.training.run import main

    return int(main(args.rest) or 0)
