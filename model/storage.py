"""Store the patches of a frame: as floats, or as 8-bit integers with one scale per patch.

8 bits: q = round(v / s) with s = max|v| / 127, an int8 per number and a float32 scale per patch. Reading gives q s,
which differs from v by at most s / 2.

The scale is stored as one more column of the patch's scalars, (M, 4) instead of (M, 3), so that code that only keeps
patches need not know how they are stored. Summary, scalars and merging are all computed from the values that `unpack`
returns, so they agree with what is stored. This file does not know networks.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

NUM_SCALARS = 3  # n_iq, n_ik (norms under the question and key maps) and self-cosine; see model.merge
SCALE = NUM_SCALARS  # column of the scale, where there is one
FP16_MAX = 65504.0
INT8_MAX = 127


def num_scalars(dtype: np.dtype) -> int:
    """Return how many scalars merging needs stored with each patch: 3, or 4 with the scale of 8-bit patches."""
    return NUM_SCALARS + int(dtype == np.int8)


def pack(values: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Convert values (..., C) float32, with C channels in each patch, to their stored form: patches and scales.

    patches (..., C) have the type `dtype`. int8: one scale per patch, scales (..., 1) float32. Float types need none,
    so scales is (..., 0). [-1.27, 0.014, 1.0] as int8 -> [-127, 1, 100] with scale 0.01, which reads back as [-1.27,
    0.01, 1.0].
    """
    values = np.clip(values, -FP16_MAX, FP16_MAX)
    if dtype != np.int8:
        return values.astype(dtype), np.empty((*values.shape[:-1], 0), np.float32)
    scales = np.abs(values).max(axis=-1, keepdims=True).astype(np.float32) / np.float32(INT8_MAX)
    # A patch of zeros gets scale 0. A patch with a NaN gets the scale NaN, so that the damage shows when it is unpacked.
    steps = np.rint(values / np.where(scales > 0, scales, np.float32(1)))
    return np.nan_to_num(steps).astype(np.int8), scales


def unpack(patches: Tensor, scalars: Tensor) -> Tensor:
    """Return the values (..., C) of stored patches (..., C), with C channels in each. Float patches are unchanged.

    scalars (..., 3 or 4): the numbers stored beside each patch; the fourth is the scale of an 8-bit patch.
    """
    if patches.dtype != torch.int8:
        return patches
    return patches.float() * scalars[..., SCALE:]


class Stored(Protocol):
    """Stored patches of one or many frames, (..., C) with C channels in each, and their scalars, (..., 3 or 4)."""

    @property
    def patches(self) -> np.ndarray | Tensor:
        """The patches (..., C), with C channels in each, in the type they are stored in."""

    @property
    def scalars(self) -> np.ndarray | Tensor:
        """Three numbers stored beside each patch for merging, (..., 3), or (..., 4) with the scale of 8-bit patches."""


def stored_values(stored: Stored) -> Tensor:
    """Return the values (..., C) of stored patches, with C channels in each; 8-bit ones are scaled back."""
    return unpack(torch.as_tensor(stored.patches), torch.as_tensor(stored.scalars))
