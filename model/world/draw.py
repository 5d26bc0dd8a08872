"""Paint a scene at a given time: the backdrop in the light of the hour, and the sprites of the visitors.

Output: uint8 (height, width, 3) RGB. It paints exactly what `scene.placements(t)` lists. `degrade` adds camera faults
(noise, blur, lens, compression) afterwards.
"""

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from model.world import sprites
from model.world.backdrop import backdrop
from model.world.scene import Scene
from model.world.things import Placement

LIGHT_LEVELS = 40  # the light of the hour has this many levels, so that lit backdrops can be cached
# Gains (r, g, b) at night, dusk and day, for the backdrop and for visitors, which are also lit by lamps.
BACKDROP_LIGHT = np.array([[0.26, 0.30, 0.42], [0.74, 0.62, 0.60], [1.0, 1.0, 1.0]])
ACTOR_LIGHT = np.array([[0.58, 0.60, 0.66], [0.88, 0.79, 0.75], [1.0, 1.0, 1.0]])
MAX_SPRITES = 600


def gains(table: np.ndarray, daylight: float) -> np.ndarray:
    """Return the gains of red, green and blue at `daylight` (0 to 1), (3,), to tint a picture.

    Interpolated between the rows of `table` (3, 3), which are for night, dusk and day.
    """
    return np.array([np.interp(daylight, [0, 0.5, 1], table[:, c]) for c in range(3)])


def _lit(image: Image.Image, gain: np.ndarray) -> Image.Image:
    bands = image.split()
    levels = np.minimum(np.rint(np.arange(256) * np.asarray(gain)[:, None]), 255).astype(int).tolist()
    return Image.merge(
        image.mode, [*(band.point(level) for band, level in zip(bands[:3], levels, strict=True)), *bands[3:]]
    )


class Painter:
    """Paints one scene at one size, at any time. Caches lit backdrops and sprites."""

    def __init__(self, scene: Scene, width: int, height: int):
        self.scene = scene
        self.width, self.height = width, height
        self.daylight_backdrop = backdrop(scene.layout, width, height)
        self.lit_backdrop: tuple[int, Image.Image] | None = None
        self.sprites: dict[tuple[object, ...], Image.Image] = {}

    def paint(self, t: float) -> np.ndarray:
        """Return the picture at time t, uint8 (height, width, 3)."""
        level = round(self.scene.daylight_at(t) * LIGHT_LEVELS)
        x = round(self.scene.camera.x_at(t) * self.width)
        image = self._backdrop(level).crop((x, 0, x + self.width, self.height))
        for placement in self.scene.placements(t):
            self._paint_one(image, placement, level)
        return np.array(image)

    def _backdrop(self, level: int) -> Image.Image:
        if self.lit_backdrop is None or self.lit_backdrop[0] != level:
            gain = gains(BACKDROP_LIGHT, level / LIGHT_LEVELS)
            self.lit_backdrop = (level, _lit(self.daylight_backdrop, gain))
        return self.lit_backdrop[1]

    def _paint_one(self, image: Image.Image, p: Placement, level: int) -> None:
        x0, y0, x1, y1 = p.box
        left, top = round(x0 * self.width), round(y0 * self.height)
        w, h = max(2, round((x1 - x0) * self.width)), max(2, round((y1 - y0) * self.height))
        if p.kind != "door" and p.action != "carried":
            self._shadow(image, left, top + h, w, p.cart)
        if p.cart:
            rise = max(2, round(0.05 * self.height))
            self._paste(image, self._sprite("cart", "white", 0, 0, False, w + 4, rise, level), left - 2, top + h - 1)
        step = round(p.opening * 8) if p.kind == "door" else int(p.phase * sprites.NUM_PHASES)
        self._paste(image, self._sprite(p.kind, p.colour, p.look, step, p.facing_left, w, h, level), left, top)

    def _shadow(self, image: Image.Image, left: int, bottom: int, w: int, cart: bool) -> None:
        drop = round(0.05 * self.height) if cart else 0
        tall = max(2, round(0.03 * self.height))
        key = ("shadow", w, tall)
        if key not in self.sprites:
            self.sprites[key] = sprites.render([("ellipse", ((0, 0), (1, 1)), (0, 0, 0), 0)], w, tall)
            self.sprites[key].putalpha(self.sprites[key].getchannel("A").point([v * 2 // 5 for v in range(256)]))
        self._paste(image, self.sprites[key], left, bottom + drop - tall // 2 - 1)

    def _sprite(
        self, kind: str, colour: str, look: int, step: int, flip: bool, w: int, h: int, level: int
    ) -> Image.Image:
        key = (kind, colour, look, step, flip, w, h, level)
        found = self.sprites.get(key)
        if found is None:
            if len(self.sprites) >= MAX_SPRITES:
                self.sprites.clear()
            rgb = sprites.body_colour(colour, look)
            if kind == "door":
                shapes = sprites.door(rgb, step / 8)
            else:
                shapes = sprites.DRAWINGS[kind](rgb, look, step / sprites.NUM_PHASES)
            found = sprites.render(shapes, w, h)
            if flip:
                found = found.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            found = _lit(found, gains(ACTOR_LIGHT, level / LIGHT_LEVELS))
            self.sprites[key] = found
        return found

    @staticmethod
    def _paste(image: Image.Image, sprite: Image.Image, left: int, top: int) -> None:
        image.paste(sprite, (left, top), sprite)


@lru_cache(maxsize=8)
def painter(scene: Scene, width: int, height: int) -> Painter:
    """Return the painter of a scene at a size. The eight used last are cached."""
    return Painter(scene, width, height)


def draw(scene: Scene, t: float, width: int = 160, height: int = 90) -> np.ndarray:
    """Paint the scene at time t. Return the picture, uint8 (height, width, 3) RGB."""
    return painter(scene, width, height).paint(t)


def degrade(image: np.ndarray, rng: np.random.Generator, noise_rng: np.random.Generator | None = None) -> np.ndarray:
    """Return the picture with the losses of a real camera and a stored JPEG. Shape and type stay the same.

    The same state of `rng` gives the same camera faults. noise_rng makes the noise, so that it can differ from frame to
    frame; None: `rng`.
    """
    return jpeg(camera_faults(image, rng, noise_rng), rng)


def camera_faults(
    image: np.ndarray, rng: np.random.Generator, noise_rng: np.random.Generator | None = None
) -> np.ndarray:
    """Return the picture with the faults that arise before the codec: low resolution, blur, vignette, exposure, noise.

    The same state of `rng` gives the same faults. noise_rng makes the noise, so that it can differ from frame to frame;
    None: `rng`.
    """
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    if rng.random() < 0.15:  # a WebRTC publisher short of bandwidth sends smaller pictures
        smaller = float(rng.uniform(0.45, 0.9))
        reduced = picture.resize((round(width * smaller), round(height * smaller)), Image.Resampling.BILINEAR)
        picture = reduced.resize((width, height), Image.Resampling.BILINEAR)
    if rng.random() < 0.35:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.8)) * height / 96))
    if rng.random() < 0.4:
        picture = ImageChops.multiply(picture, _vignette(width, height, round(float(rng.uniform(0.1, 0.45)), 2)))
    if rng.random() < 0.7:
        gain = rng.uniform(0.88, 1.1, 3) * 0.3 + rng.uniform(0.88, 1.1) * 0.7
        picture = _lit(picture, gain)
    if rng.random() < 0.6:
        strength, bands = np.float32(rng.uniform(1, 7)), 1 if rng.random() < 0.5 else 3
        noise = (noise_rng or rng).standard_normal((height, width, bands), np.float32) * strength
        picture = Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
    return np.array(picture)


def jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compress seven in ten pictures as JPEG with quality 35 to 91 and return the decoded picture."""
    if rng.random() >= 0.7:
        return image
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(rng.integers(35, 92)))
    return np.array(Image.open(buffer).convert("RGB"))


@lru_cache(maxsize=64)
def _vignette(width: int, height: int, strength: float) -> Image.Image:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    shade = 255 * (1 - strength * np.clip((x * x + y * y) / 2, 0, 1))
    return Image.fromarray(shade.astype(np.uint8)).convert("RGB")
