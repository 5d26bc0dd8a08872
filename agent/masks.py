"""Privacy masks: parts of the picture that are blackened before it is stored or encoded.

Pure: polygons in relative coordinates (0..1 of width and height, from the top left) and RGB pictures in, pictures out.
Every pixel that a polygon touches is covered, and MARGIN_PX more around it: scaling and the camera's own compression
have mixed what lies under a mask into the pixels beside it. What is stored does not depend on what was covered.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Polygons = Sequence[Sequence[tuple[float, float]]]

MARGIN_PX = 4


class Masks:
    """The masks of one camera. Drawn once for each size of picture."""

    def __init__(self, polygons: Polygons) -> None:
        self._polygons = polygons
        self._covered: NDArray[np.bool_] = np.zeros((0, 0), np.bool_)

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture (H, W, 3) with every mask black; `image` itself when there is none."""
        if not self._polygons:
            return image
        if self._covered.shape != image.shape[:2]:
            self._covered = covered(self._polygons, *image.shape[:2])
        masked = image.copy()
        masked[self._covered] = 0
        return masked


def covered(polygons: Polygons, height: int, width: int) -> NDArray[np.bool_]:
    """(height, width): the pixels that a polygon or its margin touches.

    A square from 0.25 to 0.75 in a picture of 40 x 40 touches columns 10 to 30, with the margin 6 to 34.
    """
    drawing = Image.new("L", (width, height))
    pen = ImageDraw.Draw(drawing)
    for polygon in polygons:
        points = [(x * width, y * height) for x, y in polygon]
        # outwards to whole pixels: the outline joins both the pixel before and the one behind each point
        for rounded in (math.floor, math.ceil):
            pen.polygon([(rounded(x), rounded(y)) for x, y in points], fill=255, outline=255, width=1)
    size = 2 * MARGIN_PX + 1
    wide = Image.new("L", (width + 2 * size, height + 2 * size))  # a filter leaves the edge of its picture alone
    wide.paste(drawing, (size, size))
    grown = wide.filter(ImageFilter.MaxFilter(size)).crop((size, size, size + width, size + height))
    return np.asarray(grown) > 0
