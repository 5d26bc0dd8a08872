"""The demo's world: a drawn scene with a fast clock, the questions about it, and their true answers.

The scene is drawn while it is published. The world time of each picture is noted with the wall time, so that "when did
it come?" has a true answer in wall time. The server sees pictures only.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from agent.ask.sentences import verdict_of
from agent.cli.client import Reply
from agent.times import load_zone
from model.world.answers import TIME_FAMILIES, Query, Question, is_correct, matches, true_answer
from model.world.draw import draw
from model.world.questions import questions, with_articles
from model.world.scene import Scene
from model.world.things import KINDS, VISIBLE_FRACTION
from model.world.visits import look
from streaming.frame import Frame

WIDTH, HEIGHT = 320, 180
SLOW_RATE_HZ = 2.0  # pictures per second after the fast part
STEADY_S = 4.0  # a moment to ask about looks the same for this long
NUM_TRIES = 12
MIN_SPAN_S = 3.0  # shorter visits may fall between two frames
OTHER_FAMILIES = ("colour", "count", "where", "when", "order", "last_seen", "left_behind")
LATELY_S = 10.0
NOT_FOR_A_CAMERA = "will it rain on Sunday, or can I leave the washing out?"
IN_SHORT = "I was out: what did I miss?"
# How a stranger might ask: neither the reader's examples nor any list that measures it has these wordings (a test).
WORDINGS = {
    "present": "so, what is standing around in front of you right now?",
    "existence": "was a {thing} spotted anywhere at any point?",
    "colour": "remember the {thing}? tell me its colour please",
    "count": "could you tot up the visits by a {thing}?",
    "where": "which part of the screen was the {thing} in, left or right?",
    "when": "can you put a time on the arrival of the {thing}?",
    "order": "the {thing}: was that before the {other}, or after it?",
    "last_seen": "your most recent sighting of a {thing}, when was that?",
    "left_behind": "has somebody walked off without one of their things?",
}
OF_DOORS = {
    "existence": "was the {thing} opened at any point?",
    "count": "could you tot up how often the {thing} opened?",
    "when": "can you put a time on the opening of the {thing}?",
    "last_seen": "your most recent sighting of the {thing} open, when was that?",
}


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
    return [replace(each, text=in_other_words(each)) for each in picked[:most]]


def in_other_words(question: Question) -> str:
    """Return the question as a stranger might ask it (`WORDINGS`)."""
    query = question.query
    if query is None or query.kind is None or question.family == "left_behind":
        return WORDINGS[question.family]
    form = (OF_DOORS if query.kind == "door" else {}).get(question.family, WORDINGS[question.family])
    return with_articles(form.format(thing=_named(query), other=query.second and _named(query.second)))


def _named(query: Query) -> str:
    return f"{query.colour} {query.kind}" if query.colour else str(query.kind)


def lately(scene: Scene, picked: Sequence[Question], until: float) -> Question | None:
    """Return a question whether a thing that came earlier also came in the last seconds; None: there is no such thing.

    Its answer is not in it, as it depends on the moment at which it is asked: see `came_lately`.
    """
    old = [
        each for each in picked if each.family == "existence" and each.spans and each.spans[-1][1] < until - LATELY_S
    ]
    if not old or old[0].query is None:
        return None
    text = with_articles(f"did a {_named(old[0].query)} go by in the last {LATELY_S:g} seconds?")
    return Question("lately", text, "", old[0].query)


def came_lately(question: Question, show: Show, now: float) -> str:
    """Return "yes" or "no": whether the thing was in view in the LATELY_S seconds before `now`, unix seconds."""
    assert question.query is not None
    for moment in np.arange(show.clock.world(now - LATELY_S), show.clock.world(now), 0.5).tolist():
        seen = show.scene.visible_at(moment, min_fraction=VISIBLE_FRACTION)
        if any(matches(question.query, each) for each in seen):
            return "yes"
    return "no"


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


def overview(scene: Scene, until: float) -> Question:
    """Return the question what happened. Its answer names the kinds of things that came up to `until`, "car, dog"."""
    times = np.append(np.arange(0.5, until, 1.0), until)
    came = {visit.kind for visit in look(scene, times).visits if visit.last_s - visit.first_s >= MIN_SPAN_S}
    return Question("overview", IN_SHORT, ", ".join(sorted(came)), None)


def unanswerable() -> Question:
    """Return a question that no camera can answer."""
    return Question("not for a camera", NOT_FOR_A_CAMERA, "no answer, but an offer of questions", None)


def judge(question: Question, reply: Reply) -> tuple[bool, str]:
    """Return whether the answer is correct, and the true one.

    question: with times in unix seconds, as `on_our_clock` returns it. An overview is right if it names at least half
    of the kinds of things that came, and none that did not. A question that no camera can answer must be refused.
    """
    said = reply.text.partition("\n\n(")[0]  # a note on a short history follows the answer
    if question.family == "overview":
        named = {kind for kind in KINDS if re.search(rf"\b{kind}", said)}
        came = set(question.answer.split(", "))
        return named <= came and 2 * len(named) >= len(came), question.answer
    if question.family == "not for a camera":
        return reply.reading.get("kind") in ("out of scope", "unclear"), question.answer
    return any(is_correct(question, each) for each in (said, verdict_of(said))), true_answer(question)


def spans_in_words(spans: Sequence[tuple[float, float]]) -> str:
    """Return as text the seconds of the drawn world that the evidence shows: "world 203-213 s, 519-524 s"."""
    return "world " + ", ".join(f"{first:.0f}-{last:.0f}" for first, last in spans) + " s" if spans else ""
