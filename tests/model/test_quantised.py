"""The language model in 4 bits: refusals, and a small model where bitsandbytes is installed."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoint import load_checkpoint
from model.config import ConfigError, LanguageConfig
from model.generate import Decoding
from model.quantised import load_library, require_4bit, to_4bit
from model.video_model import VideoModel
from tests.support.tiny import make_checkpoint

HIDDEN, INNER = 64, 128


def make_folder(folder: Path) -> Path:
    return make_checkpoint(
        folder, language=LanguageConfig(HIDDEN, INNER, 2, 4, 2, 330, 4096, initializer_range=0.1), seed=3
    )


def test_quantisation_needs_cuda(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="language_4bit needs a CUDA device, not 'cpu'"):
        VideoModel.load(tmp_path / "not-even-looked-at", language_4bit=True)


def test_missing_library_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # makes the import fail
    with pytest.raises(ConfigError, match=r"pip install 'vilamp-live\[quantized\]'"):
        require_4bit("cuda:0")


def test_all_block_linears_are_packed_with_small_error(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra `quantized` is not installed")
    folder = make_folder(tmp_path)
    whole, packed = load_checkpoint(folder).network, load_checkpoint(folder).network
    library = load_library()
    layers = packed.language_model.model.layers
    assert to_4bit(layers, library, torch.float32) == 2 * 7
    packed.to("cpu")  # moving the module packs its weights
    weights = [module.weight for module in layers.modules() if isinstance(module, library.nn.Linear4bit)]
    assert len(weights) == 14
    assert all(weight.dtype == torch.uint8 for weight in weights)
    linear = 2 * (2 * HIDDEN * (HIDDEN + HIDDEN // 2) + 3 * HIDDEN * INNER)
    assert sum(weight.numel() for weight in weights) == linear // 2
    untouched = [name for name, tensor in packed.state_dict().items() if tensor.dtype == torch.float32]
    assert {"language_model.lm_head.weight", "mm_projector.0.weight", "composer.linear_q.weight"} <= set(untouched)
    prompt = torch.tensor(np.random.default_rng(0).normal(size=(20, HIDDEN)), dtype=torch.float32)
    exact = Decoding(whole.language_model).prefill(prompt)
    near = Decoding(packed.language_model).prefill(prompt)
    assert float(torch.cosine_similarity(exact, near, dim=0)) > 0.98
    assert not torch.equal(exact, near)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_4_bit_model_answers(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra `quantized` is not installed")
    model = VideoModel.load(make_folder(tmp_path), device="cuda", dtype="bfloat16", language_4bit=True)
    model.self_test()
