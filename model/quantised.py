"""The language model in 4 bits, through bitsandbytes (the extra `quantized`): NF4 with double quantisation.

The linear layers of its transformer blocks become `bitsandbytes.nn.Linear4bit`: 4 bits a weight and 0.127 more for the
scales. Embeddings, norms, output matrix and everything that is not the language model keep their precision: towers and
merging decide what is seen, and they are small. Weights are packed while they move to the device, one layer at a time.
This file does not know checkpoints.
"""

from typing import Any

import torch
from torch import nn

from model.config import ConfigError

BITS_PER_WEIGHT = 4 + 8 / 64 + 32 / (64 * 256)  # a byte of scale for 64 weights, a float32 for 256 of those
INSTALL = "pip install 'vilamp-live[quantized]'"


def require_4bit(device: str | torch.device) -> Any:
    """bitsandbytes, if a language model in 4 bits can run on this device. Raises ConfigError in words."""
    if torch.device(device).type != "cuda":
        raise ConfigError(f"language_4bit needs a CUDA device, not {str(device)!r}: set device: cuda, or leave it out")
    return load_library()


def load_library() -> Any:
    """The module bitsandbytes. Raises ConfigError if it is not installed or does not load."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError(f"language_4bit needs bitsandbytes: {INSTALL} ({error})") from error
    return bitsandbytes


def to_4bit(module: nn.Module, library: Any, compute_dtype: torch.dtype) -> int:
    """Replace every nn.Linear below `module` by a 4-bit one holding its weights; returns how many.

    They are still unpacked; `module.to(device)` packs them. The originals are let go one by one.
    """
    num_replaced = 0
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, _packed(child, library, compute_dtype))
            num_replaced += 1
        else:
            num_replaced += to_4bit(child, library, compute_dtype)
    return num_replaced


def _packed(linear: nn.Linear, library: Any, compute_dtype: torch.dtype) -> nn.Module:
    packed: nn.Module = library.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=compute_dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    packed.weight = library.nn.Params4bit(
        linear.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=packed
    )
    packed.bias = linear.bias
    return packed
