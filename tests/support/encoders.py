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


TEXTS = ("a red car", "Two DOGS at night!", "somebody with a box and a bag stands by the green door of the yard " * 3)


def make_dual_encoder(folder: Path, kind: str) -> Path:
    """Write a tiny random encoder of the kind "siglip", "siglip2" or "metaclip_2" as transformers does, and return it."""
    import transformers

    vocab = _word_pieces()
    towers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**towers, "vocab_size": len(vocab), "max_position_embeddings": 16, "pad_token_id": 0, "eos_token_id": 1}
    text |= {"bos_token_id": 2}
    vision = {**towers, "image_size": 56, "patch_size": 14}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        if kind == "siglip":
            text["projection_size"] = 32
            config = transformers.SiglipConfig(text_config=text, vision_config=vision)
            network = transformers.SiglipModel(config)
            tokenizer = transformers.GemmaTokenizer(vocab=vocab, merges=[])
            processor = transformers.SiglipImageProcessorPil(size={"height": 56, "width": 56}, resample=2)
        elif kind == "siglip2":
            text["projection_size"] = 32
            config = transformers.Siglip2Config(
                text_config=text, vision_config={**towers, "num_patches": 16, "patch_size": 14}
            )
            network = transformers.Siglip2Model(config)
            tokenizer = transformers.Siglip2Tokenizer(vocab=vocab, merges=[])
            processor = transformers.Siglip2ImageProcessorPil(patch_size=14, max_num_patches=16)
        else:
            config = transformers.MetaClip2Config(text_config=text, vision_config=vision, projection_dim=24)
            network = transformers.MetaClip2Model(config)
            tokenizer = transformers.GemmaTokenizer(vocab=vocab, merges=[], add_eos_token=True)
            processor = transformers.CLIPImageProcessorPil(size={"height": 56, "width": 56}, do_center_crop=False)
    for part in (network, tokenizer, processor):
        part.save_pretrained(folder)
    return folder


def _word_pieces() -> dict[str, int]:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581"]
    letters = [chr(code) for code in range(33, 127)]
    return {piece: number for number, piece in enumerate([*special, *letters])}
