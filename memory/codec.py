"""Bytes of one stored frame and of one stored pair of vectors, and back.

Every record carries its own checksum and frame_id, so that a record read from the wrong place, torn or flipped is never
taken for another, and so that the rows can be rebuilt from the segment files alone. All numbers little-endian.

    frame record     "VLF1" | crc32 | frame_id i64 | time f64 | metadata bytes u32 | JPEG bytes u32 | metadata | JPEG
    vector record    "VLV1" | crc32 | frame_id i64 | norm f32 | D u32 | C u32 | encoder u32 | unit f16 | summary f16

The crc covers everything after itself; `encoder` is a tag of the network that made unit (D,) and summary (C,).
Knows nothing of files or rows.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from memory.errors import OtherEncoder, RecordDamaged
from memory.records import Float16, Float32

FRAME_MAGIC = b"VLF1"
VECTOR_MAGIC = b"VLV1"
FRAME_HEADER = struct.Struct("<4sIqdII")
VECTOR_HEADER = struct.Struct("<4sIqfIII")
_CRC_END = 8


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A frame record taken apart; `metadata` is the JSON text as stored ("" for none)."""

    frame_id: int
    time: float
    metadata: str
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """A vector record taken apart: half (D,) float16 (`halves.py`), norm, summary (C,) float16."""

    frame_id: int
    half: Float16
    norm: float
    summary: Float16


def frame_record_size(jpeg_bytes: int, metadata_bytes: int) -> int:
    return FRAME_HEADER.size + metadata_bytes + jpeg_bytes


def vector_record_size(embedding_dim: int, summary_dim: int) -> int:
    return VECTOR_HEADER.size + 2 * (embedding_dim + summary_dim)


def record_crc(record: bytes) -> int:
    """The checksum that a record carries (not recomputed)."""
    return int.from_bytes(record[4:_CRC_END], "little")


def pack_frame(frame_id: int, time: float, metadata: str, jpeg: bytes) -> bytes:
    text = metadata.encode()
    header = FRAME_HEADER.pack(FRAME_MAGIC, 0, frame_id, time, len(text), len(jpeg))
    return _seal(header + text + jpeg)


def unpack_frame(record: bytes) -> StoredFrame:
    """Checks everything but the identity, which is the caller's; RecordDamaged if the bytes are not a frame record."""
    _check(record, FRAME_MAGIC, FRAME_HEADER.size)
    _, _, found, time, metadata_bytes, jpeg_bytes = FRAME_HEADER.unpack_from(record)
    if len(record) != frame_record_size(jpeg_bytes, metadata_bytes):
        raise RecordDamaged(f"frame {found}: the record has another length")
    split = FRAME_HEADER.size + metadata_bytes
    return StoredFrame(found, time, record[FRAME_HEADER.size : split].decode(), record[split:])


def encoder_tag(encoder: str) -> int:
    """32 bits that stand for an encoder's name."""
    return zlib.crc32(encoder.encode())


def pack_vectors(frame_id: int, embedding: Float32, summary: Float32, tag: int) -> bytes:
    """embedding (D,) as the model gives it, any length; summary (C,). ValueError where they are not finite in fp16.

    The direction is stored as a unit vector in fp16 and the length beside it in fp32, so that no encoder's scale can
    overflow fp16. A zero embedding stays zero.
    """
    norm = float(np.sqrt(np.vecdot(embedding.astype(np.float64), embedding.astype(np.float64))))
    unit = (embedding / norm if norm > 0 else embedding).astype("<f2")
    with np.errstate(over="ignore"):
        summary_half = summary.astype("<f2")
    if not (np.isfinite(np.float32(norm)) and np.isfinite(unit).all() and np.isfinite(summary_half).all()):
        raise ValueError(f"frame {frame_id}: embedding or summary is not finite in float16")
    header = VECTOR_HEADER.pack(VECTOR_MAGIC, 0, frame_id, norm, len(unit), len(summary_half), tag)
    return _seal(header + unit.tobytes() + summary_half.tobytes())


def unpack_vectors(record: bytes, sizes: tuple[int, int], tag: int) -> StoredVectors:
    """The only way vectors come into memory, at attach and at restart alike: hence the same bits in both.

    sizes: (D, C). RecordDamaged if the bytes are torn or flipped, OtherEncoder if they are sound but another network's.
    """
    _check(record, VECTOR_MAGIC, VECTOR_HEADER.size)
    _, _, found, norm, dim, width, found_tag = VECTOR_HEADER.unpack_from(record)
    if len(record) != vector_record_size(dim, width):
        raise RecordDamaged(f"frame {found}: vectors have {len(record)} bytes")
    if (dim, width, found_tag) != (*sizes, tag):
        raise OtherEncoder(f"frame {found}: vectors of another encoder, sizes {dim} and {width}")
    halves = np.frombuffer(record, "<f2", offset=VECTOR_HEADER.size)
    return StoredVectors(found, halves[:dim].astype(np.float16), norm, halves[dim:].astype(np.float16))


def sound_vectors_at(data: bytes, offset: int) -> int:
    """Size of the sound vector record, of whatever encoder, that begins at `offset`; 0 if none does."""
    header = data[offset : offset + VECTOR_HEADER.size]
    if len(header) < VECTOR_HEADER.size:
        return 0
    _, _, _, _, dim, width, _ = VECTOR_HEADER.unpack(header)
    record = data[offset : offset + vector_record_size(dim, width)]
    try:
        _check(record, VECTOR_MAGIC, vector_record_size(dim, width))
    except RecordDamaged:
        return 0
    return len(record)


def _seal(record: bytes) -> bytes:
    crc = zlib.crc32(record[_CRC_END:])
    return record[:4] + crc.to_bytes(4, "little") + record[_CRC_END:]


def _check(record: bytes, magic: bytes, header_bytes: int) -> None:
    if len(record) < header_bytes or record[:4] != magic:
        raise RecordDamaged("not a record")
    if zlib.crc32(memoryview(record)[_CRC_END:]) != record_crc(record):
        raise RecordDamaged("checksum does not match")
