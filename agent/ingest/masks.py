"""Privacy masks: parts of a picture, given as polygons, that are made black before the picture is stored or encoded.

Coordinates are fractions of width and height, 0 to 1, from the top left. Every pixel that a polygon touches is covered,
and so are MARGIN_PX pixels around it, because scaling and the camera's compression mix what is under a mask into
neighbouring pixels.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Polygons = Sequence[Sequence[tuple[float, float]]]

MARGIN_PX = 4


class Masks:
    """The masks of one camera. Keeps the covered pixels of the last picture size, as they are slow to compute."""

    def __init__(self, polygons: Polygons) -> None:
        self._polygons = polygons
        self._covered: NDArray[np.bool_] = np.zeros((0, 0), np.bool_)

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture, uint8 (H, W, 3), with every mask black; `image` itself if there is no mask."""
        if not self._polygons:
            return image
        if self._covered.shape != image.shape[:2]:
            self._covered = covered(self._polygons, *image.shape[:2])
        masked = image.copy()
        masked[self._covered] = 0
        return masked


def covered(polygons: Polygons, height: int, width: int) -> NDArray[np.bool_]:
    """Return a bool array (height, width): True for the pixels that a polygon or its margin touches.

    Example: a square from 0.25 to 0.75 in a picture of 40 x 40 touches columns 10 to 30, and columns 5 to 35 are covered.
    """
    grow = MARGIN_PX + 1  # PIL draws slanted lines up to a pixel off
    edge = 2 * grow  # room to draw on the border; a filter does not change the edge of its picture
    drawing = Image.new("L", (width + 2 * edge, height + 2 * edge))
    pen = ImageDraw.Draw(drawing)
    for polygon in polygons:
        corners = [(math.floor(x * width) + edge, math.floor(y * height) + edge) for x, y in polygon]
        pen.polygon(corners, fill=255, outline=255)
        pen.line([*corners, corners[0]], fill=255)  # PIL leaves gaps in polygons as thin as a line
    grown = drawing.filter(ImageFilter.MaxFilter(2 * grow + 1))
    return np.asarray(grown.crop((edge, edge, edge + width, edge + height))) > 0
