"""What a checkpoint is, as frozen and checked settings: `ModelConfig`.

Every size of the network comes from here; nothing else in this package holds a constant size.
This file does not know tensors, tokenizers, files, or how config.json spells any of it (`model.config_json` does).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Composer = Literal["sig_pooling", "average_pooling", "single_token", "plain", "none"]
Pooling = Literal["bilinear", "average", "max", "none"]
Reference = Literal["keyframe", "released"]
Redundancy = Literal["raw", "background"]
PatchFeatures = Literal["vision", "hidden"]
Fill = Literal["gaps", "none"]
# how keyframes are chosen; see model/select_visits.py and model/select.py
SelectionRule = Literal["visits", "dks", "top_k", "uniform"]
JudgeManner = Literal["instruct", "question"]  # how an alert's condition is put to it; see agent/alerts/condition.py

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
        require_positive(self, "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
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
        require_positive(self, "image_size", "patch_size")
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
        require_positive(self, "projection_dim", "vocab_size", "max_text_tokens")


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
        require_positive(
            self,
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "vocab_size",
            "max_position_embeddings",
        )
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
    selection: SelectionRule = "dks"
    fill: Fill = "gaps"
    redundancy: Redundancy = "raw"
    background_floor: float = 1e-3
    recent: int = 0
    timestamps: bool = False
    relevance_marks: bool = False
    lower_case: bool = False  # it has seen no capital letter: questions are put to it without
    spelling: Mapping[str, str] = field(
        default_factory=dict
    )  # words it has not learnt, by one it has: "color": "colour"
    # Its merging was taught where a thing is: the log odds that a patch shows what is asked about are scale * cosine + bias.
    pointing: Mapping[str, float] | None = None
    max_visual_tokens: int | None = None
    patch_features: PatchFeatures = "vision"
    reference: Reference = "keyframe"
    whole_frame: bool = False
    final_newline: bool = True
    merge_lambda: float = 1.0
    merge_alpha: float = 0.01
    system_prompt: str = "You are a helpful assistant."
    card: str = ""
    judge: JudgeManner = "instruct"

    def __post_init__(self) -> None:
        require_one_of("selection", self.selection, SelectionRule)
        require_one_of("fill", self.fill, Fill)
        require_one_of("redundancy", self.redundancy, Redundancy)
        require_one_of("patch_features", self.patch_features, PatchFeatures)
        require_one_of("reference", self.reference, Reference)
        require_one_of("judge", self.judge, JudgeManner)
        if not all(isinstance(word, str) for pair in self.spelling.items() for word in pair):
            raise ConfigError("vilamp_live.spelling must give a word for each word")
        if self.pointing is not None and not _are_numbers(self.pointing, "scale", "bias"):
            raise ConfigError("vilamp_live.pointing must give the numbers scale and bias, and nothing else")
        if self.recent < 0 or (self.num_keyframes is not None and self.num_keyframes < 1):
            raise ConfigError("recent must be at least 0 and num_keyframes at least 1")
        if self.merge_alpha <= 0:
            raise ConfigError(f"merge_alpha is a temperature and must be positive, not {self.merge_alpha}")
        if self.background_floor <= 0:
            raise ConfigError("background_floor must be positive: it decides what a frame without change is like")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything about one checkpoint. Built by `model.config_json` or by hand (training, tests)."""

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
        require_one_of("composer", self.composer, Composer)
        require_one_of("pooling", self.pooling, Pooling)
        require_positive(self, "pool_stride", "max_frame_num", "max_sequence_tokens")
        if self.live.pointing is not None and self.composer not in ("sig_pooling", "plain"):
            raise ConfigError(f"vilamp_live.pointing: composer {self.composer!r} compares no patch with the question")
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


def _are_numbers(section: Any, *names: str) -> bool:
    is_complete = isinstance(section, Mapping) and set(section) == set(names)
    return is_complete and all(isinstance(section[name], int | float) for name in names)


def require_positive(settings: object, *names: str) -> None:
    """Raise ConfigError if one of these counts is less than one."""
    for name in names:
        if getattr(settings, name) < 1:
            raise ConfigError(f"{name} must be at least 1, not {getattr(settings, name)}")


def require_one_of(name: str, value: object, allowed: Any) -> None:
    """Raise ConfigError if the value is not one of the Literal's."""
    if value not in get_args(allowed):
        raise ConfigError(f"{name} is {value!r}; it can be {', '.join(map(repr, get_args(allowed)))}")
