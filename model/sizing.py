"""How much memory a checkpoint and a history need, from sizes alone: arithmetic, no weights and no measurement.

In: a `ModelConfig` and how it is to be run. Out: bytes by part. What the language model and merging work with is an
estimate and called so; everything else is exact. This file does not know machines.
"""

from dataclasses import dataclass

import numpy as np

from model.checkpoint import PART_TITLES, build_empty
from model.config import TEXT_RESERVE_TOKENS, ModelConfig
from model.merge import CPU_CHUNK_BYTES, GPU_CHUNK_BYTES
from model.quantised import BITS_PER_WEIGHT
from model.storage import num_scalars

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Graphics cards by the memory they are sold with, in GB; the driver and the libraries take some of it.
CARDS_GB = (8, 12, 16, 24, 32, 48, 80, 141)
USABLE = 0.92


@dataclass(frozen=True, slots=True)
class Plan:
    """How a checkpoint is to be run."""

    device: str = "cpu"
    dtype: str = "float32"
    patch_storage: str = "float16"
    language_4bit: bool = False


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes by part. On the device: weights, key-value cache and work. In host memory: the history.

    num_tokens: the longest prompt with its answer at this many frames; work is an estimate.
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
        """What the network needs on the device it runs on."""
        return sum(self.weights.values()) + self.kv_cache + self.work

    @property
    def history(self) -> int:
        """What the remembered frames need, pictures on disk apart."""
        return self.patches + self.scalars + self.embeddings


def parameters(config: ModelConfig) -> dict[str, int]:
    """Number of weights by part, {"vision tower": ..., "language model": ...}; tied matrices count once."""
    counts: dict[str, int] = {}
    for name, parameter in build_empty(config).named_parameters():
        if config.language.tie_word_embeddings and name == "language_model.lm_head.weight":
            continue
        title = next(title for prefix, title in PART_TITLES.items() if name.startswith(prefix))
        counts[title] = counts.get(title, 0) + parameter.numel()
    return counts


def weight_bytes(config: ModelConfig, counts: dict[str, int], plan: Plan) -> dict[str, int]:
    """Bytes of the weights by part; in 4 bits, the language model's embedding and output matrix stay as they are."""
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
    """Tokens of the longest prompt and its answer over so many frames: keyframes, one for each other frame, text."""
    keyframes = min(config.num_keyframes, num_frames)
    visual = keyframes * config.keyframe_tokens + (num_frames - keyframes if config.composer != "none" else 0) + 1
    return min(config.context_tokens, min(visual, config.max_visual_tokens) + TEXT_RESERVE_TOKENS)


def kv_cache_bytes(config: ModelConfig, num_tokens: int, dtype: str) -> int:
    """Keys and values of every layer."""
    language = config.language
    head_dim = language.hidden_size // language.num_attention_heads
    return 2 * language.num_hidden_layers * language.num_key_value_heads * head_dim * num_tokens * BYTES[dtype]


def footprint(config: ModelConfig, counts: dict[str, int], num_frames: int, plan: Plan) -> Footprint:
    """Bytes by part for a history of so many frames."""
    num_tokens = prompt_tokens(config, num_frames)
    hidden, patch_dtype = config.language.hidden_size, np.dtype(plan.patch_storage)
    chunk = CPU_CHUNK_BYTES if plan.device == "cpu" else GPU_CHUNK_BYTES
    # merging: three copies of a chunk and the merged tokens; prefill: what one layer makes of every token
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
        # in memory: a unit vector and its length in float32, and the mean patch in halves
        embeddings=num_frames * (4 * config.dual_encoder.projection_dim + 4 + 2 * config.patch_width),
    )


def smallest_card(num_bytes: int) -> int | None:
    """GB of the smallest usual graphics card that holds so much; None if no single one does."""
    return next((size for size in CARDS_GB if num_bytes <= size * 1e9 * USABLE), None)
