"""Find what a careful viewer of the given frames can tell: what was in view from when to when, and what is unclear.

Input: a scene and the times of its frames. Output: `Seen`. It is derived from what the painter painted, not from the
plan.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from model.world.scene import Scene
from model.world.things import PLACES, VISIBLE_FRACTION, Visible

SAME_VISIT_GAP_S = 6.0  # a thing that returns after a longer time out of sight makes a new visit
MIN_FRAMES = 2  # no questions are asked about things visible in fewer frames


@dataclass(frozen=True)
class Visit:
    """One stay of a thing of some kind and colour in the picture: first and last second, where, in how many frames."""

    kind: str
    colour: str
    first_s: float
    last_s: float
    num_frames: int
    place: str | None  # None: it moved across the picture
    room: str | None

    @property
    def name(self) -> str:
        """Colour and kind: "red car"."""
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Seen:
    """What a viewer can see in the frames of one window: the visits of things, and which of them are unclear."""

    scene: Scene
    times: np.ndarray
    visits: tuple[Visit, ...]
    unsure: frozenset[tuple[str, str]]  # (kind, colour) not visible clearly enough for a question

    def of(self, kind: str | None, colour: str | None) -> list[Visit]:
        """Return the visits of this kind and colour (None: any), in time order."""
        return [v for v in self.visits if kind in (None, v.kind) and colour in (None, v.colour)]

    def is_sure(self, kind: str | None, colour: str | None) -> bool:
        """Return whether a viewer can be sure about all things of this kind and colour (None: any)."""
        return not any(kind in (None, k) and colour in (None, c) for k, c in self.unsure)


def look(scene: Scene, frame_times: np.ndarray) -> Seen:
    """Go through the given frames of a scene once and return what a careful viewer sees in them."""
    sightings: dict[tuple[str, str], list[tuple[float, Visible]]] = defaultdict(list)
    glimpses: dict[tuple[str, str], list[float]] = defaultdict(list)
    for t in frame_times[scene.may_show(frame_times)].tolist():
        for visible in scene.visible_at(t, min_fraction=0.25):
            if visible.action == "closed":
                continue
            pair = (visible.kind, visible.colour)
            if visible.fraction >= VISIBLE_FRACTION:
                sightings[pair].append((t, visible))
            else:
                glimpses[pair].append(t)
    visits, unsure = [], set()
    for pair, rows in sightings.items():
        stays = list(_stays(rows))
        visits += [_visit(scene, pair, stay) for stay in stays]
        if any(len({t for t, _ in stay}) < MIN_FRAMES for stay in stays) or _is_one_twice(pair, stays):
            unsure.add(pair)
    for pair, times in glimpses.items():
        near = [
            (v.first_s - SAME_VISIT_GAP_S, v.last_s + SAME_VISIT_GAP_S) for v in visits if (v.kind, v.colour) == pair
        ]
        if any(not any(first <= t <= last for first, last in near) for t in times):
            unsure.add(pair)
    visits.sort(key=lambda visit: (visit.first_s, visit.name))
    return Seen(scene, frame_times, tuple(visits), frozenset(unsure))


def _stays(rows: list[tuple[float, Visible]]) -> Iterator[list[tuple[float, Visible]]]:
    stay = [rows[0]]
    for before, row in pairwise(rows):
        if row[0] - before[0] > SAME_VISIT_GAP_S:
            yield stay
            stay = []
        stay.append(row)
    yield stay


def _is_one_twice(pair: tuple[str, str], stays: list[list[tuple[float, Visible]]]) -> bool:
    """Return whether visits of one kind and colour cannot be counted by a viewer.

    They cannot if one thing came back after a long absence, or if two of a kind were present at once.
    """
    if pair[0] == "door":
        return False
    actors = [{v.actor for _, v in stay} for stay in stays]
    return any(len(each) > 1 for each in actors) or len(set().union(*actors)) < len(stays)


def _visit(scene: Scene, pair: tuple[str, str], stay: list[tuple[float, Visible]]) -> Visit:
    places = Counter(PLACES[min(2, int((v.box[0] + v.box[2]) / 2 * 3))] for _, v in stay)
    rooms = Counter(scene.room_of(t, v.box) for t, v in stay)
    place, room = places.most_common(1)[0], rooms.most_common(1)[0]
    num_frames = len({t for t, _ in stay})
    return Visit(
        *pair,
        stay[0][0],
        stay[-1][0],
        num_frames,
        place[0] if place[1] >= 0.7 * len(stay) else None,
        room[0] if room[1] >= 0.8 * len(stay) else None,
    )
