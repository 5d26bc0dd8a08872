"""Read LLaVA-OneVision checkpoints in transformers' format (`model_type: llava_onevision`) as if in the published one.

They have the same towers under other names, but lack two things. The relevance encoder: a CLIP folder with weights must
lie in or beside the checkpoint, named by `clip_model_path`, by default "clip-vit-base-patch32". And trained maps for
merging, which is therefore "plain": the paper's formula with cosines of the projected patches themselves. The question
is then the mean input embedding of its words, as projected patches and words are what that model was trained to put in
one space.
"""

from collections.abc import Mapping
from typing import Any

from model.config import ConfigError

ONEVISION = "llava_onevision"
DEFAULT_CLIP = "clip-vit-base-patch32"

# (tensor name prefix in such a checkpoint, prefix in a published one). Older files nest the parts in another order.
_PREFIXES = (
    ("model.vision_tower.", "model.vision_tower.vision_tower."),
    ("vision_tower.", "model.vision_tower.vision_tower."),
    ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("model.image_newline", "model.image_newline"),
    ("image_newline", "model.image_newline"),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model."),
    ("model.language_model.", "model."),
    ("lm_head.", "lm_head."),
)
_TOWER = "model.vision_tower.vision_tower."


def from_onevision(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Convert the config.json of a LLaVA-OneVision checkpoint to the keys of the published format.

    Returns (config.json, vision tower's config.json). Raises ConfigError if the checkpoint is not supported.
    """
    text, vision = config.get("text_config", {}), config.get("vision_config", {})
    if text.get("model_type", "qwen2") != "qwen2" or vision.get("model_type") != "siglip_vision_model":
        raise ConfigError("this llava_onevision checkpoint is not SigLIP + Qwen2, which is what can be read")
    if config.get("vision_feature_select_strategy", "full") != "full" or config.get("projector_hidden_act") != "gelu":
        raise ConfigError("vision_feature_select_strategy must be 'full' and projector_hidden_act 'gelu'")
    layer = config.get("vision_feature_layer", -1)
    if not isinstance(layer, int) or layer >= 0:
        raise ConfigError(f"vision_feature_layer {layer!r}: one layer counted from the end is needed, such as -1")
    rope = text.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ConfigError("rope_parameters of another type than 'default' are not supported")
    length = text.get("max_position_embeddings", 32768)
    top = {
        **text,
        "rope_theta": text.get("rope_theta") or rope.get("rope_theta", 1_000_000.0),
        "rope_scaling": text.get("rope_scaling"),
        "model_type": "llava_qwen",
        "composer_type": "plain",
        "tie_word_embeddings": config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)),
        "mm_patch_merge_type": "spatial_unpad",
        "mm_spatial_pool_mode": "bilinear",
        "f2t_thrd": -1.0,
        "tokenizer_model_max_length": length,
        "clip_model_path": config.get("clip_model_path", DEFAULT_CLIP),
        "vilamp_live": config.get("vilamp_live", {}),
    }
    # The published format counts one layer more than are used. Here, vision_feature_layer tells how many are used.
    return top, {**vision, "num_hidden_layers": vision["num_hidden_layers"] + 2 + layer}


def published_from_onevision(name: str) -> str:
    """Return the published name of a tensor of a LLaVA-OneVision checkpoint. Other names are returned unchanged."""
    for prefix, published in _PREFIXES:
        if name.startswith(prefix):
            name = published + name[len(prefix) :]
            break
    if name.startswith(_TOWER) and not name.startswith(_TOWER + "vision_model."):
        name = _TOWER + "vision_model." + name[len(_TOWER) :]
    return name
