"""Training in slices: everything a stage needs to go on where it was cut off, in one safetensors file.

In and out: named modules in full precision, the moments of AdamW, and how far the stage has come. Written beside the
old file and renamed, so that a run killed while it writes loses one slice and not the stage. What was drawn is not kept: a
slice draws new worlds.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(slots=True)
class Progress:
    """How far a stage has come: seconds trained, optimiser steps, slices begun before this one."""

    seconds: float = 0.0
    step: int = 0
    slices: int = 0


def save_state(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write all of it to `path`."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        # tied weights share their memory, and safetensors wants each tensor to have its own
        tensors |= {f"{name}/{key}": value.detach().cpu().clone() for key, value in module.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{key}": moments[key].detach().cpu().clone() for key in MOMENTS}
    written = path.with_suffix(".new")
    try:
        save_file(tensors, written, metadata={"progress": json.dumps(asdict(progress))})
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)  # where that failed


def load_state(path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> Progress:
    """Put what `save_state` wrote back in its place; a fresh Progress where there is no such file."""
    if not path.exists():
        return Progress()
    with safe_open(path, "pt") as file:
        progress = Progress(**json.loads(file.metadata()["progress"]))
        names = list(file.keys())
        for name, module in modules.items():
            head = f"{name}/"
            module.load_state_dict(
                {key.removeprefix(head): file.get_tensor(key) for key in names if key.startswith(head)}
            )
        numbers = sorted({int(key.split("/")[1]) for key in names if key.startswith("optimizer/")})
        state = {n: {key: file.get_tensor(f"optimizer/{n}/{key}") for key in MOMENTS} for n in numbers}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    progress.slices += 1
    return progress
