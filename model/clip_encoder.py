"""Use a dual encoder alone: embeddings of frames and questions, for memory and keyframe selection.

A dual encoder is two towers, one for pictures and one for texts, whose outputs can be compared. There is no language
model; another program has to write the answer. Input: a folder in transformers' format (`model_type` clip, siglip,
siglip2 or metaclip_2) with safetensors weights. `ClipEncoder` has the part of `VideoModel` that memory and selection use.
Frames are resized as a whole, to a square or, for siglip2, to as many patches as the model takes: CLIP's own crop of
the centre loses 44 % of a 16:9 frame. It makes no patches; one zero per frame is stored in their place.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)

from model.checkpoint import IGNORED_ENDINGS, CheckpointError, read_files, read_json
from model.config import CLIP_STATISTICS, SIGLIP_STATISTICS, ConfigError, ImageConfig, LiveConfig
from model.features import Defaults, FrameFeatures, ModelInfo, TextFeatures
from model.preprocess import relevance_pixels
from model.storage import NUM_SCALARS
from model.tokens import TextTokenizer, TokenizerMissingError, read_text_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_OPTIONAL = {"logit_scale", "logit_bias"}
_RECENT = 4  # keyframes reserved for the newest frames, for questions about the present
_BICUBIC = 3  # as PIL and preprocessor_config.json number it

Pixels = dict[str, torch.Tensor]  # the named inputs of a picture tower


@dataclass(frozen=True, slots=True)
class _Family:
    """One kind of dual encoder. padded: its text tower was trained on texts padded to one length, in lower case."""

    title: str
    config: Any
    network: Any
    padded: bool
    statistics: tuple[tuple[float, float, float], tuple[float, float, float]]


_FAMILIES = {
    "clip": _Family("CLIP", CLIPConfig, CLIPModel, False, CLIP_STATISTICS),
    "metaclip_2": _Family("MetaCLIP 2", MetaClip2Config, MetaClip2Model, False, CLIP_STATISTICS),
    "siglip": _Family("SigLIP", SiglipConfig, SiglipModel, True, SIGLIP_STATISTICS),
    "siglip2": _Family("SigLIP 2", Siglip2Config, Siglip2Model, True, SIGLIP_STATISTICS),
}


def is_clip(folder: Path) -> bool:
    """Return whether the folder holds a dual encoder alone. Raises CheckpointError without a readable config.json."""
    return read_json(folder / "config.json").get("model_type") in _FAMILIES


class ClipEncoder:
    """A loaded dual encoder: encodes frames and questions for memory and keyframe selection, but cannot answer."""

    def __init__(self, folder: Path, *, name: str, device: str, dtype: torch.dtype) -> None:
        described = read_json(folder / "config.json")
        processor = read_json(folder / "preprocessor_config.json", optional=True)
        family = _FAMILIES[described["model_type"]]
        config = _config(family, described, folder)
        self._device, self._dtype = device, dtype
        self._pixels = _preprocessing(family, described["model_type"], config, processor)
        self._tokenizer = _text_tokenizer(family, config, folder)
        self._network = family.network(config)
        _fill(self._network, folder, family.title)
        self._network.to(device=device, dtype=dtype).eval().requires_grad_(False)
        dim = config.vision_config.hidden_size if family.padded else config.projection_dim
        self.info = _info(name, family.title, int(dim), self._fingerprint(described, processor))

    @classmethod
    def load(
        cls, folder: Path, *, name: str, device: str = "cpu", dtype: str = "float32", num_threads: int | None = None
    ) -> "ClipEncoder":
        """Load a folder. Raises ConfigError with a message for the user.

        num_threads: torch's threads per operation, for the whole process.
        """
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device {device!r}: this machine has no usable CUDA device; use device: cpu")
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        try:
            return cls(folder, name=name, device=device, dtype=DTYPES[dtype])
        except TokenizerMissingError as error:
            raise CheckpointError(str(error)) from error

    @torch.inference_mode()
    def encode(self, images: Sequence[np.ndarray]) -> list[FrameFeatures]:
        """Return the features of pictures, uint8 (H, W, 3) RGB of any sizes, computed as one batch."""
        if not images:
            return []
        pixels = {
            name: tensor.to(self._device, self._dtype if tensor.is_floating_point() else None)
            for name, tensor in self._pixels(images).items()
        }
        embeddings = self._network.get_image_features(**pixels).pooler_output.float().cpu().numpy()
        none = np.zeros((1, 1), np.float16), np.zeros((1, NUM_SCALARS), np.float32), np.zeros(1, np.float32)
        return [FrameFeatures(embedding, *none) for embedding in embeddings]

    @torch.inference_mode()
    def embed_text(self, text: str) -> TextFeatures:
        """Return the features of a question, cut to the text tower's length."""
        ids, truncated = self._tokenizer.encode(text)
        tokens = torch.tensor([ids], device=self._device)
        raw = self._network.get_text_features(input_ids=tokens).pooler_output[0].float().cpu().numpy()
        unit = (raw / max(float(np.linalg.norm(raw)), 1e-12)).astype(np.float32)
        return TextFeatures(unit, raw, raw, truncated)

    def self_test(self) -> None:
        """Encode two different pictures and texts. Raise RuntimeError if their features are equal or not finite."""
        grey = np.full((90, 160, 3), 128, np.uint8)
        noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
        first, second = self.encode([grey, noise])
        words = self.embed_text("a red car").raw, self.embed_text("two dogs at night").raw
        for what, one, other in (("embedding", first.embedding, second.embedding), ("text", *words)):
            if not (np.isfinite(one).all() and np.isfinite(other).all()):
                raise RuntimeError(f"self-test: the {what} of a test input is not finite")
            if np.allclose(one, other, rtol=1e-3, atol=1e-6):
                raise RuntimeError(f"self-test: two different inputs give the same {what}")

    def _fingerprint(self, described: dict[str, Any], processor: dict[str, Any]) -> str:
        """Return a hash of all that decides what `encode` returns: settings, and a few numbers of each weight."""
        settings = json.dumps([described, processor, str(self._dtype)], sort_keys=True)
        digest = hashlib.sha256(settings.encode())
        for name, tensor in self._network.state_dict().items():
            flat = tensor.flatten()
            digest.update(name.encode() + flat[:: max(1, flat.numel() // 64)].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def _config(family: _Family, described: dict[str, Any], folder: Path) -> Any:
    """Return transformers' configuration of the network. Raises ConfigError."""
    try:
        return family.config.from_dict({key: value for key, value in described.items() if key != "auto_map"})
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{folder / 'config.json'} does not describe {family.title}: {error}") from error


def _preprocessing(
    family: _Family, model_type: str, config: Any, processor: dict[str, Any]
) -> Callable[[Sequence[np.ndarray]], Pixels]:
    """Return the function that turns pictures, uint8 (H, W, 3) RGB, into the inputs of the picture tower."""
    if model_type == "siglip2":  # NaFlex: keeps the aspect ratio
        naflex = Siglip2ImageProcessorPil(
            **{key: processor[key] for key in ("patch_size", "max_num_patches") if key in processor}
        )
        return lambda images: dict(naflex(images=list(images), return_tensors="pt", input_data_format="channels_last"))
    mean, std = family.statistics
    mean, std = tuple(processor.get("image_mean", mean)), tuple(processor.get("image_std", std))
    vision = config.vision_config
    image = ImageConfig(int(vision.image_size), int(vision.patch_size), mean, std)
    resample = int(processor.get("resample", _BICUBIC))
    return lambda images: {
        "pixel_values": torch.from_numpy(relevance_pixels(images, image, whole_frame=True, resample=resample))
    }


def _text_tokenizer(family: _Family, config: Any, folder: Path) -> TextTokenizer:
    max_tokens = int(config.text_config.max_position_embeddings)
    return read_text_tokenizer(folder, max_tokens, padded=family.padded)


def _fill(network: torch.nn.Module, folder: Path, title: str) -> None:
    expected = network.state_dict()
    state = {name: tensor for name, tensor in read_files(folder) if not name.endswith(IGNORED_ENDINGS)}
    wrong = [f"unexpected {name}" for name in sorted(state.keys() - expected.keys())]
    wrong += [f"missing {name}" for name in sorted(expected.keys() - state.keys() - _OPTIONAL)]
    for name in sorted(state.keys() & expected.keys()):
        if state[name].shape != expected[name].shape:
            wrong.append(f"{name} is {tuple(state[name].shape)}, config.json says {tuple(expected[name].shape)}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(
            f"{folder} is not the {title} that its config.json describes: {'; '.join(wrong[:5])}{more}"
        )
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)


def _info(name: str, title: str, embedding_dim: int, fingerprint: str) -> ModelInfo:
    live = LiveConfig()
    return ModelInfo(
        name=name,
        card=f"{title}: it chooses frames and does not answer by itself.",
        fingerprint=fingerprint,
        patches_per_frame=1,
        patch_width=1,
        patch_dtype="float16",
        num_scalars=NUM_SCALARS,
        embedding_dim=embedding_dim,
        keyframe_tokens=0,
        context_tokens=0,
        max_visual_tokens=0,
        defaults=Defaults(
            num_keyframes=32,
            tau=0.85,
            floor=-1.0,
            recent=_RECENT,
            selection="visits",
            fill="gaps",
            redundancy="raw",
            background_floor=live.background_floor,
            timestamps=False,
            reference=live.reference,
            query="thing",
        ),
    )
