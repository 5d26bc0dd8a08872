"""How the patches of a frame are stored: as floats, or as 8-bit integers with one scale per patch.

    8 bits: q = round(v / s), s = max|v| / 127, an int8 per number and a float32 per patch; the value stored is q s.

The scale travels as one more column of the scalars, (M, 4) instead of (M, 3), so that whoever keeps patches needs to know
neither. Everything else (summary, scalars, merging) is computed from `unpack`, that is from what is stored: rounding
changes the patches and nothing besides. Symmetric rounding: the error of a number is at most s / 2.
This file does not know networks.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

NUM_SCALARS = 3  # n_iq, n_ik, self-cosine; see model.merge
SCALE = NUM_SCALARS  # column of the scale, where there is one
FP16_MAX = 65504.0
INT8_MAX = 127


def num_scalars(dtype: np.dtype) -> int:
    """Columns of scalars beside patches of this type: 3, or 4 with the scale of 8-bit patches."""
    return NUM_SCALARS + int(dtype == np.int8)


def pack(values: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """values (..., C) float32 -> (patches (..., C) of `dtype`, scales (..., 1 or 0) float32).

    [-1.27, 0.014, 1.0] as int8 -> [-127, 1, 100] with scale 0.01: what is stored is [-1.27, 0.01, 1.0].
    """
    values = np.clip(values, -FP16_MAX, FP16_MAX)
    if dtype != np.int8:
        return values.astype(dtype), np.empty((*values.shape[:-1], 0), np.float32)
    scales = np.abs(values).max(axis=-1, keepdims=True).astype(np.float32) / np.float32(INT8_MAX)
    # A patch of zeros keeps scale 0; one that is not a number keeps a scale that is not, so it cannot pass unnoticed.
    steps = np.rint(values / np.where(scales > 0, scales, np.float32(1)))
    return np.nan_to_num(steps).astype(np.int8), scales


def unpack(patches: Tensor, scalars: Tensor) -> Tensor:
    """Stored patches (..., C) with their scalars (..., 3 or 4) -> the values they stand for; floats are unchanged."""
    if patches.dtype != torch.int8:
        return patches
    return patches.float() * scalars[..., SCALE:]


class Stored(Protocol):
    """Patches (..., C) as stored, and their scalars (..., 3 or 4): of one frame or of many."""

    @property
    def patches(self) -> np.ndarray | Tensor:
        """As they were encoded."""

    @property
    def scalars(self) -> np.ndarray | Tensor:
        """With the scale, where patches are 8-bit."""


def stored_values(stored: Stored) -> Tensor:
    """What its patches stand for."""
    return unpack(torch.as_tensor(stored.patches), torch.as_tensor(stored.scalars))
