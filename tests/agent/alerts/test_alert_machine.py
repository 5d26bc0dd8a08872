"""The state machine of a rule: properties over random histories, and single scenarios."""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from agent.alerts.machine import (
    Action,
    Ask,
    Budget,
    Held,
    Hindrance,
    Off,
    On,
    Refusal,
    RuleState,
    Sighting,
    Verdict,
    Vote,
    ended,
    hindrance,
    judged,
    refused,
    resumed,
    saw,
    spend,
)
from agent.settings.rules import RuleSettings
from tests.support.agents import START

LOW, HIGH = 0.1, 0.9
WARM_UP = 60


def a_rule(**changes: Any) -> RuleSettings:
    given: dict[str, Any] = {"condition": "a bag", "hold_s": 5, "cooldown_s": 20, "clear": 2}
    return RuleSettings.model_validate({**given, **changes})


@dataclass
class Run:
    """A rule at a camera, driven frame by frame; the judge answers at once by default."""

    rule: RuleSettings
    state: RuleState = field(default_factory=RuleState)
    time: float = START
    frame_id: int = 0
    actions: list[Action] = field(default_factory=list)
    votes: list[Verdict] = field(default_factory=list)  # all verdicts the machine accepted

    def __post_init__(self) -> None:
        for _ in range(WARM_UP):
            self.see(LOW)
        assert self.actions == []

    def see(
        self,
        similarity: float,
        verdict: Verdict | Refusal | None = "no",
        hindered: Hindrance | None = None,
        dt: float = 1,
    ) -> list[Action]:
        """Show a frame, `dt` after the last. If it is to be judged, answer with `verdict` (None: later)."""
        self.time += dt
        self.frame_id += 1
        before = len(self.actions)
        self.state, actions = saw(self.rule, self.state, Sighting(self.frame_id, self.time, similarity), hindered)
        self.actions += actions
        if verdict is not None:
            for action in actions:
                if isinstance(action, Ask):
                    self.answer(action, verdict, hindered)
        return self.actions[before:]

    def answer(self, ask: Ask, verdict: Verdict | Refusal, hindered: Hindrance | None = None) -> None:
        if verdict in ("yes", "no", "unclear"):
            self.votes.append(verdict)  # type: ignore[arg-type]
            vote = Vote(ask.frame_id, ask.time, verdict)  # type: ignore[arg-type]
            self.state, actions = judged(self.rule, self.state, vote, hindered)
        else:
            self.state, actions = refused(self.rule, self.state, ask.time, verdict)
        self.actions += actions

    def of(self, kind: type[Any]) -> list[Any]:
        return [action for action in self.actions if isinstance(action, kind)]


# --- properties ---

STEPS = st.lists(
    st.tuples(
        st.sampled_from([LOW, LOW + 0.01, HIGH]),
        st.sampled_from(["yes", "yes", "no", "unclear", "judge_unavailable"]),
        st.sampled_from([None, None, None, None, "snoozed", "late", "disabled"]),
        st.sampled_from([0.5, 1.0, 7.0]),
    ),
    max_size=80,
)
RULES = st.builds(
    lambda n, extra, clear, hold, cooldown, every: a_rule(
        confirm={"n": n, "m": n + extra},
        clear=clear,
        hold_s=hold,
        cooldown_s=cooldown,
        judge={"every_s": every, "recheck_s": 8},
    ),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 3),
    st.sampled_from([0, 4]),
    st.sampled_from([0, 15]),
    st.sampled_from([0.5, 2]),
)
history = given(RULES, STEPS)
many = settings(max_examples=150, deadline=None)


@many
@history
def test_no_alert_fires_without_n_yes_among_the_last_m_verdicts(rule: RuleSettings, steps: Sequence[Any]) -> None:
    run = Run(rule)
    for similarity, verdict, hindered, dt in steps:
        for action in run.see(similarity, verdict, hindered, dt):
            if isinstance(action, On):
                assert run.votes[-rule.confirm.m :].count("yes") >= rule.confirm.n
                assert action.num_yes >= rule.confirm.n
                assert action.num_votes <= rule.confirm.m
                assert hindered is None


@many
@history
def test_unclear_verdicts_neither_fire_nor_end_an_alert(rule: RuleSettings, steps: Sequence[Any]) -> None:
    run = Run(rule)
    for similarity, _, hindered, dt in steps:
        run.see(similarity, "unclear", hindered, dt)
    assert run.of(On) == []
    on = Run(rule)
    for _ in range(40):
        on.see(HIGH, "yes")
    assert on.state.phase == "on"
    for similarity, _, _, dt in steps:
        on.see(similarity, "unclear", None, dt)
    assert on.of(Off) == []


@many
@history
def test_alerts_alternate_last_hold_s_and_respect_the_cool_down(rule: RuleSettings, steps: Sequence[Any]) -> None:
    run = Run(rule)
    for similarity, verdict, hindered, dt in steps:
        run.see(similarity, verdict, hindered, dt)
    on: On | None = None
    off: Off | None = None
    for action in run.actions:
        if isinstance(action, On):
            assert on is None
            assert off is None or off.num_no == 0 or action.time >= off.time + rule.cooldown_s
            assert action.start_time <= action.time
            on = action
        elif isinstance(action, Off):
            assert on is not None
            assert action.start_time == on.start_time
            assert action.end_time <= action.time
            assert action.num_no in (0, rule.clear)  # 0: the rule was disabled
            if action.num_no:
                assert action.end_time >= on.time + rule.hold_s
            on, off = None, action


@many
@history
def test_the_judge_is_asked_at_its_pace_in_rising_time_and_never_while_hindered(
    rule: RuleSettings, steps: Sequence[Any]
) -> None:
    run = Run(rule)
    for similarity, verdict, hindered, dt in steps:
        on_before = run.state.phase == "on"
        asks = [action for action in run.see(similarity, verdict, hindered, dt) if isinstance(action, Ask)]
        assert len(asks) <= 1
        if hindered in ("disabled", "late") or (hindered and not on_before):
            assert asks == []
    times = [ask.time for ask in run.of(Ask)]
    assert all(later > earlier for earlier, later in pairwise(times))


@many
@history
def test_only_one_verdict_is_awaited_and_an_older_frame_changes_nothing(
    rule: RuleSettings, steps: Sequence[Any]
) -> None:
    run = Run(rule)
    for similarity, _, hindered, dt in steps:
        run.see(similarity, None, hindered, dt)
        same = saw(rule, run.state, Sighting(run.frame_id, run.time, HIGH), None)
        older = saw(rule, run.state, Sighting(run.frame_id - 1, run.time - 3, HIGH), None)
        assert same == older == (run.state, ())
    assert len(run.of(Ask)) <= 1


@many
@history
def test_a_state_stored_and_restored_at_any_moment_continues_unchanged(
    rule: RuleSettings, steps: Sequence[Any]
) -> None:
    kept, written = Run(rule), Run(rule)
    for similarity, verdict, hindered, dt in steps:
        written.state = TypeAdapter(RuleState).validate_json(json.dumps(asdict(written.state)))
        assert kept.see(similarity, verdict, hindered, dt) == written.see(similarity, verdict, hindered, dt)
        assert kept.state == written.state


@many
@history
def test_a_reason_is_given_at_most_once_per_opening(rule: RuleSettings, steps: Sequence[Any]) -> None:
    run = Run(rule)
    num_openings = 0
    for similarity, _, _, dt in steps:
        idle = run.state.phase == "idle"
        run.see(similarity, "judge_unavailable", None, dt)
        num_openings += idle and run.state.phase == "checking"
    assert [held.reason for held in run.of(Held)] == ["judge_unavailable"] * num_openings


# --- scenarios ---


def fired(rule: RuleSettings | None = None) -> Run:
    run = Run(rule or a_rule())
    for _ in range(3):
        run.see(HIGH, "yes")
    assert [type(action) for action in run.actions] == [Ask, Ask, On]
    return run


def test_an_alert_from_beginning_to_end() -> None:
    run = Run(a_rule())
    first = run.time + 1
    run.see(HIGH, "yes")
    run.see(HIGH, "unclear")
    run.see(HIGH, "no")
    run.see(HIGH, "no")
    run.see(HIGH, "yes")
    for _ in range(4):
        run.see(HIGH, "yes")
    (on,) = run.of(On)
    assert on.num_yes == 2
    assert on.start_time >= first
    assert [frame_time for _, frame_time in on.frames] == sorted(frame_time for _, frame_time in on.frames)
    assert on.frame_id in dict(on.frames)
    while not run.of(Off):
        run.see(LOW, "no")
    (off,) = run.of(Off)
    assert off.start_time == on.start_time
    assert off.end_time < off.time == run.time
    assert off.end_time >= on.time + 5
    assert run.state.cool_until == off.time + 20


def test_only_the_newest_m_verdicts_count() -> None:
    run = Run(a_rule(confirm={"n": 2, "m": 2}, judge={"every_s": 1, "recheck_s": 1}))
    for verdict in ("yes", "no", "yes", "unclear", "yes", "no"):
        run.see(HIGH, verdict)
    assert run.of(On) == []
    run.see(HIGH, "yes")
    run.see(HIGH, "yes")
    assert len(run.of(On)) == 1


def test_an_unconfirmed_opening_is_reported_once() -> None:
    run = Run(a_rule())
    for _ in range(5):
        run.see(HIGH, "no")
    for _ in range(5):
        run.see(LOW, "no")
    assert [held.reason for held in run.of(Held)] == ["unconfirmed"]


def test_a_surge_of_the_gate_is_judged_without_waiting() -> None:
    """An object half in view is judged no, and the pause grows; when all of it is in view, the next frame is judged."""
    run = Run(a_rule())
    half = LOW + (HIGH - LOW) / 3
    asked = [[isinstance(action, Ask) for action in run.see(half, "no")] == [True] for _ in range(5)]
    assert asked == [True, False, True, False, False]
    assert [isinstance(action, Ask) for action in run.see(HIGH, "yes")] == [True]


def test_one_yes_is_followed_up_after_the_gate_has_closed() -> None:
    run = Run(a_rule())
    run.see(HIGH, "yes")
    run.see(LOW, "yes")
    assert len(run.of(On)) == 1
    run = Run(a_rule())
    run.see(HIGH, "yes")
    run.see(LOW, "no")
    run.see(LOW, "yes")
    assert run.of(On) == []
    assert [held.reason for held in run.of(Held)] == ["unconfirmed"]


def test_the_pause_grows_while_nothing_changes_and_is_short_again_after_a_yes() -> None:
    run = Run(a_rule(judge={"every_s": 1, "recheck_s": 4}))
    for _ in range(12):
        run.see(HIGH, "no")
    asked = [ask.time - run.of(Ask)[0].time for ask in run.of(Ask)]
    assert asked == [0, 2, 6, 10]
    run.see(HIGH, "no")
    run.see(HIGH, "no")
    assert run.see(HIGH, "yes")[0] == Ask(run.frame_id, run.time)
    assert isinstance(run.see(HIGH, "yes")[-1], On)


def test_an_opening_in_the_cool_down_is_reported_and_judged_after_it_if_it_lasts() -> None:
    run = fired()
    while not run.of(Off):
        run.see(LOW, "no")
    before = len(run.of(Ask))
    while run.time < (run.state.cool_until or 0.0) - 1:
        run.see(HIGH, "yes")
    assert [held.reason for held in run.of(Held)] == ["cooldown"]
    assert len(run.of(Ask)) == before
    for _ in range(3):
        run.see(HIGH, "yes")
    assert len(run.of(On)) == 2


def test_a_snooze_during_a_check_stops_the_check_and_is_reported() -> None:
    run = Run(a_rule())
    run.see(HIGH, "yes")
    run.see(HIGH, None, "snoozed")
    assert [held.reason for held in run.of(Held)] == ["snoozed"]
    run.see(HIGH, None)
    ask = run.of(Ask)[-1]
    run.answer(ask, "yes")
    assert run.of(On) == []  # the yes from before the snooze no longer counts


def test_a_verdict_that_arrives_during_a_snooze_does_not_fire() -> None:
    run = Run(a_rule(confirm={"n": 1, "m": 1}))
    (ask,) = run.see(HIGH, None)
    assert isinstance(ask, Ask)
    run.answer(ask, "yes", "snoozed")
    assert [type(action) for action in run.actions] == [Ask, Held]
    assert run.state.phase == "idle"


def test_a_verdict_about_an_earlier_opening_does_not_count() -> None:
    run = Run(a_rule(confirm={"n": 1, "m": 1}))
    (ask,) = run.see(HIGH, None)
    run.see(HIGH, None, "snoozed")
    run.see(HIGH, None)
    assert isinstance(ask, Ask)
    run.answer(ask, "yes")
    assert run.of(On) == []
    run.see(HIGH, "yes")
    assert len(run.of(On)) == 1


def test_a_snooze_does_not_keep_an_alert_from_ending_but_disabling_ends_it_at_once() -> None:
    run = fired()
    for _ in range(12):
        run.see(LOW, "no", "snoozed")
    assert len(run.of(Off)) == 1
    run = fired()
    (off,) = run.see(HIGH, "yes", "disabled")
    assert off == Off(run.of(On)[0].start_time, run.time, run.time, 0, run.state.score, ())
    assert ended(run.state, run.time)[1] == ()


def test_late_frames_update_the_gate_and_fire_nothing() -> None:
    run = Run(a_rule())
    learnt = run.state.gate
    for _ in range(3):
        run.see(HIGH, "yes", "late")
    assert [held.reason for held in run.actions] == ["late"]  # type: ignore[union-attr]
    assert run.state.gate != learnt
    run.see(HIGH, "yes")
    run.see(HIGH, "yes")
    assert len(run.of(On)) == 1  # it is still there in a frame that is on time


def test_a_judge_that_cannot_be_asked_is_tried_again_after_recheck_s() -> None:
    run = Run(a_rule(judge={"every_s": 1, "recheck_s": 5}))
    for _ in range(11):
        run.see(HIGH, "judge_unavailable")
    assert [held.reason for held in run.of(Held)] == ["judge_unavailable"]
    assert [ask.time - run.of(Ask)[0].time for ask in run.of(Ask)] == [0, 5, 10]


def test_after_a_restart_the_verdict_that_never_came_is_asked_for_again() -> None:
    run = Run(a_rule())
    run.see(HIGH, None)
    run.see(HIGH, None)
    assert len(run.of(Ask)) == 1
    run.state = resumed(run.state)
    run.see(HIGH, "yes")
    assert len(run.of(Ask)) == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"enabled": False, "snoozed_until": START + 9, "late": True}, "disabled"),
        ({"snoozed_until": START + 9, "late": True}, "snoozed"),
        ({"snoozed_until": START - 9, "late": True}, "late"),
        ({}, None),
    ],
)
def test_disabled_takes_precedence_over_other_hindrances(changes: dict[str, Any], expected: str | None) -> None:
    given: dict[str, Any] = {"enabled": True, "snoozed_until": 0.0, "late": False}
    assert hindrance(a_rule(), time=START, zone="UTC", **{**given, **changes}) == expected


def test_schedule_and_snooze_of_the_settings_prevent_alerts() -> None:
    given: dict[str, Any] = {"zone": "UTC", "enabled": True, "snoozed_until": 0.0, "late": False}
    assert hindrance(a_rule(snooze=START + 1), time=START, **given) == "snoozed"
    night = a_rule(schedule=[{"start": "22:00", "end": "06:00"}])
    assert hindrance(night, time=START, **given) == "off_schedule"  # 16:04
    assert hindrance(night, time=START + 6 * 3600, **given) is None


def test_the_judge_budget_refills_and_holds_at_most_one_minute() -> None:
    rule = a_rule(judge={"per_minute": 2})
    budget: Budget | None = None
    answers = []
    for second in (0, 1, 2, 30, 31, 600, 601, 602):
        budget, afforded = spend(rule, budget, START + second)
        answers.append(afforded)
    assert answers == [True, True, False, True, False, True, True, False]
    earlier, _ = spend(rule, budget, START)
    assert earlier.time == START + 602


@many
@history
def test_a_rule_continues_after_the_clock_is_set_back(rule: RuleSettings, steps: Sequence[Any]) -> None:
    """After the clock is set back an hour, the next frame counts as one second later, and no frame is skipped."""
    run = Run(rule)
    for similarity, verdict, hindered, dt in steps:
        run.see(similarity, verdict, hindered, dt)
    going_on, set_back = deepcopy(run), deepcopy(run)
    set_back.time -= 3600
    for similarity, verdict, hindered, dt in [(LOW, "no", None, 1.0), *steps]:
        kept = going_on.see(similarity, verdict, hindered, dt)
        moved = set_back.see(similarity, verdict, hindered, dt)
        assert [type(action) for action in moved] == [type(action) for action in kept]
        assert set_back.state.time == set_back.time
