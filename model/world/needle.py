"""A needle for a haystack: one more visitor in a drawn scene, of a kind and colour that nobody else in it has.

In: a scene of a fixed camera, who, when. Out: the scene with that one more visit; the rest of it is as it was. Frames in
which the visitor is not about are therefore those of the scene without it.
"""

from dataclasses import dataclass, replace

import numpy as np

from model.world.plan import MOVERS
from model.world.scene import Scene
from model.world.things import COLOURS, THINGS, VISIBLE_FRACTION, Actor, depth_scale, size_of

MIN_S, MAX_S = 6.5, 9.0  # a crossing
MIN_CLEAR = 3  # frames in which it must be seen well, one a second


@dataclass(frozen=True)
class Visitor:
    """scene with the visitor in it; rows: frames (seconds) in which anything of it is in the picture; clear: seen well."""

    scene: Scene
    kind: str
    colour: str
    rows: tuple[int, ...]
    clear: tuple[int, ...]


def absent(scene: Scene) -> list[tuple[str, str]]:
    """(kind, colour) of everything that could come and does not."""
    here = {(actor.kind, actor.colour) for actor in scene.actors}
    return [(kind, colour) for kind in MOVERS for colour in COLOURS if (kind, colour) not in here]


def add_visitor(scene: Scene, kind: str, colour: str, start_s: float, rng: np.random.Generator) -> Visitor | None:
    """Let one cross the picture from `start_s` on. None if others hide it too much.

    Raises ValueError for a robot's scene.
    """
    if scene.style != "fixed":
        raise ValueError("visitors are added to scenes of a fixed camera only")
    foot_y = float(rng.uniform(0.70, 0.95))
    scale = depth_scale(foot_y)
    reach = size_of(kind, scale)[0] / 2 + 0.03
    ends = (-reach, 1 + reach)[:: 1 if rng.random() < 0.5 else -1]
    times = (start_s, start_s + float(rng.uniform(MIN_S, MAX_S)))
    number, look = len(scene.actors), int(rng.integers(2**31))
    cart = kind in THINGS and kind != "ball"
    actor = Actor(number, kind, colour, times, ends, (foot_y, foot_y), scale, look, "crossing", cart)
    with_it = replace(scene, actors=(*scene.actors, actor))
    seconds = range(int(np.ceil(times[0])), int(times[1]) + 1)
    rows = tuple(t for t in seconds if any(p.actor == number for p in with_it.placements(float(t))))
    clear = tuple(t for t in rows if _fraction(with_it, number, float(t)) >= VISIBLE_FRACTION)
    return Visitor(with_it, kind, colour, rows, clear) if len(clear) >= MIN_CLEAR else None


def _fraction(scene: Scene, number: int, t: float) -> float:
    return max((v.fraction for v in scene.visible_at(t, min_fraction=0.01) if v.actor == number), default=0.0)
