"""The answering path for a batch of windows, differentiable: selection, merging, interleaving, padding.

The same computation as in `model.select`, `model.merge` and `model.prompt`, but batched over windows and with gradients
through the merging; tests compare the two. Letters: B windows, N frames (padded), M patches, K keyframes, H width. The
visual block is all visual tokens of one window, in time order; a slot is a position in it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from model.network import SigPooling, VilampNetwork

IGNORE = -100


def background_relative(embeddings: Tensor, valid: Tensor, floor: float) -> Tensor:
    """Make embeddings relative to the mean of their window, so that frames showing only the background are alike.

    B windows of N frames, embedding width D: (B, N, D) normalised -> (B, N, D + 1). The mean of the frames that are
    `valid` (not padding) is subtracted, a coordinate of size `floor` appended, and the result normalised.
    """
    count = valid.sum(1).clamp(min=1)[:, None, None]
    mean = (embeddings * valid[..., None]).sum(1, keepdim=True) / count
    relative = embeddings - mean
    return F.normalize(torch.cat([relative, torch.full_like(relative[..., :1], floor)], dim=-1), dim=-1)


def select_batch(scores: Tensor, vectors: Tensor, valid: Tensor, num_keyframes: int, tau: float, recent: int) -> Tensor:
    """Run differential keyframe selection (DKS) for B windows of N frames at once. Return the keyframes, (B, N) bool.

    scores (B, N): relevance; vectors (B, N, D): normalised embeddings; valid (B, N): not padding. The newest `recent`
    frames come first. Then, again and again, the best frame left is selected and all frames more similar to it than tau
    are excluded, which gives the same result as the paper's loop over ranked frames. Places that remain get the best of
    the excluded frames.
    """
    batch, num_frames, _ = vectors.shape
    rows = torch.arange(batch, device=scores.device)
    taken = torch.zeros(batch, num_frames, dtype=torch.bool, device=scores.device)
    last = valid.sum(1)
    for back in range(min(recent, num_keyframes)):
        taken[rows, (last - 1 - back).clamp(min=0)] = True
    struck = ~valid
    for row in range(min(recent, num_keyframes)):
        at = (last - 1 - row).clamp(min=0)
        struck = struck | ((vectors @ vectors[rows, at][..., None])[..., 0] > tau)
    for _ in range(num_keyframes - min(recent, num_keyframes)):
        rank = torch.where(valid & ~taken, scores - 10.0 * struck, torch.full_like(scores, -1e4))
        best = rank.argmax(1)
        taken[rows, best] |= rank[rows, best] > -1e3
        struck = struck | ((vectors @ vectors[rows, best][..., None])[..., 0] > tau)
    return taken & valid


def reference_rows(taken: Tensor) -> Tensor:
    """Return for each of the N frames of B windows the last keyframe at or before it, (B, N); before the first, itself.

    taken (B, N) bool: the keyframes. 0 1 0 0 1 0 -> 0 1 1 1 4 4.
    """
    rows = torch.arange(taken.shape[1], device=taken.device).expand_as(taken)
    last = torch.where(taken, rows, torch.full_like(rows, -1)).cummax(1).values
    return torch.where(last < 0, rows, last)


def merge_frames(network: VilampNetwork, patches: Tensor, references: Tensor, query: Tensor) -> Tensor:
    """Return the merged tokens of F frames, (F, H), computed directly by the paper's formula; H is the language width.

    patches, references (F, M, C): the M patches, of C channels, of each frame and of the keyframe it is compared with;
    query (F, D): embeddings of the questions' texts, not normalised.
    """
    composer = network.composer
    assert isinstance(composer, SigPooling)
    x = network.project(patches)
    asked = F.normalize(composer.linear_q(query).float(), dim=-1)
    relevance = (F.normalize(composer.linear_iq(x).float(), dim=-1) * asked[:, None]).sum(-1)
    reference = F.normalize(composer.linear_k(network.project(references)).float(), dim=-1)
    sameness = (F.normalize(composer.linear_ik(x).float(), dim=-1) * reference).sum(-1)
    weights = ((relevance - sameness) / composer.tau.clamp(min=0.01)).softmax(-1)
    return (weights[..., None].to(x.dtype) * x).sum(1)


def merge_chunked(
    network: VilampNetwork, store: Tensor, rows: Tensor, references: Tensor, query: Tensor, chunk: int = 4096
) -> Tensor:
    """Return the merged tokens of F frames like `merge_frames`, in chunks: activations are computed again in the
    backward pass.

    This saves memory. store (R, M, C): the M patches of all R stored frames; rows, references (F,): rows in it of the
    frames and of the keyframes they are compared with; query (F, D): text embeddings.
    """

    def piece(start: int) -> Tensor:
        part = slice(start, start + chunk)
        return merge_frames(network, store[rows[part]].float(), store[references[part]].float(), query[part])

    if not len(rows):
        return network.image_newline.new_zeros(0, len(network.image_newline))
    if not torch.is_grad_enabled():
        return torch.cat([piece(start) for start in range(0, len(rows), chunk)])
    return torch.cat([checkpoint(piece, start, use_reentrant=False) for start in range(0, len(rows), chunk)])


@dataclass(frozen=True)
class Layout:
    """The positions of the tokens of each frame among the visual tokens of its window, padded. All int64."""

    merged: Tensor  # (B, N) slot of each merged frame's token, -1 for other frames; frames of one run share a slot
    keyframes: Tensor  # (B, K) row of each keyframe, -1 where there are fewer
    keyframe_slots: Tensor  # (B, K) slot of each keyframe's first token (that of its timestamp, if any)
    visual_tokens: Tensor  # (B,) length of each window's visual block


def layout_batch(taken: Tensor, valid: Tensor, tokens_per_keyframe: int, runs: Tensor | None = None) -> Layout:
    """Return the positions of each frame's tokens among the visual tokens of its window, which are in time order.

    taken, valid (B, N) bool: keyframes, and frames that are not padding, of B windows of N frames. runs (B, N):
    non-decreasing run numbers; adjacent merged frames with the same number share one token. None: each merged frame has
    its own.
    """
    singles = valid & ~taken
    first = singles.clone()
    if runs is not None:
        same = torch.zeros_like(singles)
        same[:, 1:] = (runs[:, 1:] == runs[:, :-1]) & singles[:, 1:] & singles[:, :-1]
        first = singles & ~same
    lengths = taken.long() * tokens_per_keyframe + first.long()
    ends = lengths.cumsum(1)
    slots = torch.where(taken, ends - tokens_per_keyframe, ends - 1)
    num_keyframes = int(taken.sum(1).max())
    order = torch.where(taken, torch.arange(taken.shape[1], device=taken.device), taken.shape[1]).sort(1).values
    rows = order[:, :num_keyframes]
    present = rows < taken.shape[1]
    safe = rows.clamp(max=taken.shape[1] - 1)
    return Layout(
        merged=torch.where(singles, slots, -1),
        keyframes=torch.where(present, safe, -1),
        keyframe_slots=torch.where(present, slots.gather(1, safe), -1),
        visual_tokens=ends[:, -1],
    )
