"""The demo's world: a drawn scene with a fast clock, the questions about it, and their true answers.

The scene is drawn while it is published. The world time of each picture is noted with the wall time, so that "when did
it come?" has a true answer in wall time. The server sees pictures only.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from agent.ask.sentences import verdict_of
from agent.cli.client import Reply
from agent.times import load_zone
from model.world.answers import TIME_FAMILIES, Question, is_correct, true_answer
from model.world.draw import draw
from model.world.questions import questions
from model.world.scene import Scene
from model.world.things import VISIBLE_FRACTION
from streaming.frame import Frame

WIDTH, HEIGHT = 320, 180
SLOW_RATE_HZ = 2.0  # pictures per second after the fast part
STEADY_S = 4.0  # a moment to ask about looks the same for this long
NUM_TRIES = 12
MIN_SPAN_S = 3.0  # shorter visits may fall between two frames
OTHER_FAMILIES = ("colour", "count", "where", "when", "order", "last_seen", "left_behind")


@dataclass(slots=True)
class WorldClock:
    """Rising pairs of wall time (unix seconds) and the world second shown then.

    Worked example: world seconds 0, 6, 7 shown at 100, 101, 102: `world(100.5)` is 3, `wall(6.5)` is 101.5.
    """

    walls: list[float] = field(default_factory=list)
    worlds: list[float] = field(default_factory=list)

    def note(self, wall: float, world: float) -> None:
        """Record that the picture of the world's second `world` is published at the unix time `wall`."""
        self.walls.append(wall)
        self.worlds.append(world)

    def wall(self, world: float) -> float:
        """Return the unix time at which the world's second `world`, or the nearest second shown, was published."""
        return float(np.interp(world, self.worlds, self.walls))

    def world(self, wall: float) -> float:
        """Return the second of the world that was published at the unix time `wall`."""
        return float(np.interp(wall, self.walls, self.worlds))


class Show:
    """Pictures of a scene, `rate_hz` per second, at `speed` world seconds per second until world second `fast_until`.

    Then the world stands still, so that "now" can be asked about, and continues at normal speed after `go_on.set()`.
    """

    def __init__(
        self, scene: Scene, *, rate_hz: float, speed: float, fast_until: float, now: Callable[[], float] = time.time
    ) -> None:
        self.scene = scene
        self.clock = WorldClock()
        self.fast_until = fast_until
        self.standing = asyncio.Event()  # the fast part is over
        self.go_on = asyncio.Event()
        self._rate_hz = rate_hz
        self._speed = speed
        self._now = now

    async def pictures(self) -> AsyncIterator[Frame]:
        """Yield pictures with the time at which each is due, until the scene ends. The consumer waits for that time."""
        world, due = 0.0, 0.0
        while world < self.scene.duration_s:
            picture = await asyncio.to_thread(draw, self.scene, world, WIDTH, HEIGHT)
            due = due or self._now()
            self.clock.note(max(self._now(), due), world)
            yield Frame(due, picture, "sender")
            if world < self.fast_until:
                due, world = due + 1 / self._rate_hz, min(world + self._speed / self._rate_hz, self.fast_until)
            else:
                self.standing.set()
                due, world = due + 1 / SLOW_RATE_HZ, world + self.go_on.is_set() / SLOW_RATE_HZ


def steady_moment(scene: Scene, earliest: float, latest: float) -> float | None:
    """Return the first world second in the range with something clearly in view that stays; None: there is none."""
    for t in np.arange(earliest, latest, 0.5).tolist():
        views = {_view(scene, t + ahead) for ahead in np.arange(0, STEADY_S, 0.5).tolist()}
        if len(views) == 1 and views.isdisjoint({(), None}):
            return float(t)
    return None


def _view(scene: Scene, t: float) -> tuple[int, ...] | None:
    """Return the ids of the things (actors) in view at the world's second `t`, from left to right.

    None: one of them is only partly in view, or there are too many.
    """
    here = [each for each in scene.visible_at(t, min_fraction=0.1) if each.action != "closed"]
    if len(here) > 2 or any(each.fraction < VISIBLE_FRACTION for each in here):
        return None
    return tuple(each.actor for each in sorted(here, key=lambda each: each.box[0] + each.box[2]))


def pick_world(seed: int, *, fast_s: float, after_s: float, enough: int) -> tuple[Scene, float]:
    """Return a scene the model was not trained on, and the world second near `fast_s` at which to stand still.

    Tries NUM_TRIES seeds, from `seed` on. Takes the first one whose scene has answers to `enough` questions, else the
    last.
    """
    for number in range(seed, seed + NUM_TRIES):
        scene = Scene.from_seed(number, duration_s=1.2 * fast_s + after_s, style="fixed", split="eval")
        until = steady_moment(scene, 0.9 * fast_s, 1.2 * fast_s) or fast_s
        if len(pick_questions(scene, until, enough)) >= enough:
            break
    return scene, until


def pick_questions(scene: Scene, until: float, most: int) -> list[Question]:
    """Return at most `most` questions, one of each kind that the history up to `until` can answer.

    First the present, then what came longest ago and what never came; then things not asked about yet.
    """
    times = np.append(np.arange(0.5, until, 1.0), until)
    options: dict[str, list[Question]] = {"present": [], "existence": [], **{family: [] for family in OTHER_FAMILIES}}
    for question in questions(scene, 0.0, times, np.random.default_rng(scene.seed), "eval"):
        if question.family == "present" or all(last - first >= MIN_SPAN_S for first, last in question.spans):
            options.setdefault(question.family, []).append(question)
    picked = options["present"] + _long_ago_and_never(options["existence"])
    for family in OTHER_FAMILIES:
        if options[family]:
            named = {about(each) for each in picked}
            # prefer what was not asked about, then most visits, then the first
            picked.append(min(options[family], key=lambda each: (about(each) in named, -len(each.spans))))
    return picked[:most]


def _long_ago_and_never(existence: Sequence[Question]) -> list[Question]:
    came = [each for each in existence if each.spans]
    never = [each for each in existence if not each.spans]
    return ([min(came, key=lambda each: each.spans[0])] if came else []) + never[:1]


def about(question: Question) -> tuple[str | None, str | None] | None:
    """Return (kind, colour) of the thing that the question asks about, None if it asks about none."""
    return None if question.query is None else (question.query.kind, question.query.colour)


def on_our_clock(question: Question, clock: WorldClock, zone: str) -> Question:
    """Return the question with its times in unix seconds and local time of `zone`."""
    spans = tuple((clock.wall(first), clock.wall(last)) for first, last in question.spans)
    answer = question.answer
    if question.family in TIME_FAMILIES:
        answer = f"@{clock.wall(float(answer[1:])):.1f}"
    offset = datetime.fromtimestamp(clock.walls[0], load_zone(zone)).utcoffset()
    offset_s = 0.0 if offset is None else offset.total_seconds()
    return replace(question, answer=answer, spans=spans, start_unix=0.0, utc_offset_s=offset_s)


def judge(question: Question, reply: Reply) -> tuple[bool, str]:
    """Return whether the answer is correct, and the true one.

    question: with times in unix seconds, as `on_our_clock` returns it.
    """
    said = reply.text.partition("\n\n(")[0]  # a note on a short history follows the answer
    return any(is_correct(question, each) for each in (said, verdict_of(said))), true_answer(question)


def spans_in_words(spans: Sequence[tuple[float, float]]) -> str:
    """Return as text the seconds of the drawn world that the evidence shows: "world 203-213 s, 519-524 s"."""
    return "world " + ", ".join(f"{first:.0f}-{last:.0f}" for first, last in spans) + " s" if spans else ""
