"""Compute the fingerprint of a network: features of networks with different fingerprints must not be mixed.

This file does not know where features are stored.
"""

import hashlib

import numpy as np
import torch

from model.network import VilampNetwork

TOWERS = ("vision_tower.", "mm_projector.", "dual_encoder.", "composer.")


def fingerprint(network: VilampNetwork, dtype: torch.dtype, patch_dtype: np.dtype) -> str:
    """Return a hash of everything that decides what `encode` returns: settings, and a few numbers of each weight used.

    dtype: precision of the network; patch_dtype: type in which patches are stored.
    """
    config, live = network.config, network.config.live
    settings = (
        config.vision,
        config.dual_encoder,
        config.composer,
        live.patch_features,
        live.whole_frame,
        str(dtype),
        str(patch_dtype),
    )
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in network.state_dict().items():
        if name.startswith(TOWERS):
            flat = tensor.flatten()
            sample = flat[:: max(1, flat.numel() // 64)]
            digest.update(name.encode() + sample.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
