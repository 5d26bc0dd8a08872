"""The settings of a checkpoint, frozen and checked: `ModelConfig`.

Every size of the network comes from here; no other file in this package holds a constant size. This file knows no
tensors, tokenizers or files, and not the keys of config.json, which `model.config_json` reads.
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
# How keyframes are chosen: by visits (model/select_visits.py), by the paper's differential keyframe selection
# (model/select.py), the most relevant frames, or evenly spread ones.
SelectionRule = Literal["visits", "dks", "top_k", "uniform"]
JudgeManner = Literal["instruct", "question"]  # prompt for an alert's condition; see agent/ask/condition.py

# Tokens kept free for the text, the chat markers and the answer; a quarter of the context if that is less.
TEXT_RESERVE_TOKENS = 1024


class ConfigError(ValueError):
    """Raised if a checkpoint's configuration contradicts itself or needs something that is not supported."""


@dataclass(frozen=True, slots=True)
class TowerSizes:
    """The sizes that every transformer tower (encoder of pictures or of texts) has.

    num_hidden_layers is the number written in the file, even if the last layer is not used (see VisionConfig).
    """

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
    """The square input picture of a tower: side and patch side in pixels, mean and deviation for normalising it."""

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
        """Number of patches along one side. 384 px with patches of 14 px give 27; the remaining 6 px are ignored."""
        return self.image_size // self.patch_size


SIGLIP_STATISTICS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """Sizes of the SigLIP tower. As in the published model, the last of its num_hidden_layers layers is not used."""

    tower: TowerSizes
    image: ImageConfig

    def __post_init__(self) -> None:
        if self.tower.num_hidden_layers < 2:
            raise ConfigError("the vision tower needs at least two layers: its last one is never used")


@dataclass(frozen=True, slots=True)
class DualEncoderConfig:
    """Sizes of CLIP's image and text towers, which measure relevance. Both return vectors of length projection_dim."""

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
    """Sizes of the Qwen2 language model, named as in its published configuration."""

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

    Without the section, everything behaves as published. A value of None means that the published keys of config.json
    decide.
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
    lower_case: bool = False  # trained on lower-case text only: questions are converted to lower case
    spelling: Mapping[str, str] = field(
        default_factory=dict
    )  # replacements for words missing from its training: {"color": "colour"}
    # Set if merging was also trained to locate things. scale and bias: scale * (cosine of patch and question) + bias is the
    # log odds that the patch shows what the question asks about.
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
    """All settings of one checkpoint. Read by `model.config_json`, or built directly in training and tests."""

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
        """Number of patches along one side of a frame."""
        return self.vision.image.side

    @property
    def num_patches(self) -> int:
        """Number of patches of a frame (the letter M in shapes)."""
        return self.side**2

    @property
    def pooled_side(self) -> int:
        """Number of tokens along one side of a keyframe.

        For 27 patches a side: 14 with bilinear pooling, which always halves whatever the stride; 13 with average or max
        pooling and stride 2.
        """
        if self.pooling == "none":
            return self.side
        return -(-self.side // 2) if self.pooling == "bilinear" else self.side // self.pool_stride

    @property
    def keyframe_tokens(self) -> int:
        """Number of visual tokens of a keyframe (M' in shapes)."""
        return self.pooled_side**2

    @property
    def patch_width(self) -> int:
        """Number of channels of a stored patch.

        It is the vision tower's width, or the language model's if the projector's hidden layer is stored.
        """
        return self.vision.tower.hidden_size if self.live.patch_features == "vision" else self.language.hidden_size

    @property
    def context_tokens(self) -> int:
        """Longest sequence for the language model in tokens, answer included."""
        return min(self.max_sequence_tokens, self.language.max_position_embeddings)

    @property
    def max_visual_tokens(self) -> int:
        """Largest number of visual tokens in the prompt of one question."""
        room = self.context_tokens - min(TEXT_RESERVE_TOKENS, self.context_tokens // 4)
        return room if self.live.max_visual_tokens is None else min(self.live.max_visual_tokens, room)

    @property
    def num_keyframes(self) -> int:
        """Default number of keyframes for one question (K in the paper)."""
        return self.max_frame_num if self.live.num_keyframes is None else self.live.num_keyframes

    @property
    def tau(self) -> float:
        """Default redundancy threshold: a frame more similar than this to a selected keyframe is not selected."""
        return self.f2f_thrd if self.live.tau is None else self.live.tau

    @property
    def floor(self) -> float:
        """Default relevance floor: a frame whose cosine with the question is lower is not selected for its relevance."""
        return self.f2t_thrd if self.live.floor is None else self.live.floor


def _are_numbers(section: Any, *names: str) -> bool:
    is_complete = isinstance(section, Mapping) and set(section) == set(names)
    return is_complete and all(isinstance(section[name], int | float) for name in names)


def require_positive(settings: object, *names: str) -> None:
    """Raise ConfigError if one of the named attributes of `settings` is less than 1."""
    for name in names:
        if getattr(settings, name) < 1:
            raise ConfigError(f"{name} must be at least 1, not {getattr(settings, name)}")


def require_one_of(name: str, value: object, allowed: Any) -> None:
    """Raise ConfigError if `value` is no value of the Literal type `allowed`. `name` is used in the message."""
    if value not in get_args(allowed):
        raise ConfigError(f"{name} is {value!r}; it can be {', '.join(map(repr, get_args(allowed)))}")
