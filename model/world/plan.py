"""Plan a scene with a random generator: which visitors come when, along which way, and what they leave behind.

Input: duration, style (fixed camera or robot), split (train or eval) and density of visits. Output: layout, camera
path, actors (visitors) with their ways, door openings. `scene.py` computes what
the camera then sees, `sprites.py` draws it.
"""

from dataclasses import dataclass, replace

import numpy as np

from model.world.things import (
    COLOURS,
    LAYOUTS,
    THINGS,
    ZONES,
    Actor,
    DoorFixture,
    Layout,
    Split,
    Style,
    depth_scale,
    size_of,
)

NUM_TRAIN_PALETTES = 10
NUM_EVAL_PALETTES = 4
NUM_TRAIN_VARIANTS = 3
ZONE_WIDTH = 1.3  # frames
DRIVE_SPEED = 0.09  # frames per second
MOVERS = ("person", "car", "truck", "bicycle", "dog", "bag", "box", "ball", "cone")
PLACE_X = (0.19, 0.5, 0.81)
APART_S = 12.0  # least time between two visits of the same kind and colour
DOOR_SHARE = 0.08  # share of all visits that are door openings


@dataclass(frozen=True, slots=True)
class CameraPath:
    """Where the camera of a scene looks: left edge `xs` of the frame, in frame widths of the world, at `times`.

    A fixed camera has one point.
    """

    times: tuple[float, ...]
    xs: tuple[float, ...]

    def x_at(self, t: float) -> float:
        """Return the left edge of the frame at time t, interpolated."""
        return float(np.interp(t, self.times, self.xs))


@dataclass(slots=True)
class Plan:
    """A planned scene: backdrop, camera path and visitors with their ways."""

    layout: Layout
    camera: CameraPath
    actors: list[Actor]


def num_visits(duration_s: float, density: float) -> int:
    """Return the number of visits in a scene. At density 1: 4 in 64 s, 15 in 600 s, 70 in 10,000 s.

    There is never more than one in five seconds.
    """
    return max(1, round(min(15 * (duration_s / 600) ** 0.55 * density, duration_s / 5)))


def plan_layout(rng: np.random.Generator, style: Style, split: Split) -> Layout:
    """Return a random backdrop with doors. In the eval split, most have palettes and fixtures never used in training."""
    palette = int(rng.integers(NUM_TRAIN_PALETTES))
    variant = int(rng.integers(NUM_TRAIN_VARIANTS))
    if split == "eval" and rng.random() < 0.6:
        palette = NUM_TRAIN_PALETTES + int(rng.integers(NUM_EVAL_PALETTES))
        variant = NUM_TRAIN_VARIANTS
    wall_line = float(rng.uniform(0.54, 0.62))
    seed = int(rng.integers(2**31))
    if style == "robot":
        zones = tuple(
            (str(name), i * ZONE_WIDTH, (i + 1) * ZONE_WIDTH) for i, name in enumerate(rng.permutation(ZONES))
        )
        layout = Layout("robot", seed, palette, wall_line, ZONE_WIDTH * len(zones), zones, variant)
        spots = [(float(rng.uniform(a + 0.25, b - 0.25)), str(name)) for name, a, b in zones if rng.random() < 0.6]
    else:
        layout = Layout(str(rng.choice(LAYOUTS)), seed, palette, wall_line, variant=variant)
        num_doors = int(rng.integers(1, 3))
        spots = [(float(x), "") for x in rng.permutation([0.17, 0.5, 0.83])[:num_doors]]
    colours = rng.permutation(COLOURS)
    doors = tuple(
        DoorFixture(-1 - i, str(colours[i]), x, wall_line, float(rng.uniform(0.95, 1.1)), zone or None)
        for i, (x, zone) in enumerate(spots)
    )
    return replace(layout, doors=doors)


def plan_camera(rng: np.random.Generator, layout: Layout, duration_s: float) -> CameraPath:
    """Return the camera path of a scene. A robot drives to a random spot, waits, drives on; fixed cameras stay at 0."""
    if layout.name != "robot":
        return CameraPath((0.0,), (0.0,))
    last = layout.width - 1
    t, x = 0.0, float(rng.uniform(0, last))
    times, xs = [t], [x]
    while t < duration_s:
        t += float(rng.uniform(8, 40))
        times.append(t)
        xs.append(x)
        target = float(rng.uniform(0, last))
        t += max(1.0, abs(target - x) / DRIVE_SPEED)
        x = target
        times.append(t)
        xs.append(x)
    return CameraPath(tuple(times), tuple(xs))


def choose_combos(rng: np.random.Generator, count: int, doors: tuple[DoorFixture, ...]) -> list[tuple[str, str]]:
    """Return (kind, colour) of the visitor of each visit: mostly new, often like an earlier one in one of the two."""
    fresh = [(kind, colour) for kind in MOVERS for colour in COLOURS]
    chosen: list[tuple[str, str]] = []
    while len(chosen) < count:
        if doors and rng.random() < DOOR_SHARE:
            chosen.append(("door", doors[int(rng.integers(len(doors)))].colour))
            continue
        near = rng.random()
        pool = fresh
        if chosen and near < 0.7:  # similar to one of the last few, so that no kind or colour dominates the scene
            near_kind, near_colour = chosen[-1 - int(rng.integers(min(3, len(chosen))))]
            like = [c for c in fresh if (c[0] == near_kind if near < 0.35 else c[1] == near_colour)]
            pool = like if len(like) > 0 and sum(c[0] == near_kind for c in chosen) <= 2 + len(chosen) // 5 else fresh
        if not pool:
            fresh = [(kind, colour) for kind in MOVERS for colour in COLOURS]
            continue
        combo = pool[int(rng.integers(len(pool)))]
        fresh.remove(combo)
        times = int(rng.choice([1, 2, 3, 4], p=[0.80, 0.11, 0.06, 0.03]))
        chosen += [combo] * min(times, count - len(chosen))
    rng.shuffle(chosen)
    return [(str(kind), str(colour)) for kind, colour in chosen]


def start_times(rng: np.random.Generator, count: int, duration_s: float) -> list[float]:
    """Return the second at which each of `count` visits starts, rising. About a quarter begin during another visit."""
    latest = max(1.0, duration_s - 12)
    starts = np.sort(rng.uniform(0, latest, count))
    for i in range(1, count):
        if rng.random() < 0.22:
            starts[i] = min(latest, starts[i - 1] + rng.uniform(1, 6))
        elif starts[i] - starts[i - 1] < 16 and rng.random() < 0.8:
            starts[i] = min(latest, starts[i - 1] + rng.uniform(16, 26))
    return [float(t) for t in np.sort(starts)]


class Planner:
    """Plans what the visitors (actors) of one scene do, visit by visit."""

    def __init__(
        self, rng: np.random.Generator, layout: Layout, camera: CameraPath, duration_s: float, density: float = 1.0
    ) -> None:
        self.rng = rng
        self.num_left = 0  # things left behind so far; kept low, as questions need scenes with exactly one
        self.most_left = int(rng.choice([0, 1, 1, 1, 2])) + int(density > 1.5)
        self.layout = layout
        self.camera = camera
        self.duration_s = duration_s
        self.actors: list[Actor] = []
        self.openings: dict[str, list[tuple[float, float]]] = {door.colour: [] for door in layout.doors}
        self.busy: list[tuple[str, str, float, float]] = []  # (kind, colour, from, to) of every visit so far

    def add_visit(self, kind: str, colour: str, start_s: float) -> None:
        """Add a visit of this kind and colour with a suitable action: passing, standing, being left, or a door opening."""
        if kind == "door":
            self._open_door(colour, start_s)
            return
        is_thing, is_left = kind in THINGS, self.num_left < self.most_left and self.rng.random() < 0.5
        if is_thing and self.layout.name == "robot" and not is_left and self._stand(kind, colour, start_s):
            return
        for _ in range(12):
            if is_thing and is_left and self._leave_behind(kind, colour, start_s):
                self.num_left += 1
                return
            if self._pass_by(kind, colour, start_s):
                return
            start_s = float(np.clip(start_s + self.rng.uniform(-25, 25), 0, max(0.0, self.duration_s - 12)))

    def _open_door(self, colour: str, start_s: float) -> None:
        door = next(door for door in self.layout.doors if door.colour == colour)
        end_s = start_s + float(self.rng.uniform(5, 14))
        if self.layout.name == "robot":  # search for a time at which the robot can see the door
            for _ in range(40):
                if -0.05 < door.x - self.camera.x_at((start_s + end_s) / 2) - 0.08 < 0.9:
                    break
                shift = float(self.rng.uniform(0, self.duration_s - 14)) - start_s
                start_s, end_s = start_s + shift, end_s + shift
        taken = self.openings[colour]
        if all(end_s + 8 < a or start_s > b + 8 for a, b in taken):
            taken.append((start_s, end_s))

    def _frame_way(
        self, kind: str, scale: float, start_s: float, stop_x: float | None
    ) -> tuple[list[float], list[float]]:
        """Plan the way of one visit through the frame: in at one side, perhaps a stop, out at either side.

        Returns times and horizontal positions in the frame. stop_x: where the visitor stops, None for no stop.
        """
        rng = self.rng
        reach = size_of(kind, scale)[0] / 2 + 0.03
        side = int(rng.integers(2))
        enter = -reach if side == 0 else 1 + reach
        if stop_x is None:
            leave = 1 + reach if side == 0 else -reach
            return [start_s, start_s + float(rng.uniform(6.5, 13))], [enter, leave]
        leave = -reach if rng.random() < 0.5 else 1 + reach
        speed = float(rng.uniform(0.16, 0.26))
        arrive = start_s + abs(stop_x - enter) / speed
        depart = arrive + float(rng.uniform(3, 9))
        return [start_s, arrive, depart, depart + abs(leave - stop_x) / speed], [enter, stop_x, stop_x, leave]

    def _spot(self) -> float:
        return float(PLACE_X[int(self.rng.integers(3))] + self.rng.uniform(-0.06, 0.06))

    def _pass_by(self, kind: str, colour: str, start_s: float) -> bool:
        rng = self.rng
        foot_y = float(rng.uniform(0.70, 0.95))
        scale = depth_scale(foot_y)
        stop_x = self._spot() if rng.random() < 0.55 else None
        times, xs = self._frame_way(kind, scale, start_s, stop_x)
        offset = self.camera.x_at((times[0] + times[-1]) / 2)
        world = [x + offset for x in xs]
        if any(self._in_frame(kind, scale, x, t) for x, t in ((world[0], times[0]), (world[-1], times[-1]))):
            return False
        if not self._is_free(kind, colour, times[0], times[-1]):
            return False
        action = "crossing" if stop_x is None else "stopping"
        cart = kind in ("bag", "box", "cone")
        number = self._add(kind, colour, times, world, foot_y, action, cart=cart)
        if kind == "person" and stop_x is not None and rng.random() < 0.3:
            self._companion(number, colour, times, world, stop_x, offset, foot_y)
        return True

    def _companion(
        self,
        number: int,
        colour: str,
        times: list[float],
        world: list[float],
        stop_x: float,
        offset: float,
        foot_y: float,
    ) -> None:
        """Add a person of another colour who comes from the other side and meets the person with this number."""
        others = [c for c in COLOURS if c != colour and self._is_free("person", c, times[0], times[-1])]
        reach = size_of("person", depth_scale(foot_y))[0] / 2 + 0.03
        from_left = world[0] - offset > 0.5
        beside = stop_x + (-0.13 if from_left else 0.13)
        enter = -reach if from_left else 1 + reach
        xs = [enter + offset, beside + offset, beside + offset, enter + offset]
        if not others or any(self._in_frame("person", depth_scale(foot_y), xs[0], t) for t in (times[0], times[-1])):
            return
        self.actors[number] = replace(self.actors[number], action="meeting")
        self._add("person", others[int(self.rng.integers(len(others)))], times, xs, foot_y, "meeting")

    def _stand(self, kind: str, colour: str, start_s: float) -> bool:
        """Place the thing where the robot drives past in its building. Return False if there is no such place."""
        for attempt in range(25):
            mid = float(self.rng.uniform(5, self.duration_s - 5)) if attempt else start_s
            x = self.camera.x_at(mid) + float(self.rng.uniform(0.2, 0.8))
            foot_y = float(self.rng.uniform(0.68, 0.95))
            scale = depth_scale(foot_y)
            seen = [t for t in np.arange(mid - 15, mid + 15, 0.5) if self._in_frame(kind, scale, x, float(t))]
            if len(seen) < 10 or seen[0] <= max(mid - 14.5, 0) or seen[-1] >= min(mid + 14, self.duration_s - 1):
                continue
            if not self._is_free(kind, colour, seen[0], seen[-1]):
                continue
            self._add(kind, colour, [seen[0] - 0.6, seen[-1] + 0.6], [x, x], foot_y, "standing")
            return True
        return False

    def _leave_behind(self, kind: str, colour: str, start_s: float) -> bool:
        """Plan a person who brings and leaves the thing, and another who takes it. Return False if they do not fit."""
        rng = self.rng
        foot_y = float(rng.uniform(0.74, 0.92))
        reach = size_of("person", depth_scale(foot_y))[0] / 2 + 0.05
        spot = self._spot()
        enter, leave = (-reach, 1 + reach)[:: 1 if rng.random() < 0.5 else -1]
        owner_leaves = enter if rng.random() < 0.5 else leave
        speed = float(rng.uniform(0.24, 0.32))
        t1 = start_s + abs(spot - enter) / speed
        t2 = t1 + 1.0
        t3 = t2 + abs(owner_leaves - spot) / speed
        t4 = t3 + float(rng.uniform(3, 7))
        t5 = t4 + abs(leave - spot) / speed
        t6 = t5 + abs(leave - spot) / speed
        offset = self.camera.x_at((start_s + t6) / 2)
        ends = ((enter, start_s), (owner_leaves, t3), (leave, t4), (leave, t6))
        people = [str(c) for c in rng.permutation(COLOURS) if self._is_free("person", str(c), start_s, t6)][:2]
        fits = t6 <= self.duration_s and len(people) == 2 and self._is_free(kind, colour, start_s, t6)
        if not fits or any(self._in_frame("person", 1.1, x + offset, t) for x, t in ends):
            return False
        coming = [x + offset for x in (enter, spot, spot, owner_leaves)]
        fetching = [x + offset for x in (leave, spot, spot, leave)]
        first = self._add("person", people[0], [start_s, t1, t2, t3], coming, foot_y, "leaving")
        second = self._add("person", people[1], [t4, t5, t5 + 0.6, t6 + 0.6], fetching, foot_y, "taking")
        times = [start_s, t1, t2, t5 + 0.3, t5 + 0.6, t6 + 0.6]
        xs = [x + offset for x in (enter, spot, spot, spot, spot, leave)]
        number = self._add(kind, colour, times, xs, foot_y + 0.01, "left")
        carried = ((start_s, t1 + 0.5, first), (t5 + 0.3, t6 + 1, second))
        self.actors[number] = replace(self.actors[number], carried=carried, owner=first)
        return True

    def _is_free(self, kind: str, colour: str, start_s: float, end_s: float) -> bool:
        """Return whether no visit of this kind and colour is planned from start_s to end_s or near it (APART_S).

        Visits that are apart can be counted.
        """
        return all(
            (k, c) != (kind, colour) or end_s + APART_S < begin or start_s > end + APART_S
            for k, c, begin, end in self.busy
        )

    def _in_frame(self, kind: str, scale: float, x: float, t: float) -> bool:
        half = size_of(kind, scale)[0] / 2
        frame_x = x - self.camera.x_at(t)
        return -half < frame_x < 1 + half

    def _add(
        self,
        kind: str,
        colour: str,
        times: list[float],
        xs: list[float],
        foot_y: float,
        action: str,
        cart: bool = False,
    ) -> int:
        number = len(self.actors)
        zone = next((name for name, a, b in self.layout.zones if a <= float(np.median(xs)) < b), None)
        look = int(self.rng.integers(2**31))
        self.busy.append((kind, colour, times[0], times[-1]))
        ys = (foot_y,) * len(times)
        self.actors.append(
            Actor(number, kind, colour, tuple(times), tuple(xs), ys, depth_scale(foot_y), look, action, cart, zone=zone)
        )
        return number


def plan(rng: np.random.Generator, duration_s: float, style: Style, split: Split, density: float) -> Plan:
    """Plan a whole scene: its backdrop, camera path, visitors and door openings."""
    layout = plan_layout(rng, style, split)
    camera = plan_camera(rng, layout, duration_s)
    planner = Planner(rng, layout, camera, duration_s, density)
    count = num_visits(duration_s, density)
    for (kind, colour), start_s in zip(
        choose_combos(rng, count, layout.doors), start_times(rng, count, duration_s), strict=True
    ):
        planner.add_visit(kind, colour, start_s)
    doors = tuple(replace(door, openings=tuple(sorted(planner.openings[door.colour]))) for door in layout.doors)
    return Plan(replace(layout, doors=doors), camera, planner.actors)
