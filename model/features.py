"""The model's results: features of frames and questions, a description of itself, and the context of one question.

Everything is numpy except the tensors in `VisualContext`, which only the model uses. This file does not know networks.

Shapes: D embedding width, M patches of a frame, C' width of a stored patch, H width of the language model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from model.config import Fill, JudgeManner, ModelConfig, Redundancy, Reference, SelectionRule
from model.merge import PatchSource
from model.select import Keyframes


@dataclass(frozen=True, slots=True)
class FrameFeatures:
    """The features stored of one frame with M patches.

    embedding (D,) float32, not normalised, of width D; patches (M, C') as stored (float16 or int8), C' channels each;
    scalars (M, 3 or 4) float32: numbers computed from each stored patch (`model.storage`); summary (C',) float32: the
    mean patch.
    """

    embedding: np.ndarray
    patches: np.ndarray
    scalars: np.ndarray
    summary: np.ndarray


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """The features of a question.

    unit (D,) float32: its normalised embedding, of width D; raw (D,) float32: the same before normalisation;
    merge_query: the vector that merging compares patches with; truncated: whether the question was cut to CLIP's
    length.
    """

    unit: np.ndarray
    raw: np.ndarray
    merge_query: np.ndarray
    truncated: bool


@dataclass(frozen=True, slots=True)
class Defaults:
    """A checkpoint's values for settings that the user leaves unset.

    query: what is embedded to search for frames: the whole question, as in the paper, or the thing alone, as dual
    encoders are trained with captions. wording: "question" if the text encoder was trained on the drawn world's questions.
    """

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
    query: Literal["question", "thing"] = "question"
    wording: JudgeManner = "instruct"

    @classmethod
    def of(cls, config: ModelConfig) -> "Defaults":
        """Return the default settings that this checkpoint configuration gives."""
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
            wording=live.judge,
        )


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Name, sizes and defaults of the loaded model.

    fingerprint: identifies the stored features; models with different fingerprints cannot use each other's features.
    patch_dtype and num_scalars say how a frame's patches are stored (`model.storage`).
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
    """The visual input of the language model for one question. Callers may read the fields named here; the others are
    internal.

    keyframes: those used, fewer than requested if the token budget is small; num_tokens: visual tokens, of which
    num_shared_tokens stand for more than one frame; num_summary_frames: frames of which only the mean patch was left;
    num_left_out: frames that contribute nothing (`model.thinning`); foreign_groups: for each camera with keyframes,
    whether they look unlike the checkpoint's training data (`model.familiarity`; empty if the checkpoint cannot judge
    that).
    """

    keyframes: Keyframes
    keyframe_tokens: Tensor  # (K, M', H) float32
    merged_rows: np.ndarray  # (F,)
    merged: Tensor  # (F, H) float32, the merged token of each frame in merged_rows
    change: np.ndarray  # (F,) float32, see neighbour_change
    may_join: np.ndarray  # (F,) bool
    runs: np.ndarray  # (F,) int64, number of the token that each frame contributes to
    num_tokens: int
    num_shared_tokens: int
    num_summary_frames: int
    foreign_groups: tuple[bool, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    num_left_out: int = 0
    presence: np.ndarray | None = (
        None  # (K, M) float32: probability that each patch shows what is asked about; None unless trained for it (model.pointing)
    )

    @property
    def is_foreign(self) -> bool:
        """Whether the keyframes of every camera are foreign, that is, look unlike the checkpoint's training data."""
        return bool(self.foreign_groups) and all(self.foreign_groups)


def best_keyframes(keyframes: Keyframes, most: int) -> Keyframes:
    """Return the best `most` keyframes: by kind ("recent", "relevant", "filling"), then by score, then the earlier."""
    if len(keyframes.rows) <= most:
        return keyframes
    rank = {"recent": 0, "relevant": 1, "filling": 2}
    order = np.lexsort((keyframes.rows, -keyframes.scores, np.array([rank[kind] for kind in keyframes.kinds])))
    kept = np.sort(order[: max(most, 0)])
    return keyframes.at(kept.tolist())


def neighbour_change(
    source: PatchSource, rows: np.ndarray, group_sizes: Sequence[int], block: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """Compare each of F frames that are no keyframes with the frame before it. Return (change, may_join), each (F,).

    rows (F,): their positions in `source`. change, float32: one minus the cosine of the two embeddings. may_join, bool:
    whether the frame may share a token with the one before it, which must be among `rows`, adjacent and in the same
    group (camera). block: rows compared at once.
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
    """Return the mean token of each run of neighbouring frames, (runs, H).

    tokens (F, H): the token of each of F frames, with language width H; runs (F,): the number of each frame's run,
    rising from 0.
    """
    if not len(runs) or int(runs[-1]) + 1 == len(runs):
        return tokens
    index = torch.from_numpy(runs)
    sums = torch.zeros(int(runs[-1]) + 1, tokens.shape[1]).index_add_(0, index, tokens)
    return sums / torch.bincount(index)[:, None]
