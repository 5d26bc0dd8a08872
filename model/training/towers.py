"""Train the CLIP encoder and the vision tower (SigLIP) on labelled frames of the drawn world (stage 1).

Each image is scored against many descriptions at once, each known to be true or false of it (multi-label sigmoid loss).
In a closed world, that is much more signal per image than one caption. Patches of both encoders also learn the kind and
colour of what they show, through heads that are dropped after training.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel

from model.training.data import FrameBatch, TextBatch


class TowerHeads(nn.Module):
    """The small layers that only the training of the encoders needs, dropped afterwards.

    They classify patches and whole pictures by the kinds and colours shown, and scale and shift the cosines between
    pictures and texts.
    """

    def __init__(self, clip_width: int, tower_width: int, num_kinds: int, num_colours: int) -> None:
        super().__init__()
        self.num_kinds = num_kinds + 1  # the last class is background
        self.clip_patch = nn.Linear(clip_width, self.num_kinds + num_colours)
        self.tower_patch = nn.Linear(tower_width, self.num_kinds + num_colours)
        self.tower_pair = nn.Linear(tower_width, num_kinds * num_colours)
        self.scale = nn.Parameter(torch.tensor(math.log(12.0)))
        self.bias = nn.Parameter(torch.tensor(-6.0))


@dataclass(frozen=True)
class TowerLoss:
    """The loss of one training step (total, with gradient) and its parts (without)."""

    total: Tensor
    image_text: Tensor
    patches: Tensor
    pairs: Tensor


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Give each of B images its own gain, offset, tint and noise, as light and sensors differ.

    images (B, 3, S, S): S x S pixels, in [0, 1].
    """
    batch = images.shape[0]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, device=images.device, generator=generator) * (high - low) + low

    gain = uniform(0.8, 1.2, 1, 1, 1) * uniform(0.95, 1.05, 3, 1, 1)
    noise = torch.randn(images.shape, device=images.device, generator=generator) * uniform(0.0, 0.03, 1, 1, 1)
    return (images * gain + uniform(-0.06, 0.06, 1, 1, 1) + noise).clamp(0, 1)


def flip_some(
    images: Tensor, kinds: Tensor, colours: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror half of B pictures, (B, S, S, 3), with the labels of their M patches. No text here names left or right."""
    side = round(kinds.shape[1] ** 0.5)
    flip = torch.rand(len(images), device=images.device, generator=generator) < 0.5
    labels = [torch.where(flip[:, None], x.view(-1, side, side).flip(2).flatten(1), x) for x in (kinds, colours)]
    return torch.where(flip[:, None, None, None], images.flip(2), images), labels[0], labels[1]


def image_text_loss(image: Tensor, text: Tensor, truth: Tensor, heads: TowerHeads) -> Tensor:
    """Return the sigmoid loss over all pairs of B images and T texts, of which each is true or false.

    image (B, D), text (T, D): normalised embeddings of width D; truth (B, T) bool: whether the text is true of the
    image.
    """
    logits = heads.scale.exp() * image @ text.T + heads.bias
    weight = torch.where(truth, 4.0, 1.0)  # true pairs are rare
    return F.binary_cross_entropy_with_logits(logits, truth.float(), weight=weight)


def patch_loss(logits: Tensor, kinds: Tensor, colours: Tensor, num_kinds: int) -> Tensor:
    """Return the loss of classifying what patches show by kind and colour.

    logits (B, M, kinds + colours): of the M patches of B pictures; kinds, colours (B, M): the right classes, -1 for the
    background.
    """
    background = kinds < 0
    target = torch.where(background, num_kinds - 1, kinds)
    weight = torch.ones(num_kinds, device=logits.device)
    weight[-1] = 0.15  # most patches show background
    kind = F.cross_entropy(logits[..., :num_kinds].flatten(0, 1).float(), target.flatten(), weight=weight)
    colour = F.cross_entropy(logits[..., num_kinds:].flatten(0, 1).float(), colours.flatten(), ignore_index=-1)
    return kind + colour


class TowerTrainer:
    """Trains CLIP and the vision tower: holds both, the optimiser and the layers that only training needs.

    `step` trains on one batch of frames and one of texts.
    """

    def __init__(self, clip: CLIPModel, tower: nn.Module, heads: TowerHeads, *, learning_rate: float) -> None:
        self.clip, self.tower, self.heads = clip, tower, heads
        self.parameters = [*clip.parameters(), *tower.parameters(), *heads.parameters()]
        decay = [p for p in self.parameters if p.ndim >= 2]
        rest = [p for p in self.parameters if p.ndim < 2]
        groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))

    def loss(self, clip_pixels: Tensor, tower_pixels: Tensor, frames: FrameBatch, texts: TextBatch) -> TowerLoss:
        seen = self.clip.vision_model(pixel_values=clip_pixels)
        image = F.normalize(self.clip.visual_projection(seen.pooler_output).float(), dim=-1)
        said = self.clip.text_model(input_ids=texts.ids, attention_mask=texts.mask).pooler_output
        text = F.normalize(self.clip.text_projection(said).float(), dim=-1)
        contrast = image_text_loss(image, text, texts.truth(frames.pairs), self.heads)
        patches = self.tower(tower_pixels)
        num_kinds = self.heads.num_kinds
        dense = patch_loss(self.heads.tower_patch(patches), frames.kinds, frames.colours, num_kinds)
        dense = dense + 0.5 * patch_loss(
            self.heads.clip_patch(seen.last_hidden_state[:, 1:]), frames.kinds, frames.colours, num_kinds
        )
        seen_pairs = self.heads.tower_pair(patches).amax(dim=1).float()
        pairs = F.binary_cross_entropy_with_logits(seen_pairs, frames.pairs.flatten(1).float())
        return TowerLoss(20.0 * contrast + dense + 4.0 * pairs, contrast.detach(), dense.detach(), pairs.detach())

    def step(self, loss: Tensor, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """Return the average precision of ranking images by score, averaged over the texts that are true of any image.

    scores, truth (images, texts).
    """
    values = list(_precisions(scores, truth))
    return sum(values) / max(len(values), 1)


def _precisions(scores: Tensor, truth: Tensor) -> Iterator[float]:
    for column in range(scores.shape[1]):
        hits = truth[:, column][scores[:, column].argsort(descending=True)].float()
        if hits.sum() > 0:
            precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1, device=hits.device)
            yield float((precision * hits).sum() / hits.sum())
