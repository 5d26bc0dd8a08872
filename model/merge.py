"""Differential feature merging (DFM): reduce each frame that is no keyframe to one token, the weighted mean of its patches.

A patch weighs more if it is similar to the question, and less if it is similar to the same patch of the keyframe before.
Output: tokens (F, H) of the F other frames, and pooled patches (K, M', H) of the K keyframes. Memory stays below N x M x H.

Letters: N frames, M patches of a frame, M' after pooling, H language width, C' stored patch width, D embedding width.

The paper's formula, with its matrices multiplied out in advance ("absorbed"), which gives the same result. v is the patch
of the vision tower, h = gelu(W1 v + b1), x = W2 h + b2 the projected patch, a = linear_q(question):

    cos(a, linear_iq(x))                = (h . u_q + c_q) / n_iq     u_q = W2^T W_iq^T a/|a|   (H,)
    cos(linear_k(x_key), linear_ik(x))  = (h . u_k + c_k) / n_ik     u_k = W2^T W_ik^T b_k     (M, H)
    token = W2 (sum_m w_m h_m) + b2,    w = softmax((first - lambda * second) / tau),    b_k = linear_k(x_key) / |.|

The scalars stored with each patch are n_iq = |linear_iq(x)|, n_ik = |linear_ik(x)| and the second cosine of the patch with
itself. Without trained maps ("plain") the maps are the identity: a is the mean input embedding of the question's words.
This file does not know how keyframes were chosen, files, or prompts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import Composer, PatchFeatures, Reference
from model.network import SigPooling, VilampNetwork
from model.pointing import presence_of
from model.storage import unpack

OWN = -1  # reference of a frame without a keyframe before it, which is compared with itself
SKIP = -2  # a row that is not merged
# Bytes of hidden features (h) computed at once: few enough for a CPU's cache, or enough to keep a GPU busy.
CPU_CHUNK_BYTES, GPU_CHUNK_BYTES = 4 << 20, 512 << 20


class PatchBlock(Protocol):
    """n frames read from a source, with M patches each: patches (n, M, channels) as stored, scalars (n, M, S) float32.

    The S scalars of a patch are numbers that merging needs: 3, or 4 if patches are stored in 8 bits (`model.storage`).
    present (n,) bool: which frames have patches. patches and scalars may be tensors, best on the device.
    """

    @property
    def patches(self) -> np.ndarray | Tensor:
        """The patches of n frames, in the type they are stored in: (n, M patches of a frame, C' channels)."""

    @property
    def scalars(self) -> np.ndarray | Tensor:
        """(n frames, M patches, 3 or 4): the numbers that merging needs of every patch, and the scale of 8-bit ones."""

    @property
    def present(self) -> np.ndarray:
        """(n,) bool: whether a frame still has its patches; False if only its summary, the mean patch, is left."""


class PatchSource(Protocol):
    """The frames that merging reads: a window of the memory, or arrays."""

    @property
    def num_frames(self) -> int:
        """Number of frames."""

    def present(self) -> np.ndarray:
        """Return for each frame whether it still has its patches, and not only their mean: (frames,) bool."""

    def read(self, start: int, stop: int) -> PatchBlock:
        """Return the patches of the rows from `start` up to, not including, `stop`."""

    def summaries(self, start: int, stop: int) -> np.ndarray:
        """Return the mean patch of each row from `start` up to, not including, `stop`: (rows, channels) float32."""

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Return the normalised embeddings of the frames at n rows: (n, embedding width D) float32."""

    def norms(self, rows: np.ndarray) -> np.ndarray:
        """Return the lengths that the embeddings of the frames at n rows had before normalisation: (n,) float32."""


class StoredFrame(Protocol):
    """A newly encoded frame: its patches, and the numbers stored beside each patch for merging."""

    @property
    def patches(self) -> np.ndarray:
        """The patch features of the frame: (M patches, C' channels), in the type they are stored in (such as int8)."""

    @property
    def scalars(self) -> np.ndarray:
        """(M patches, 3 or 4): the numbers that merging needs of every patch, and the scale of 8-bit ones."""


@dataclass(frozen=True, slots=True)
class Merged:
    """F merged frames: rows, tokens (F, width H), weights (F, patches). K pooled keyframes: (K, tokens of each, H)."""

    rows: np.ndarray
    tokens: Tensor
    keyframes: Tensor
    num_summary_frames: int
    weights: Tensor | None = None


class Merger:
    """Merges each frame into one token, with one network's weights. `merge` may run in several threads at once."""

    def __init__(
        self,
        network: VilampNetwork,
        *,
        composer: Composer,
        patch_features: PatchFeatures,
        merge_lambda: float = 1.0,
        merge_alpha: float = 0.01,
        temperature: float | None = None,
        pointing: Mapping[str, float] | None = None,
        chunk_bytes: int | None = None,
    ) -> None:
        """Set up merging. temperature: of the softmax, for experiments; None: the trained one, else `merge_alpha`."""
        self._network = network
        self._composer = composer
        self._patch_features = patch_features
        self._pointing = pointing
        self._device, self._dtype = network.image_newline.device, network.image_newline.dtype
        self._chunk_bytes = chunk_bytes or (CPU_CHUNK_BYTES if self._device.type == "cpu" else GPU_CHUNK_BYTES)
        out = network.mm_projector.get_submodule("2")
        self._w2, self._b2 = _weights_of(out)
        self._lambda, self._temperature = merge_lambda, merge_alpha
        maps = network.composer
        self._maps = maps if isinstance(maps, SigPooling) else None
        if self._maps is not None:
            self._lambda, self._temperature = 1.0, float(self._maps.tau.detach())
        self._temperature = self._temperature if temperature is None else temperature
        self._absorbed_ik = self._absorb(None if self._maps is None else self._maps.linear_ik)

    @property
    def temperature(self) -> float:
        """Temperature of the softmax over patches (alpha in the paper)."""
        return self._temperature

    @torch.inference_mode()
    def scalars(self, patches: Tensor) -> Tensor:
        """Return |linear_iq(x)|, |linear_ik(x)| and self-cosine of the M patches x of B frames, (B, M, 3)."""
        if self._composer not in ("sig_pooling", "plain"):
            return torch.zeros(*patches.shape[:2], 3)
        x = self._network.project_out(self.hidden(patches)).float()
        if self._maps is None:
            length = x.norm(dim=-1)
            return torch.stack([length, length, torch.ones_like(length)], dim=-1).cpu()
        maps = self._maps
        iq, ik, k = (self._apply(linear, x) for linear in (maps.linear_iq, maps.linear_ik, maps.linear_k))
        n_ik = ik.norm(dim=-1)
        own = (k * ik).sum(-1) / (k.norm(dim=-1) * n_ik).clamp(min=1e-12)
        return torch.stack([iq.norm(dim=-1), n_ik, own], dim=-1).cpu()

    def hidden(self, patches: Tensor) -> Tensor:
        """Return the projector's hidden features (..., H), in its precision, of stored patch values (..., C')."""
        patches = patches.to(self._device, self._dtype)
        return self._network.project_hidden(patches) if self._patch_features == "vision" else patches

    @torch.inference_mode()
    def merge(
        self,
        source: PatchSource,
        keyframe_rows: np.ndarray,
        query: np.ndarray,
        *,
        reference: Reference = "keyframe",
        group_sizes: Sequence[int] | None = None,
        overrides: Mapping[int, StoredFrame] | None = None,
        keep_weights: bool = False,
        merge_keyframes: bool = False,
    ) -> Merged:
        """Pool the K keyframes to fewer patches, and merge every other frame to one token.

        keyframe_rows (K,): rising. query: text embedding before normalisation, of CLIP's width, or for "plain" of the
        language model's. reference, group_sizes: see `reference_rows`. overrides: frames used instead of the source's,
        by row, such as keyframes encoded again because their patches were evicted. keep_weights: return the weights as
        well. merge_keyframes: merge keyframes, too, as the published code does; nothing uses these tokens.
        """
        work = _Work(source, overrides or {}, self._device)
        keyframes = self._keyframes(work, keyframe_rows)
        sizes = [source.num_frames] if group_sizes is None else list(group_sizes)
        references = reference_rows(keyframe_rows, sizes, reference)
        if not merge_keyframes:
            references[keyframe_rows] = SKIP
        rows = np.flatnonzero(references != SKIP)
        hidden_size = self._b2.shape[0]
        if self._composer == "none" or not len(rows):
            return Merged(rows[:0], torch.empty(0, hidden_size), keyframes, 0)
        if self._composer == "single_token":
            return Merged(rows, self._from_embeddings(source, rows), keyframes, 0)
        tokens = torch.empty(source.num_frames, hidden_size, device=self._device)
        weights = torch.zeros(source.num_frames, self._network.config.num_patches) if keep_weights else None
        num_summary = self._merge_runs(work, references, query, tokens, weights)
        index = torch.from_numpy(rows)
        kept = None if weights is None else weights[index]
        return Merged(rows, tokens[index.to(self._device)].cpu(), keyframes, num_summary, kept)

    @torch.inference_mode()
    def presence(
        self,
        source: PatchSource,
        rows: np.ndarray,
        query: np.ndarray,
        overrides: Mapping[int, StoredFrame] | None = None,
    ) -> np.ndarray | None:
        """Return for n rows the probability that each of their M patches shows what is asked about: (n, M).

        Computed from the patches' cosine with the question; 0 where a row has no patches. None if the network was not
        trained to locate things.
        """
        if self._pointing is None or self._composer not in ("sig_pooling", "plain"):
            return None
        work = _Work(source, overrides or {}, self._device)
        u_q, c_q = self._question(query)
        cosines = np.full((len(rows), self._network.config.num_patches), np.nan, np.float32)
        for place, row in enumerate(rows.tolist()):
            patches, scalars, present = work.frames(row, row + 1)
            if present[0]:
                cosines[place] = self._asked(self.hidden(patches), scalars, u_q, c_q)[0].cpu().numpy()
        return presence_of(cosines, self._pointing)

    def _keyframes(self, work: "_Work", rows: np.ndarray) -> Tensor:
        """Return the projected, pooled patches of K keyframes, (K, patches left, H), computed frame by frame."""
        config = self._network.config
        pooled = torch.empty(len(rows), config.keyframe_tokens, self._b2.shape[0])
        for place, row in enumerate(rows.tolist()):
            patches, _, present = work.frames(row, row + 1)
            if not present[0]:
                raise ValueError(f"row {row} is a keyframe but its patches are gone: encode it again and override it")
            pooled[place] = self._network.pool(self._network.project_out(self.hidden(patches)).float())[0].cpu()
        return pooled

    def _merge_runs(
        self, work: "_Work", references: np.ndarray, query: np.ndarray, tokens: Tensor, weights: Tensor | None
    ) -> int:
        """Write the merged token of each row into `tokens`, and its weights. Return how many rows had no patches."""
        u_q, c_q = self._question(query)
        step = max(1, self._chunk_bytes // (4 * self._network.config.num_patches * self._b2.shape[0]))
        num_summary, opened = 0, OWN
        key: tuple[Tensor, Tensor] | None = None
        for start, stop, row in runs_of_equal(references):
            if row == SKIP:
                continue
            if self._composer == "average_pooling":
                row = OWN
            elif row != OWN and row != opened:
                opened, key = row, self._reference(work, row)
            for first in range(start, stop, step):
                last = min(first + step, stop)
                patches, scalars, present = work.frames(first, last)
                if not present.any():
                    num_summary += self._put_summaries(work, first, present, tokens)
                    continue
                h = self.hidden(patches)
                if self._composer == "average_pooling":
                    tokens[first:last] = self._out(h.mean(dim=1).float())
                else:
                    w = self._weights(h, scalars, u_q, c_q, None if row == OWN else key)
                    tokens[first:last] = self._out(torch.bmm(w[:, None].to(h.dtype), h)[:, 0].float())
                    if weights is not None:
                        weights[first:last] = w.cpu()
                num_summary += self._put_summaries(work, first, present, tokens)
        return num_summary

    def _weights(
        self, h: Tensor, scalars: Tensor, u_q: Tensor, c_q: Tensor, key: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Return the softmax over the M patches of n frames, (n, M). key None: each is compared with itself."""
        asked = self._asked(h, scalars, u_q, c_q)
        if key is None:
            alike = scalars[..., 2]
        else:
            u_k, c_k = key
            products = torch.bmm(h.transpose(0, 1), u_k.to(h.dtype)[:, :, None])[:, :, 0].T  # (n, M)
            alike = (products.float() + c_k) / scalars[..., 1]
        return torch.softmax((asked - self._lambda * alike) / self._temperature, dim=-1)

    @staticmethod
    def _asked(h: Tensor, scalars: Tensor, u_q: Tensor, c_q: Tensor) -> Tensor:
        return ((h @ u_q.to(h.dtype)).float() + c_q) / scalars[..., 0]

    def _question(self, query: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return u_q (H,) and c_q of the formula, made from the question; zeros for average pooling."""
        if self._composer == "average_pooling":
            return torch.zeros_like(self._b2), torch.zeros((), device=self._device)
        asked = torch.tensor(np.asarray(query, np.float32), device=self._device)
        if self._maps is not None:
            asked = self._apply(self._maps.linear_q, asked)
        unit = F.normalize(asked, dim=-1)
        back, offset = unit, torch.zeros((), device=self._device)
        if self._maps is not None:
            weight, bias = _weights_of(self._maps.linear_iq)
            back, offset = unit @ weight, unit @ bias
        return back @ self._w2, back @ self._b2 + offset

    def _reference(self, work: "_Work", row: int) -> tuple[Tensor, Tensor]:
        """Return u_k (M patches, H) and c_k (M,) of the formula for the keyframe at `row`, or for its mean patch."""
        patches, _, present = work.frames(row, row + 1)
        if not present[0]:
            patches = work.summaries(row, row + 1)[:, None].expand(1, self._network.config.num_patches, -1)
        x = self._network.project_out(self.hidden(patches)).float()[0]
        if self._maps is None:
            b_k = F.normalize(x, dim=-1)
            return b_k @ self._absorbed_ik, b_k @ self._b2
        b_k = F.normalize(self._apply(self._maps.linear_k, x), dim=-1)
        weight, bias = _weights_of(self._maps.linear_ik)
        return b_k @ self._absorbed_ik, b_k @ (weight @ self._b2 + bias)

    def _absorb(self, linear: nn.Linear | None) -> Tensor:
        """Return the matrix W_map W2 (H, H), which maps hidden features to the mapped patch, without bias."""
        return self._w2 if linear is None else linear.weight.detach().float() @ self._w2

    def _apply(self, linear: nn.Linear, x: Tensor) -> Tensor:
        weight, bias = _weights_of(linear)
        return F.linear(x, weight, bias)

    def _out(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self._w2, self._b2)

    def _put_summaries(self, work: "_Work", first: int, present: np.ndarray, tokens: Tensor) -> int:
        """Replace the tokens of rows without patches by their projected mean patch. Return the number of such rows."""
        gone = np.flatnonzero(~present)
        if len(gone):
            means = work.summaries(first, first + len(present))
            index = torch.from_numpy(gone).to(self._device)
            tokens[first + index] = self._out(self.hidden(means[index]).float())
        return len(gone)

    def _from_embeddings(self, source: PatchSource, rows: np.ndarray) -> Tensor:
        """Return tokens (F, H) made by an MLP from the embeddings of F frames, for composer "single_token"."""
        if self._network.composer is None:
            raise ValueError("single_token needs the composer's weights")
        raw = source.embeddings(rows) * source.norms(rows)[:, None]
        tokens: Tensor = self._network.composer(torch.tensor(raw, device=self._device, dtype=self._dtype))
        return tokens.float().cpu()


def _weights_of(linear: nn.Module) -> tuple[Tensor, Tensor]:
    """Return (weight, bias) of a linear layer in float32."""
    weight, bias = linear.get_parameter("weight"), linear.get_parameter("bias")
    return weight.detach().float(), bias.detach().float()


class _Work:
    """Reads the frames for one call of `Merger.merge` as tensors on the device, replacing those that have overrides."""

    def __init__(self, source: PatchSource, overrides: Mapping[int, StoredFrame], device: torch.device) -> None:
        self._source = source
        self._overrides = overrides
        self._device = device

    def frames(self, start: int, stop: int) -> tuple[Tensor, Tensor, np.ndarray]:
        """Return n rows, `start` to `stop`: patches (n, M, C'), scalars (n, M, 3 or 4), present (n,) bool."""
        block = self._source.read(start, stop)
        patches, scalars, present = self._tensor(block.patches), self._tensor(block.scalars), block.present
        replaced = [row for row in range(start, stop) if row in self._overrides] if self._overrides else []
        if replaced:
            patches, scalars, present = patches.clone(), scalars.clone(), present.copy()
            for row in replaced:
                frame = self._overrides[row]
                patches[row - start], scalars[row - start] = self._tensor(frame.patches), self._tensor(frame.scalars)
                present[row - start] = True
        return unpack(patches, scalars), scalars, present  # after the transfer, so that 8-bit patches move as 8 bits

    def summaries(self, start: int, stop: int) -> Tensor:
        """Return the mean patch of each row from `start` up to, not including, `stop`: (rows, channels) float32."""
        return self._tensor(self._source.summaries(start, stop))

    def _tensor(self, array: np.ndarray | Tensor) -> Tensor:
        # Copies arrays: the source's may be read-only (mapped files), and torch cannot share these.
        return (array if isinstance(array, Tensor) else torch.tensor(array)).to(self._device)


def reference_rows(keyframe_rows: np.ndarray, group_sizes: Sequence[int], reference: Reference) -> np.ndarray:
    """Return for each of N frames the row of the frame it is compared with; OWN before its camera's first keyframe.

    The result is (N,) int64. reference "keyframe": the keyframe before, as in the paper. "released": as in the
    published code, row i of the group (camera) after its i-th keyframe. One group of 6 frames with keyframes [1, 4]:
    "keyframe" -> [OWN, 1, 1, 1, 4, 4], "released" -> [OWN, 0, 0, 0, 1, 1].
    """
    references = np.full(sum(group_sizes), OWN, np.int64)
    start = 0
    for size in group_sizes:
        inside = keyframe_rows[(keyframe_rows >= start) & (keyframe_rows < start + size)]
        for number, row in enumerate(inside.tolist()):
            references[row : start + size] = row if reference == "keyframe" else start + number
        start += size
    return references


def runs_of_equal(values: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, value) of each run of equal neighbours: [5, 5, 7] -> (0, 2, 5), (2, 3, 7)."""
    edges = np.flatnonzero(np.diff(values)) + 1
    for start, stop in zip([0, *edges.tolist()], [*edges.tolist(), len(values)], strict=True):
        if start < stop:
            yield start, stop, int(values[start])
