"""The correct alerts in a drawn world: rules of twelve types, each with the events for which it should raise an alert.

A world is an artificial video whose things and times are known, as the program draws them; a scene is its description.
The events come from the scene, never from the model. Only evaluations import this module.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from model.world.answers import Query, matches
from model.world.questions import with_articles
from model.world.scene import Scene
from model.world.things import COLOURS, THINGS, VISIBLE_FRACTION

SAME_EVENT_GAP_S = 12.0  # a thing that comes back sooner is still the same event
GLIMPSE_FRACTION = 0.05  # smaller shares of a thing in the picture are ignored
MIN_FRAMES = 2  # in clear view; fewer cannot be confirmed by two verdicts
AFTER_S = 5.0  # an alert up to so long after an event still counts for it
STEP_S = 0.25

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class TrueEvent:
    """An event for which a rule should raise an alert, in seconds of the scene.

    An alert from `first_s` to `last_s` counts for the event; its delay is measured from `start_s`.
    """

    start_s: float
    first_s: float
    last_s: float


@dataclass(frozen=True, slots=True)
class Truth:
    """The events of one rule. doubtful: spans (start, end) in which a matching thing is only partly in view.

    An alert in a doubtful span is neither right nor wrong.
    """

    events: tuple[TrueEvent, ...]
    doubtful: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class RuleType:
    """A type of rule. condition: its text, with "{thing}" where the name of a thing goes.

    kinds: the kinds of things that it may be about; one of them is chosen for each scene. () for the rule about things
    that somebody leaves behind.
    """

    name: str
    condition: str
    kinds: tuple[str, ...]
    coloured: bool = False


@dataclass(frozen=True, slots=True)
class Armed:
    """A rule of one type in one world, with the correct alerts."""

    type: RuleType
    condition: str
    truth: Truth


RULE_TYPES = (
    RuleType("truck of a colour", "a {thing} comes", ("truck",), coloured=True),
    RuleType("car of a colour", "a {thing} comes by", ("car",), coloured=True),
    RuleType("any car", "any {thing} comes", ("car",)),
    RuleType("any dog", "a {thing} comes", ("dog",)),
    RuleType("dog of a colour", "there is a {thing}", ("dog",), coloured=True),
    RuleType("any person", "a {thing} comes by", ("person",)),
    RuleType("person of a colour", "a {thing} is here", ("person",), coloured=True),
    RuleType("any bicycle", "a {thing} comes", ("bicycle",)),
    RuleType("bicycle of a colour", "a {thing} comes by", ("bicycle",), coloured=True),
    RuleType("thing of a colour", "a {thing} comes", THINGS, coloured=True),
    RuleType("door", "a {thing} opens", ("door",)),
    RuleType("left behind", "something is left behind", ()),
)


def arm(scene: Scene, times: np.ndarray, rng: np.random.Generator) -> list[Armed]:
    """Return one rule of each type for this scene, with the correct alerts.

    A rule is about a thing that appears in the scene, if there is one of the type's kinds, else about a random one.
    times: the seconds of the frames.
    """
    may_show = scene.may_show(times)
    views = [
        scene.visible_at(float(t), GLIMPSE_FRACTION) if may else [] for t, may in zip(times, may_show, strict=True)
    ]
    armed = []
    for kind_of_rule in RULE_TYPES:
        if not kind_of_rule.kinds:
            armed.append(Armed(kind_of_rule, kind_of_rule.condition, _left_behind(scene, times)))
            continue
        query = _choose(scene, kind_of_rule, rng)
        thing = query.kind if query.colour is None else f"{query.colour} {query.kind}"
        sure = [any(matches(query, v) and v.fraction >= VISIBLE_FRACTION for v in view) for view in views]
        part = [any(matches(query, v) for v in view) for view in views]
        condition = with_articles(kind_of_rule.condition.format(thing=thing))
        armed.append(Armed(kind_of_rule, condition, _visits(times, sure, part, _seen(scene, query))))
    return armed


def _choose(scene: Scene, kind_of_rule: RuleType, rng: np.random.Generator) -> Query:
    came = [event for event in scene.events if event.kind in kind_of_rule.kinds]
    if came:
        event = came[int(rng.integers(len(came)))]
        return Query(event.kind, event.colour if kind_of_rule.coloured else None)
    kind = kind_of_rule.kinds[int(rng.integers(len(kind_of_rule.kinds)))]
    return Query(kind, COLOURS[int(rng.integers(len(COLOURS)))] if kind_of_rule.coloured else None)


def _seen(scene: Scene, query: Query) -> Callable[[float], bool]:
    return lambda t: any(matches(query, visible) for visible in scene.visible_at(t))


def _visits(times: np.ndarray, sure: Sequence[bool], part: Sequence[bool], seen: Callable[[float], bool]) -> Truth:
    """Return the true events of a rule about a thing in view, and the spans in which it is only partly in view.

    times: the seconds of the frames. sure, part: for each frame, whether the thing is in clear view, and whether it is
    in view at all. seen: returns whether the thing is in clear view at any second, also between frames.
    """
    events, doubtful = [], [(first, last + AFTER_S) for first, last, _ in _stays(times, part)]
    for first, last, num_frames in _stays(times, sure):
        if num_frames < MIN_FRAMES:
            continue
        start = first
        while start - STEP_S >= max(first - 1, 0) and seen(start - STEP_S):
            start -= STEP_S
        events.append(TrueEvent(start, start, last + AFTER_S))
    return Truth(tuple(events), tuple(doubtful))


def _stays(times: np.ndarray, here: Sequence[bool]) -> list[tuple[float, float, int]]:
    """Return (first second, last second, number of frames) of each run of True in `here`.

    Runs are joined if the gap between them is at most SAME_EVENT_GAP_S.
    """
    at = [float(t) for t, is_here in zip(times, here, strict=True) if is_here]
    if not at:
        return []
    cuts = [number + 1 for number, (one, two) in enumerate(pairwise(at)) if two - one > SAME_EVENT_GAP_S]
    runs = [at[a:b] for a, b in pairwise([0, *cuts, len(at)])]
    return [(run[0], run[-1], len(run)) for run in runs]


def _left_behind(scene: Scene, times: np.ndarray) -> Truth:
    """Return the true events, and the spans in which alerts are not counted, of the rule about things left behind.

    An event starts when the owner has gone and ends when somebody picks the thing up. Alerts count from the moment at
    which the thing is put down.
    """
    events, doubtful = [], []
    for event in scene.events:
        if event.owner_gone_s is None:
            continue
        taken = event.end_s if event.taken_s is None else event.taken_s
        put_down = scene.actors[event.actor].carried[0][1]
        alone = times[(times >= event.owner_gone_s) & (times <= taken)]
        if len(alone) > MIN_FRAMES:
            events.append(TrueEvent(event.owner_gone_s, put_down, taken + AFTER_S))
        else:
            doubtful.append((event.start_s, event.end_s + AFTER_S))
    return Truth(tuple(events), tuple(doubtful))


@dataclass(frozen=True, slots=True)
class Score:
    """The alerts of one rule compared with the correct ones."""

    num_events: int
    found: tuple[bool, ...]  # per event
    delays_s: tuple[float, ...]  # from the start of each event found to the message
    false_s: tuple[float, ...]  # the second of the scene at which each false alert was raised
    num_repeats: int  # further alerts for an event that had one
    num_doubtful: int


def score(truth: Truth, alerts: Sequence[tuple[float, float]]) -> Score:
    """Return the alerts compared with the correct ones.

    alerts: for each alert, the second of the frame that confirmed it, and the second at which its message was ready.
    """
    delays: dict[int, float] = {}
    false: list[float] = []
    num_repeats = num_doubtful = 0
    for seen_s, said_s in alerts:
        about = [n for n, event in enumerate(truth.events) if event.first_s <= seen_s <= event.last_s]
        new = [n for n in about if n not in delays]
        if new:
            delays[new[0]] = max(0.0, said_s - truth.events[new[0]].start_s)
        elif about:
            num_repeats += 1
        elif any(first <= seen_s <= last for first, last in truth.doubtful):
            num_doubtful += 1
        else:
            false.append(seen_s)
    found = tuple(n in delays for n in range(len(truth.events)))
    return Score(len(truth.events), found, tuple(delays.values()), tuple(false), num_repeats, num_doubtful)
