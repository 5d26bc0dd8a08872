"""The things of the drawn world: what exists, how large it is, and how a log describes it.

Coordinates are fractions of the frame (x to the right, y downwards), times are seconds since the scene began. A robot's
world is wider than one frame: x runs over several frame widths, and the camera's own x is subtracted. How things move
is in `plan.py`, how they look in `sprites.py`.
"""

from dataclasses import dataclass, field
from typing import Literal

KINDS = ("person", "car", "truck", "bicycle", "dog", "bag", "box", "ball", "cone", "door")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
THINGS = ("bag", "box", "ball", "cone")  # things that can be carried, left behind and taken away
LAYOUTS = ("gate", "yard", "corridor", "store")
ZONES = ("hall", "kitchen", "office", "garage", "garden", "library")
PLACES = ("left", "middle", "right")

FRAME_ASPECT = 16 / 9  # the world is designed for this aspect ratio; others distort it
VISIBLE_FRACTION = 0.6  # a thing is clearly visible if this share of its box is in the frame and not covered

Split = Literal["train", "eval"]
Style = Literal["fixed", "robot"]
Box = tuple[float, float, float, float]

# kind: (height as a fraction of the frame at depth scale 1, width / height in true pixels)
SIZES: dict[str, tuple[float, float]] = {
    "person": (0.42, 0.44),
    "car": (0.25, 2.1),
    "truck": (0.38, 1.7),
    "bicycle": (0.30, 1.55),
    "dog": (0.26, 1.3),
    "bag": (0.24, 1.05),
    "box": (0.22, 1.2),
    "ball": (0.21, 1.0),
    "cone": (0.29, 0.85),
    "door": (0.42, 0.62),
}


def size_of(kind: str, scale: float) -> tuple[float, float]:
    """Return (width, height) in fractions of a 16:9 frame. Car at scale 1: (0.25 * 2.1 * 9/16, 0.25) = (0.295, 0.25)."""
    height, aspect = SIZES[kind]
    return height * scale * aspect / FRAME_ASPECT, height * scale


def depth_scale(foot_y: float) -> float:
    """Return the size factor of things that stand at foot_y: 0.85 at the back (0.66), 1.15 at the front (0.96)."""
    return 0.85 + (foot_y - 0.66)


@dataclass(frozen=True, slots=True)
class Actor:
    """A visitor of a scene, which is a thing or a person, with its way through the world during one visit."""

    number: int  # its index in the scene's list of actors
    kind: str
    colour: str
    times: tuple[float, ...]  # rising, seconds
    xs: tuple[float, ...]  # centre at those times, world coordinates
    foot_ys: tuple[float, ...]  # where it touches the ground
    scale: float
    look: int  # seeds skin, hair, exact hue
    action: str  # "crossing", "stopping", "left", "standing", "meeting", "open"
    cart: bool = False  # whether it rides on a grey cart
    carried: tuple[tuple[float, float, int], ...] = ()  # (from_s, to_s, carrier's number)
    owner: int | None = None  # number of the person who left it behind
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class DoorFixture:
    """A door in the back wall. openings: (start_s, end_s), which never overlap."""

    number: int
    colour: str
    x: float
    foot_y: float
    scale: float
    zone: str | None = None
    openings: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """One visit, or one opening of a door, as the camera saw it, from start_s (first visible) to end_s (last)."""

    kind: str
    colour: str
    action: str
    start_s: float
    end_s: float
    actor: int
    place: str  # "left", "middle" or "right": where it stopped, or was in the middle of its visit
    stopped: bool  # whether it stood still long enough for questions about `place`
    zone: str | None = None  # robot: the room it was seen in
    owner_gone_s: float | None = None  # left behind: when its owner had left the picture
    taken_s: float | None = None  # left behind: when somebody picked it up again

    @property
    def duration_s(self) -> float:
        """Seconds from first to last visible."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Visible:
    """One thing visible at one moment. box: clipped to the frame; fraction: share in the frame and not covered."""

    kind: str
    colour: str
    box: Box
    actor: int
    action: str
    fraction: float = 1.0


@dataclass(frozen=True, slots=True)
class Placement:
    """One thing at one moment, with what the painter needs to draw it. `box` may extend beyond the frame."""

    kind: str
    colour: str
    box: Box
    actor: int
    action: str
    look: int
    facing_left: bool = False
    phase: float = 0.0  # position in the walking or rolling cycle, 0..1
    opening: float = 0.0  # doors: 0 closed .. 1 open
    cart: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """The backdrop of a scene as data: everything needed to paint it."""

    name: str  # one of LAYOUTS, or "robot"
    seed: int
    palette: int
    wall_line: float  # y where wall and ground meet
    width: float = 1.0  # in frames
    zones: tuple[tuple[str, float, float], ...] = ()  # (name, from x, to x)
    variant: int = 0  # fixture set; the eval split has some of its own
    doors: tuple[DoorFixture, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the robot is: metres along and across the building, heading in degrees."""

    x: float
    y: float
    heading: float
