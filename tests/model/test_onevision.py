"""LLaVA-OneVision folders written by transformers give the same features and logits as transformers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from model.checkpoint import CheckpointError, load_checkpoint
from model.config import ConfigError
from model.history import ArrayHistory
from model.onevision import DEFAULT_CLIP, from_onevision, published_from_onevision
from model.select import ArrayCandidates, select_keyframes
from model.video_model import VideoModel
from tests.support.tiny import make_checkpoint, make_pictures


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlavaOnevisionForConditionalGeneration]:
    """A tiny checkpoint in the format of transformers with a tokenizer, and a CLIP folder beside it."""
    root = tmp_path_factory.mktemp("onevision")
    tiny, folder = make_checkpoint(root / "tiny"), root / "model"
    torch.manual_seed(0)
    reference = LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config={
                "model_type": "siglip_vision_model",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 7,
                "vision_use_head": False,
            },
            text_config={
                "model_type": "qwen2",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": 400,
                "max_position_embeddings": 4096,
            },
            vision_feature_layer=-2,
        )
    ).eval()
    reference.save_pretrained(folder)
    shutil.copy(tiny / "tokenizer.json", folder)
    shutil.copytree(tiny / "clip", root / DEFAULT_CLIP)
    prefix = "model.frame_selector.model."
    tensors = load_file(tiny / "model.safetensors")
    clip = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    save_file(clip, root / DEFAULT_CLIP / "model.safetensors")
    return folder, reference


@torch.inference_mode()
def test_llava_onevision_agrees_with_transformers(built: tuple[Path, LlavaOnevisionForConditionalGeneration]) -> None:
    folder, reference = built
    network = load_checkpoint(folder).network
    pixels = torch.rand(3, 3, 28, 28)
    ours = torch.cat([*network.pool(network.project(network.vision_features(pixels))), network.image_newline[None]])
    theirs = reference.get_video_features(
        pixels[None], vision_feature_layer=-2, vision_feature_select_strategy="full"
    ).pooler_output[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    vocabulary = network.config.language.vocab_size
    logits = reference.model.language_model(inputs_embeds=theirs[None]).last_hidden_state @ reference.lm_head.weight.T
    torch.testing.assert_close(
        network.language_model(inputs_embeds=ours[None]).logits, logits[..., :vocabulary], atol=1e-4, rtol=0
    )


def test_llava_onevision_answers_with_plain_merging(built: tuple[Path, LlavaOnevisionForConditionalGeneration]) -> None:
    model = VideoModel.load(built[0])
    assert model.config.composer == "plain"
    history = ArrayHistory(model.encode(make_pictures(8)))
    query = model.embed_text("Is there a person now?")
    keyframes = select_keyframes(ArrayCandidates(history.unit_embeddings(), query.unit), num_keyframes=3)
    context = model.build_context(history, keyframes, query)
    assert context.num_tokens == 3 * 4 + 5 + 1
    assert "".join(model.stream("Who?", context, max_new_tokens=6))
    assert not np.allclose(context.merged[0], context.merged[1])


def test_llava_onevision_needs_a_clip_folder(
    built: tuple[Path, LlavaOnevisionForConditionalGeneration], tmp_path: Path
) -> None:
    folder = shutil.copytree(built[0], tmp_path / "alone")
    with pytest.raises(CheckpointError, match=f"'{DEFAULT_CLIP}' as its CLIP encoder"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_feature_layer": [-1, -2]}, "vision_feature_layer"),
        ({"vision_feature_select_strategy": "default"}, "'full'"),
        ({"text_config": {"model_type": "llama"}}, r"SigLIP \+ Qwen2"),
    ],
)
def test_unsupported_llava_variants_are_refused(
    built: tuple[Path, LlavaOnevisionForConditionalGeneration], changes: dict[str, object], message: str
) -> None:
    config = json.loads((built[0] / "config.json").read_text())
    with pytest.raises(ConfigError, match=message):
        from_onevision({**config, **changes})


def test_both_spellings_of_tensor_names_are_loaded() -> None:
    tower = "model.vision_tower.vision_tower.vision_model."
    for given, published in (
        ("vision_tower.vision_model.encoder.layers.0.x", tower + "encoder.layers.0.x"),
        ("model.vision_tower.embeddings.x", tower + "embeddings.x"),
        ("language_model.model.norm.weight", "model.norm.weight"),
        ("model.language_model.norm.weight", "model.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("multi_modal_projector.linear_2.bias", "model.mm_projector.2.bias"),
        ("something.else", "something.else"),
    ):
        assert published_from_onevision(given) == published
