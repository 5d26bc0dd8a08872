"""Unit vectors in half precision: how they lie on disk and in memory, and the float32 rows made of them.

A row is what the disk holds, (D,) float16, and one float32 `scale` that makes its length 1 again after rounding:
`unit = float32(half) * scale`. So memory holds half the bytes of float32 and loses nothing against it: ranking,
selection and answers see the same float32 rows whenever they are decoded, one at a time or a million.

`decode` moves the bits by itself: numpy's own conversion of float16 takes twice as long. A half, sign s, exponent e,
fraction f (10 bits), put 13 bits higher into a float32 has exponent e instead of e + 112; a product with 2^112 repairs
that, subnormals included:  0x3c00 (1.0) -> 0x07800000 (2^-112) -> 1.0.  Infinities never occur (`codec.pack_vectors`).
"""

import numpy as np

from memory.records import Float16, Float32

_SIGN_AND_MAGNITUDE = np.int32(-0x70002000)  # 0x8fffe000: sign-extension left copies of the sign below the sign bit
_EXPONENT_SHIFT = np.float32(2.0**112)


def scale_of(halves: Float16) -> Float32:
    """(..., D) -> (...): what makes float32(halves) a unit vector; 1 for a zero vector, which stays zero."""
    exact = halves.astype(np.float64)
    lengths = np.sqrt(np.vecdot(exact, exact))
    scales: Float32 = np.divide(1.0, lengths, out=np.ones_like(lengths), where=lengths > 0).astype(np.float32)
    return scales


def decode(halves: Float16, scales: Float32, out: Float32 | None = None) -> Float32:
    """(n, D) float16 and (n,) float32 -> (n, D) float32 unit vectors, in `out` or newly made. halves must be finite."""
    unit: Float32 = np.empty(halves.shape, np.float32) if out is None else out
    bits = unit.view(np.int32)
    np.copyto(bits, halves.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _SIGN_AND_MAGNITUDE, out=bits)
    unit *= (scales * _EXPONENT_SHIFT)[:, None]
    return unit
