"""Write a long history to disk at once: the files and rows that as many appends and attaches would have left.

The memory's own code packs, checksums and lays out the records. Rows are committed by the thousand instead of one by one, so
that a million frames take a minute or two instead of ten. `MemoryStore` opens the folder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memory.codec import encoder_tag, pack_frame, pack_vectors, record_crc
from memory.files import segment_paths
from memory.journal import Journal, Row
from memory.records import Float32

CAMERA = "static"
SEGMENT_FRAMES = 256
STEP = 16 * SEGMENT_FRAMES


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a history. noise: length of the difference between two frames of the one scene, whose length is 1."""

    num_frames: int
    embedding_dim: int
    summary_dim: int
    jpeg_bytes: int
    noise: float = 0.03


def embeddings(shape: Shape, rng: np.random.Generator, count: int) -> Float32:
    """Return (count, D) embeddings of a static camera: one scene, the same for every generator, and noise."""
    dim = shape.embedding_dim
    scene = np.random.default_rng(7).standard_normal(dim, np.float32) / np.float32(dim**0.5)
    noise: Float32 = rng.standard_normal((count, dim), np.float32) * np.float32(shape.noise / dim**0.5)
    noise += scene
    return noise


def write_history(folder: Path, shape: Shape) -> None:
    """Write frames 1 to N, one a second from time 1 on, all of them encoded."""
    segments = folder / "segments" / CAMERA
    segments.mkdir(parents=True)
    journal = Journal(folder / "journal.sqlite")
    rng = np.random.default_rng(0)
    for first in range(1, shape.num_frames + 1, STEP):
        count = min(STEP, shape.num_frames + 1 - first)
        vectors = embeddings(shape, rng, count), rng.standard_normal((count, shape.summary_dim), np.float32)
        rows: list[Row] = []
        for start in range(0, count, SEGMENT_FRAMES):
            part = slice(start, min(start + SEGMENT_FRAMES, count))
            rows += _segment(segments, first + start, vectors[0][part], vectors[1][part], rng.bytes(shape.jpeg_bytes))
        journal.repair(delete=(), clear_vectors=(), adopt=rows)
    journal.skip_ids_to(shape.num_frames + 1)
    journal.close()


def _segment(folder: Path, first: int, units: Float32, summaries: Float32, jpeg: bytes) -> Iterator[Row]:
    """Write both files of one segment. Returns its rows."""
    frames_path, vectors_path = segment_paths(folder, first)
    tag, frames_end, vectors_end = encoder_tag(""), 0, 0
    with frames_path.open("wb") as frames_file, vectors_path.open("wb") as vectors_file:
        for number, (unit, summary) in enumerate(zip(units, summaries, strict=True), first):
            frame = pack_frame(number, float(number), "", jpeg)
            vectors = pack_vectors(number, unit, summary, tag)
            yield Row(number, CAMERA, first, float(number), "", frames_end, len(frame), record_crc(frame), vectors_end,
                      record_crc(vectors))  # fmt: skip
            frames_file.write(frame)
            vectors_file.write(vectors)
            frames_end, vectors_end = frames_end + len(frame), vectors_end + len(vectors)
