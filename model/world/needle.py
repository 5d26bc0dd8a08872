"""Add one more visitor to a drawn scene, of a kind and colour that no other visitor has, as a needle in a haystack.

Input: a scene with a fixed camera, what comes, and when. Output: the scene with that visit, otherwise unchanged. So
frames without the visitor are identical to those of the original scene.
"""

from dataclasses import dataclass, replace

import numpy as np

from model.world.plan import MOVERS
from model.world.scene import Scene
from model.world.things import COLOURS, THINGS, VISIBLE_FRACTION, Actor, depth_scale, size_of

MIN_S, MAX_S = 6.5, 9.0  # duration of a crossing
MIN_CLEAR = 3  # frames (one a second) in which the visitor must be clearly visible
WAY_S = 4.0  # a visitor that stays: duration of its way to its place, and of its way out


@dataclass(frozen=True)
class Visitor:
    """A scene with one added visitor, to be searched for.

    rows: frames (seconds of the scene) in which any part of it is in the picture; clear: those in which it is clearly
    visible.
    """

    scene: Scene
    kind: str
    colour: str
    rows: tuple[int, ...]
    clear: tuple[int, ...]


def absent(scene: Scene) -> list[tuple[str, str]]:
    """Return the (kind, colour) of every visitor that scenes may have but this one does not."""
    here = {(actor.kind, actor.colour) for actor in scene.actors}
    return [(kind, colour) for kind in MOVERS for colour in COLOURS if (kind, colour) not in here]


def add_visitor(
    scene: Scene, kind: str, colour: str, start_s: float, rng: np.random.Generator, *, stay_s: float = 0.0
) -> Visitor | None:
    """Add a visitor that crosses the picture from `start_s` on, or stays near its middle for `stay_s` seconds.

    Returns None if other things cover it too much to be found. With generators in the same state, visitors that stay
    for different times are identical until the first of them leaves. Raises ValueError for a robot's scene.
    """
    if scene.style != "fixed":
        raise ValueError("visitors are added to scenes of a fixed camera only")
    foot_y = float(rng.uniform(0.70, 0.95))
    scale = depth_scale(foot_y)
    reach = size_of(kind, scale)[0] / 2 + 0.03
    ends = (-reach, 1 + reach)[:: 1 if rng.random() < 0.5 else -1]
    times: tuple[float, ...] = (start_s, start_s + float(rng.uniform(MIN_S, MAX_S)))
    xs: tuple[float, ...] = ends
    number, look = len(scene.actors), int(rng.integers(2**31))
    if stay_s:
        place, arrival = float(rng.uniform(0.3, 0.7)), start_s + WAY_S
        times = (start_s, arrival, arrival + stay_s, arrival + stay_s + WAY_S)
        xs = (ends[0], place, place, ends[1])
    cart = kind in THINGS and kind != "ball"
    action = "stopping" if stay_s else "crossing"
    actor = Actor(number, kind, colour, times, xs, (foot_y,) * len(times), scale, look, action, cart)
    with_it = replace(scene, actors=(*scene.actors, actor))
    seconds = range(int(np.ceil(times[0])), int(times[-1]) + 1)
    rows = tuple(t for t in seconds if any(p.actor == number for p in with_it.placements(float(t))))
    clear = tuple(t for t in rows if _fraction(with_it, number, float(t)) >= VISIBLE_FRACTION)
    return Visitor(with_it, kind, colour, rows, clear) if len(clear) >= MIN_CLEAR else None


def _fraction(scene: Scene, number: int, t: float) -> float:
    return max((v.fraction for v in scene.visible_at(t, min_fraction=0.01) if v.actor == number), default=0.0)
