"""What the model hands out: features of frames and questions, its own description, and the context of one question.

numpy at the border; the tensors inside a `VisualContext` are nobody else's business. This file does not know networks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from model.config import Fill, ModelConfig, Redundancy, Reference, SelectionRule
from model.merge import PatchSource
from model.select import Keyframes


@dataclass(frozen=True, slots=True)
class FrameFeatures:
    """What is kept of one frame: embedding (D,) float32 not normalised, patches (M, C') as stored (float16 or int8),
    scalars (M, 3 or 4) float32 computed from the stored patches, summary (C',) float32: the mean patch."""

    embedding: np.ndarray
    patches: np.ndarray
    scalars: np.ndarray
    summary: np.ndarray


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """A question: unit (D,) and raw (D,) float32; merge_query, what merging asks patches with; whether it was cut."""

    unit: np.ndarray
    raw: np.ndarray
    merge_query: np.ndarray
    truncated: bool


@dataclass(frozen=True, slots=True)
class Defaults:
    """What this checkpoint wants where the user says nothing."""

    num_keyframes: int
    tau: float
    floor: float
    recent: int
    selection: SelectionRule
    fill: Fill
    redundancy: Redundancy
    background_floor: float
    timestamps: bool
    reference: Reference

    @classmethod
    def of(cls, config: ModelConfig) -> "Defaults":
        """As the checkpoint's own configuration has them."""
        live = config.live
        return cls(
            num_keyframes=config.num_keyframes,
            tau=config.tau,
            floor=config.floor,
            recent=live.recent,
            selection=live.selection,
            fill=live.fill,
            redundancy=live.redundancy,
            background_floor=live.background_floor,
            timestamps=live.timestamps,
            reference=live.reference,
        )


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Sizes and defaults. `fingerprint` changes whenever stored features of another model would not fit.

    patch_dtype and num_scalars say how a frame's patches are stored: `model.storage`.
    """

    name: str
    card: str
    fingerprint: str
    patches_per_frame: int
    patch_width: int
    patch_dtype: str
    num_scalars: int
    embedding_dim: int
    keyframe_tokens: int
    context_tokens: int
    max_visual_tokens: int
    defaults: Defaults


@dataclass(frozen=True, slots=True)
class VisualContext:
    """What the pictures say to one question. Opaque to callers but for the counts.

    keyframes: those used (fewer than asked for if the token budget is small); num_tokens: visual tokens, of which
    num_shared_tokens stand for more than one frame; num_summary_frames: frames whose patches were gone; num_left_out:
    frames that contributed nothing (`model.thinning`); foreign_groups: for each camera with keyframes, whether these
    show a world unknown to the checkpoint (empty: it cannot say).
    """

    keyframes: Keyframes
    keyframe_tokens: Tensor  # (K, M', H) float32
    merged_rows: np.ndarray  # (F,)
    merged: Tensor  # (F, H) float32
    change: np.ndarray  # (F,) float32, see share_tokens
    may_join: np.ndarray  # (F,) bool
    runs: np.ndarray  # (F,) int64
    num_tokens: int
    num_shared_tokens: int
    num_summary_frames: int
    foreign_groups: tuple[bool, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    num_left_out: int = 0
    presence: np.ndarray | None = (
        None  # (K, M) float32: what of each keyframe is asked about, where the checkpoint points
    )

    @property
    def is_foreign(self) -> bool:
        """Nothing in here comes from a world that the checkpoint knows."""
        return bool(self.foreign_groups) and all(self.foreign_groups)


def best_keyframes(keyframes: Keyframes, most: int) -> Keyframes:
    """At most `most` of them: recent before relevant before filling, then by score, then the earlier one."""
    if len(keyframes.rows) <= most:
        return keyframes
    rank = {"recent": 0, "relevant": 1, "filling": 2}
    order = np.lexsort((keyframes.rows, -keyframes.scores, np.array([rank[kind] for kind in keyframes.kinds])))
    kept = np.sort(order[: max(most, 0)])
    return keyframes.at(kept.tolist())


def neighbour_change(
    source: PatchSource, rows: np.ndarray, group_sizes: Sequence[int], block: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """(change (F,) float32, may_join (F,) bool) of the rows F that are no keyframes, each against the row before it.

    change is one minus the cosine of their embeddings; a row may join only the row just before it, in its own group.
    """
    change = np.ones(len(rows), np.float32)
    may_join = np.zeros(len(rows), bool)
    may_join[1:] = np.diff(rows) == 1
    may_join &= ~np.isin(rows, np.cumsum([0, *group_sizes]))
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        now, before = source.embeddings(part), source.embeddings(np.maximum(part - 1, 0))
        change[start : start + len(part)] = 1 - np.einsum("nd,nd->n", now, before)
    return change, may_join


def mean_of_runs(tokens: Tensor, runs: np.ndarray) -> Tensor:
    """tokens (F, H), runs (F,) rising from 0 -> (number of runs, H): the mean token of each run."""
    if not len(runs) or int(runs[-1]) + 1 == len(runs):
        return tokens
    index = torch.from_numpy(runs)
    sums = torch.zeros(int(runs[-1]) + 1, tokens.shape[1]).index_add_(0, index, tokens)
    return sums / torch.bincount(index)[:, None]
