"""Computed memory sizes equal the sizes of real arrays and weights, and the documented figures."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.shape import published_config
from model.network import VilampNetwork
from model.sizing import Plan, footprint, parameters, prompt_tokens, smallest_card, weight_bytes
from tests.support.tiny import make_config


@pytest.mark.parametrize("tied", [False, True])
def test_each_weight_is_counted_once(tied: bool) -> None:
    config = make_config()
    config = replace(config, language=replace(config.language, tie_word_embeddings=tied))
    counts = parameters(config)
    assert sum(counts.values()) == sum(parameter.numel() for parameter in VilampNetwork(config).parameters())
    assert set(counts) == {"vision tower", "projector", "CLIP", "composer", "newline", "language model"}


def test_4_bits_apply_to_the_block_weights_only() -> None:
    config = make_config()
    counts = parameters(config)
    halves = weight_bytes(config, counts, Plan(dtype="bfloat16"))
    packed = weight_bytes(config, counts, Plan(dtype="bfloat16", language_4bit=True))
    blocks = VilampNetwork(config).language_model.model.layers
    linear = sum(p.numel() for name, p in blocks.named_parameters() if name.endswith("proj.weight"))
    assert packed["vision tower"] == halves["vision tower"]
    assert halves["language model"] - packed["language model"] == pytest.approx(linear * (2 - 4.127 / 8), rel=1e-3)


def test_history_size_equals_the_size_of_its_arrays() -> None:
    config = make_config()
    counts, frames = parameters(config), 50
    for storage, num_scalars in (("float16", 3), ("int8", 4)):
        need = footprint(config, counts, frames, Plan(patch_storage=storage))
        assert need.patches == np.zeros((frames, 16, 16), storage).nbytes
        assert need.scalars == np.zeros((frames, 16, num_scalars), np.float32).nbytes
        assert need.history == need.patches + need.scalars + need.embeddings


def test_prompt_grows_with_the_history_up_to_its_limit() -> None:
    config = make_config()  # 4 keyframes of 4 tokens, 4,096 tokens of context
    assert prompt_tokens(config, 0) == 1024 + 1
    assert prompt_tokens(config, 100) == 4 * 4 + 96 + 1 + 1024
    assert prompt_tokens(config, 1_000_000) == 4096


def test_published_model_needs_the_documented_memory() -> None:
    config = published_config()
    counts = parameters(config)
    assert counts["language model"] / 1e9 == pytest.approx(7.6, abs=0.1)
    bf16 = footprint(config, counts, 10_000, Plan("cuda", "bfloat16"))
    assert bf16.patches / 1e9 == pytest.approx(16.8, abs=0.1)
    assert bf16.num_tokens == 32 * 196 + 9968 + 1 + 1024
    assert (bf16.device + bf16.history) / 1e9 < 40
    small = footprint(config, counts, 10_000, Plan("cuda", "bfloat16", "int8", language_4bit=True))
    assert (small.device + small.history) / 1e9 < 20
    assert smallest_card(small.device + small.history) == 24


def test_smallest_graphics_card_that_holds_a_size() -> None:
    assert [smallest_card(size * 10**9) for size in (1, 11, 12, 200)] == [8, 12, 16, None]
