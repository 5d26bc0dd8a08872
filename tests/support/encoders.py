"""Tiny random dual encoders as folders, written by transformers."""

import json
import shutil
from pathlib import Path

import torch

from model.network import build_dual_encoder
from model.tokens import read_tokenizer
from tests.support.agents import checkpoint
from tests.support.tiny import make_config


def make_clip(folder: Path) -> Path:
    """Write a tiny CLIP folder with the tokenizer of the tiny checkpoint, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    source = checkpoint() / make_config().clip_folder
    config = json.loads((source / "config.json").read_text())
    tokenizer = read_tokenizer(source)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_dual_encoder(make_config().dual_encoder)
    network.config.text_config.eos_token_id = config["text_config"]["eos_token_id"]
    network.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    shutil.copy(source / "preprocessor_config.json", folder)
    return folder
