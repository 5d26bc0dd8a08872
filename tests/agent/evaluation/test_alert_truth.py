"""The true events of rules in drawn worlds, and how alerts are scored against them."""

import numpy as np
import pytest

from agent.evaluation.alert_truth import AFTER_S, MIN_FRAMES, RULE_TYPES, Armed, TrueEvent, Truth, arm, score
from model.world.scene import Scene
from model.world.things import VISIBLE_FRACTION


def armed(seed: int, duration_s: float = 600.0) -> tuple[Scene, list[Armed]]:
    scene = Scene.from_seed(seed, duration_s=duration_s, style="fixed", split="eval")
    return scene, arm(scene, np.arange(duration_s), np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(4))
def test_every_rule_type_has_its_events_from_the_log(seed: int) -> None:
    """Each event begins when the log says that a thing of this kind (and colour) came into view, or was left alone."""
    scene, rules = armed(seed)
    assert [rule.type for rule in rules] == list(RULE_TYPES)
    for rule in rules:
        named = [
            e
            for e in scene.events
            if e.kind in rule.type.kinds and (not rule.type.coloured or e.colour in rule.condition)
        ]
        starts = (
            [e.start_s for e in named] if rule.type.kinds else [e.owner_gone_s for e in scene.events if e.owner_gone_s]
        )
        for event in rule.truth.events:
            assert min(abs(event.start_s - start) for start in starts) <= 1.0, rule.condition
            assert event.first_s <= event.start_s < event.last_s


@pytest.mark.parametrize("seed", range(4))
def test_things_in_clear_view_are_events(seed: int) -> None:
    scene, rules = armed(seed)
    rule = next(each for each in rules if each.type.name == "any car")
    for t in np.arange(600.0):
        if any(v.kind == "car" and v.fraction >= VISIBLE_FRACTION for v in scene.visible_at(float(t))):
            spans = [(e.first_s, e.last_s) for e in rule.truth.events] + list(rule.truth.doubtful)
            assert any(first <= t <= last for first, last in spans)


def test_a_type_that_never_comes_has_a_rule_without_events() -> None:
    scene, rules = armed(1, 60.0)
    kinds = {event.kind for event in scene.events}
    absent = [rule for rule in rules if rule.type.kinds and not kinds & set(rule.type.kinds)]
    assert absent
    assert all(rule.truth.events == () for rule in absent)


def test_left_behind_begins_when_the_owner_has_gone() -> None:
    scene, rules = armed(3, 90.0)
    gone = [e for e in scene.events if e.owner_gone_s is not None]
    truth = rules[-1].truth
    assert len(truth.events) + len(truth.doubtful) == len(gone) > 0
    for event in truth.events:
        logged = next(e for e in gone if e.owner_gone_s == event.start_s)
        assert logged.start_s < event.first_s < event.start_s
        assert logged.taken_s is not None
        assert event.last_s == logged.taken_s + AFTER_S
        assert logged.taken_s - event.start_s > MIN_FRAMES - 1


def test_alerts_are_scored() -> None:
    """Two events; found, told twice, half in view, about nothing; the second event is missed."""
    truth = Truth((TrueEvent(10.0, 9.0, 20.0), TrueEvent(50.0, 50.0, 60.0)), ((8.0, 25.0), (80.0, 90.0)))
    result = score(truth, [(11.0, 11.5), (15.0, 15.5), (22.0, 22.5), (85.0, 85.5), (70.0, 70.5)])
    assert result.found == (True, False)
    assert result.delays_s == (1.5,)
    assert (result.num_repeats, result.num_doubtful, result.false_s) == (1, 2, (70.0,))


def test_an_alert_just_before_the_start_has_no_delay() -> None:
    assert score(Truth((TrueEvent(10.0, 7.0, 20.0),), ()), [(8.0, 8.4)]).delays_s == (0.0,)
