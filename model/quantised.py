"""Run the language model with 4-bit weights (NF4 with double quantisation).

It uses bitsandbytes, which the extra `quantized` installs.
The linear layers of its transformer blocks become `bitsandbytes.nn.Linear4bit`, with 4 bits per weight and 0.127 more
for the scales. Embeddings, norms, output matrix and all other parts of the network keep their precision: they are
small, and towers and merging decide what the language model sees. Weights are packed layer by layer while they move to
the device. This file does not know checkpoints.
"""

from typing import Any

import torch
from torch import nn

from model.config import ConfigError

BITS_PER_WEIGHT = 4 + 8 / 64 + 32 / (64 * 256)  # one byte of scale per 64 weights, one float32 per 256 of those scales
INSTALL = "pip install 'vilamp-live[quantized]'"


def require_4bit(device: str | torch.device) -> Any:
    """Return the bitsandbytes module. Raises ConfigError if this device cannot run a language model in 4 bits."""
    if torch.device(device).type != "cuda":
        raise ConfigError(f"language_4bit needs a CUDA device, not {str(device)!r}: set device: cuda, or leave it out")
    return load_library()


def load_library() -> Any:
    """Import and return bitsandbytes. Raises ConfigError if it is not installed or fails to load."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError(f"language_4bit needs bitsandbytes: {INSTALL} ({error})") from error
    return bitsandbytes


def to_4bit(module: nn.Module, library: Any, compute_dtype: torch.dtype) -> int:
    """Replace every nn.Linear inside `module` by a 4-bit layer with its weights. Return the number of layers replaced.

    The weights are still unpacked; `module.to(device)` packs them. Each original layer is freed before the next is
    converted.
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
