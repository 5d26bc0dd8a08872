"""Small memories for tests: real files, SQLite and FAISS, with tiny vectors."""

import errno
import io
import random
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memory.limits import Limits
from memory.store import MemoryStore

D, M, C = 8, 3, 4
VECTOR_BYTES = 32 + 2 * (D + C)  # bytes of one frame's vectors on disk


def open_store(
    folder: Path,
    *,
    encoder: str = "tiny",
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
        camera_limits=camera_limits,
    )


def features(seed: int) -> dict[str, np.ndarray]:
    """Return random features of one frame, in the form an encoder gives; equal for equal seeds."""
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
    """Append a frame for each time, with features unless `attach` is false. Returns the ids."""
    ids = []
    for time in times:
        ids.append(store.append(camera, float(time), picture(camera, time), {"x": time}))
        if attach:
            assert store.attach(ids[-1], **features(ids[-1]))
    return ids


def secret(number: int) -> bytes:
    """Return 400 random bytes in place of a picture, to be searched for on disk."""
    return random.Random(number).randbytes(400)


def patterns(number: int, frame_id: int) -> list[bytes]:
    """Return byte strings of a frame that a file contains while the frame is stored: of every part of it."""
    made = features(frame_id)
    unit = (made["embedding"] / np.sqrt(np.vecdot(*[made["embedding"].astype(np.float64)] * 2))).astype("<f2").tobytes()
    picture = secret(number)
    return [
        *(picture[start : start + 16] for start in range(0, len(picture), 16)),
        f"secret-{number}-".encode(),
        unit,
        made["summary"].astype("<f2").tobytes(),
    ]


def put(store: MemoryStore, camera: str, number: int, *, attach: bool = True) -> int:
    """Append a frame that contains `patterns(number, frame_id)`; return its id."""
    frame_id = store.append(camera, float(number), secret(number), {"note": f"secret-{number}-"})
    if attach:
        store.attach(frame_id, **features(frame_id))
    return frame_id


def traces(folder: Path, wanted: list[bytes]) -> list[tuple[str, bytes]]:
    """Return (file name, pattern) of each pattern found in a file of the folder."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found += [(path.name, pattern) for pattern in wanted if pattern in data]
    return found


def of(numbers: dict[int, int]) -> list[bytes]:
    """Return the patterns of several frames, given as number -> frame id."""
    return [pattern for number, frame_id in numbers.items() for pattern in patterns(number, frame_id)]


def fill_up(file: io.RawIOBase) -> None:
    """Write until the disk is full."""
    try:
        while True:
            file.write(bytes(1000))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """Mount a tmpfs of this size below `folder`. Skips the test where mounting is not allowed."""
    mounted = folder / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(mounted)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
