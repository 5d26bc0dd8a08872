"""Train projector, merging maps and language model together on histories (stage 2); the towers (encoders) stay as they
are.

One step takes questions about windows of similar length (parts of histories, see `model.training.data`). It selects
keyframes for each as the product does, merges every other frame so that gradients reach the merging maps, interleaves
keyframes and merged tokens, and trains the model to predict the answer's tokens.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from model.checkpoint import Checkpoint
from model.prompt import MARK_STEP, MARKS, prompt_text, timestamp_text
from model.tokens import IMAGE_TOKEN_ID
from model.training.sequence import (
    IGNORE,
    background_relative,
    layout_batch,
    merge_chunked,
    reference_rows,
    select_batch,
)
from model.training.store import FeatureStore, Item
from model.training.wording import reworded
from model.world.questions import TIME_FAMILIES, clock_text

DAY_S = 86400
MERGE_GRADIENT_SHARE = 0.25
PLACES = (8, 16, 32, 32, 32, 48)  # numbers of keyframes, varied so that the model does not rely on a fixed one


def answer_text(item: Item, taken: Tensor) -> str:
    """Return the answer to train on. taken (N,) bool: which of the N frames of the window were selected as keyframes.

    A time in it is the clock time of a selected keyframe that shows the event, so that the model can copy it from its
    input.
    """
    question = item.question
    if question.family not in TIME_FAMILIES:
        return question.answer
    first, last = (
        second - item.start for second in question.spans[-1]
    )  # frames of the window; the drawn world has one frame a second
    frames = torch.nonzero(taken)[:, 0]
    showing = frames[(frames >= first) & (frames <= last)].tolist() or [(first + last) / 2]
    return clock_text(item.clock(showing[-1] if question.family == "last_seen" else showing[0]))


@dataclass(frozen=True)
class AnswerBatch:
    """A batch of B token sequences, padded to the same length L, with what is to be predicted.

    embeds (B, L, H): input embeddings of the language model, of width H; targets (B, L): the token to predict at each
    position, IGNORE outside the answer.
    """

    embeds: Tensor
    targets: Tensor


class AnswerTrainer:
    """Trains everything except the towers (encoders): makes batches from a feature store, takes optimiser steps."""

    def __init__(self, checkpoint: Checkpoint, store: FeatureStore, learning_rate: float, seed: int) -> None:
        self.network, self.store = checkpoint.network, store
        self.tokenizer, self.clip_tokenizer = checkpoint.tokenizer, checkpoint.clip_tokenizer
        self.live = checkpoint.config.live
        self.tau = checkpoint.config.tau
        self.device = store.patches.device
        self.rng = np.random.default_rng(seed)
        for part in (self.network.vision_tower, self.network.dual_encoder):
            part.requires_grad_(False)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        decay, rest = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
        groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
        self.trained = trained
        self.clip_ids = lru_cache(maxsize=200_000)(lambda text: self.clip_tokenizer.encode(text)[0])
        self.tail_ids = lru_cache(maxsize=200_000)(self._question_ids)
        self.answer_ids = lru_cache(maxsize=200_000)(self.tokenizer.encode)
        head = prompt_text("", self.live.system_prompt)
        ids = self.tokenizer.encode_prompt(head)
        self.prefix = torch.tensor(ids[: ids.index(IMAGE_TOKEN_ID)], device=self.device)
        self.stamp = self._stamp_template()

    def _stamp_template(self) -> Tensor:
        """Return the token ids of the text before a keyframe, a letter for its relevance and a clock time, here "a" and
        zeros.

        `_stamps` puts the real letter and digits in their places.
        """
        self.marks = torch.tensor([self.tokenizer.encode(mark)[0] for mark in MARKS], device=self.device)
        ids = self.tokenizer.encode(timestamp_text("00:00:00", MARKS[0] if self.live.relevance_marks else ""))
        self.digits = torch.tensor([self.tokenizer.encode(str(d))[0] for d in range(10)], device=self.device)
        self.digit_places = [i for i, token in enumerate(ids) if token == int(self.digits[0])]
        assert len(self.digit_places) == 6, "a clock time must have six digit tokens"
        assert not self.live.relevance_marks or ids[0] == int(self.marks[0]), "a mark must be a token of its own"
        return torch.tensor(ids, device=self.device)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings of B texts, (B, D), not normalised; D is CLIP's embedding width."""
        ids = [torch.tensor(self.clip_ids(text)) for text in texts]
        end = self.network.config.dual_encoder.eos_token_id
        with torch.no_grad():
            embedded = self.network.embed_texts(pad_sequence(ids, True, end).to(self.device))
        return embedded.float()

    def batch(self, items: Sequence[Item]) -> AnswerBatch:
        """Return the batch for these questions: select keyframes, merge the other frames, and assemble the sequences."""
        rows, valid = self.rows(items)
        query = self.text_features([item.question.text for item in items])
        taken, scores = self._select(rows, valid, query)
        asked = [reworded(item.question.text, self.rng) for item in items]
        return self.assemble(items, rows, valid, taken, scores, query, asked)

    def rows(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """Return the rows of the store for B windows of N frames, padded, (B, N), and which are not padding, (B, N)."""
        offsets = torch.arange(max(item.count for item in items), device=self.device)
        counts = torch.tensor([item.count for item in items], device=self.device)
        firsts = torch.tensor([item.first for item in items], device=self.device)
        valid = offsets < counts[:, None]
        return torch.where(valid, firsts[:, None] + offsets, firsts[:, None]), valid

    @torch.no_grad()
    def _select(self, rows: Tensor, valid: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        vectors = self.store.embeddings[rows].float()
        scores = torch.einsum("bnd,bd->bn", vectors, F.normalize(query, dim=-1))
        if self.live.redundancy == "background":
            vectors = background_relative(vectors, valid, self.live.background_floor)
        tau = float(self.rng.uniform(self.tau - 0.1, self.tau + 0.05))
        places = int(self.rng.choice(PLACES))
        return select_batch(scores, vectors, valid, places, tau, min(self.live.recent, places // 2)), scores

    @torch.no_grad()
    def _runs(self, rows: Tensor, valid: Tensor, taken: Tensor) -> Tensor | None:
        """Return the number of the run of each frame, (B windows, N frames), or None if all tokens fit the budget.

        The frames of a run share a token. Each window is cut between the most different neighbours, so that similar
        adjacent frames share one. rows (B, N): of the store; valid: not padding; taken: keyframes.
        """
        budget = self.network.config.max_visual_tokens
        room = budget - 1 - self.network.config.keyframe_tokens * int(taken.sum(1).max())
        if int((valid & ~taken).sum(1).max()) <= room:
            return None
        vectors = self.store.embeddings[rows].float()
        change = torch.ones(rows.shape, device=self.device)
        change[:, 1:] = 1 - (vectors[:, 1:] * vectors[:, :-1]).sum(-1)
        change = torch.where(valid, change, torch.full_like(change, -1.0))
        cut = change.topk(max(room - max(PLACES), 1), dim=1).values[:, -1:]
        return (change >= cut).long().cumsum(1)

    def _stamps(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """Return the token ids of the text that would precede each frame if it were a keyframe: (B windows, N frames, T
        tokens).

        The text is a letter for the frame's relevance, scores (B, N), and its clock time.
        """
        offsets = torch.arange(scores.shape[1], device=self.device)
        start = torch.tensor([item.clock(0) for item in items], device=self.device, dtype=torch.float64)
        interval = torch.tensor([item.interval_s for item in items], device=self.device)
        clock = (start[:, None] + offsets * interval[:, None]).long() % DAY_S
        parts = torch.stack([clock // 3600, clock // 60 % 60, clock % 60], -1)
        digits = torch.stack([parts // 10, parts % 10], -1).flatten(-2)
        ids = self.stamp.expand(*clock.shape, -1).clone()
        ids[..., self.digit_places] = self.digits[digits]
        if self.live.relevance_marks:
            ids[..., 0] = self.marks[(scores / MARK_STEP).long().clamp(0, len(MARKS) - 1)]
        return ids

    def assemble(
        self,
        items: Sequence[Item],
        rows: Tensor,
        valid: Tensor,
        taken: Tensor,
        scores: Tensor,
        query: Tensor,
        asked: Sequence[str],
    ) -> AnswerBatch:
        """Return the padded sequences for B questions about windows of N frames, whose keyframes are already selected.

        rows (B, N): of the store; valid (B, N): not padding; taken (B, N) bool: the keyframes; scores (B, N): cosines
        with the question; query (B, D): text embeddings; asked: the B questions as the language model reads them.
        """
        network, per_keyframe = self.network, self.network.config.keyframe_tokens + len(self.stamp)
        layout = layout_batch(taken, valid, per_keyframe, self._runs(rows, valid, taken))
        stamps = self._stamps(items, scores)
        tails = [self._tail(*each) for each in zip(items, taken.cpu(), asked, strict=True)]
        visual = layout.visual_tokens
        length = (
            len(self.prefix) + int((visual + torch.tensor([len(t[0]) for t in tails], device=self.device)).max()) + 1
        )
        width = network.image_newline.shape[0]
        flat = torch.zeros(len(items) * length, width, device=self.device)
        base = torch.arange(len(items), device=self.device) * length
        start = base + len(self.prefix)
        # Merged tokens of all windows. Frames that share a token each add their share of it.
        b, n = torch.nonzero(layout.merged >= 0, as_tuple=True)
        nearest = reference_rows(taken)[b, n]
        # Most steps skip the merging maps' gradient, which costs more than everything else.
        with nullcontext() if self.rng.random() < MERGE_GRADIENT_SHARE else torch.no_grad():
            merged = merge_chunked(network, self.store.patches, rows[b, n], rows[b, nearest], query[b])
        slots = start[b] + layout.merged[b, n]
        share = torch.zeros(len(flat), device=self.device).index_add_(
            0, slots, torch.ones(len(slots), device=self.device)
        )
        flat = flat.index_add(0, slots, merged.float() / share[slots, None])
        # keyframes: timestamp, then pooled patches
        b, k = torch.nonzero(layout.keyframes >= 0, as_tuple=True)
        at = layout.keyframes[b, k]
        pooled = network.pool(network.project(self.store.patches[rows[b, at]].float()))
        block = torch.cat([network.embed_tokens(stamps[b, at]).float(), pooled.float()], dim=1)
        inside = torch.arange(per_keyframe, device=self.device)
        slots = (start[b] + layout.keyframe_slots[b, k])[:, None] + inside
        flat = flat.index_add(0, slots.flatten(), block.flatten(0, 1))
        return self._with_text(flat.view(len(items), length, width), tails, visual)

    def _tail(self, item: Item, taken: Tensor, asked: str) -> tuple[list[int], int]:
        """Return the token ids of the prompt after the visual tokens, and how many of them are the answer."""
        answer = [*self.answer_ids(answer_text(item, taken)), min(self.tokenizer.stop_ids)]
        return self.tail_ids(asked) + answer, len(answer)

    def _question_ids(self, question: str) -> list[int]:
        """Return the token ids of the prompt's part between the visual tokens and the answer, the question included."""
        ids = self.tokenizer.encode_prompt(prompt_text(question, self.live.system_prompt))
        return ids[ids.index(IMAGE_TOKEN_ID) + 1 :]

    def _with_text(self, embeds: Tensor, tails: Sequence[tuple[list[int], int]], visual: Tensor) -> AnswerBatch:
        network, prefix = self.network, len(self.prefix)
        targets = torch.full(embeds.shape[:2], IGNORE, dtype=torch.long, device=self.device)
        b = [i for i, (ids, _) in enumerate(tails) for _ in ids]
        offset = [j for ids, _ in tails for j in range(len(ids))]
        tokens = torch.tensor([token for ids, _ in tails for token in ids], device=self.device)
        taught = torch.tensor([j >= len(ids) - n for ids, n in tails for j in range(len(ids))], device=self.device)
        rows = torch.tensor(b, device=self.device)
        newline = prefix + visual
        slots = newline[rows] + 1 + torch.tensor(offset, device=self.device)
        text = torch.zeros_like(embeds)
        text[:, :prefix] = network.embed_tokens(self.prefix).float()
        text = text.index_put((torch.arange(len(tails), device=self.device), newline), network.image_newline.float())
        text = text.index_put((rows, slots), network.embed_tokens(tokens).float())
        targets[rows[taught], slots[taught] - 1] = tokens[taught]
        return AnswerBatch(embeds + text, targets)

    def loss(self, batch: AnswerBatch) -> tuple[Tensor, Tensor]:
        """Return the mean cross entropy over answer tokens, and for each answer whether it is right.

        An answer is right (1.0) if each of its tokens is the most likely one.
        """
        hidden = self.network.language_model.model(inputs_embeds=batch.embeds, use_cache=False).last_hidden_state
        b, at = torch.nonzero(batch.targets != IGNORE, as_tuple=True)
        logits = self.network.language_model.lm_head(hidden[b, at]).float()
        targets = batch.targets[b, at]
        wrong = torch.zeros(len(batch.targets), device=self.device).index_add_(
            0, b, (logits.argmax(-1) != targets).float()
        )
        return F.cross_entropy(logits, targets), (wrong == 0).float()

    def step(self, loss: Tensor, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
