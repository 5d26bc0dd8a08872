"""The weights of two checkpoints are mixed."""

from pathlib import Path

import pytest
import torch

from model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from model.config import LanguageConfig
from model.training.mix import main, mixed
from tests.support import tiny


def test_mixed_checkpoint_lies_between_the_two(tmp_path: Path) -> None:
    before = tiny.make_checkpoint(tmp_path / "before")
    other = load_checkpoint(before)
    with torch.no_grad():
        for parameter in other.network.language_model.parameters():
            parameter.add_(1.0)
    save_checkpoint(tmp_path / "after", other.network, other.tokenizer, other.clip_tokenizer)
    assert main([str(before), str(tmp_path / "after"), str(tmp_path / "out"), "--share", "0.25"]) == 0
    old, new = (load_checkpoint(tmp_path / name).network.state_dict() for name in ("before", "out"))
    for name in old:
        moved = 0.25 if name.startswith("language_model") else 0.0
        torch.testing.assert_close(new[name], old[name] + moved, atol=1e-3, rtol=1e-3)  # written in half precision


def test_checkpoints_of_different_origin_are_not_mixed(tmp_path: Path) -> None:
    small = LanguageConfig(16, 64, 2, 4, 2, vocab_size=330, max_position_embeddings=4096, initializer_range=0.1)
    one = tiny.make_checkpoint(tmp_path / "one")
    other = tiny.make_checkpoint(tmp_path / "other", language=small)
    with pytest.raises(CheckpointError, match="not one origin"):
        mixed(load_checkpoint(one), load_checkpoint(other), 0.5)
