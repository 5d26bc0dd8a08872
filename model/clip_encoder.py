"""Use a CLIP checkpoint alone: embeddings of frames and questions, for memory and keyframe selection.

There is no language model; another program has to write the answer. Input: a folder in transformers' CLIP format
(`model_type: clip`) with safetensors weights. `ClipEncoder` has the part of `VideoModel` that memory and selection use.
It uses whole frames resized to a square, as CLIP's own crop of the centre loses 44 % of a 16:9 frame. It makes no
patches; one zero per frame is stored in their place.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from model.checkpoint import IGNORED_ENDINGS, CheckpointError, read_files, read_json
from model.config import ConfigError, DualEncoderConfig, LiveConfig
from model.config_json import dual_encoder_from_json
from model.features import Defaults, FrameFeatures, ModelInfo, TextFeatures
from model.network import build_dual_encoder
from model.preprocess import relevance_pixels
from model.storage import NUM_SCALARS
from model.tokens import ClipTokenizer, TokenizerMissingError, read_tokenizer

MODEL_TYPE = "clip"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_OPTIONAL = {"logit_scale"}
_RECENT = 4  # keyframes reserved for the newest frames, for questions about the present


def is_clip(folder: Path) -> bool:
    """Return whether the folder holds CLIP and nothing else. Raises CheckpointError without a readable config.json."""
    return read_json(folder / "config.json").get("model_type") == MODEL_TYPE


class ClipEncoder:
    """A loaded CLIP checkpoint: encodes frames and questions for memory and keyframe selection, but cannot answer."""

    def __init__(self, config: DualEncoderConfig, folder: Path, *, name: str, device: str, dtype: torch.dtype) -> None:
        self.config = config
        self._device, self._dtype = device, dtype
        self._tokenizer = ClipTokenizer(read_tokenizer(folder), config.max_text_tokens)
        self._network = build_dual_encoder(config)
        _fill(self._network, folder)
        self._network.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self.info = _info(name, config, self._fingerprint())

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
        processor = read_json(folder / "preprocessor_config.json", optional=True)
        config = dual_encoder_from_json(read_json(folder / "config.json"), processor)
        try:
            return cls(config, folder, name=name, device=device, dtype=DTYPES[dtype])
        except TokenizerMissingError as error:
            raise CheckpointError(str(error)) from error

    @torch.inference_mode()
    def encode(self, images: Sequence[np.ndarray]) -> list[FrameFeatures]:
        """Return the features of pictures, uint8 (H, W, 3) RGB of any sizes, computed as one batch."""
        if not images:
            return []
        pixels = torch.from_numpy(relevance_pixels(images, self.config.image, whole_frame=True))
        pooled = self._network.vision_model(pixel_values=pixels.to(self._device, self._dtype)).pooler_output
        embeddings = self._network.visual_projection(pooled).float().cpu().numpy()
        none = np.zeros((1, 1), np.float16), np.zeros((1, NUM_SCALARS), np.float32), np.zeros(1, np.float32)
        return [FrameFeatures(embedding, *none) for embedding in embeddings]

    @torch.inference_mode()
    def embed_text(self, text: str) -> TextFeatures:
        """Return the features of a question, cut to the text encoder's length."""
        ids, truncated = self._tokenizer.encode(text)
        pooled = self._network.text_model(input_ids=torch.tensor([ids], device=self._device)).pooler_output
        raw = self._network.text_projection(pooled)[0].float().cpu().numpy()
        unit = (raw / max(float(np.linalg.norm(raw)), 1e-12)).astype(np.float32)
        return TextFeatures(unit, raw, raw, truncated)

    def self_test(self) -> None:
        """Encode two different pictures and texts. Raise RuntimeError if their features are equal or not finite."""
        side = self.config.image.image_size
        grey = np.full((side, side, 3), 128, np.uint8)
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        first, second = self.encode([grey, noise])
        words = self.embed_text("a red car").raw, self.embed_text("two dogs at night").raw
        for what, one, other in (("embedding", first.embedding, second.embedding), ("text", *words)):
            if not (np.isfinite(one).all() and np.isfinite(other).all()):
                raise RuntimeError(f"self-test: the {what} of a test input is not finite")
            if np.allclose(one, other, rtol=1e-3, atol=1e-6):
                raise RuntimeError(f"self-test: two different inputs give the same {what}")

    def _fingerprint(self) -> str:
        """Return a hash of all that decides what `encode` returns: settings, and a few numbers of each weight."""
        digest = hashlib.sha256(repr((MODEL_TYPE, self.config, str(self._dtype))).encode())
        for name, tensor in self._network.state_dict().items():
            flat = tensor.flatten()
            digest.update(name.encode() + flat[:: max(1, flat.numel() // 64)].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def _fill(network: torch.nn.Module, folder: Path) -> None:
    expected = network.state_dict()
    state = {name: tensor for name, tensor in read_files(folder) if not name.endswith(IGNORED_ENDINGS)}
    wrong = [f"unexpected {name}" for name in sorted(state.keys() - expected.keys())]
    wrong += [f"missing {name}" for name in sorted(expected.keys() - state.keys() - _OPTIONAL)]
    for name in sorted(state.keys() & expected.keys()):
        if state[name].shape != expected[name].shape:
            wrong.append(f"{name} is {tuple(state[name].shape)}, config.json says {tuple(expected[name].shape)}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(f"{folder} is not the CLIP that its config.json describes: {'; '.join(wrong[:5])}{more}")
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)


def _info(name: str, config: DualEncoderConfig, fingerprint: str) -> ModelInfo:
    live = LiveConfig()
    return ModelInfo(
        name=name,
        card="CLIP: it chooses frames and does not answer by itself.",
        fingerprint=fingerprint,
        patches_per_frame=1,
        patch_width=1,
        patch_dtype="float16",
        num_scalars=NUM_SCALARS,
        embedding_dim=config.projection_dim,
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
        ),
    )
