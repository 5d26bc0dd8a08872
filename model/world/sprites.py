"""Define the look of each kind of thing as vector shapes in a unit square, and render it as an RGBA sprite.

A shape is (form, points, colour, width): "poly" and "line" have points in 0..1 (x right, y down), "ellipse" and "ring"
have two corners. In the functions named after kinds, c is the colour, look a seed for the individual's details, phase
the position in a walk or roll, 0..1. Knows no positions and no scene.
"""

import colorsys

import numpy as np
from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
Shape = tuple[str, tuple[tuple[float, float], ...], Rgb, float]

RGB: dict[str, Rgb] = {
    "red": (212, 32, 36),
    "orange": (244, 132, 20),
    "yellow": (246, 218, 40),
    "green": (40, 158, 62),
    "blue": (36, 82, 210),
    "purple": (122, 44, 160),
    "pink": (248, 128, 186),
    "white": (240, 240, 240),
}
DARK: Rgb = (34, 34, 40)
GLASS: Rgb = (150, 182, 200)
METAL: Rgb = (120, 122, 128)
SKINS: tuple[Rgb, ...] = ((236, 188, 154), (198, 144, 106), (141, 94, 64), (96, 64, 46))
SUPERSAMPLING = 3
NUM_PHASES = 6


def body_colour(name: str, look: int) -> Rgb:
    """Return the named colour, slightly varied for each individual by the seed `look`."""
    rng = np.random.default_rng(look)
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in RGB[name]))
    h = (h + rng.uniform(-0.012, 0.012)) % 1
    s = min(1.0, s * rng.uniform(0.88, 1.08))
    v = min(1.0, v * rng.uniform(0.9, 1.06))
    r, g, b = colorsys.hsv_to_rgb(h, s, v)
    return int(r * 255), int(g * 255), int(b * 255)


def _mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    r, g, bl = (int(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return r, g, bl


def _dark(c: Rgb, share: float = 0.35) -> Rgb:
    return _mix(c, (10, 10, 16), share)


def _light(c: Rgb, share: float = 0.35) -> Rgb:
    return _mix(c, (255, 255, 255), share)


def _poly(colour: Rgb, *points: tuple[float, float]) -> Shape:
    return "poly", points, colour, 0.0


def _rect(colour: Rgb, x0: float, y0: float, x1: float, y1: float) -> Shape:
    return "poly", ((x0, y0), (x1, y0), (x1, y1), (x0, y1)), colour, 0.0


def _oval(colour: Rgb, x0: float, y0: float, x1: float, y1: float) -> Shape:
    return "ellipse", ((x0, y0), (x1, y1)), colour, 0.0


def _ring(colour: Rgb, x0: float, y0: float, x1: float, y1: float, width: float) -> Shape:
    return "ring", ((x0, y0), (x1, y1)), colour, width


def _line(colour: Rgb, width: float, *points: tuple[float, float]) -> Shape:
    return "line", points, colour, width


def person(c: Rgb, look: int, phase: float) -> list[Shape]:
    """Return the shapes of a person: coloured top, dark trousers, arms and legs that swing."""
    skin = SKINS[look % len(SKINS)]
    hair = ((30, 24, 22), (92, 58, 30), (70, 70, 74))[look // 7 % 3]
    trousers = ((44, 46, 58), (62, 56, 50), (36, 36, 38))[look // 31 % 3]
    swing = 0.2 * float(np.sin(2 * np.pi * phase))
    return [
        _line(_dark(c, 0.25), 0.065, (0.24, 0.24), (0.13 - swing, 0.40), (0.16 - swing * 1.5, 0.53)),
        _poly(_dark(trousers, 0.3), (0.5, 0.54), (0.74, 0.54), (0.68 - swing, 0.97), (0.5 - swing, 0.97)),
        _poly(trousers, (0.27, 0.54), (0.54, 0.54), (0.52 + swing, 0.97), (0.34 + swing, 0.97)),
        _poly(DARK, (0.34 + swing, 0.95), (0.58 + swing, 0.95), (0.6 + swing, 1.0), (0.34 + swing, 1.0)),
        _poly(DARK, (0.5 - swing, 0.95), (0.74 - swing, 0.95), (0.76 - swing, 1.0), (0.5 - swing, 1.0)),
        _poly(c, (0.2, 0.22), (0.36, 0.18), (0.64, 0.18), (0.8, 0.22), (0.78, 0.57), (0.24, 0.57)),
        _poly(_light(c, 0.2), (0.56, 0.19), (0.64, 0.18), (0.8, 0.22), (0.78, 0.57), (0.62, 0.57)),
        _line(_light(c, 0.12), 0.065, (0.76, 0.24), (0.85 + swing, 0.40), (0.84 + swing * 1.5, 0.50)),
        _oval(skin, 0.78 + swing * 1.5, 0.49, 0.92 + swing * 1.5, 0.55),
        _rect(skin, 0.42, 0.13, 0.58, 0.20),
        _oval(skin, 0.31, 0.01, 0.70, 0.175),
        _poly(hair, (0.30, 0.08), (0.34, 0.02), (0.5, 0.0), (0.64, 0.015), (0.70, 0.055), (0.45, 0.06), (0.38, 0.12)),
    ]


def _wheel(x: float, y: float, radius_y: float, aspect: float, phase: float) -> list[Shape]:
    radius_x = radius_y / aspect
    spoke = 2 * np.pi * phase
    dx, dy = float(np.cos(spoke)) * radius_x * 0.5, float(np.sin(spoke)) * radius_y * 0.5
    return [
        _oval((22, 22, 24), x - radius_x, y - radius_y, x + radius_x, y + radius_y),
        _oval((168, 170, 174), x - radius_x * 0.52, y - radius_y * 0.52, x + radius_x * 0.52, y + radius_y * 0.52),
        _line((60, 60, 64), 0.02, (x - dx, y - dy), (x + dx, y + dy)),
    ]


def car(c: Rgb, look: int, phase: float) -> list[Shape]:
    """Return the shapes of a low saloon car, with a rounded glass cabin and two wheels."""
    body = (
        (0.0, 0.78), (0.005, 0.52), (0.05, 0.44), (0.2, 0.4), (0.32, 0.1), (0.40, 0.03), (0.62, 0.03),
        (0.70, 0.09), (0.82, 0.41), (0.95, 0.48), (0.995, 0.6), (1.0, 0.78), (0.95, 0.86), (0.04, 0.86),
    )  # fmt: skip
    return [
        _poly(c, *body),
        _poly(_light(c, 0.18), (0.02, 0.5), (0.06, 0.43), (0.82, 0.41), (0.95, 0.48), (0.99, 0.56), (0.01, 0.56)),
        _poly(_dark(c, 0.3), (0.0, 0.72), (1.0, 0.72), (0.96, 0.86), (0.04, 0.86)),
        _poly(GLASS, (0.25, 0.4), (0.35, 0.12), (0.49, 0.1), (0.49, 0.4)),
        _poly(_light(GLASS, 0.25), (0.53, 0.1), (0.63, 0.11), (0.75, 0.4), (0.53, 0.4)),
        _line(_dark(c, 0.3), 0.015, (0.51, 0.42), (0.51, 0.76)),
        _rect((250, 240, 180), 0.95, 0.53, 0.995, 0.62),
        _rect((190, 30, 30), 0.003, 0.53, 0.03, 0.63),
        *_wheel(0.21, 0.81, 0.185, 2.1, phase),
        *_wheel(0.79, 0.81, 0.185, 2.1, phase),
    ]


def truck(c: Rgb, look: int, phase: float) -> list[Shape]:
    """Return the shapes of a truck: a tall cargo body, a separate cab in front, three wheels."""
    return [
        _rect((52, 52, 56), 0.02, 0.78, 0.98, 0.88),
        _rect(c, 0.0, 0.0, 0.68, 0.8),
        _rect(_light(c, 0.25), 0.0, 0.0, 0.68, 0.06),
        *[_line(_dark(c, 0.22), 0.008, (x, 0.07), (x, 0.79)) for x in (0.17, 0.34, 0.51)],
        _rect(_dark(c, 0.35), 0.0, 0.73, 0.68, 0.8),
        _poly(c, (0.71, 0.22), (0.88, 0.22), (0.96, 0.5), (1.0, 0.55), (1.0, 0.86), (0.71, 0.86)),
        _poly(GLASS, (0.77, 0.28), (0.87, 0.28), (0.93, 0.5), (0.77, 0.5)),
        _rect((250, 240, 180), 0.965, 0.66, 1.0, 0.74),
        _rect(_dark(c, 0.4), 0.71, 0.78, 1.0, 0.86),
        *_wheel(0.13, 0.87, 0.125, 1.7, phase),
        *_wheel(0.30, 0.87, 0.125, 1.7, phase),
        *_wheel(0.84, 0.87, 0.125, 1.7, phase),
    ]


def bicycle(c: Rgb, look: int, phase: float) -> list[Shape]:
    """Return the shapes of a bicycle: two open wheels, a filled frame, handlebar and saddle, but no rider (a person)."""
    rx, ry = 0.235, 0.235 * 1.55
    y = 1.0 - ry
    shapes: list[Shape] = []
    for x in (rx, 1 - rx):
        shapes.append(_ring((30, 30, 32), x - rx, y - ry, x + rx, y + ry, 0.035))
        shapes.append(_ring(c, x - rx * 0.84, y - ry * 0.84, x + rx * 0.84, y + ry * 0.84, 0.04))
        for turn in (0.0, 1 / 6, 1 / 3):
            a = 2 * np.pi * (phase + turn) / 2
            dx, dy = float(np.cos(a)) * rx * 0.7, float(np.sin(a)) * ry * 0.7
            shapes.append(_line((150, 150, 155), 0.008, (x - dx, y - dy), (x + dx, y + dy)))
    pedal, seat, head = (0.46, y), (0.37, 0.22), (0.68, 0.2)
    return [
        *shapes,
        _poly(_dark(c, 0.2), pedal, seat, head),
        _line(c, 0.055, (rx, y), seat, head, pedal, (rx, y)),
        _line(c, 0.055, pedal, seat),
        _line(c, 0.055, (1 - rx, y), (0.66, 0.08)),
        _line(DARK, 0.04, (0.58, 0.04), (0.68, 0.06), (0.74, 0.1)),
        _line(DARK, 0.03, seat, (0.355, 0.12)),
        _poly(DARK, (0.26, 0.06), (0.45, 0.07), (0.44, 0.13), (0.27, 0.14)),
        _oval(METAL, 0.42, y - 0.06, 0.50, y + 0.06),
    ]


def dog(c: Rgb, look: int, phase: float) -> list[Shape]:
    """Return the shapes of a dog: a long body on four short legs, a head with snout and ear, a raised tail."""
    swing = 0.05 * float(np.sin(2 * np.pi * phase))
    back, front = 0.16, 0.56
    legs = [
        _poly(_dark(c, 0.35), (x, 0.6), (x + 0.1, 0.6), (x + 0.09 + s, 1.0), (x + 0.0 + s, 1.0))
        for x, s in ((back + 0.09, -swing), (front + 0.09, swing))
    ] + [
        _poly(_dark(c, 0.08), (x, 0.6), (x + 0.11, 0.6), (x + 0.1 + s, 1.0), (x + s, 1.0))
        for x, s in ((back, swing), (front, -swing))
    ]
    return [
        _line(c, 0.07, (0.17, 0.48), (0.07, 0.34), (0.05, 0.16)),
        *legs,
        _oval(c, 0.1, 0.38, 0.74, 0.74),
        _oval(c, 0.5, 0.32, 0.76, 0.72),
        _poly(c, (0.56, 0.48), (0.62, 0.18), (0.84, 0.3), (0.74, 0.56)),
        _oval(c, 0.6, 0.06, 0.87, 0.42),
        _poly(c, (0.8, 0.18), (0.98, 0.24), (1.0, 0.33), (0.94, 0.39), (0.78, 0.4)),
        _oval((20, 20, 22), 0.945, 0.2, 1.0, 0.3),
        _poly(_dark(c, 0.5), (0.6, 0.1), (0.7, 0.06), (0.72, 0.3), (0.62, 0.42), (0.57, 0.28)),
        _oval((20, 20, 22), 0.79, 0.15, 0.83, 0.22),
        _line((40, 40, 44), 0.035, (0.57, 0.47), (0.75, 0.53)),
        _oval(_light(c, 0.25), 0.2, 0.41, 0.55, 0.5),
    ]


def bag(c: Rgb, look: int, phase: float) -> list[Shape]:
    """Return the shapes of a carrier bag: wide at the bottom, an open handle above, a flap and a buckle."""
    return [
        _ring(_dark(c, 0.45), 0.25, 0.0, 0.75, 0.8, 0.075),
        _poly(c, (0.14, 0.4), (0.86, 0.4), (1.0, 0.92), (0.94, 1.0), (0.06, 1.0), (0.0, 0.92)),
        _poly(_light(c, 0.2), (0.14, 0.4), (0.3, 0.4), (0.2, 1.0), (0.06, 1.0), (0.0, 0.92)),
        _poly(_dark(c, 0.28), (0.13, 0.4), (0.87, 0.4), (0.91, 0.58), (0.5, 0.72), (0.09, 0.58)),
        _rect((230, 210, 130), 0.44, 0.62, 0.56, 0.76),
    ]


def box(c: Rgb, look: int, phase: float) -> list[Shape]:
    """Return the shapes of a cube with a lit top, a shaded side and a strip of tape."""
    return [
        _rect(c, 0.0, 0.28, 0.74, 1.0),
        _poly(_light(c, 0.4), (0.0, 0.28), (0.24, 0.0), (1.0, 0.0), (0.74, 0.28)),
        _poly(_dark(c, 0.4), (0.74, 0.28), (1.0, 0.0), (1.0, 0.72), (0.74, 1.0)),
        _poly((206, 178, 130), (0.3, 0.28), (0.54, 0.0), (0.68, 0.0), (0.44, 0.28)),
        _rect((190, 160, 112), 0.3, 0.28, 0.44, 0.55),
        _line(_dark(c, 0.5), 0.02, (0.0, 0.28), (0.74, 0.28), (0.74, 1.0)),
    ]


def ball(c: Rgb, look: int, phase: float) -> list[Shape]:
    """Return the shapes of a ball: a disc with a highlight, a shaded rim and a turning pale seam."""
    a = 2 * np.pi * phase
    ca, sa = float(np.cos(a)) * 0.46, float(np.sin(a)) * 0.46
    return [
        _oval(_dark(c, 0.35), 0.0, 0.0, 1.0, 1.0),
        _oval(c, 0.01, 0.0, 0.95, 0.93),
        _line(
            _light(c, 0.6) if c[1] < 200 else (90, 90, 90), 0.06, (0.5 - ca, 0.5 - sa), (0.5, 0.5), (0.5 + ca, 0.5 + sa)
        ),
        _line(_dark(c, 0.45), 0.05, (0.5 - sa, 0.5 + ca), (0.5 + sa, 0.5 - ca)),
        _oval(_light(c, 0.7), 0.22, 0.16, 0.42, 0.34),
    ]


def cone(c: Rgb, look: int, phase: float) -> list[Shape]:
    """Return the shapes of a pointed cone on a flat square foot, with two bands round it."""
    band = (245, 245, 245) if min(c) < 150 else (70, 70, 76)
    return [
        _poly(_dark(c, 0.25), (0.0, 0.9), (0.14, 0.82), (0.86, 0.82), (1.0, 0.9), (1.0, 1.0), (0.0, 1.0)),
        _poly(c, (0.44, 0.0), (0.56, 0.0), (0.84, 0.9), (0.16, 0.9)),
        _poly(_light(c, 0.25), (0.44, 0.0), (0.49, 0.0), (0.36, 0.9), (0.16, 0.9)),
        _poly(band, (0.356, 0.27), (0.644, 0.27), (0.69, 0.42), (0.31, 0.42)),
        _poly(band, (0.264, 0.57), (0.736, 0.57), (0.777, 0.7), (0.223, 0.7)),
    ]


def door(c: Rgb, opening: float) -> list[Shape]:
    """Return the shapes of a door. opening: 0 is a closed coloured leaf, 1 a bright room behind the leaf swung aside."""
    frame: Rgb = (92, 88, 84)
    hinge = (
        0.1 + 0.8 * (1 - opening) + 0.36 * opening
    )  # x of the free edge; an open door still shows the colour of its leaf
    drop = 0.07 * opening
    shapes = [_rect(frame, 0.0, 0.0, 1.0, 1.0), _rect((28, 26, 30), 0.1, 0.06, 0.9, 1.0)]
    if opening > 0.1:
        shapes += [
            _poly((236, 214, 150), (0.1, 0.06), (0.9, 0.06), (0.72, 0.2), (0.3, 0.2)),
            _rect((250, 232, 170), 0.3, 0.2, 0.72, 0.86),
            _poly((150, 120, 80), (0.3, 0.86), (0.72, 0.86), (0.9, 1.0), (0.1, 1.0)),
        ]
    shapes += [_poly(c, (0.1, 0.06), (hinge, 0.06 + drop), (hinge, 1.0 + drop * 0.3), (0.1, 1.0))]
    if opening < 0.3:
        shapes += [
            _rect(_dark(c, 0.25), 0.2, 0.14, 0.8 * hinge / 0.9, 0.46),
            _rect(_dark(c, 0.25), 0.2, 0.56, 0.8 * hinge / 0.9, 0.92),
            _oval((236, 224, 160), 0.76, 0.48, 0.86, 0.55),
        ]
    return shapes


def cart(c: Rgb, look: int, phase: float) -> list[Shape]:
    """Return the shapes of the grey platform that things ride on. It is not one of the kinds."""
    return [
        _rect((98, 100, 104), 0.0, 0.0, 1.0, 0.45),
        _oval((30, 30, 32), 0.08, 0.3, 0.3, 1.0),
        _oval((30, 30, 32), 0.7, 0.3, 0.92, 1.0),
    ]


DRAWINGS = {
    "person": person, "car": car, "truck": truck, "bicycle": bicycle, "dog": dog,
    "bag": bag, "box": box, "ball": ball, "cone": cone, "cart": cart,
}  # fmt: skip


def render(shapes: list[Shape], width: int, height: int) -> Image.Image:
    """Paint the shapes as an RGBA picture of width x height pixels with smooth edges."""
    scale = SUPERSAMPLING if height < 200 else 2
    w, h = max(1, width) * scale, max(1, height) * scale
    image = Image.new("RGBA", (w, h), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    for form, points, colour, thick in shapes:
        at = [(x * w, y * h) for x, y in points]
        fill = (*colour, 255)
        if form == "poly":
            pen.polygon(at, fill=fill)
        elif form == "line":
            pen.line(at, fill=fill, width=max(scale, int(thick * max(w, h))), joint="curve")
        elif form == "ellipse":
            pen.ellipse([*at[0], *at[1]], fill=fill)
        else:
            pen.ellipse([*at[0], *at[1]], outline=fill, width=max(scale, int(thick * w)))
    return image.reduce(scale)
