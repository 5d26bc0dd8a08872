"""Convert pictures to the pixel values that the vision towers were trained on.

Input: uint8 RGB arrays (H, W, 3) of any size. Output: normalised float32 arrays (B, 3, S, S). Pictures are resized with
PIL's bicubic filter, as the published processors do; another filter would give different features. Does not use torch.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from model.config import ImageConfig

BICUBIC = Image.Resampling.BICUBIC


def vision_pixels(images: Sequence[np.ndarray], config: ImageConfig) -> np.ndarray:
    """Return SigLIP's input for B pictures, normalised: float32 (B, 3, S, S).

    Each whole frame is resized to S x S pixels, whatever its aspect ratio.
    """
    return _normalise([squash(image, config.image_size) for image in images], config)


def relevance_pixels(
    images: Sequence[np.ndarray], config: ImageConfig, *, whole_frame: bool, resample: int = BICUBIC
) -> np.ndarray:
    """Return CLIP's input for B pictures, normalised: float32 (B, 3, S, S), pictures of S x S pixels.

    As published, the shorter side is resized to S and the centre is cut out, which loses 44 % of a 16:9 frame. With
    `whole_frame`, the whole frame is resized to S x S instead, by the filter `resample` (a number of PIL's).
    """
    side = config.image_size
    small = [squash(image, side, resample) if whole_frame else centre_crop(image, side) for image in images]
    return _normalise(small, config)


def squash(image: np.ndarray, side: int, resample: int = BICUBIC) -> np.ndarray:
    """Resize a picture to a square, ignoring its aspect ratio: uint8 (height, width, 3) -> uint8 (side, side, 3)."""
    picture = _picture(image)
    return image if picture.size == (side, side) else np.asarray(picture.resize((side, side), resample))


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """Resize the shorter side to `side` and cut out the centre: uint8 (height, width, 3) -> uint8 (side, side, 3).

    96 x 128 with side 224: resized to 224 x 298 (rounded down), then columns 37 to 260 are kept.
    """
    picture = _picture(image)
    width, height = picture.size
    if width <= height:
        size = (side, int(side * height / width))
    else:
        size = (int(side * width / height), side)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    resized = picture.resize(size, BICUBIC)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def published_frame_indices(num_frames: int, fps: float, most: int) -> np.ndarray:
    """Return the indices of the n frames of a video file that the published evaluation uses, (n,) int64.

    They are every int(fps)-th frame, at most `most`. 300 frames at 29.97 fps: every 29th, 0, 29, ..., 290. Used only
    for comparison; live video is sampled by its timestamps.
    """
    kept = np.arange(0, num_frames, max(1, int(fps)))
    return kept if len(kept) <= most else kept[np.linspace(0, len(kept) - 1, most, dtype=int)]


def _picture(image: np.ndarray) -> Image.Image:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"a picture must be uint8 (height, width, 3), not {image.dtype} {image.shape}")
    return Image.fromarray(image)


def _normalise(images: Sequence[np.ndarray], config: ImageConfig) -> np.ndarray:
    side = config.image_size
    pixels = np.empty((len(images), 3, side, side), np.float32)
    mean = np.asarray(config.mean, np.float32)[:, None, None]
    std = np.asarray(config.std, np.float32)[:, None, None]
    for row, image in enumerate(images):
        pixels[row] = (image.transpose(2, 0, 1) * np.float32(1 / 255) - mean) / std
    return pixels
