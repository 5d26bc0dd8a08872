"""The published 7B shape (and 1/16 of it) with random weights, and the least work that each stage must do.

1/16: every width is a quarter, so matrices and weights are a sixteenth; patches, tokens, layers and frames are the same.
Times do not depend on values. This file measures nothing.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from model.checkpoint import Checkpoint, build_empty
from model.config import (
    CLIP_STATISTICS,
    SIGLIP_STATISTICS,
    DualEncoderConfig,
    ImageConfig,
    LanguageConfig,
    ModelConfig,
    TowerSizes,
    VisionConfig,
)
from model.quantised import load_library, to_4bit
from model.sizing import Plan, kv_cache_bytes, weight_bytes
from model.tokens import ClipTokenizer, LanguageTokenizer, read_tokenizer
from model.training.tokenizers import train_clip_tokenizer, train_language_tokenizer

CORPUS = "<|im_start|>system You are a helpful assistant.<|im_end|> user Which way did the red car go? assistant"
KEYFRAMES = 32


def published_config(scale: int = 1) -> ModelConfig:
    """Return the configuration of SigLIP so400m-384, CLIP ViT-B/32, Qwen2-7B. `scale`: 1, or 16 for a sixteenth."""
    part = {1: 1, 16: 4}[scale]
    return ModelConfig(
        vision=VisionConfig(
            TowerSizes(1152 // part, 4304 // part, 27, 16 // part, "gelu_pytorch_tanh", 1e-6),
            ImageConfig(384, 14, *SIGLIP_STATISTICS),
        ),
        dual_encoder=DualEncoderConfig(
            vision=TowerSizes(768 // part, 3072 // part, 12, 12 // part, "quick_gelu", 1e-5),
            text=TowerSizes(512 // part, 2048 // part, 12, 8 // part, "quick_gelu", 1e-5),
            image=ImageConfig(224, 32, *CLIP_STATISTICS),
            projection_dim=512,
            vocab_size=49408,
            max_text_tokens=77,
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=1,
        ),
        language=LanguageConfig(3584 // part, 18944 // part, 28, 28 // part, 4 // part, 152064 // scale, 32768),
        max_frame_num=KEYFRAMES,
        f2t_thrd=-1.0,
        max_sequence_tokens=32768,
    )


def random_checkpoint(config: ModelConfig, device: str, dtype: torch.dtype, *, language_4bit: bool) -> Checkpoint:
    """Make weights that keep activations finite: small normal matrices, norms of one, no biases."""
    network = build_empty(config)
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            fresh = torch.empty(parameter.shape, device=device, dtype=dtype)
            if parameter.ndim > 1:
                fresh.normal_(0, 0.02)
            else:
                fresh.fill_(0.07 if parameter.ndim == 0 else float(name == "weight"))
            module.register_parameter(name, torch.nn.Parameter(fresh, requires_grad=False))
    if language_4bit:
        to_4bit(network.language_model.model.layers, load_library(), dtype)
    with tempfile.TemporaryDirectory() as name:
        folder, clip = Path(name), Path(name) / "clip"
        train_language_tokenizer([CORPUS], folder, 330, config.max_sequence_tokens)
        train_clip_tokenizer([CORPUS], clip, 560, config.dual_encoder.max_text_tokens)
        tokenizers = LanguageTokenizer(read_tokenizer(folder)), ClipTokenizer(read_tokenizer(clip), 77)
    return Checkpoint(config, network.to(device).eval(), *tokenizers)


@dataclass(frozen=True, slots=True)
class Work:
    """The least work of a stage: floating-point operations (a multiply-add is two) and bytes read."""

    flop: float
    num_bytes: float

    def seconds(self, flop_per_s: float, bytes_per_s: float) -> float:
        """Return the floor: the larger of both times."""
        return max(self.flop / flop_per_s, self.num_bytes / bytes_per_s)


def merging(config: ModelConfig, num_frames: int, plan: Plan) -> Work:
    """Return the work of merging: h = gelu(W1 v) for every patch and three products of h with a vector.

    Each stored patch is read once. A keyframe also needs its projection and three more maps.
    """
    others, keyframes = num_frames - config.num_keyframes, config.num_keyframes
    patches, width, hidden = config.num_patches, config.vision.tower.hidden_size, config.language.hidden_size
    per_patch = 2 * width * hidden + 6 * hidden
    per_keyframe_patch = 2 * (2 * width * hidden + 4 * hidden**2)
    stored = width + 16 if plan.patch_storage == "int8" else 2 * width + 12
    return Work(patches * (others * per_patch + keyframes * per_keyframe_patch), num_frames * patches * stored)


def prefill(config: ModelConfig, counts: dict[str, int], num_tokens: int, plan: Plan) -> Work:
    """Return the work of prefill: every block for every token, causal attention, each weight read once."""
    language = config.language
    blocks = counts["language model"] - 2 * language.vocab_size * language.hidden_size
    attention = 2 * num_tokens**2 * language.hidden_size * language.num_hidden_layers
    weights = weight_bytes(config, counts, plan)["language model"]
    return Work(2 * blocks * num_tokens + attention, weights + kv_cache_bytes(config, num_tokens, plan.dtype))


def decoding(config: ModelConfig, counts: dict[str, int], num_tokens: int, plan: Plan) -> Work:
    """Return the work of one token: every weight but the embedding, and the whole cache, are read once."""
    one = prefill(config, counts, 1, plan)
    itemsize = 4 if plan.dtype == "float32" else 2
    embedding = config.language.vocab_size * config.language.hidden_size * itemsize
    cache = kv_cache_bytes(config, num_tokens, plan.dtype)
    return Work(one.flop + 4 * num_tokens * config.language.hidden_size * config.language.num_hidden_layers,
                one.num_bytes - embedding + cache)  # fmt: skip


def encoding(config: ModelConfig, counts: dict[str, int], plan: Plan) -> Work:
    """Return the work of encoding one frame: the tower on every patch, CLIP's image side, projector and maps."""
    width, hidden, patches = config.vision.tower.hidden_size, config.language.hidden_size, config.num_patches
    layers = config.vision.tower.num_hidden_layers - 1
    tower = 2 * counts["vision tower"] * patches + 4 * patches**2 * width * layers
    clip = config.dual_encoder.vision
    pieces = config.dual_encoder.image.side**2 + 1
    relevance = (
        2 * pieces * clip.num_hidden_layers * (4 * clip.hidden_size**2 + 2 * clip.hidden_size * clip.intermediate_size)
    )
    scalars = 2 * patches * (width * hidden + 4 * hidden**2)
    sizes = weight_bytes(config, counts, plan)
    return Work(tower + relevance + scalars, sizes["vision tower"] + sizes["projector"] + sizes["composer"])
