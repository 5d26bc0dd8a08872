"""The network as plain torch modules: SigLIP tower, projector, CLIP pair, composer maps, newline, Qwen2.

In: pixel values and token ids as tensors. Out: features, with gradients where the caller wants them.
This file does not know files, tokenizers, selection or merging; names on disk are a fixed map (`published_name`).

Letters used everywhere: B pictures, M patches, C vision width, H language width, D relevance width.
"""

from collections.abc import Iterator
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from model.config import DualEncoderConfig, LanguageConfig, ModelConfig, Pooling, VisionConfig

# (prefix here, prefix in a published checkpoint); the first that fits is used.
PUBLISHED_PREFIXES = (
    ("vision_tower.", "model.vision_tower.vision_tower.vision_model."),
    ("mm_projector.", "model.mm_projector."),
    ("dual_encoder.", "model.frame_selector.model."),
    ("composer.", "model.composer_projector."),
    ("image_newline", "model.image_newline"),
    ("language_model.", ""),
)


class VisionTower(nn.Module):
    """SigLIP without its last layer. `post_layernorm` is carried for the file format only and never applied."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        sizes = asdict(config.tower) | {"num_hidden_layers": config.tower.num_hidden_layers - 1}
        image = config.image
        whole = SiglipVisionModel(
            SiglipVisionConfig(**sizes, image_size=image.image_size, patch_size=image.patch_size, vision_use_head=False)
        )
        self.embeddings = whole.embeddings
        self.encoder = whole.encoder
        self.post_layernorm = whole.post_layernorm.requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values (B, 3, S, S) -> patches (B, M, C), row by row of the picture."""
        features: Tensor = self.encoder(inputs_embeds=self.embeddings(pixel_values)).last_hidden_state
        return features


class SigPooling(nn.Module):
    """The learned maps of feature merging: D -> H for the question, H -> H for patches; `tau` is the temperature."""

    def __init__(self, query_dim: int, hidden_size: int, tau: float = 0.07) -> None:
        super().__init__()
        self.linear_iq = nn.Linear(hidden_size, hidden_size)
        self.linear_ik = nn.Linear(hidden_size, hidden_size)
        self.linear_q = nn.Linear(query_dim, hidden_size)
        self.linear_k = nn.Linear(hidden_size, hidden_size)
        self.tau = nn.Parameter(torch.tensor(tau))


class VilampNetwork(nn.Module):
    """All weights of one checkpoint. Built with random weights; `model.checkpoint` fills and saves them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, hidden = config.vision.tower.hidden_size, config.language.hidden_size
        relevance = config.dual_encoder.projection_dim
        self.config = config
        self.vision_tower = VisionTower(config.vision)
        self.mm_projector = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.dual_encoder = build_dual_encoder(config.dual_encoder)
        self.composer: nn.Module | None = None
        if config.composer == "sig_pooling":
            self.composer = SigPooling(relevance, hidden)
        elif config.composer == "single_token":
            self.composer = nn.Sequential(nn.Linear(relevance, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.image_newline = nn.Parameter(torch.randn(hidden) / hidden**0.5)
        self.language_model = build_language_model(config.language)

    def vision_features(self, pixel_values: Tensor) -> Tensor:
        """pixel_values (B, 3, S, S), normalised for SigLIP -> v (B, M, C)."""
        features: Tensor = self.vision_tower(pixel_values)
        return features

    def project_hidden(self, features: Tensor) -> Tensor:
        """h = gelu(W1 v + b1): (..., C) -> (..., H)."""
        hidden: Tensor = self.mm_projector[1](self.mm_projector[0](features))
        return hidden

    def project_out(self, hidden: Tensor) -> Tensor:
        """x = W2 h + b2: (..., H) -> (..., H)."""
        projected: Tensor = self.mm_projector[2](hidden)
        return projected

    def project(self, features: Tensor) -> Tensor:
        """x = W2 gelu(W1 v + b1) + b2: (..., C) -> (..., H)."""
        return self.project_out(self.project_hidden(features))

    def pool(self, projected: Tensor) -> Tensor:
        """Projected patches (B, M, H) of keyframes -> (B, M', H)."""
        return pool_patches(projected, self.config.pooling, self.config.pool_stride)

    def embed_images(self, pixel_values: Tensor) -> Tensor:
        """pixel_values (B, 3, S, S), normalised for CLIP -> (B, D), not normalised."""
        pooled = self.dual_encoder.vision_model(pixel_values=pixel_values).pooler_output
        embeddings: Tensor = self.dual_encoder.visual_projection(pooled)
        return embeddings

    def embed_texts(self, input_ids: Tensor) -> Tensor:
        """CLIP token ids (B, L), begin and end included, padded behind the end -> (B, D), not normalised.

        Attention is causal and the text is read off at its end token, so what is behind it cannot matter.
        """
        pooled = self.dual_encoder.text_model(input_ids=input_ids).pooler_output
        embeddings: Tensor = self.dual_encoder.text_projection(pooled)
        return embeddings

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """Language token ids (...,) -> (..., H)."""
        embedded: Tensor = self.language_model.model.embed_tokens(input_ids)
        return embedded


def build_dual_encoder(config: DualEncoderConfig) -> CLIPModel:
    """transformers' CLIPModel of these sizes, random weights."""
    text = asdict(config.text) | {
        "projection_dim": config.projection_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_text_tokens,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
    vision = asdict(config.vision) | {
        "projection_dim": config.projection_dim,
        "image_size": config.image.image_size,
        "patch_size": config.image.patch_size,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=config.projection_dim))


def build_language_model(config: LanguageConfig) -> Qwen2ForCausalLM:
    """transformers' Qwen2 of these sizes, random weights."""
    values = asdict(config)
    rope = {"rope_type": "default", "rope_theta": values.pop("rope_theta")}
    return Qwen2ForCausalLM(Qwen2Config(**values, rope_parameters=rope, use_sliding_window=False))


def pool_patches(patches: Tensor, mode: Pooling, stride: int) -> Tensor:
    """Shrink the square grid of patches (B, side * side, H) to (B, side' * side', H).

    bilinear: side' = ceil(side / 2) whatever the stride is; average, max: side' = side // stride, the last row and
    column being dropped where it does not divide; none: as it is. (27 x 27 -> 14 x 14 bilinear, 13 x 13 otherwise.)
    """
    if mode == "none":
        return patches
    num_frames, num_patches, width = patches.shape
    side = round(num_patches**0.5)
    if side * side != num_patches:
        raise ValueError(f"{num_patches} patches are no square grid")
    grid = patches.transpose(1, 2).reshape(num_frames, width, side, side)
    if mode == "bilinear":
        pooled = F.interpolate(grid, size=(-(-side // 2), -(-side // 2)), mode="bilinear", align_corners=False)
    elif mode == "average":
        pooled = F.avg_pool2d(grid, stride)
    else:
        pooled = F.max_pool2d(grid, stride)
    return pooled.flatten(2).transpose(1, 2)


def published_name(name: str) -> str:
    """Name of a tensor of `VilampNetwork.state_dict()` -> its name in a published checkpoint.

    "vision_tower.post_layernorm.bias" -> "model.vision_tower.vision_tower.vision_model.post_layernorm.bias",
    "language_model.model.norm.weight" -> "model.norm.weight".
    """
    for own, published in PUBLISHED_PREFIXES:
        if name.startswith(own):
            return published + name[len(own) :]
    raise KeyError(name)


def published_tensors(network: VilampNetwork) -> Iterator[tuple[str, Tensor]]:
    """(published name, tensor) of everything a checkpoint stores; a tied output matrix is stored once."""
    for name, tensor in network.state_dict().items():
        if network.config.language.tie_word_embeddings and name == "language_model.lm_head.weight":
            continue
        yield published_name(name), tensor
