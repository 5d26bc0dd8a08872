"""Encode and decode what the memory stores: frame records, vector records, half-precision vectors, metadata.

Every record carries a checksum and its frame id. So bytes that are damaged, incomplete or from the wrong position are
recognised, and the journal (the table of stored frames) can be rebuilt from the segment files that hold the records.
All numbers are little-endian; the crc covers everything after it.

    frame record     "VLF1" | crc32 | frame_id i64 | time f64 | metadata bytes u32 | JPEG bytes u32 | metadata | JPEG
    vector record    "VLV1" | crc32 | frame_id i64 | norm f32 | D u32 | C u32 | encoder u32 | unit f16 | summary f16

`encoder` identifies the network that computed the unit embedding (D,) and the summary (C,). Both are kept in float16,
on disk and in memory. One float32 scale per row restores the embedding's length 1 after rounding:

    unit = float32(half) * scale

This gives the same float32 rows whether they are decoded one at a time or together.
"""

import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from memory.errors import OtherEncoder, RecordDamaged
from memory.records import Float16, Float32, Json

MAX_METADATA_BYTES = 65_536
FRAME_MAGIC = b"VLF1"
VECTOR_MAGIC = b"VLV1"
FRAME_HEADER = struct.Struct("<4sIqdII")
VECTOR_HEADER = struct.Struct("<4sIqfIII")
_CRC_END = 8
_SIGN_AND_MAGNITUDE = np.int32(-0x70002000)  # 0x8fffe000: sign extension left copies of the sign below the sign bit
_EXPONENT_SHIFT = np.float32(2.0**112)


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A decoded frame record. `metadata` is JSON text, "" for none."""

    frame_id: int
    time: float
    metadata: str
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """A decoded vector record: unit embedding (D,) float16, its length before normalising, summary (C,) float16."""

    frame_id: int
    half: Float16
    norm: float
    summary: Float16


def frame_record_size(jpeg_bytes: int, metadata_bytes: int) -> int:
    return FRAME_HEADER.size + metadata_bytes + jpeg_bytes


def vector_record_size(embedding_dim: int, summary_dim: int) -> int:
    return VECTOR_HEADER.size + 2 * (embedding_dim + summary_dim)


def record_crc(record: bytes) -> int:
    """Return the checksum stored in the record, without recomputing it."""
    return int.from_bytes(record[4:_CRC_END], "little")


def pack_frame(frame_id: int, time: float, metadata: str, jpeg: bytes) -> bytes:
    text = metadata.encode()
    header = FRAME_HEADER.pack(FRAME_MAGIC, 0, frame_id, time, len(text), len(jpeg))
    return _seal(header + text + jpeg)


def unpack_frame(record: bytes, expected_id: int | None = None) -> StoredFrame:
    """Decode a frame record. Raises RecordDamaged, also if it belongs to another frame than `expected_id`."""
    _check(record, FRAME_MAGIC, FRAME_HEADER.size)
    _, _, found, time, metadata_bytes, jpeg_bytes = FRAME_HEADER.unpack_from(record)
    if len(record) != frame_record_size(jpeg_bytes, metadata_bytes):
        raise RecordDamaged(f"frame {found}: the record has another length")
    if expected_id not in (None, found):
        raise RecordDamaged(f"the record is of frame {found}")
    split = FRAME_HEADER.size + metadata_bytes
    return StoredFrame(found, time, record[FRAME_HEADER.size : split].decode(), record[split:])


def encoder_tag(encoder: str) -> int:
    """Return the 32-bit number that stands for an encoder's name in vector records."""
    return zlib.crc32(encoder.encode())


def pack_vectors(frame_id: int, embedding: Float32, summary: Float32, tag: int) -> bytes:
    """Return the vector record of an embedding (D,) and a summary (C,). tag: of the encoder (`encoder_tag`).

    The embedding is stored as a float16 unit vector and its float32 length, so that long embeddings do not overflow
    float16. A zero embedding stays zero. Raises ValueError if a stored number is not finite.
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
    """Decode a vector record with an embedding (D,) and a summary (C,), where sizes = (D, C).

    Raises RecordDamaged, or OtherEncoder if the record's tag differs from `tag`. New vectors also pass through this
    function before they are used, so that a restart yields exactly the same numbers.
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
    """Return the size of the intact vector record at `offset`, from any encoder; 0 if there is none."""
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


def _check(record: bytes, magic: bytes, least_bytes: int) -> None:
    if len(record) < least_bytes or record[:4] != magic:
        raise RecordDamaged("not a record")
    if zlib.crc32(memoryview(record)[_CRC_END:]) != record_crc(record):
        raise RecordDamaged("checksum does not match")


def scale_of(halves: Float16) -> Float32:
    """Return the scales (...) by which the rows (..., D) become unit vectors. The scale of a zero row is 1."""
    exact = halves.astype(np.float64)
    lengths = np.sqrt(np.vecdot(exact, exact))
    scales: Float32 = np.divide(1.0, lengths, out=np.ones_like(lengths), where=lengths > 0).astype(np.float32)
    return scales


def decode(halves: Float16, scales: Float32, out: Float32 | None = None) -> Float32:
    """Return float32 unit vectors (n, D): the float16 rows `halves` (n, D), all finite, each times its scale.

    scales (n,): as `scale_of` returns them. out: the array to write the vectors into, or None for a new one. The
    conversion by bit shifts takes half the time of numpy's: a float16 (sign, 5 bits of exponent, 10 of fraction)
    shifted left by 13 bits is a float32 whose exponent is too small by 112. Multiplying by 2^112 corrects that,
    also for subnormal numbers: 0x3c00 (1.0) -> 0x07800000 (2^-112) -> 1.0.
    """
    unit: Float32 = np.empty(halves.shape, np.float32) if out is None else out
    bits = unit.view(np.int32)
    np.copyto(bits, halves.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _SIGN_AND_MAGNITUDE, out=bits)
    unit *= (scales * _EXPONENT_SHIFT)[:, None]
    return unit


def metadata_text(metadata: Mapping[str, Json] | None) -> str:
    """Return the metadata as ASCII JSON, "" for none. Raises ValueError if it is not valid JSON or is too large."""
    if not metadata:
        return ""
    try:
        text = json.dumps(metadata, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be JSON: {error}") from error
    if len(text) > MAX_METADATA_BYTES:
        raise ValueError(f"metadata has {len(text)} bytes, at most {MAX_METADATA_BYTES} are kept")
    return text


def load_metadata(text: str) -> dict[str, Any]:
    """Return the metadata that `metadata_text` stored as `text`; {} for ""."""
    return dict(json.loads(text)) if text else {}


def place_of(text: str) -> tuple[float, float]:
    """Return the coordinates x and y in stored metadata: '{"x": 1, "y": 2.5}' -> (1.0, 2.5). NaN if they are absent."""
    if '"x"' not in text or '"y"' not in text:
        return math.nan, math.nan
    metadata = load_metadata(text)
    x, y = metadata.get("x", ""), metadata.get("y", "")
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (x, y))
    return (float(x), float(y)) if numbers else (math.nan, math.nan)
