"""A scene made from a seed: where everything is at any time, what the camera can see of it, and a log of what happened.

Pure: the same seed and arguments give the same scene, no clock is read and nothing is drawn. The picture and the true
answers are both made from `Scene.placements`, so they always agree.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from model.world.plan import CameraPath, plan
from model.world.things import (
    COLOURS,
    KINDS,
    PLACES,
    VISIBLE_FRACTION,
    Actor,
    Box,
    DoorFixture,
    Event,
    Layout,
    Placement,
    Pose,
    Split,
    Style,
    Visible,
    size_of,
)

SALTS = {"train": 0x7EA1, "eval": 0xE7A1}
METRES_PER_FRAME = 6.0
MIN_EVENT_S = 3.0  # a thing visible for less is not in the log
DOOR_SWING_S = 0.8
POST = 0.06  # half width of the post between two rooms, in frames, within which the room is unclear
STEP_S = 0.25  # the log's resolution of when a thing becomes visible and invisible


@dataclass(frozen=True, eq=False)
class Scene:
    """A world with its visitors and its camera, made from a seed by `from_seed`. Says what is where at any time."""

    seed: int
    split: Split
    style: Style
    duration_s: float
    layout: Layout
    camera: CameraPath
    actors: tuple[Actor, ...]
    light_knots: tuple[tuple[float, float], ...]  # (time, daylight 0 night .. 0.5 dusk .. 1 day)

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """The log: what happened, in time order. Computed at first use, as drawing does not need it."""
        return tuple(_log(self))

    @classmethod
    def from_seed(
        cls,
        seed: int,
        *,
        duration_s: float,
        style: Style | None = None,
        split: Split = "train",
        density: float = 1.0,
    ) -> "Scene":
        """Return the scene of this seed. style None: three in four scenes have a fixed camera, the others a robot's.

        split "train" and "eval" use different random numbers. Raises ValueError for a duration under 20 s.
        """
        if duration_s < 20:
            raise ValueError("a scene lasts at least 20 s")
        rng = np.random.default_rng([SALTS[split], seed])
        drawn: Style = "robot" if rng.random() < 0.25 else "fixed"
        style = style or drawn
        light = _plan_light(rng, duration_s)
        made = plan(rng, duration_s, style, split, density)
        return cls(seed, split, style, duration_s, made.layout, made.camera, tuple(made.actors), light)

    def daylight_at(self, t: float) -> float:
        """Return the daylight at time t: 0 is night, 0.5 dusk, 1 day."""
        times, levels = zip(*self.light_knots, strict=True)
        return float(np.interp(t, times, levels))

    def pose_at(self, t: float) -> Pose:
        """Return where the camera is and looks at time t. A fixed one stays at 0, 0."""
        if self.style == "fixed":
            return Pose(0.0, 0.0, 0.0)
        x = self.camera.x_at(t)
        moving = self.camera.x_at(t + 0.2) - self.camera.x_at(t - 0.2)
        return Pose(round((x + 0.5) * METRES_PER_FRAME, 2), 2.0, 90.0 + (10.0 * float(np.sign(moving))))

    def zone_at(self, t: float) -> str | None:
        """Return the room in the middle of the robot's view; None for a fixed camera."""
        middle = self.camera.x_at(t) + 0.5
        return next((name for name, a, b in self.layout.zones if a <= middle < b), None)

    def room_of(self, t: float, box: Box) -> str | None:
        """Return the room of a thing with this box at time t; None near the post between two rooms, or without rooms."""
        x = self.camera.x_at(t) + (box[0] + box[2]) / 2
        return next((name for name, a, b in self.layout.zones if a + POST < x < b - POST), None)

    def metadata_at(self, t: float) -> dict[str, Any]:
        """Return what a robot sends with its picture: pose in metres and degrees, and the room."""
        if self.style == "fixed":
            return {}
        pose = self.pose_at(t)
        return {"x": pose.x, "y": pose.y, "heading": pose.heading, "zone": self.zone_at(t)}

    def may_show(self, times: np.ndarray) -> np.ndarray:
        """Return whether something may be in view at each of n times, (n,) bool; False only if nothing can be.

        False means that there is no visitor and no open door anywhere in the world.
        """
        about = np.zeros(len(times), bool)
        stays = [(actor.times[0], actor.times[-1]) for actor in self.actors]
        stays += [opening for door in self.layout.doors for opening in door.openings]
        for first, last in stays:
            about |= (times >= first) & (times <= last)
        return about

    def placements(self, t: float) -> list[Placement]:
        """Return everything in or near the frame at t, in painting order: doors, then visitors from back to front."""
        camera_x = self.camera.x_at(t)
        placed = [_place_door(door, camera_x, t) for door in self.layout.doors]
        active = [actor for actor in self.actors if actor.times[0] <= t <= actor.times[-1]]
        active.sort(key=lambda actor: (actor.foot_ys[0], actor.number))
        placed += [self._place_actor(actor, camera_x, t) for actor in active]
        return [p for p in placed if p.box[0] < 1 and p.box[2] > 0]

    def visible_at(self, t: float, min_fraction: float = VISIBLE_FRACTION) -> list[Visible]:
        """Return the things visible at t, from back to front. Closed doors are included, with action "closed".

        min_fraction: least part of a thing's box that must be in the frame and not covered.
        """
        placed = self.placements(t)
        found = []
        for i, p in enumerate(placed):
            fraction = _uncovered(p.box, [q.box for q in placed[i + 1 :]])
            if fraction >= min_fraction:
                found.append(Visible(p.kind, p.colour, _clip(p.box), p.actor, p.action, fraction))
        return found

    def _place_actor(self, actor: Actor, camera_x: float, t: float) -> Placement:
        x = float(np.interp(t, actor.times, actor.xs))
        foot_y = actor.foot_ys[0]
        width, height = size_of(actor.kind, actor.scale)
        before, after = (float(np.interp(t + d, actor.times, actor.xs)) for d in (-0.2, 0.2))
        action = actor.action
        if any(a <= t < b for a, b, _ in actor.carried):
            toward = 1 if after > before else -1
            x, foot_y, action = x + 0.065 * toward, foot_y - 0.06, "carried"
        speed = abs(after - before)
        way = float(np.interp(t, actor.times, np.concatenate([[0], np.cumsum(np.abs(np.diff(actor.xs)))])))
        box = (x - camera_x - width / 2, foot_y - height, x - camera_x + width / 2, foot_y)
        facing_left = after < before if speed > 1e-6 else bool(actor.look % 2)
        phase = (way / (width * 0.9)) % 1.0 if speed > 1e-6 or actor.kind == "ball" else 0.0
        return Placement(
            actor.kind, actor.colour, box, actor.number, action, actor.look, facing_left, phase, 0.0, actor.cart
        )


def _plan_light(rng: np.random.Generator, duration_s: float) -> tuple[tuple[float, float], ...]:
    """Return (time, daylight) points: roughly constant in short scenes; day, dusk and night in long ones."""
    hour = float(rng.choice([1.0, 0.5, 0.0], p=[0.5, 0.25, 0.25]))
    if duration_s <= 1500:
        low, high = np.clip(hour + rng.uniform(-0.1, 0.1, 2), 0, 1)
        return ((0.0, float(low)), (duration_s, float(high)))
    start = float(rng.uniform(0, 1))
    times = np.linspace(0, duration_s, 33)
    levels = np.clip(0.5 + 0.9 * np.sin(2 * np.pi * (start + times / max(duration_s, 7000.0))) + 0.15, 0, 1)
    return tuple((float(t), float(level)) for t, level in zip(times, levels, strict=True))


def _place_door(door: DoorFixture, camera_x: float, t: float) -> Placement:
    width, height = size_of("door", door.scale)
    opening = 0.0
    for start, end in door.openings:
        opening = max(opening, min((t - start) / DOOR_SWING_S, (end - t) / DOOR_SWING_S, 1.0))
    x = door.x - camera_x
    box = (x - width / 2, door.foot_y - height, x + width / 2, door.foot_y)
    action = "open" if opening >= 0.5 else "closed"
    return Placement("door", door.colour, box, door.number, action, 0, opening=opening)


def _clip(box: Box) -> Box:
    x0, y0, x1, y1 = (min(max(v, 0.0), 1.0) for v in box)
    return x0, y0, x1, y1


def _uncovered(box: Box, nearer: list[Box]) -> float:
    """Return the share of `box` that is in the frame and not covered by nearer boxes, measured at 12 x 12 points."""
    x0, y0, x1, y1 = box
    if not nearer and x0 >= 0 and x1 <= 1:
        return 1.0
    xs = x0 + (x1 - x0) * (np.arange(12) + 0.5) / 12
    ys = y0 + (y1 - y0) * (np.arange(12) + 0.5) / 12
    free = ((xs >= 0) & (xs <= 1))[None, :] & ((ys >= 0) & (ys <= 1))[:, None]
    for a0, b0, a1, b1 in nearer:
        free &= ~(((xs >= a0) & (xs <= a1))[None, :] & ((ys >= b0) & (ys <= b1))[:, None])
    return float(free.mean())


def _log(scene: Scene) -> list[Event]:
    """Return one event for each visit and each door opening that was visible for at least MIN_EVENT_S in all."""
    events = []
    for actor in scene.actors:
        seen = _sightings(scene, actor.number, actor.times[0], actor.times[-1])
        if len(seen) * STEP_S >= MIN_EVENT_S:
            events.append(_visit_event(scene, actor, seen))
    for door in scene.layout.doors:
        for start, end in door.openings:
            seen = [(t, v) for t, v in _sightings(scene, door.number, start, end) if v.action == "open"]
            if len(seen) * STEP_S >= MIN_EVENT_S:
                place = _place_of(seen[len(seen) // 2][1].box)
                still = scene.style == "fixed"
                events.append(
                    Event("door", door.colour, "open", seen[0][0], seen[-1][0], door.number, place, still, door.zone)
                )
    return sorted(events, key=lambda event: (event.start_s, event.actor))


def _sightings(scene: Scene, number: int, start_s: float, end_s: float) -> list[tuple[float, Visible]]:
    found = []
    for step in range(int(np.ceil(max(start_s, 0) / STEP_S)), int(min(end_s, scene.duration_s) / STEP_S) + 1):
        t = step * STEP_S
        found += [(t, v) for v in scene.visible_at(t) if v.actor == number]
    return found


def _place_of(box: Box) -> str:
    return PLACES[min(2, int((box[0] + box[2]) / 2 * 3))]


def _visit_event(scene: Scene, actor: Actor, seen: list[tuple[float, Visible]]) -> Event:
    places = [_place_of(v.box) for _, v in seen]
    most = max(PLACES, key=places.count)
    stopped = actor.action in ("stopping", "left", "meeting", "leaving") and places.count(most) > 0.55 * len(places)
    gone = taken = None
    if actor.owner is not None:
        owner = scene.actors[actor.owner]
        gone, taken = owner.times[-1], actor.carried[-1][0]
    rooms = [scene.room_of(t, v.box) for t, v in seen]
    zone = max(set(rooms), key=rooms.count)
    return Event(
        actor.kind, actor.colour, actor.action, seen[0][0], seen[-1][0], actor.number, most,
        stopped and scene.style == "fixed", zone, gone, taken,
    )  # fmt: skip


def patch_labels(scene: Scene, t: float, side: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return (kind, colour) of each patch of a side x side grid, as int8 indices into KINDS and COLOURS.

    Background is -1. A patch belongs to the nearest thing whose box covers 35 % of it. The patch at the centre of a
    thing always belongs to it.
    """
    kinds = np.full((side, side), -1, np.int8)
    colours = np.full((side, side), -1, np.int8)
    edges = np.arange(side + 1) / side
    for v in scene.visible_at(t, min_fraction=0.25):
        x0, y0, x1, y1 = v.box
        across = np.clip(np.minimum(edges[1:], x1) - np.maximum(edges[:-1], x0), 0, None) * side
        down = np.clip(np.minimum(edges[1:], y1) - np.maximum(edges[:-1], y0), 0, None) * side
        mine = np.outer(down, across) >= 0.35
        mine[min(side - 1, int((y0 + y1) / 2 * side)), min(side - 1, int((x0 + x1) / 2 * side))] = True
        kinds[mine] = KINDS.index(v.kind)
        colours[mine] = COLOURS.index(v.colour)
    return kinds, colours
