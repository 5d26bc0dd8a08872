"""What a checkpoint folder says about itself, as frozen and checked settings.

In: the parsed `config.json` of the published format (`model_type: llava_qwen`) and of the two towers it names.
Out: `ModelConfig`. Every size of the network comes from here; nothing else in this package holds a constant size.
This file does not know tensors, tokenizers or where on disk anything lies.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

Composer = Literal["sig_pooling", "average_pooling", "single_token", "plain", "none"]
Pooling = Literal["bilinear", "average", "max", "none"]
Reference = Literal["keyframe", "released"]
Redundancy = Literal["raw", "background"]
PatchFeatures = Literal["vision", "hidden"]
Fill = Literal["gaps", "none"]

# Text, chat markers and the answer need room beside the pictures: this many tokens, or a quarter of a small context.
TEXT_RESERVE_TOKENS = 1024


class ConfigError(ValueError):
    """The checkpoint's configuration contradicts itself or asks for something this program does not do."""


@dataclass(frozen=True, slots=True)
class TowerSizes:
    """The sizes every transformer tower shares. `num_hidden_layers` is the number as the file writes it."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str
    layer_norm_eps: float

    def __post_init__(self) -> None:
        _positive(self, "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(f"hidden_size {self.hidden_size} is no multiple of {self.num_attention_heads} heads")


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The square picture a tower takes: side and patch side in pixels, and the statistics it was trained with."""

    image_size: int
    patch_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        _positive(self, "image_size", "patch_size")
        if self.patch_size > self.image_size:
            raise ConfigError(f"patch_size {self.patch_size} is larger than the picture ({self.image_size} px)")

    @property
    def side(self) -> int:
        """Patches along one side; 384 px with patches of 14 give 27 (the rest of 6 px is not seen)."""
        return self.image_size // self.patch_size


SIGLIP_STATISTICS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The SigLIP tower. The published model drops the last of `tower.num_hidden_layers` layers."""

    tower: TowerSizes
    image: ImageConfig

    def __post_init__(self) -> None:
        if self.tower.num_hidden_layers < 2:
            raise ConfigError("the vision tower needs at least two layers: its last one is never used")


@dataclass(frozen=True, slots=True)
class DualEncoderConfig:
    """The CLIP pair that measures relevance; both sides end in `projection_dim` numbers (D)."""

    vision: TowerSizes
    text: TowerSizes
    image: ImageConfig
    projection_dim: int
    vocab_size: int
    max_text_tokens: int
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int

    def __post_init__(self) -> None:
        _positive(self, "projection_dim", "vocab_size", "max_text_tokens")


@dataclass(frozen=True, slots=True)
class LanguageConfig:
    """The Qwen2 language model; the names are those of its published configuration."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        _positive(self, "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                  "num_key_value_heads", "vocab_size", "max_position_embeddings")
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size}, {self.num_attention_heads} heads and "
                f"{self.num_key_value_heads} key-value heads do not divide one another"
            )


@dataclass(frozen=True, slots=True)
class LiveConfig:
    """The optional section `vilamp_live` of config.json: this program's own defaults for one checkpoint.

    Absent, all of it is the published behaviour. `None` means: what the published keys of config.json say.
    """

    num_keyframes: int | None = None
    tau: float | None = None
    floor: float | None = None
    fill: Fill = "gaps"
    redundancy: Redundancy = "raw"
    background_floor: float = 1e-3
    recent: int = 0
    timestamps: bool = False
    max_visual_tokens: int | None = None
    patch_features: PatchFeatures = "vision"
    reference: Reference = "keyframe"
    whole_frame: bool = False
    final_newline: bool = True
    merge_lambda: float = 1.0
    merge_alpha: float = 0.01
    system_prompt: str = "You are a helpful assistant."
    card: str = ""

    def __post_init__(self) -> None:
        _one_of("fill", self.fill, Fill)
        _one_of("redundancy", self.redundancy, Redundancy)
        _one_of("patch_features", self.patch_features, PatchFeatures)
        _one_of("reference", self.reference, Reference)
        if self.recent < 0 or (self.num_keyframes is not None and self.num_keyframes < 1):
            raise ConfigError("recent must be at least 0 and num_keyframes at least 1")
        if self.merge_alpha <= 0:
            raise ConfigError(f"merge_alpha is a temperature and must be positive, not {self.merge_alpha}")
        if self.background_floor <= 0:
            raise ConfigError("background_floor must be positive: it decides what a frame without change is like")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything about one checkpoint. Built by `config_from_json` or by hand (training, tests)."""

    vision: VisionConfig
    dual_encoder: DualEncoderConfig
    language: LanguageConfig
    composer: Composer = "sig_pooling"
    pooling: Pooling = "bilinear"
    pool_stride: int = 2
    max_frame_num: int = 32
    f2f_thrd: float = 0.85
    f2t_thrd: float = 0.2
    max_sequence_tokens: int = 32768
    live: LiveConfig = field(default_factory=LiveConfig)
    vision_folder: str = "siglip"
    clip_folder: str = "clip"

    def __post_init__(self) -> None:
        _one_of("composer", self.composer, Composer)
        _one_of("pooling", self.pooling, Pooling)
        _positive(self, "pool_stride", "max_frame_num", "max_sequence_tokens")
        if self.pooling in ("average", "max") and self.side < self.pool_stride:
            raise ConfigError(f"pooling stride {self.pool_stride} is larger than the {self.side} patches of a side")

    @property
    def side(self) -> int:
        """Patches along one side of a frame."""
        return self.vision.image.side

    @property
    def num_patches(self) -> int:
        """M: patches per frame."""
        return self.side**2

    @property
    def pooled_side(self) -> int:
        """Tokens along one side of a keyframe. Side 27: bilinear 14 (the stride is ignored), average or max 13."""
        if self.pooling == "none":
            return self.side
        return -(-self.side // 2) if self.pooling == "bilinear" else self.side // self.pool_stride

    @property
    def keyframe_tokens(self) -> int:
        """M': tokens a keyframe contributes."""
        return self.pooled_side**2

    @property
    def patch_width(self) -> int:
        """Numbers stored per patch: C of the vision tower, or H when the hidden layer of the projector is stored."""
        return self.vision.tower.hidden_size if self.live.patch_features == "vision" else self.language.hidden_size

    @property
    def context_tokens(self) -> int:
        """Longest sequence the language model is given, answer included."""
        return min(self.max_sequence_tokens, self.language.max_position_embeddings)

    @property
    def max_visual_tokens(self) -> int:
        """Most tokens the pictures of one question may take."""
        room = self.context_tokens - min(TEXT_RESERVE_TOKENS, self.context_tokens // 4)
        return room if self.live.max_visual_tokens is None else min(self.live.max_visual_tokens, room)

    @property
    def num_keyframes(self) -> int:
        """K, by default."""
        return self.max_frame_num if self.live.num_keyframes is None else self.live.num_keyframes

    @property
    def tau(self) -> float:
        """Redundancy threshold of the selection, by default."""
        return self.f2f_thrd if self.live.tau is None else self.live.tau

    @property
    def floor(self) -> float:
        """Relevance below which the walk stops, by default."""
        return self.f2t_thrd if self.live.floor is None else self.live.floor


def config_from_json(
    config: Mapping[str, Any],
    vision: Mapping[str, Any],
    clip: Mapping[str, Any],
    *,
    vision_image: Mapping[str, Any] | None = None,
    clip_image: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """Read the published keys. `vision` and `clip` are the towers' own config.json; `*_image` their processors'.

    Raises ConfigError, by name and with a sentence, for what the published code knows and this program refuses.
    """
    _refuse(config)
    tower = vision.get("vision_config", vision)
    return ModelConfig(
        vision=VisionConfig(_tower(tower, "gelu_pytorch_tanh", 1e-6), _image(tower, vision_image, SIGLIP_STATISTICS)),
        dual_encoder=_dual_encoder(clip, clip_image),
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
    """The files of the published format: {"config": ..., "vision": ..., "clip": ..., "vision_image", "clip_image"}.

    `config_from_json` of the result is equal to `config`.
    """
    language = asdict(config.language)
    top = {
        "architectures": ["LlavaQwenForCausalLM"], "model_type": "llava_qwen", **language,
        "activate_frame_selector": True, "activate_pre_fusion": False, "frame_selector_type": "SeqFrameSelector",
        "clip_model_path": config.clip_folder, "mm_vision_tower": config.vision_folder,
        "composer_type": None if config.composer == "none" else config.composer,
        "composer_proj_dim": config.dual_encoder.projection_dim, "composer_proj_mlp_depth": 2,
        "f2f_thrd": config.f2f_thrd, "f2t_thrd": config.f2t_thrd, "max_frame_num": config.max_frame_num,
        "mm_hidden_size": config.vision.tower.hidden_size, "mm_projector_type": "mlp2x_gelu",
        "mm_newline_position": "one_token", "mm_patch_merge_type": "spatial_unpad",
        "mm_spatial_pool_mode": None if config.pooling == "none" else config.pooling,
        "mm_spatial_pool_stride": config.pool_stride, "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2, "rope_scaling": None, "use_sliding_window": False, "use_cache": True,
        "tokenizer_model_max_length": config.max_sequence_tokens, "tokenizer_padding_side": "right",
    }
    live = {key: value for key, value in asdict(config.live).items() if value != getattr(LiveConfig(), key)}
    if live:
        top["vilamp_live"] = live
    dual = config.dual_encoder
    clip = {
        "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": dual.projection_dim,
        "text_config": {
            "model_type": "clip_text_model", **asdict(dual.text), "projection_dim": dual.projection_dim,
            "vocab_size": dual.vocab_size, "max_position_embeddings": dual.max_text_tokens,
            "bos_token_id": dual.bos_token_id, "eos_token_id": dual.eos_token_id, "pad_token_id": dual.pad_token_id,
        },
        "vision_config": {
            "model_type": "clip_vision_model", **asdict(dual.vision), "projection_dim": dual.projection_dim,
            "image_size": dual.image.image_size, "patch_size": dual.image.patch_size,
        },
    }
    image = config.vision.image
    vision = {
        "architectures": ["SiglipModel"], "model_type": "siglip",
        "vision_config": {"model_type": "siglip_vision_model", **asdict(config.vision.tower),
                          "image_size": image.image_size, "patch_size": image.patch_size},
    }
    return {
        "config": top, "vision": vision, "clip": clip,
        "vision_image": {"image_mean": list(image.mean), "image_std": list(image.std),
                         "size": {"height": image.image_size, "width": image.image_size}, "resample": 3},
        "clip_image": {"image_mean": list(dual.image.mean), "image_std": list(dual.image.std),
                       "size": {"shortest_edge": dual.image.image_size}, "resample": 3, "do_center_crop": True,
                       "crop_size": {"height": dual.image.image_size, "width": dual.image.image_size}},
    }


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
    # An absent key means single_token, as in the published configuration class; null means none.
    name: Composer = config.get("composer_type", "single_token") or "none"
    _one_of("composer_type", name, Composer)
    return name


def _pooling(mode: Any) -> Pooling:
    name: Pooling = mode or "none"
    _one_of("mm_spatial_pool_mode", name, Pooling)
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
    mean, std = (processor.get(key, default) for key, default in zip(("image_mean", "image_std"), statistics,
                                                                     strict=True))
    return ImageConfig(int(section["image_size"]), int(section["patch_size"]), _triple(mean), _triple(std))


# The sizes of CLIP ViT-B/32, for the keys its published config.json leaves to the library's defaults.
_CLIP_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
              "vocab_size": 49408, "max_position_embeddings": 77}
_CLIP_VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
                "image_size": 224, "patch_size": 32}


def _dual_encoder(clip: Mapping[str, Any], processor: Mapping[str, Any] | None) -> DualEncoderConfig:
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


def _positive(settings: object, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise ConfigError(f"{name} must be at least 1, not {getattr(settings, name)}")


def _one_of(name: str, value: object, allowed: Any) -> None:
    if value not in get_args(allowed):
        raise ConfigError(f"{name} is {value!r}; it can be {', '.join(map(repr, get_args(allowed)))}")
