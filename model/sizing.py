"""Compute how much memory a checkpoint and a history need, without loading weights.

Input: a `ModelConfig` and a `Plan` of how it is run. Output: bytes by part. The working memory of the language model
and of merging is an estimate; everything else is exact. This file does not know machines.
"""

from dataclasses import dataclass

import numpy as np

from model.checkpoint import PART_TITLES, build_empty
from model.config import TEXT_RESERVE_TOKENS, ModelConfig
from model.merge import CPU_CHUNK_BYTES, GPU_CHUNK_BYTES
from model.quantised import BITS_PER_WEIGHT
from model.storage import num_scalars

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Nominal memory of usual graphics cards in GB, of which driver and libraries need some.
CARDS_GB = (8, 12, 16, 24, 32, 48, 80, 141)
USABLE = 0.92


@dataclass(frozen=True, slots=True)
class Plan:
    """How a checkpoint is run: device, precision, storage type of patches, language model in 4 bits or not."""

    device: str = "cpu"
    dtype: str = "float32"
    patch_storage: str = "float16"
    language_4bit: bool = False


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory that the model needs, in bytes by part.

    On the device: weights, kv_cache and work (working memory, an estimate). In host memory, for the history: the
    others. num_tokens: length of the longest prompt and its answer with this many frames.
    """

    num_frames: int
    num_tokens: int
    weights: dict[str, int]
    kv_cache: int
    work: int
    patches: int
    scalars: int
    embeddings: int

    @property
    def device(self) -> int:
        """Bytes needed on the device that runs the network."""
        return sum(self.weights.values()) + self.kv_cache + self.work

    @property
    def history(self) -> int:
        """Bytes needed for the remembered frames, without their pictures, which are on disk."""
        return self.patches + self.scalars + self.embeddings


def parameters(config: ModelConfig) -> dict[str, int]:
    """Return the number of weights by part, {"vision tower": ..., "language model": ...}. Tied matrices count once."""
    counts: dict[str, int] = {}
    for name, parameter in build_empty(config).named_parameters():
        if config.language.tie_word_embeddings and name == "language_model.lm_head.weight":
            continue
        title = next(title for prefix, title in PART_TITLES.items() if name.startswith(prefix))
        counts[title] = counts.get(title, 0) + parameter.numel()
    return counts


def weight_bytes(config: ModelConfig, counts: dict[str, int], plan: Plan) -> dict[str, int]:
    """Return the bytes of the weights by part. counts: number of weights of each part; plan: device and precision.

    With the language model in 4 bits, its embedding and output matrix keep their precision.
    """
    sizes = {title: count * BYTES[plan.dtype] for title, count in counts.items()}
    if plan.language_4bit:
        language = config.language
        head_dim = language.hidden_size // language.num_attention_heads
        attention = 2 * language.hidden_size * (language.hidden_size + head_dim * language.num_key_value_heads)
        linear = language.num_hidden_layers * (attention + 3 * language.hidden_size * language.intermediate_size)
        rest = counts["language model"] - linear
        sizes["language model"] = round(linear * BITS_PER_WEIGHT / 8) + rest * BYTES[plan.dtype]
    return sizes


def prompt_tokens(config: ModelConfig, num_frames: int) -> int:
    """Return the number of tokens of the longest prompt and answer: all of each keyframe, one per other frame, text."""
    keyframes = min(config.num_keyframes, num_frames)
    visual = keyframes * config.keyframe_tokens + (num_frames - keyframes if config.composer != "none" else 0) + 1
    return min(config.context_tokens, min(visual, config.max_visual_tokens) + TEXT_RESERVE_TOKENS)


def kv_cache_bytes(config: ModelConfig, num_tokens: int, dtype: str) -> int:
    """Return the bytes of the language model's key-value cache, all layers, for `num_tokens` tokens."""
    language = config.language
    head_dim = language.hidden_size // language.num_attention_heads
    return 2 * language.num_hidden_layers * language.num_key_value_heads * head_dim * num_tokens * BYTES[dtype]


def footprint(config: ModelConfig, counts: dict[str, int], num_frames: int, plan: Plan) -> Footprint:
    """Return the memory by part for a history of `num_frames` frames. counts: the result of `parameters`."""
    num_tokens = prompt_tokens(config, num_frames)
    hidden, patch_dtype = config.language.hidden_size, np.dtype(plan.patch_storage)
    chunk = CPU_CHUNK_BYTES if plan.device == "cpu" else GPU_CHUNK_BYTES
    # Merging needs three copies of a chunk, and the merged tokens; the prefill needs one layer's activations of all tokens.
    layer = num_tokens * (6 * hidden + 3 * config.language.intermediate_size) * BYTES[plan.dtype]
    work = max(3 * chunk + 4 * num_frames * hidden, layer)
    per_frame = config.num_patches * config.patch_width
    return Footprint(
        num_frames=num_frames,
        num_tokens=num_tokens,
        weights=weight_bytes(config, counts, plan),
        kv_cache=kv_cache_bytes(config, num_tokens, plan.dtype),
        work=work,
        patches=num_frames * per_frame * patch_dtype.itemsize,
        scalars=num_frames * config.num_patches * num_scalars(patch_dtype) * 4,
        # Each frame keeps a normalised embedding and its length in float32, and the mean patch in float16.
        embeddings=num_frames * (4 * config.dual_encoder.projection_dim + 4 + 2 * config.patch_width),
    )


def smallest_card(num_bytes: int) -> int | None:
    """Return the memory in GB of the smallest usual graphics card that holds `num_bytes`; None if no single card does."""
    return next((size for size in CARDS_GB if num_bytes <= size * 1e9 * USABLE), None)
