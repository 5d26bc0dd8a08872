"""Feature merging written as it is defined, without absorption, chunks or stored scalars: the tests' reference."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.network import SigPooling, VilampNetwork


def sig_pooling(maps: SigPooling, image: Tensor, key: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """image, key (F, M, H) projected patches, query (D,) -> tokens (F, H), weights (F, M)."""
    asked = F.cosine_similarity(maps.linear_q(query).expand_as(image), maps.linear_iq(image), dim=-1)
    alike = F.cosine_similarity(maps.linear_k(key), maps.linear_ik(image), dim=-1)
    weights = torch.softmax((asked - alike) / maps.tau, dim=-1)
    return (weights[..., None] * image).sum(1), weights


def plain_pooling(image: Tensor, key: Tensor, query: Tensor, weight: float, alpha: float) -> tuple[Tensor, Tensor]:
    """The same without trained maps: cosines of the projected patches themselves; query (H,)."""
    asked = F.cosine_similarity(query.expand_as(image), image, dim=-1)
    alike = F.cosine_similarity(key, image, dim=-1)
    weights = torch.softmax((asked - weight * alike) / alpha, dim=-1)
    return (weights[..., None] * image).sum(1), weights


@torch.inference_mode()
def merge(network: VilampNetwork, patches: np.ndarray, sources: np.ndarray, query: np.ndarray) -> Tensor:
    """patches (N, M, C) vision features, sources (N,) row each is compared with -> tokens (N, H) of every row."""
    projected = network.project(torch.tensor(patches.astype(np.float32)))
    live = network.config.live
    if isinstance(network.composer, SigPooling):
        return sig_pooling(network.composer, projected, projected[sources], torch.tensor(query))[0]
    return plain_pooling(projected, projected[sources], torch.tensor(query), live.merge_lambda, live.merge_alpha)[0]
