"""Paint the unmoving part of a scene in daylight: wall, ground, fixtures and their texture.

Its colours are muted, and no fixture has one of the eight colours of things, so anything colourful is a visitor. Doors
are painted elsewhere, because they move.
"""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from model.world.things import Layout

Rgb = tuple[int, int, int]
# (wall, ground): ten palettes for training, then four used only in evaluation
PALETTES: tuple[tuple[Rgb, Rgb], ...] = (
    ((168, 162, 150), (118, 116, 112)), ((150, 156, 160), (96, 98, 100)), ((180, 170, 152), (140, 130, 116)),
    ((138, 146, 138), (110, 106, 98)), ((160, 150, 146), (86, 84, 84)), ((190, 188, 182), (132, 134, 136)),
    ((126, 128, 134), (150, 146, 138)), ((170, 158, 160), (104, 110, 112)), ((148, 140, 126), (124, 126, 118)),
    ((176, 178, 170), (78, 80, 84)), ((156, 164, 172), (128, 120, 108)), ((134, 124, 116), (140, 142, 146)),
    ((184, 174, 166), (98, 92, 86)), ((142, 150, 152), (116, 122, 114)),
)  # fmt: skip


def _shade(colour: Rgb, gain: float) -> Rgb:
    r, g, b = (int(min(255, max(0, c * gain))) for c in colour)
    return r, g, b


class Backdrop:
    """Paints the unmoving part of one scene. Positions are in fractions of a frame; x covers the whole world."""

    def __init__(self, layout: Layout, width: int, height: int):
        self.rng = np.random.default_rng(layout.seed)
        self.layout = layout
        self.w, self.h = width, height
        self.wall, self.ground = PALETTES[layout.palette % len(PALETTES)]
        self.line_y = layout.wall_line
        self.image = Image.new("RGB", (max(1, round(width * layout.width)), height), self.wall)
        self.pen = ImageDraw.Draw(self.image)

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Rgb) -> None:
        self.pen.rectangle([x0 * self.w, y0 * self.h, x1 * self.w, y1 * self.h], fill=colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: Rgb, width: float = 0.004) -> None:
        self.pen.line(
            [x0 * self.w, y0 * self.h, x1 * self.w, y1 * self.h], fill=colour, width=max(1, round(width * self.w))
        )

    def poly(self, colour: Rgb, *points: tuple[float, float]) -> None:
        self.pen.polygon([(x * self.w, y * self.h) for x, y in points], fill=colour)

    def oval(self, x0: float, y0: float, x1: float, y1: float, colour: Rgb) -> None:
        self.pen.ellipse([x0 * self.w, y0 * self.h, x1 * self.w, y1 * self.h], fill=colour)

    # parts of a room or a yard

    def floor(self, x0: float, x1: float, pattern: int) -> None:
        self.rect(x0, self.line_y, x1, 1.0, self.ground)
        seam = _shade(self.ground, 0.86)
        if pattern == 0:  # tiles
            for k in range(1, 7):
                y = self.line_y + (1 - self.line_y) * (k / 7) ** 1.6
                self.line(x0, y, x1, y, seam)
            for k in range(int((x1 - x0) * 9)):
                x = x0 + (k + 0.5) / 9
                self.line(x, self.line_y, min(x1, max(x0, x + (x - (x0 + x1) / 2) * 0.5)), 1, seam)
        elif pattern == 1:  # road marks
            y = self.line_y + (1 - self.line_y) * 0.42
            for k in range(int((x1 - x0) * 5) + 1):
                self.rect(x0 + k / 5, y, x0 + k / 5 + 0.09, y + 0.014, _shade(self.ground, 1.3))
            self.rect(x0, self.line_y, x1, self.line_y + 0.03, _shade(self.ground, 1.18))
        elif pattern == 2:  # planks
            for k in range(1, 9):
                y = self.line_y + (1 - self.line_y) * (k / 9) ** 1.3
                self.line(x0, y, x1, y, seam, 0.003)

    def bricks(self, x0: float, x1: float, y0: float) -> None:
        rows = 9
        for k in range(rows):
            y = y0 + (self.line_y - y0) * k / rows
            self.line(x0, y, x1, y, _shade(self.wall, 0.88), 0.003)
            for j in range(int((x1 - x0) * 10) + 1):
                x = x0 + (j + 0.5 * (k % 2)) / 10
                if x < x1:
                    self.line(x, y, x, y + (self.line_y - y0) / rows, _shade(self.wall, 0.88), 0.003)

    def window(self, x: float, y: float, w: float, h: float) -> None:
        self.rect(x - 0.008, y - 0.012, x + w + 0.008, y + h + 0.012, _shade(self.wall, 0.68))
        self.rect(x, y, x + w, y + h, (142, 152, 160))
        self.poly((166, 174, 180), (x, y + h * 0.7), (x + w * 0.6, y), (x + w * 0.9, y), (x, y + h))
        self.line(x + w / 2, y, x + w / 2, y + h, _shade(self.wall, 0.68), 0.006)

    def shelves(self, x0: float, x1: float) -> None:
        self.rect(x0, 0.14, x1, self.line_y, (96, 88, 80))
        for k in range(3):
            y = 0.16 + (self.line_y - 0.16) * k / 3
            deep = (self.line_y - 0.16) / 3 - 0.02
            self.rect(x0 + 0.01, y, x1 - 0.01, y + deep, (64, 60, 58))
            x = x0 + 0.015
            while x < x1 - 0.04:
                w = float(self.rng.uniform(0.015, 0.04))
                tone = int(self.rng.integers(96, 170))
                self.rect(x, y + deep * float(self.rng.uniform(0.2, 0.5)), x + w, y + deep, (tone, tone - 6, tone - 14))
                x += w + 0.006

    def tree(self, x: float) -> None:
        self.rect(x - 0.012, self.line_y - 0.2, x + 0.012, self.line_y + 0.02, (86, 74, 62))
        for dx, dy, r in ((-0.05, -0.26, 0.07), (0.04, -0.28, 0.075), (0.0, -0.36, 0.07)):
            self.oval(x + dx - r, self.line_y + dy - r, x + dx + r, self.line_y + dy + r * 1.3, (98, 108, 88))

    def fence(self, x0: float, x1: float, top: float) -> None:
        for k in range(int((x1 - x0) * 24) + 1):
            self.rect(x0 + k / 24, top, x0 + k / 24 + 0.01, self.line_y, (104, 104, 108))
        self.rect(x0, top + 0.05, x1, top + 0.07, (90, 90, 94))

    def lamp(self, x: float) -> None:
        self.rect(x - 0.005, 0.08, x + 0.005, self.line_y + 0.04, (70, 70, 74))
        self.oval(x - 0.025, 0.05, x + 0.025, 0.12, (226, 222, 206))

    def poster(self, x: float, y: float) -> None:
        self.rect(x, y, x + 0.07, y + 0.17, (196, 192, 184))
        self.rect(x + 0.012, y + 0.03, x + 0.058, y + 0.08, (120, 116, 112))
        for k in range(3):
            self.line(x + 0.012, y + 0.1 + k * 0.02, x + 0.058, y + 0.1 + k * 0.02, (140, 136, 130), 0.003)

    def counter(self, x0: float, x1: float) -> None:
        self.rect(x0, self.line_y - 0.15, x1, self.line_y + 0.02, (122, 110, 98))
        self.rect(x0 - 0.01, self.line_y - 0.17, x1 + 0.01, self.line_y - 0.14, (172, 164, 152))

    def pipes(self, y: float, x0: float, x1: float) -> None:
        self.rect(x0, y, x1, y + 0.025, (128, 128, 130))
        self.rect(x0, y + 0.04, x1, y + 0.052, (106, 106, 110))

    def texture(self) -> Image.Image:
        """Return the picture of the backdrop with grain of two sizes and darker corners."""
        image = np.asarray(self.image, np.float32)
        h, w = image.shape[:2]
        coarse = self.rng.normal(0, 1, (max(2, h // 24 + 2), max(2, w // 24 + 2))).astype(np.float32)
        cloud = np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC))
        grain = self.rng.normal(0, 1, (h, w)).astype(np.float32)
        return Image.fromarray(np.clip(image + (cloud * 4 + grain * 1.6)[..., None], 0, 255).astype(np.uint8))


def _free_spots(layout: Layout, x0: float, x1: float) -> list[float]:
    """Return the left edges of those pieces of the wall from x0 to x1, each 0.14 wide, that have no door."""
    spots = np.arange(x0 + 0.03, x1 - 0.15, 0.16)
    return [float(x) for x in spots if all(abs(x + 0.07 - door.x) > 0.16 for door in layout.doors)]


def _gate(b: Backdrop) -> None:
    b.rect(0, 0, 1, 0.24, (176, 184, 190))
    b.floor(0, 1, 1)
    b.rect(0, 0.12, 1, b.line_y, b.wall)
    b.bricks(0, 1, 0.12)
    b.rect(0, 0.1, 1, 0.13, _shade(b.wall, 0.75))
    for x in _free_spots(b.layout, 0, 1):
        if b.rng.random() < 0.5:
            b.fence(x, x + 0.14, 0.2)
    b.lamp(float(b.rng.uniform(0.28, 0.38)))


def _yard(b: Backdrop) -> None:
    b.rect(0, 0, 1, 0.2, (182, 190, 194))
    b.floor(0, 1, 1 if b.rng.random() < 0.4 else 3)
    b.rect(0, 0.08, 1, b.line_y, b.wall)
    spots = _free_spots(b.layout, 0, 1)
    for x in spots:
        if b.rng.random() < 0.55:
            b.window(x, 0.2, 0.11, 0.16)
    if spots and b.rng.random() < 0.6:
        b.tree(spots[-1] + 0.07)


def _corridor(b: Backdrop) -> None:
    b.floor(0, 1, 0)
    b.rect(0, 0, 1, 0.07, _shade(b.wall, 1.15))
    b.pipes(0.08, 0, 1)
    b.rect(0, b.line_y - 0.12, 1, b.line_y, _shade(b.wall, 0.86))
    b.rect(0, b.line_y - 0.02, 1, b.line_y, _shade(b.wall, 0.6))
    for x in _free_spots(b.layout, 0, 1):
        if b.rng.random() < 0.4:
            b.poster(x + 0.03, 0.2)
    for x in (0.2, 0.7):
        b.rect(x, 0.02, x + 0.14, 0.045, (236, 236, 226))


def _store(b: Backdrop) -> None:
    b.floor(0, 1, 2 if b.rng.random() < 0.5 else 0)
    for x in _free_spots(b.layout, 0, 1):
        if b.rng.random() < 0.65:
            b.shelves(x, x + 0.13)
    b.rect(0, 0, 1, 0.06, _shade(b.wall, 0.8))


def _zone(b: Backdrop, name: str, x0: float, x1: float) -> None:
    """Paint one room of the robot's building, from x0 to x1, with its own wall, floor and furniture."""
    b.wall, b.ground = {
        "hall": (b.wall, b.ground), "kitchen": ((196, 196, 190), (150, 146, 140)),
        "office": ((150, 154, 166), (92, 94, 104)), "garage": ((128, 116, 108), (84, 84, 86)),
        "garden": ((168, 180, 186), (110, 114, 96)), "library": ((140, 126, 108), (112, 96, 82)),
    }[name]  # fmt: skip
    b.rect(x0, 0, x1, 1, b.wall)
    b.floor(x0, x1, {"hall": 0, "kitchen": 0, "office": 3, "garage": 1, "garden": 3, "library": 2}[name])
    if name == "garage":
        b.bricks(x0, x1, 0.0)
    if name == "garden":
        b.fence(x0, x1, b.line_y - 0.2)
    if name == "kitchen":
        for k in range(int((x1 - x0) * 16)):
            b.line(x0 + k / 16, 0, x0 + k / 16, b.line_y, (172, 172, 166), 0.003)
        for k in range(6):
            b.line(x0, b.line_y * k / 6, x1, b.line_y * k / 6, (172, 172, 166), 0.003)
    for x in _free_spots(b.layout, x0, x1):
        _furnish(b, name, x)
    b.rect(x0, 0, x0 + 0.02, b.line_y, (80, 78, 76))  # a post between two rooms


def _furnish(b: Backdrop, name: str, x: float) -> None:
    if name == "library":
        b.shelves(x, x + 0.15)
    elif name == "kitchen":
        b.counter(x, x + 0.15)
    elif name == "garden":
        if b.rng.random() < 0.6:
            b.tree(x + 0.07)
    elif name == "office":
        b.window(x, 0.14, 0.12, 0.2)
    elif name == "garage":
        b.pipes(0.1, x, x + 0.16)
    elif b.rng.random() < 0.6:
        b.poster(x + 0.03, 0.2)


def _extras(b: Backdrop) -> None:
    """Paint one of several sets of fixtures. Set 3, an arcade of arches, is used only in evaluation."""
    spots = _free_spots(b.layout, 0, b.layout.width)
    for x in spots:
        if b.layout.variant == 1 and b.rng.random() < 0.2:
            b.lamp(x + 0.07)
        elif b.layout.variant == 2 and b.rng.random() < 0.25:
            b.rect(x + 0.02, b.line_y - 0.07, x + 0.12, b.line_y + 0.03, (112, 106, 98))
        elif b.layout.variant == 3 and b.rng.random() < 0.5:
            b.oval(x, 0.16, x + 0.12, 0.36, _shade(b.wall, 0.72))
            b.rect(x, 0.26, x + 0.12, b.line_y, _shade(b.wall, 0.72))


@lru_cache(maxsize=4)
def backdrop(layout: Layout, width: int, height: int) -> Image.Image:
    """Return the backdrop in daylight, `height` pixels high and layout.width frames of `width` pixels wide."""
    finer = 2 if height <= 400 else 1
    b = Backdrop(layout, width * finer, height * finer)
    if layout.name == "robot":
        walls = b.wall, b.ground
        for name, x0, x1 in layout.zones:
            b.wall, b.ground = walls
            _zone(b, name, x0, x1)
        b.wall, b.ground = walls
    else:
        {"gate": _gate, "yard": _yard, "corridor": _corridor, "store": _store}[layout.name](b)
    if layout.name != "robot":
        _extras(b)
    textured = b.texture()
    return textured.reduce(finer) if finer > 1 else textured
