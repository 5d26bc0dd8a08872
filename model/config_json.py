"""Convert the config.json files of the original authors' checkpoint, the published format, to `ModelConfig` and back.

Input: the parsed config.json (`model_type: llava_qwen`) and those of the two towers (encoders) that it names. An option
that the published code has and this program does not support is refused with an error that names it. This file does not
know where the files are.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from model.config import (
    CLIP_STATISTICS,
    SIGLIP_STATISTICS,
    Composer,
    ConfigError,
    DualEncoderConfig,
    ImageConfig,
    LanguageConfig,
    LiveConfig,
    ModelConfig,
    Pooling,
    TowerSizes,
    VisionConfig,
    require_one_of,
)


def config_from_json(
    config: Mapping[str, Any],
    vision: Mapping[str, Any],
    clip: Mapping[str, Any],
    *,
    vision_image: Mapping[str, Any] | None = None,
    clip_image: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """Return the ModelConfig for parsed config.json files with the published keys.

    vision, clip: each tower's config.json; vision_image, clip_image: their processors' configurations. Raises
    ConfigError that names the option for what the published code supports and this program does not.
    """
    _refuse(config)
    tower = vision.get("vision_config", vision)
    return ModelConfig(
        vision=VisionConfig(_tower(tower, "gelu_pytorch_tanh", 1e-6), _image(tower, vision_image, SIGLIP_STATISTICS)),
        dual_encoder=dual_encoder_from_json(clip, clip_image),
        language=_language(config),
        composer=_composer(config),
        pooling=_pooling(config.get("mm_spatial_pool_mode", "bilinear")),
        pool_stride=int(config.get("mm_spatial_pool_stride") or 2),
        max_frame_num=int(config.get("max_frame_num", 32)),
        f2f_thrd=float(config.get("f2f_thrd", 0.85)),
        f2t_thrd=float(config.get("f2t_thrd", 0.2)),
        max_sequence_tokens=int(config.get("tokenizer_model_max_length") or 32768),
        live=_live(config.get("vilamp_live", {})),
        vision_folder=str(config.get("mm_vision_tower", "siglip")),
        clip_folder=str(config.get("clip_model_path", "clip")),
    )


def config_to_json(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """Return the parsed config files of this configuration, with the keys that the original authors' checkpoint has.

    The result has the keys "config", "vision", "clip", "vision_image" and "clip_image", one for each file.
    `config_from_json` of the result equals `config`.
    """
    vision, dual = config.vision.image, config.dual_encoder
    tower = asdict(config.vision.tower) | {"image_size": vision.image_size, "patch_size": vision.patch_size}
    return {
        "config": _top_to_json(config),
        "vision": {
            "architectures": ["SiglipModel"],
            "model_type": "siglip",
            "vision_config": {"model_type": "siglip_vision_model", **tower},
        },
        "clip": _clip_to_json(dual),
        "vision_image": _image_to_json(vision)
        | {
            "size": {"height": vision.image_size, "width": vision.image_size},
        },
        "clip_image": _image_to_json(dual.image)
        | {
            "size": {"shortest_edge": dual.image.image_size},
            "do_center_crop": True,
            "crop_size": {"height": dual.image.image_size, "width": dual.image.image_size},
        },
    }


def _top_to_json(config: ModelConfig) -> dict[str, Any]:
    live = {key: value for key, value in asdict(config.live).items() if value != getattr(LiveConfig(), key)}
    return {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        **asdict(config.language),
        "activate_frame_selector": True,
        "activate_pre_fusion": False,
        "frame_selector_type": "SeqFrameSelector",
        "clip_model_path": config.clip_folder,
        "mm_vision_tower": config.vision_folder,
        "composer_type": None if config.composer == "none" else config.composer,
        "composer_proj_dim": config.dual_encoder.projection_dim,
        "composer_proj_mlp_depth": 2,
        "f2f_thrd": config.f2f_thrd,
        "f2t_thrd": config.f2t_thrd,
        "max_frame_num": config.max_frame_num,
        "mm_hidden_size": config.vision.tower.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_newline_position": "one_token",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_spatial_pool_mode": None if config.pooling == "none" else config.pooling,
        "mm_spatial_pool_stride": config.pool_stride,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "rope_scaling": None,
        "use_sliding_window": False,
        "use_cache": True,
        "tokenizer_model_max_length": config.max_sequence_tokens,
        "tokenizer_padding_side": "right",
        **({"vilamp_live": live} if live else {}),
    }


def _clip_to_json(dual: DualEncoderConfig) -> dict[str, Any]:
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": dual.projection_dim,
        "text_config": {
            "model_type": "clip_text_model",
            **asdict(dual.text),
            "projection_dim": dual.projection_dim,
            "vocab_size": dual.vocab_size,
            "max_position_embeddings": dual.max_text_tokens,
            "bos_token_id": dual.bos_token_id,
            "eos_token_id": dual.eos_token_id,
            "pad_token_id": dual.pad_token_id,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            **asdict(dual.vision),
            "projection_dim": dual.projection_dim,
            "image_size": dual.image.image_size,
            "patch_size": dual.image.patch_size,
        },
    }


def _image_to_json(image: ImageConfig) -> dict[str, Any]:
    return {"image_mean": list(image.mean), "image_std": list(image.std), "resample": 3}


def _refuse(config: Mapping[str, Any]) -> None:
    if config.get("model_type") != "llava_qwen":
        raise ConfigError(f"config.json has model_type {config.get('model_type')!r}; this program reads 'llava_qwen'")
    composer = str(config.get("composer_type"))
    for name in ("uniform", "key_frame_pooling", "keyframe_pooling"):
        if composer.startswith(name):
            raise ConfigError(
                f"composer_type {composer!r} is one of the authors' ablations: it picks frames without looking at the "
                "question, which this program does not do. Use a checkpoint with sig_pooling, average_pooling, "
                "single_token or no composer"
            )
    if not config.get("activate_frame_selector", True):
        raise ConfigError("activate_frame_selector is false: this program always selects keyframes for the question")
    if config.get("frame_selector_type", "SeqFrameSelector") != "SeqFrameSelector":
        raise ConfigError(f"frame_selector_type {config['frame_selector_type']!r}: only SeqFrameSelector works")
    if config.get("activate_pre_fusion", False):
        raise ConfigError("activate_pre_fusion is true: the published code crashes there too; set it to false")
    if config.get("use_sliding_window", False) or config.get("rope_scaling"):
        raise ConfigError("use_sliding_window and rope_scaling are not supported: the published model uses neither")
    if config.get("mm_projector_type", "mlp2x_gelu") != "mlp2x_gelu":
        raise ConfigError(f"mm_projector_type {config['mm_projector_type']!r}: only mlp2x_gelu is known")
    merge_type = config.get("mm_patch_merge_type", "spatial_unpad")
    if "unpad" not in merge_type:
        raise ConfigError(
            f"mm_patch_merge_type {merge_type!r} would drop the merged tokens: use 'spatial_unpad' "
            "(and vilamp_live.final_newline: false to leave the newline out)"
        )


def _composer(config: Mapping[str, Any]) -> Composer:
    # A missing key means "single_token", as in the published configuration class; null means "none".
    name: Composer = config.get("composer_type", "single_token") or "none"
    require_one_of("composer_type", name, Composer)
    return name


def _pooling(mode: Any) -> Pooling:
    name: Pooling = mode or "none"
    require_one_of("mm_spatial_pool_mode", name, Pooling)
    return name


def _live(section: Mapping[str, Any]) -> LiveConfig:
    known = {item.name for item in fields(LiveConfig)}
    unknown = sorted(set(section) - known)
    if unknown:
        raise ConfigError(f"vilamp_live has unknown keys {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return LiveConfig(**section)


def _tower(section: Mapping[str, Any], hidden_act: str, layer_norm_eps: float) -> TowerSizes:
    try:
        return TowerSizes(
            hidden_size=int(section["hidden_size"]),
            intermediate_size=int(section["intermediate_size"]),
            num_hidden_layers=int(section["num_hidden_layers"]),
            num_attention_heads=int(section["num_attention_heads"]),
            hidden_act=str(section.get("hidden_act", hidden_act)),
            layer_norm_eps=float(section.get("layer_norm_eps", layer_norm_eps)),
        )
    except KeyError as missing:
        raise ConfigError(f"a tower's config.json lacks {missing}") from missing


def _image(
    section: Mapping[str, Any],
    processor: Mapping[str, Any] | None,
    statistics: tuple[tuple[float, float, float], tuple[float, float, float]],
) -> ImageConfig:
    processor = processor or {}
    mean, std = (
        processor.get(key, default) for key, default in zip(("image_mean", "image_std"), statistics, strict=True)
    )
    return ImageConfig(int(section["image_size"]), int(section["patch_size"]), _triple(mean), _triple(std))


# The sizes of CLIP ViT-B/32, for keys that its published config.json omits because they are transformers' defaults.
_CLIP_TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
}
_CLIP_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}


def dual_encoder_from_json(clip: Mapping[str, Any], processor: Mapping[str, Any] | None) -> DualEncoderConfig:
    """Return CLIP's sizes from its parsed config.json and its processor's. Defaults are the values of CLIP ViT-B/32."""
    text = {**_CLIP_TEXT, **clip.get("text_config", {})}
    vision = {**_CLIP_VISION, **clip.get("vision_config", {})}
    return DualEncoderConfig(
        vision=_tower(vision, "quick_gelu", 1e-5),
        text=_tower(text, "quick_gelu", 1e-5),
        image=_image(vision, processor, CLIP_STATISTICS),
        projection_dim=int(clip.get("projection_dim", 512)),
        vocab_size=int(text["vocab_size"]),
        max_text_tokens=int(text["max_position_embeddings"]),
        bos_token_id=int(text.get("bos_token_id", 49406)),
        eos_token_id=int(text.get("eos_token_id", 49407)),
        pad_token_id=int(text.get("pad_token_id", 1)),
    )


def _language(config: Mapping[str, Any]) -> LanguageConfig:
    known = {item.name for item in fields(LanguageConfig)}
    values = {key: config[key] for key in known if config.get(key) is not None}
    values.setdefault("num_key_value_heads", values.get("num_attention_heads"))
    try:
        return LanguageConfig(**values)
    except TypeError as error:
        raise ConfigError(f"config.json lacks sizes of the language model: {error}") from error


def _triple(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
