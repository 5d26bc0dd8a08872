"""The model as the rest of the program uses it, from pictures and questions to the text of an answer.

In this order: encode (each frame once, when it arrives), embed_text, [keyframe selection, elsewhere], build_context,
stream. Arguments and results are numpy, torch is used inside. Threads may encode and answer at the same time, as
nothing here changes after loading. This file does not know cameras, the memory's files, or where frames come from.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import Checkpoint, load_checkpoint
from model.clocks import clock_tree
from model.config import ConfigError, ModelConfig, Reference
from model.familiarity import CANNOT_TELL, Familiarity, read_familiarity
from model.features import (
    Defaults,
    FrameFeatures,
    ModelInfo,
    TextFeatures,
    VisualContext,
    best_keyframes,
    mean_of_runs,
    neighbour_change,
)
from model.fingerprint import fingerprint
from model.generate import Decoding, TextPieces, generate
from model.merge import Merger, PatchSource
from model.preprocess import relevance_pixels, squash, vision_pixels
from model.prompt import Slot, layout, prompt_text, relevance_mark, share_tokens, timestamp_text
from model.select import Keyframes
from model.storage import NUM_SCALARS, num_scalars, pack, stored_values, unpack
from model.thinning import Thinned, rows_taking_part
from model.tokens import IMAGE_TOKEN_ID

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PATCH_DTYPES = ("float16", "int8", "float32")  # float32 is for tests: twice the memory, no better answers


class PromptTooLongError(ValueError):
    """Raised if question, pictures and answer do not fit into the language model's context."""


class VideoModel:
    """A loaded checkpoint: encodes frames and questions, merges frames to a context, and writes answers."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        name: str = "model",
        patch_dtype: str = "float16",
        reference: Reference | None = None,
        familiarity: Familiarity | None = None,
    ) -> None:
        config = checkpoint.config
        self.familiarity = familiarity
        self.config: ModelConfig = config
        self.network = checkpoint.network.eval().requires_grad_(False)
        self.tokenizer, self.clip_tokenizer = checkpoint.tokenizer, checkpoint.clip_tokenizer
        self._device, self._dtype = self.network.image_newline.device, self.network.image_newline.dtype
        self._patch_dtype = np.dtype(patch_dtype)
        self._reference: Reference = reference or config.live.reference
        self.merger = Merger(
            self.network,
            composer=config.composer,
            patch_features=config.live.patch_features,
            merge_lambda=config.live.merge_lambda,
            merge_alpha=config.live.merge_alpha,
            pointing=config.live.pointing,
        )
        self.info = self._info(name)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        num_threads: int | None = None,
        patch_dtype: str = "float16",
        reference: Reference | None = None,
        overwrite: Mapping[str, Any] | None = None,
        language_4bit: bool = False,
        name: str | None = None,
    ) -> "VideoModel":
        """Load a checkpoint folder. Raises ConfigError or its subclass CheckpointError with a message for the user.

        num_threads: torch's threads per operation, for the whole process. overwrite: keys put over config.json.
        language_4bit: pack the language model's weights to 4 bits (`model.quantised`). name: default the folder's name.
        """
        if dtype not in DTYPES:
            raise ConfigError(f"dtype {dtype!r} is unknown; known: {', '.join(DTYPES)}")
        if patch_dtype not in PATCH_DTYPES:
            raise ConfigError(f"patches cannot be stored as {patch_dtype!r}; known: {', '.join(PATCH_DTYPES)}")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device {device!r}: this machine has no usable CUDA device; use device: cpu")
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        checkpoint = load_checkpoint(
            folder, device=device, dtype=DTYPES[dtype], overwrite=overwrite, language_4bit=language_4bit
        )
        return cls(
            checkpoint,
            name=name or Path(folder).resolve().name,
            patch_dtype=patch_dtype,
            reference=reference,
            familiarity=read_familiarity(Path(folder), checkpoint.config.patch_width),
        )

    @torch.inference_mode()
    def encode(self, images: Sequence[np.ndarray]) -> list[FrameFeatures]:
        """Return the features of pictures, uint8 (H, W, 3) RGB of any sizes, computed as one batch per tower."""
        if not images:
            return []
        config = self.config
        side = config.vision.image.image_size
        if config.live.whole_frame and config.dual_encoder.image.image_size == side:
            images = [squash(image, side) for image in images]  # once for both towers, which then need no resizing
        pixels = relevance_pixels(images, config.dual_encoder.image, whole_frame=config.live.whole_frame)
        embeddings = self.network.embed_images(self._tensor(pixels)).float().cpu().numpy()
        patches = self.network.vision_features(self._tensor(vision_pixels(images, config.vision.image)))
        if config.live.patch_features == "hidden":
            patches = self.network.project_hidden(patches)
        stored, scales = pack(patches.float().cpu().numpy(), self._patch_dtype)
        # Scalars and summaries are computed from the stored values. `unpack` needs only the scale, the last column.
        scalars = np.concatenate([np.zeros((*scales.shape[:2], NUM_SCALARS), np.float32), scales], axis=-1)
        values = unpack(torch.from_numpy(stored), torch.from_numpy(scalars))
        scalars[..., :NUM_SCALARS] = self.merger.scalars(values).numpy()
        summaries = values.numpy().mean(axis=1, dtype=np.float32)
        return [FrameFeatures(*parts) for parts in zip(embeddings, stored, scalars, summaries, strict=True)]

    @torch.inference_mode()
    def embed_text(self, text: str) -> TextFeatures:
        """Return the features of a question (without answer options), cut to the text encoder's length."""
        text = self._as_read(text)
        ids, truncated = self.clip_tokenizer.encode(text)
        raw = self.network.embed_texts(torch.tensor([ids], device=self._device))[0].float().cpu().numpy()
        query = raw
        if self.config.composer == "plain":
            words = self.tokenizer.encode(self.tokenizer.without_markers(text)) or [0]
            query = self.network.embed_tokens(torch.tensor(words, device=self._device)).float().mean(0).cpu().numpy()
        unit = raw / max(float(np.linalg.norm(raw)), 1e-12)
        return TextFeatures(unit.astype(np.float32), raw, query, truncated)

    def build_context(
        self,
        source: PatchSource,
        keyframes: Keyframes,
        query: TextFeatures,
        *,
        overrides: Mapping[int, FrameFeatures] | None = None,
        group_sizes: Sequence[int] | None = None,
        max_visual_tokens: int | None = None,
    ) -> VisualContext:
        """Return the visual input of the language model for one question: keyframes, and the other frames merged.

        It fits into the token budget. overrides: features, by row, of keyframes encoded again because their patches
        were evicted. group_sizes: frames per camera, in row order; frames are never compared or joined across cameras.
        """
        started = time.perf_counter()
        budget = self.config.max_visual_tokens if max_visual_tokens is None else max_visual_tokens
        keyframes = best_keyframes(keyframes, (budget - 1) // self.config.keyframe_tokens)
        rows = rows_taking_part(source.present(), keyframes.rows)
        if len(rows) < source.num_frames:
            return self._thinned_context(source, rows, keyframes, query, overrides or {}, group_sizes, budget)
        merged = self.merger.merge(
            source,
            keyframes.rows,
            query.merge_query,
            reference=self._reference,
            group_sizes=group_sizes,
            overrides=overrides,
        )
        presence = self.merger.presence(source, keyframes.rows, query.merge_query, overrides)
        change, may_join = neighbour_change(source, merged.rows, group_sizes or [source.num_frames])
        context = VisualContext(
            keyframes,
            merged.keyframes,
            merged.rows,
            merged.tokens,
            change,
            may_join,
            np.arange(len(merged.rows)),
            0,
            0,
            merged.num_summary_frames,
            self._foreign_groups(source, keyframes.rows, group_sizes or [source.num_frames], overrides or {}),
            {"merge": 1000 * (time.perf_counter() - started)},
            presence=presence,
        )
        return self._shared(context, budget)

    def _thinned_context(
        self,
        source: PatchSource,
        rows: np.ndarray,
        keyframes: Keyframes,
        query: TextFeatures,
        overrides: Mapping[int, FrameFeatures],
        group_sizes: Sequence[int] | None,
        budget: int,
    ) -> VisualContext:
        """Return the context (the model's visual input) of only the frames at `rows`, which include the keyframes.
        Its row numbers are those of `source`, not positions in `rows`. budget: the most visual tokens."""
        thinned = Thinned(source, rows)
        context = self.build_context(
            thinned,
            replace(keyframes, rows=thinned.places(keyframes.rows)),
            query,
            overrides={
                int(thinned.places(np.array(row))): overrides[row] for row in overrides if row in keyframes.rows
            },
            group_sizes=thinned.group_sizes(group_sizes or [source.num_frames]),
            max_visual_tokens=budget,
        )
        return replace(
            context,
            keyframes=replace(context.keyframes, rows=rows[context.keyframes.rows]),
            merged_rows=rows[context.merged_rows],
            num_left_out=source.num_frames - len(rows),
        )

    def _foreign_groups(
        self, source: PatchSource, rows: np.ndarray, group_sizes: Sequence[int], overrides: Mapping[int, FrameFeatures]
    ) -> tuple[bool, ...]:
        """Return for each camera with keyframes whether these look unlike the training data; () if not known."""
        if self.familiarity is None or not len(rows):
            return ()
        blocks = [overrides.get(int(row)) or source.read(int(row), int(row) + 1) for row in rows]
        shape = -1, *blocks[0].patches.shape[-2:]
        values = torch.cat([stored_values(block).reshape(shape) for block in blocks])
        scores = self.familiarity.scores(values.float().cpu().numpy())
        groups = np.searchsorted(np.cumsum(group_sizes), rows, side="right")
        return tuple(self.familiarity.is_foreign(scores[groups == group]) for group in np.unique(groups))

    def stream(
        self,
        question: str,
        context: VisualContext,
        *,
        timestamps: Sequence[str] | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
        reading: Decoding | None = None,
    ) -> Iterator[str]:
        """Yield the answer's text, one piece per token (some empty). May be closed at any time, which frees its memory.

        timestamps: clock time of each keyframe; the answer has no other clock times (`model.clocks`). reading: a cache,
        see `reading`. Neighbouring frames share more tokens if the prompt is too long. The answer is CANNOT_TELL if
        every camera's pictures are unlike the training data (`model.familiarity`).
        """
        if context.is_foreign:
            yield CANNOT_TELL
            return
        embeddings, room = self._prompt(question, context, timestamps, max_new_tokens)
        pieces = TextPieces(self.tokenizer.backend)
        for token in generate(
            reading or self.reading(),
            embeddings,
            stop_ids=self.tokenizer.stop_ids,
            max_new_tokens=min(max_new_tokens, room),
            temperature=temperature,
            seed=seed,
            clocks=clock_tree(timestamps or (), self.tokenizer.encode),
        ):
            yield pieces.push(token)
        if rest := pieces.finish():
            yield rest

    def reading(self) -> Decoding:
        """Return a new, empty cache. Pass it to every call of `stream` about the same pictures, one after the other:
        the first call fills it, and the later ones need not process the pictures again."""
        return Decoding(self.network.language_model)

    def self_test(self) -> None:
        """Encode two different pictures and texts. Raise RuntimeError if their features are equal or not finite."""
        side = self.config.dual_encoder.image.image_size
        grey = np.full((side, side, 3), 128, np.uint8)
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        first, second = self.encode([grey, noise])
        for what, one, other in (
            ("embedding", first.embedding, second.embedding),
            ("patches", first.patches, second.patches),
            ("text", self.embed_text("a red car").raw, self.embed_text("two dogs at night").raw),
        ):
            if not (np.isfinite(one).all() and np.isfinite(other).all()):
                raise RuntimeError(f"self-test: the {what} of a test input is not finite")
            if np.allclose(one, other, rtol=1e-3, atol=1e-6):
                raise RuntimeError(f"self-test: two different inputs give the same {what}")

    @torch.inference_mode()
    def visual_block(
        self, context: VisualContext, timestamps: Sequence[str] | None = None
    ) -> tuple[Tensor, list[Slot]]:
        """Return the embeddings of all V visual tokens, (V, width), with timestamps, and the pieces they make up."""
        ids = None if timestamps is None else self._timestamp_ids(context.keyframes, timestamps)
        slots = layout(
            context.keyframes.rows,
            context.merged_rows,
            context.runs,
            self.config.keyframe_tokens,
            None if ids is None else [len(words) for words in ids],
            final_newline=self.config.live.final_newline,
        )
        shared = mean_of_runs(context.merged, context.runs)
        pieces = []
        for slot in slots:
            if slot.role == "keyframe":
                pieces.append(self._tensor(context.keyframe_tokens[slot.index]))
            elif slot.role == "merged":
                pieces.append(self._tensor(shared[slot.index : slot.index + 1]))
            elif slot.role == "timestamp" and ids is not None:
                pieces.append(self.network.embed_tokens(torch.tensor(ids[slot.index], device=self._device)))
            else:
                pieces.append(self.network.image_newline[None])
        empty = torch.empty(0, self.config.language.hidden_size, device=self._device, dtype=self._dtype)
        return torch.cat([empty, *pieces]), slots

    @torch.inference_mode()
    def splice(self, ids: Sequence[int], visual: Tensor, *, cut_to: int | None = None) -> Tensor:
        """Return the L embeddings, (L, width), of `ids`, with those of the visual tokens in place of IMAGE_TOKEN_ID.

        cut_to: keep only this many, which drops the question first, as in the published code; None keeps all.
        """
        place = list(ids).index(IMAGE_TOKEN_ID)
        before, after = (
            self.network.embed_tokens(torch.tensor(list(part), dtype=torch.long, device=self._device))
            for part in (ids[:place], ids[place + 1 :])
        )
        return torch.cat([before, visual, after])[:cut_to]

    def _as_read(self, question: str) -> str:
        text = question.lower() if self.config.live.lower_case else question
        spelling = self.config.live.spelling
        return re.sub(r"\w+", lambda word: spelling.get(word[0], word[0]), text) if spelling else text

    def _timestamp_ids(self, keyframes: Keyframes, clocks: Sequence[str]) -> list[list[int]]:
        """Return the token ids before each keyframe: its clock time, after a letter for its relevance if used."""
        marks = [relevance_mark(float(score)) if self.config.live.relevance_marks else "" for score in keyframes.scores]
        return [self.tokenizer.encode(timestamp_text(clock, mark)) for clock, mark in zip(clocks, marks, strict=False)]

    def _prompt(
        self, question: str, context: VisualContext, timestamps: Sequence[str] | None, max_new_tokens: int
    ) -> tuple[Tensor, int]:
        """Return the embeddings of the whole prompt and the number of tokens left for the answer."""
        if timestamps is not None and len(timestamps) != len(context.keyframes.rows):
            raise ValueError(f"{len(timestamps)} timestamps for {len(context.keyframes.rows)} keyframes")
        text = self.tokenizer.without_markers(self._as_read(question))
        ids = self.tokenizer.encode_prompt(prompt_text(text, self.config.live.system_prompt))
        clocks = sum(map(len, self._timestamp_ids(context.keyframes, timestamps or ())))
        answer = min(max_new_tokens, max(1, self.config.context_tokens // 4))
        room = self.config.context_tokens - (len(ids) - 1) - clocks - answer
        if context.num_tokens > room:
            context = self._shared(context, room)
        if context.num_tokens > room:
            raise PromptTooLongError(
                f"the question takes {len(ids) - 1} tokens and the pictures {context.num_tokens + clocks}; with the "
                f"answer that is more than the {self.config.context_tokens} the language model reads"
            )
        visual, _ = self.visual_block(context, timestamps)
        embeddings = self.splice(ids, visual)
        return embeddings, self.config.context_tokens - len(embeddings)

    def _shared(self, context: VisualContext, budget: int) -> VisualContext:
        """Return the context with so many frames sharing tokens that the visual tokens fit into the budget."""
        fixed = context.keyframe_tokens.shape[0] * self.config.keyframe_tokens + int(self.config.live.final_newline)
        runs = share_tokens(context.change, context.may_join, budget - fixed)
        lengths = np.bincount(runs) if len(runs) else np.empty(0, np.int64)
        return replace(context, runs=runs, num_tokens=fixed + len(lengths), num_shared_tokens=int((lengths > 1).sum()))

    def _tensor(self, array: np.ndarray | Tensor) -> Tensor:
        tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
        return tensor.to(self._device, self._dtype)

    def _info(self, name: str) -> ModelInfo:
        config = self.config
        return ModelInfo(
            name=name,
            card=config.live.card,
            fingerprint=fingerprint(self.network, self._dtype, self._patch_dtype),
            patches_per_frame=config.num_patches,
            patch_width=config.patch_width,
            patch_dtype=str(self._patch_dtype),
            num_scalars=num_scalars(self._patch_dtype),
            embedding_dim=config.dual_encoder.projection_dim,
            keyframe_tokens=config.keyframe_tokens,
            context_tokens=config.context_tokens,
            max_visual_tokens=config.max_visual_tokens,
            defaults=replace(Defaults.of(config), reference=self._reference),
        )
