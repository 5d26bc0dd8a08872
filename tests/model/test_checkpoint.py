"""Checkpoint folders are written and read back; wrong ones are refused with a reason."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from model.config import ConfigError
from model.config_json import config_from_json, config_to_json
from tests.support.tiny import make_checkpoint, make_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "tiny")


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def test_saved_checkpoint_loads_unchanged(folder: Path, tmp_path: Path) -> None:
    first = load_checkpoint(folder)
    save_checkpoint(tmp_path / "again", first.network, first.tokenizer, first.clip_tokenizer, max_shard_bytes=20_000)
    index = json.loads((tmp_path / "again" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    second = load_checkpoint(tmp_path / "again")
    assert second.config == first.config
    assert second.tokenizer.stop_ids == first.tokenizer.stop_ids
    again = second.network.state_dict()
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, again[name]), name


@pytest.mark.parametrize("composer", ["sig_pooling", "average_pooling", "single_token", "plain", "none"])
def test_every_composer_is_saved_with_its_settings(composer: str) -> None:
    config = make_config(
        composer=composer,
        tau=0.6,
        redundancy="background",
        recent=3,
        timestamps=True,
        patch_features="hidden",
        reference="released",
        whole_frame=True,
        card="It knows nothing.",
        pooling="none",
    )
    files = config_to_json(config)
    again = config_from_json(
        files["config"],
        files["vision"],
        files["clip"],
        vision_image=files["vision_image"],
        clip_image=files["clip_image"],
    )
    assert again == config


def test_half_precision_weights_are_upcast(folder: Path, tmp_path: Path) -> None:
    whole = load_checkpoint(folder)
    save_checkpoint(tmp_path / "half", whole.network, whole.tokenizer, whole.clip_tokenizer, dtype=torch.bfloat16)
    half = load_checkpoint(tmp_path / "half")
    assert half.network.image_newline.dtype == torch.float32
    assert torch.equal(half.network.image_newline, whole.network.image_newline.bfloat16().float())


def test_tied_embeddings_are_loaded(tmp_path: Path) -> None:
    language = replace(make_config().language, tie_word_embeddings=True)
    folder = make_checkpoint(tmp_path / "tied", language=language)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    network = load_checkpoint(folder).network
    assert network.language_model.lm_head.weight is network.language_model.model.embed_tokens.weight


def test_padded_vocabulary_is_cut_to_the_tokenizer(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    rows = tensors["lm_head.weight"].shape[0]
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        tensors[name] = torch.cat([tensors[name], torch.zeros(9, tensors[name].shape[1])])
    save_file(tensors, folder / "model.safetensors")
    edit(folder / "config.json", vocab_size=rows + 9)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.config.language.vocab_size == rows == len(checkpoint.tokenizer)


def test_towers_may_lie_beside_the_checkpoint(folder: Path) -> None:
    (folder / "siglip").rename(folder.parent / "some-siglip")
    edit(folder / "config.json", mm_vision_tower="google/some-siglip")
    load_checkpoint(folder)
    edit(folder / "config.json", mm_vision_tower="google/another-siglip")
    with pytest.raises(CheckpointError, match=r"'google/another-siglip' as its vision tower.*Looked in"):
        load_checkpoint(folder)


def test_harmless_extra_tensors_are_ignored(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    prefix = "model.vision_tower.vision_tower.vision_model."
    tensors[prefix + "embeddings.position_ids"] = torch.arange(16)[None]
    tensors[prefix + "head.probe"] = torch.zeros(1, 1, 16)
    for kind in ("weight", "bias"):
        del tensors[prefix + f"post_layernorm.{kind}"]
    save_file(tensors, folder / "model.safetensors")
    load_checkpoint(folder)


def test_error_lists_wrong_tensors_by_part(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.composer_projector.linear_q.weight"]
    tensors["model.mm_projector.0.weight"] = torch.zeros(3, 3)
    tensors["model.layers.7.surprise"] = torch.zeros(1)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as report:
        load_checkpoint(folder)
    lines = str(report.value).splitlines()
    assert "  composer: missing model.composer_projector.linear_q.weight" in lines
    assert "  projector: model.mm_projector.0.weight is (3, 3), config.json says (32, 16)" in lines
    assert "  language model: unexpected model.layers.7.surprise" in lines


def test_long_error_list_is_shortened(folder: Path) -> None:
    save_file({"model.image_newline": torch.zeros(32)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"and \d+ more") as report:
        load_checkpoint(folder)
    assert len(str(report.value)) < 4000


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"never read\. Convert them"):
        load_checkpoint(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="holds neither"):
        load_checkpoint(folder)


def test_damaged_file_is_named(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read as JSON"):
        load_checkpoint(folder)


def test_index_may_not_name_missing_files_or_files_outside_its_folder(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "../model.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        load_checkpoint(folder)
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(CheckpointError, match="lacks the shards"):
        load_checkpoint(folder)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "nowhere")


def test_tokenizer_must_exist_and_fit(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=12)
    with pytest.raises(CheckpointError, match="tokens but the model only 12"):
        load_checkpoint(folder)
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json"):
        load_checkpoint(folder)


def test_stop_ids_are_read_from_the_checkpoint(folder: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=7)
    assert load_checkpoint(folder).tokenizer.stop_ids == {7}
    (folder / "generation_config.json").unlink()
    tokenizer = load_checkpoint(folder).tokenizer
    assert tokenizer.stop_ids == {tokenizer.backend.token_to_id("<|im_end|>")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "'llama'"),
        ({"composer_type": "uniform_sample_8"}, "uniform_sample_8.*ablations"),
        ({"composer_type": "key_frame_pooling_4"}, "key_frame_pooling_4.*ablations"),
        ({"composer_type": "average_pooling_4"}, "composer_type is 'average_pooling_4'; it can be"),
        ({"activate_frame_selector": False}, "activate_frame_selector"),
        ({"frame_selector_type": "ClusterFrameSelector"}, "ClusterFrameSelector"),
        ({"activate_pre_fusion": True}, "activate_pre_fusion"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"mm_projector_type": "linear"}, "mlp2x_gelu"),
        ({"mm_patch_merge_type": "flat"}, "would drop the merged tokens"),
        ({"mm_spatial_pool_mode": "median"}, "mm_spatial_pool_mode is 'median'"),
        ({"num_attention_heads": 5}, "do not divide"),
        ({"hidden_size": 0}, "hidden_size must be at least 1"),
        ({"hidden_size": None}, "lacks sizes of the language model"),
        ({"vilamp_live": {"num_keyframe": 3}}, "unknown keys num_keyframe; known: .*num_keyframes"),
        ({"vilamp_live": {"reference": "first"}}, "reference is 'first'"),
        ({"vilamp_live": {"merge_alpha": 0}}, "merge_alpha"),
    ],
)
def test_wrong_checkpoint_settings_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_checkpoint(folder, overwrite=changes)


def test_missing_keys_get_the_published_defaults(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    for key in ("composer_type", "f2f_thrd", "f2t_thrd", "max_frame_num", "mm_spatial_pool_mode"):
        content.pop(key, None)
    files = config_to_json(make_config())
    config = config_from_json(content, files["vision"], files["clip"])
    assert (config.composer, config.f2f_thrd, config.f2t_thrd, config.max_frame_num) == ("single_token", 0.85, 0.2, 32)
    assert config.pooling == "bilinear"
