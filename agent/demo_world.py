"""The demo's world: a drawn scene whose clock runs faster than ours, and what is true of it.

The scene is drawn as it is published; each picture's moment of the world is noted beside ours, so that "when did it
come?" has a true answer on the wall clock. The server sees pictures only.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import numpy as np

from model.world.draw import draw
from model.world.scene import Scene

WIDTH, HEIGHT = 320, 180


@dataclass(slots=True)
class WorldClock:
    """Pairs (wall, world): unix seconds at which a moment of the world was shown. Both rise.

    Shown at walls 100, 101, 102 were world seconds 0, 6, 7 (the clock slowed down after 101): `world(100.5)` is 3,
    `wall(6.5)` is 101.5.
    """

    walls: list[float] = field(default_factory=list)
    worlds: list[float] = field(default_factory=list)

    def note(self, wall: float, world: float) -> None:
        """The picture of `world` goes out at `wall`."""
        self.walls.append(wall)
        self.worlds.append(world)

    def wall(self, world: float) -> float:
        """Unix seconds at which `world` was shown, the nearest shown moment's beyond the ends."""
        return float(np.interp(world, self.worlds, self.walls))

    def world(self, wall: float) -> float:
        """The world's second that was shown at `wall`."""
        return float(np.interp(wall, self.walls, self.worlds))


class Show:
    """Pictures of a scene, `rate_hz` a second of ours, `speed` world seconds in each until `slow_down`."""

    def __init__(
        self, scene: Scene, *, rate_hz: float, speed: float, now: Callable[[], float] = time.time
    ) -> None:
        self.scene = scene
        self.clock = WorldClock()
        self.speed = speed
        self._rate_hz = rate_hz
        self._now = now

    def slow_down(self) -> None:
        """From now on the world's clock runs like ours, so that "now" lasts long enough to be asked about."""
        self.speed = 1.0

    async def pictures(self) -> AsyncIterator[np.ndarray]:
        """(H, W, 3) uint8 until the scene ends. The consumer sends them when they are due."""
        world, started, number = 0.0, 0.0, 0
        while world < self.scene.duration_s:
            picture = await asyncio.to_thread(draw, self.scene, world, WIDTH, HEIGHT)
            started = started or self._now()
            self.clock.note(max(self._now(), started + number / self._rate_hz), world)
            yield picture
            number += 1
            world += self.speed / self._rate_hz
