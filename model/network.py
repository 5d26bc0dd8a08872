"""The network as plain torch modules: SigLIP tower, projector, CLIP, composer maps (for merging), newline, Qwen2.

Input: pixel values and token ids as tensors. Output: features, with gradients where the caller wants them. This file
does not know files, tokenizers, selection or merging; `published_name` gives each tensor's name in a checkpoint file.

Letters used everywhere: B pictures, M patches, C vision width, H language width, D relevance (CLIP) width.
"""

from collections.abc import Iterator
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from model.config import DualEncoderConfig, LanguageConfig, ModelConfig, Pooling, VisionConfig

# (tensor name prefix here, prefix in a published checkpoint). The first match is used.
PUBLISHED_PREFIXES = (
    ("vision_tower.", "model.vision_tower.vision_tower.vision_model."),
    ("mm_projector.", "model.mm_projector."),
    ("dual_encoder.", "model.frame_selector.model."),
    ("composer.", "model.composer_projector."),
    ("image_newline", "model.image_newline"),
    ("language_model.", ""),
)


class VisionTower(nn.Module):
    """The SigLIP encoder of pictures without its last layer. `post_layernorm` is never used, but files contain it."""

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
        """Return patches (B pictures, M patches, C channels), row by row of each picture.

        pixel_values (B, 3, S, S): B normalised square pictures with sides of S pixels.
        """
        features: Tensor = self.encoder(inputs_embeds=self.embeddings(pixel_values)).last_hidden_state
        return features


class SigPooling(nn.Module):
    """The trained linear maps of merging, which compare patches with the question and with the keyframe before.

    The question's map is D -> H (CLIP's width to the language model's), those of patches are H -> H. tau: temperature
    of the softmax over the patches.
    """

    def __init__(self, query_dim: int, hidden_size: int, tau: float = 0.07) -> None:
        super().__init__()
        self.linear_iq = nn.Linear(hidden_size, hidden_size)
        self.linear_ik = nn.Linear(hidden_size, hidden_size)
        self.linear_q = nn.Linear(query_dim, hidden_size)
        self.linear_k = nn.Linear(hidden_size, hidden_size)
        self.tau = nn.Parameter(torch.tensor(tau))


class VilampNetwork(nn.Module):
    """All weights of one checkpoint. Built with random weights, which `model.checkpoint` replaces and saves."""

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
        """Return the vision tower's features v of B pictures: (B, M patches, C channels).

        pixel_values (B, 3, S, S): square pictures with sides of S pixels, normalised for SigLIP.
        """
        features: Tensor = self.vision_tower(pixel_values)
        return features

    def project_hidden(self, features: Tensor) -> Tensor:
        """Return h = gelu(W1 v + b1), the first half of the projector.

        It maps patches (..., C), of the vision tower's width C, to (..., H), of the language model's width H.
        """
        hidden: Tensor = self.mm_projector[1](self.mm_projector[0](features))
        return hidden

    def project_out(self, hidden: Tensor) -> Tensor:
        """Return x = W2 h + b2, the second half of the projector: (..., H) -> (..., H), with language width H."""
        projected: Tensor = self.mm_projector[2](hidden)
        return projected

    def project(self, features: Tensor) -> Tensor:
        """Return the projected patches x = W2 gelu(W1 v + b1) + b2.

        Maps (..., C), of the vision tower's width C, to (..., H), of the language model's width H.
        """
        return self.project_out(self.project_hidden(features))

    def pool(self, projected: Tensor) -> Tensor:
        """Pool the projected patches of B keyframes to fewer tokens: (B, M patches, H) -> (B, M' tokens, H).

        H is the language model's width.
        """
        return pool_patches(projected, self.config.pooling, self.config.pool_stride)

    def embed_images(self, pixel_values: Tensor) -> Tensor:
        """Return CLIP's embeddings of B pictures, (B, D), not normalised; D is CLIP's embedding width.

        pixel_values (B, 3, S, S): square pictures with sides of S pixels, normalised for CLIP.
        """
        pooled = self.dual_encoder.vision_model(pixel_values=pixel_values).pooler_output
        embeddings: Tensor = self.dual_encoder.visual_projection(pooled)
        return embeddings

    def embed_texts(self, input_ids: Tensor) -> Tensor:
        """Return CLIP's embeddings of B texts, (B, D), not normalised; D is CLIP's embedding width.

        input_ids (B, L): CLIP token ids with begin and end, padded after the end to length L. Attention is causal and
        the embedding is the output at the end token, so padding has no effect.
        """
        pooled = self.dual_encoder.text_model(input_ids=input_ids).pooler_output
        embeddings: Tensor = self.dual_encoder.text_projection(pooled)
        return embeddings

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """Return the language model's input embeddings, (..., H) with its width H, of token ids (...,)."""
        embedded: Tensor = self.language_model.model.embed_tokens(input_ids)
        return embedded


def build_dual_encoder(config: DualEncoderConfig) -> CLIPModel:
    """Build transformers' CLIPModel with these sizes and random weights."""
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
    """Build transformers' Qwen2 model with these sizes and random weights."""
    values = asdict(config)
    rope = {"rope_type": "default", "rope_theta": values.pop("rope_theta")}
    return Qwen2ForCausalLM(Qwen2Config(**values, rope_parameters=rope, use_sliding_window=False))


def pool_patches(patches: Tensor, mode: Pooling, stride: int) -> Tensor:
    """Pool the square grid of patches of B pictures: (B, side * side, H) -> (B, side' * side', H), with H channels.

    bilinear: side' = ceil(side / 2), whatever the stride. average, max: side' = side // stride, dropping the last rows
    and columns if side is no multiple of it. none: unchanged. 27 x 27 -> 14 x 14 bilinear, 13 x 13 average or max with
    stride 2.
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
    """Return the name in a published checkpoint of a tensor of `VilampNetwork.state_dict()`.

    "vision_tower.post_layernorm.bias" -> "model.vision_tower.vision_tower.vision_model.post_layernorm.bias",
    "language_model.model.norm.weight" -> "model.norm.weight".
    """
    for own, published in PUBLISHED_PREFIXES:
        if name.startswith(own):
            return published + name[len(own) :]
    raise KeyError(name)


def published_tensors(network: VilampNetwork) -> Iterator[tuple[str, Tensor]]:
    """Yield (published name, tensor) of everything that a checkpoint stores. A tied output matrix is not stored twice."""
    for name, tensor in network.state_dict().items():
        if network.config.language.tie_word_embeddings and name == "language_model.lm_head.weight":
            continue
        yield published_name(name), tensor
