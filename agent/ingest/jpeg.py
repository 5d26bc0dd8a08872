"""JPEG: encode, decode and shrink pictures. Blocking."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

JPEG_QUALITY = 85


def encode_jpeg(image: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """Return the JPEG bytes of an RGB picture, uint8 (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def decode_jpeg(jpeg: bytes) -> NDArray[np.uint8]:
    """Return the RGB picture, uint8 (H, W, 3). Raises OSError (from PIL) when the bytes are damaged."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        return np.array(picture.convert("RGB"))


def smaller_jpeg(jpeg: bytes, width: int) -> bytes:
    """Return the JPEG bytes of the picture, scaled down to `width` pixels if it is wider.

    Raises OSError (from PIL) when the bytes are damaged.
    """
    with Image.open(io.BytesIO(jpeg)) as picture:
        if picture.width <= width:
            return jpeg
        size = (width, max(1, round(picture.height * width / picture.width)))
        picture.draft("RGB", size)  # lets the decoder skip detail that the resize would drop
        return encode_jpeg(np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR)))
