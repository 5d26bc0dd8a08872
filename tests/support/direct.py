"""Feature merging as the paper defines it, without absorption, chunks or stored scalars: a reference for tests."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.merge import Merger
from model.network import SigPooling, VilampNetwork
from tests.support.tiny import make_config


def sig_pooling(maps: SigPooling, image: Tensor, key: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Pool patches with the trained maps: image, key (F, M, H), query (D,) -> tokens (F, H), weights (F, M)."""
    asked = F.cosine_similarity(maps.linear_q(query).expand_as(image), maps.linear_iq(image), dim=-1)
    alike = F.cosine_similarity(maps.linear_k(key), maps.linear_ik(image), dim=-1)
    weights = torch.softmax((asked - alike) / maps.tau, dim=-1)
    return (weights[..., None] * image).sum(1), weights


def plain_pooling(image: Tensor, key: Tensor, query: Tensor, weight: float, alpha: float) -> tuple[Tensor, Tensor]:
    """Like `sig_pooling`, but without trained maps: cosines of the projected patches; query (H,)."""
    asked = F.cosine_similarity(query.expand_as(image), image, dim=-1)
    alike = F.cosine_similarity(key, image, dim=-1)
    weights = torch.softmax((asked - weight * alike) / alpha, dim=-1)
    return (weights[..., None] * image).sum(1), weights


@torch.inference_mode()
def merge(network: VilampNetwork, patches: np.ndarray, sources: np.ndarray, query: np.ndarray) -> Tensor:
    """Merge every frame: patches (N, M, C), sources (N,) row that each is compared with -> tokens (N, H)."""
    projected = network.project(torch.tensor(patches.astype(np.float32)))
    live = network.config.live
    if isinstance(network.composer, SigPooling):
        return sig_pooling(network.composer, projected, projected[sources], torch.tensor(query))[0]
    return plain_pooling(projected, projected[sources], torch.tensor(query), live.merge_lambda, live.merge_alpha)[0]


def make_network(seed: int = 0, composer: str = "sig_pooling", **overrides: Any) -> VilampNetwork:
    """Make a tiny network with large projector weights, so that merging weights vary."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = VilampNetwork(make_config(composer=composer, **overrides)).eval().requires_grad_(False)
        for linear in network.mm_projector.children():
            if isinstance(linear, torch.nn.Linear):
                linear.weight.normal_(0, 0.5)
                linear.bias.normal_(0, 0.2)
    return network


def make_merger(network: VilampNetwork, **settings_: Any) -> Merger:
    live = network.config.live
    return Merger(
        network,
        composer=network.config.composer,
        patch_features=live.patch_features,
        merge_lambda=live.merge_lambda,
        merge_alpha=live.merge_alpha,
        **settings_,
    )


def choose_rows(num_frames: int, count: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).choice(num_frames, min(count, num_frames), replace=False))


NETWORKS = {name: make_network(composer=name, merge_alpha=0.1, merge_lambda=0.7) for name in ("sig_pooling", "plain")}


HIDDEN = {
    name: make_network(composer=name, merge_alpha=0.1, merge_lambda=0.7, patch_features="hidden") for name in NETWORKS
}
