"""Tiny checkpoints in the published format: real tokenizers and random weights.

`make_checkpoint(folder)` writes one in about a second; the product's code loads it. Its answers are noise, but repeatable.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

CORPUS = (
    "When did a red car come? What colour was the bag? Is there a person now? How many dogs did you see? "
    "Where is the green box? Did a blue truck ever come by? The answer is yes, no, one, two, three. "
    "<|im_start|>system You are a helpful assistant.<|im_end|> user assistant time 12:34:56"
)


def make_config(**overrides: Any) -> Any:
    """Return a small ModelConfig: 28 px pictures, 16 patches, M' = 4, C 16, H 32, D 16.

    Overrides are fields of ModelConfig or of LiveConfig.
    """
    from model.config import (
        CLIP_STATISTICS,
        SIGLIP_STATISTICS,
        DualEncoderConfig,
        ImageConfig,
        LanguageConfig,
        LiveConfig,
        ModelConfig,
        TowerSizes,
        VisionConfig,
    )

    live_keys = set(LiveConfig.__dataclass_fields__)
    live = LiveConfig(**{key: overrides.pop(key) for key in list(overrides) if key in live_keys})
    config = ModelConfig(
        vision=VisionConfig(
            TowerSizes(16, 32, 2, 2, "gelu_pytorch_tanh", 1e-6), ImageConfig(28, 7, *SIGLIP_STATISTICS)
        ),
        dual_encoder=DualEncoderConfig(
            vision=TowerSizes(16, 32, 1, 2, "quick_gelu", 1e-5),
            text=TowerSizes(16, 32, 1, 2, "quick_gelu", 1e-5),
            image=ImageConfig(28, 7, *CLIP_STATISTICS),
            projection_dim=16,
            vocab_size=560,
            max_text_tokens=24,
            bos_token_id=558,
            eos_token_id=559,
            pad_token_id=0,
        ),
        language=LanguageConfig(32, 64, 2, 4, 2, vocab_size=330, max_position_embeddings=4096, initializer_range=0.1),
        max_frame_num=4,
        f2t_thrd=-1.0,
        max_sequence_tokens=4096,
        live=live,
    )
    return replace(config, **overrides)


def make_checkpoint(folder: Path | str, *, seed: int = 0, **overrides: Any) -> Path:
    """Write a tiny checkpoint and return its folder. Overrides: fields of ModelConfig or LiveConfig."""
    import torch

    from model.checkpoint import save_checkpoint
    from model.network import VilampNetwork
    from model.tokens import ClipTokenizer, LanguageTokenizer, read_tokenizer
    from model.training.tokenizers import CLIP_SPECIAL, train_clip_tokenizer, train_language_tokenizer

    config = make_config(**overrides)
    folder = Path(folder)
    clip_folder = folder / config.clip_folder
    train_language_tokenizer([CORPUS], folder, config.language.vocab_size, config.max_sequence_tokens)
    train_clip_tokenizer([CORPUS], clip_folder, config.dual_encoder.vocab_size, config.dual_encoder.max_text_tokens)
    backend, clip_backend = read_tokenizer(folder), read_tokenizer(clip_folder)
    start_id, end_id = (clip_backend.token_to_id(token) for token in CLIP_SPECIAL)
    config = replace(
        config,
        language=replace(config.language, vocab_size=backend.get_vocab_size()),
        dual_encoder=replace(
            config.dual_encoder,
            vocab_size=clip_backend.get_vocab_size(),
            bos_token_id=start_id,
            eos_token_id=end_id,
        ),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = VilampNetwork(config)
    save_checkpoint(
        folder, network, LanguageTokenizer(backend), ClipTokenizer(clip_backend, config.dual_encoder.max_text_tokens)
    )
    return folder


def make_pictures(count: int, *, seed: int = 0, height: int = 24, width: int = 32) -> list[np.ndarray]:
    """Draw `count` different uint8 pictures (H, W, 3): a coloured rectangle on a coloured ground."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        picture = np.empty((height, width, 3), np.uint8)
        picture[:] = rng.integers(0, 256, 3)
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        picture[top : top + height // 2, left : left + width // 2] = rng.integers(0, 256, 3)
        pictures.append(picture)
    return pictures
