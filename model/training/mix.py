"""Interpolate the weights of a checkpoint and of one trained further from it, to keep abilities of both.

    python -m model.training.mix BEFORE AFTER OUT --share 0.6

After further training, weights are still so near to the original ones that models on the straight line between them work
well (Wortsman et al., Robust fine-tuning of zero-shot models, 2022). Encoders that are equal in both remain equal.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint


def mixed(before: Checkpoint, after: Checkpoint, share: float) -> Checkpoint:
    """Return the checkpoint `before` with weights share * after + (1 - share) * before.

    Raises CheckpointError if shapes differ.
    """
    ours, theirs = before.network.state_dict(), after.network.state_dict()
    odd = sorted(name for name in ours.keys() | theirs.keys() if _shape(ours, name) != _shape(theirs, name))
    if odd:
        raise CheckpointError(f"these two checkpoints have not one origin: {', '.join(odd[:3])} differ in shape")
    before.network.load_state_dict({name: torch.lerp(ours[name], theirs[name], share) for name in ours})
    return before


def _shape(tensors: dict[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None


def main(argv: list[str] | None = None) -> int:
    """Mix two checkpoints as the command line says. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="checkpoint folder")
    parser.add_argument("after", type=Path, help="the same, trained on")
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=0.6, help="of the second, 0 to 1")
    args = parser.parse_args(argv)
    if not 0 <= args.share <= 1:
        parser.error("--share is between 0 and 1")
    found = mixed(load_checkpoint(args.before), load_checkpoint(args.after), args.share)
    save_checkpoint(
        args.out, found.network, found.tokenizer, found.clip_tokenizer, dtype=torch.float16, max_shard_bytes=14_000_000
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
