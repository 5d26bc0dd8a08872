"""Small real memories for the tests of `memory`: real files, real SQLite, real FAISS, tiny sizes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from memory.limits import Limits
from memory.store import MemoryStore

D, M, C = 8, 3, 4
VECTOR_BYTES = 32 + 2 * (D + C)  # room that one frame's vectors take


def open_store(
    folder: Path,
    *,
    encoder: str = "tiny",
    synchronous: Any = "normal",
    camera_limits: dict[str, Limits] | None = None,
    **limits: Any,
) -> MemoryStore:
    settings = {"segment_frames": 4, **limits}
    return MemoryStore(
        folder,
        embedding_dim=D,
        limits=Limits(**settings),
        patch_shape=(M, C),
        encoder=encoder,
        synchronous=synchronous,
        camera_limits=camera_limits,
    )


def features(seed: int) -> dict[str, np.ndarray]:
    """What an encoder gives for one frame; the same for the same seed."""
    rng = np.random.default_rng(seed)
    return {
        "embedding": rng.normal(size=D).astype(np.float32) * 7,
        "patches": rng.normal(size=(M, C)).astype(np.float16),
        "scalars": rng.normal(size=(M, 3)).astype(np.float32),
        "summary": rng.normal(size=C).astype(np.float32),
    }


def picture(camera: str, time: float) -> bytes:
    return f"jpeg {camera} {time}".encode()


def fill(store: MemoryStore, camera: str, times: Iterable[float], *, attach: bool = True) -> list[int]:
    """Appends a frame for each time, with its features; returns the ids."""
    ids = []
    for time in times:
        ids.append(store.append(camera, float(time), picture(camera, time), {"x": time}))
        if attach:
            assert store.attach(ids[-1], **features(ids[-1]))
    return ids
