"""Frames for the benchmarks: drawn once, kept as JPEG, encoded once, and repeated with a little noise to fill a memory.

A few hundred pictures of the drawn world, one per second of video, are encoded by the model under test. A longer history
goes through them back and forth and adds noise to each embedding (1 % of its length), so that no two rows are the same.
Patches are repeated unchanged, because no time depends on their values.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agent.ingest.jpeg import decode_jpeg, encode_jpeg
from memory.limits import Limits
from memory.store import MemoryStore
from model.features import FrameFeatures
from model.video_model import VideoModel
from model.world.draw import draw
from model.world.scene import Scene

BUILTIN = Path("model/builtin")
START = 1_767_254_400.0  # unix seconds of the first frame
BATCH = 8
CAMERA = "yard"


def jpegs(num_frames: int, *, width: int = 1280, height: int = 720, seed: int = 5) -> list[bytes]:
    """Return pictures of one fixed camera, one second apart, as the agent stores them."""
    scene = Scene.from_seed(seed, duration_s=max(20.0, num_frames), style="fixed", split="eval")
    return [encode_jpeg(draw(scene, float(second), width, height)) for second in range(num_frames)]


def encoded(model: VideoModel, pictures: list[bytes]) -> list[FrameFeatures]:
    """Return the features of all of them."""
    features: list[FrameFeatures] = []
    for start in range(0, len(pictures), BATCH):
        features += model.encode([decode_jpeg(picture) for picture in pictures[start : start + BATCH]])
    return features


def open_store(folder: Path, model: VideoModel, num_frames: int) -> MemoryStore:
    """Open an empty memory for `num_frames` frames of this model."""
    info = model.info
    return MemoryStore(
        folder,
        embedding_dim=info.embedding_dim,
        limits=Limits(frames=num_frames, hot_frames=num_frames),
        patch_shape=(info.patches_per_frame, info.patch_width),
        encoder=info.fingerprint,
    )


def fill(store: MemoryStore, pictures: list[bytes], features: list[FrameFeatures], num_frames: int) -> None:
    """Remember and attach `num_frames` frames, one per second."""
    rng = np.random.default_rng(0)
    for second, place in zip(range(num_frames), back_and_forth(len(features)), strict=False):
        frame_id = store.append(CAMERA, START + second, pictures[place])
        kept = features[place]
        noise = rng.normal(size=kept.embedding.shape) * 0.01 * np.linalg.norm(kept.embedding) / kept.embedding.size**0.5
        store.attach(
            frame_id,
            embedding=(kept.embedding + noise).astype(np.float32),
            patches=kept.patches,
            scalars=kept.scalars,
            summary=kept.summary,
        )


def back_and_forth(length: int) -> Iterator[int]:
    """Yield indices back and forth without end, so that neighbours stay neighbours: 3 -> 0 1 2 2 1 0 0 1 ..."""
    while True:
        yield from range(length)
        yield from reversed(range(length))
