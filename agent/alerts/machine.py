"""The state machine of one rule at one camera: frames and verdicts go in, actions come out.

    idle      --- the gate is open ---------------->  checking     the judge is asked about single frames
    checking  --- n of the last m verdicts yes ---->  on           `On`
    checking  --- the gate closes ----------------->  idle         `Held` (unconfirmed), unless the last verdict was yes
    on        --- `clear` verdicts no in a row ---->  idle         `Off`, then cool-down

`On`, `Off` and `Held` are actions: an alert begins, ends, or is suppressed. n, m and `clear` are settings of the rule.
An unclear verdict counts among the m, is never a yes, and does not end an alert. While something keeps an alert from
beginning (snooze, schedule, cool-down, a late frame) the judge is not asked, and one `Held` is returned each time the
gate opens. The judge is asked about an active alert until it ends, even during a snooze; only disabling the rule ends
it at once.

Pure functions: they return new values, and time is an argument. They use no pictures, no model, no clock and no alert ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from agent.alerts.gate import GateReading, GateState
from agent.alerts.gate import step as gate_step
from agent.settings.rules import RuleSettings

Verdict = Literal["yes", "no", "unclear"]
Phase = Literal["idle", "checking", "on"]
Hindrance = Literal[
    "disabled", "snoozed", "off_schedule", "late"
]  # what keeps an alert from beginning, apart from the cool-down
Refusal = Literal["rate_limited", "judge_busy", "judge_unavailable"]
Reason = Literal[
    "snoozed", "off_schedule", "late", "cooldown", "unconfirmed", "rate_limited", "judge_busy", "judge_unavailable"
]
_STEP_S = 1.0  # assumed time between the last frame before the clock was set back and the first one after
REASONS: tuple[Reason, ...] = Reason.__args__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Sighting:
    """An encoded frame and the cosine of its embedding with the rule's condition."""

    frame_id: int
    time: float  # unix seconds
    similarity: float


@dataclass(frozen=True, slots=True)
class Vote:
    """The verdict on the frame at `time`, and the frames (id, time) it is based on."""

    frame_id: int
    time: float
    verdict: Verdict
    frames: tuple[tuple[int, float], ...] = ()
    was_read: bool = True  # False: the answer was none of the three verdicts, which counts as unclear


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the judge (a language model) about this frame. Pass its verdict to `judged`, a failure to `refused`."""

    frame_id: int
    time: float


@dataclass(frozen=True, slots=True)
class On:
    """An alert begins: `num_yes` of the last `num_votes` verdicts were yes. start_time: of the first frame judged yes."""

    frame_id: int
    start_time: float
    time: float
    num_yes: int
    num_votes: int
    score: float
    frames: tuple[tuple[int, float], ...]  # rising time


@dataclass(frozen=True, slots=True)
class Off:
    """An alert ended at `end_time`, the first of `num_no` frames judged no in a row; the last of them is the frame at `time`.

    num_no is 0 when the rule was disabled, changed or removed.
    """

    start_time: float
    end_time: float
    time: float
    num_no: int
    score: float
    frames: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Held:
    """Reports that an alert was suppressed, that is, did not begin, for `reason`.

    It would have begun, or (if the judge, a language model, did not confirm it or was not asked) it might have.
    """

    reason: Reason
    frame_id: int
    time: float
    score: float


Action = Ask | On | Off | Held
Actions = tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class RuleState:
    """The state of one rule at one camera. Times in unix seconds."""

    gate: GateState = field(default_factory=GateState)
    phase: Phase = "idle"
    frame_id: int = 0  # of the newest frame
    time: float | None = None
    score: float = 0.0  # of the gate at that frame
    began: float = 0.0  # when this opening of the gate was first checked
    votes: tuple[Vote, ...] = ()  # checking: the last m; on: the latest no in a row
    noted: tuple[Reason, ...] = ()  # reasons for which a `Held` was returned since the gate opened
    asked: float | None = None  # time of the frame whose verdict is awaited
    asked_score: float = 0.0  # of the gate at that frame
    next_ask: float = 0.0  # earlier frames are not sent to the judge
    pause_s: float = 0.0  # between the last verdict and the next
    since: float | None = None  # start of the active alert
    last_alert: float | None = None  # when the last alert began
    cool_until: float | None = None


def resumed(state: RuleState) -> RuleState:
    """Return `state` without its wait for the judge's verdict, which never comes after a restart or a failed commit."""
    return replace(state, asked=None)


def set_back(state: RuleState, by_s: float) -> RuleState:
    """Return `state` with every time moved back by `by_s` seconds, as the camera's clock was set back.

    The returned state no longer waits for the judge's verdict.
    """

    def back(time: float | None) -> float | None:
        return None if time is None else time - by_s

    votes = tuple(
        replace(vote, time=vote.time - by_s, frames=tuple((frame_id, time - by_s) for frame_id, time in vote.frames))
        for vote in state.votes
    )
    return replace(
        state,
        gate=replace(state.gate, time=back(state.gate.time)),
        time=back(state.time),
        began=state.began - by_s,
        votes=votes,
        asked=None,
        next_ask=state.next_ask - by_s,
        since=back(state.since),
        last_alert=back(state.last_alert),
        cool_until=back(state.cool_until),
    )


def hindrance(
    rule: RuleSettings, *, time: float, zone: str, enabled: bool, snoozed_until: float, late: bool
) -> Hindrance | None:
    """Return what keeps an alert from beginning at `time`, apart from the cool-down, or None.

    zone: time zone of the rule's schedule. late: the frame was encoded long after its capture.
    """
    if not enabled:
        return "disabled"
    if time < max(snoozed_until, rule.snooze or 0.0):
        return "snoozed"
    if not rule.scheduled(time, zone):
        return "off_schedule"
    return "late" if late else None


def saw(
    rule: RuleSettings, state: RuleState, seen: Sighting, hindered: Hindrance | None = None
) -> tuple[RuleState, Actions]:
    """Return the state of the rule, and the actions to take, after the encoded frame `seen`.

    A frame that is not newer than the last one changes nothing. A newer frame (by its id) with an earlier time means
    that the clock was set back, so the times of the state are moved back too. hindered: what keeps an alert from
    beginning.
    """
    if state.time is not None and seen.time <= state.time:
        if seen.frame_id <= state.frame_id:
            return state, ()
        state = set_back(state, state.time - seen.time + _STEP_S)
    was_open = state.gate.open
    gate, reading = gate_step(rule.gate, state.gate, time=seen.time, similarity=seen.similarity)
    state = replace(state, gate=gate, frame_id=seen.frame_id, time=seen.time, score=reading.score)
    if state.phase == "on":
        return _saw_while_on(rule, state, seen, hindered, fell=was_open and not reading.open)
    quiet: Reason | Literal["disabled"] | None = hindered
    if quiet is None and state.cool_until is not None and seen.time < state.cool_until:
        quiet = "cooldown"
    if quiet is not None:
        return _kept_quiet(state, reading, quiet)
    return _look_into(rule, state, seen, reading)


def _kept_quiet(
    state: RuleState, reading: GateReading, quiet: Reason | Literal["disabled"]
) -> tuple[RuleState, Actions]:
    """Return the idle state for a frame at which no alert may begin, and the actions.

    These are one `Held`, which reports a suppressed alert, if the gate opened or a check stopped; else none. quiet: the
    reason. A disabled rule returns no `Held`.
    """
    interrupted = state.phase == "checking"
    state = _idle(state)
    if quiet == "disabled" or not (reading.rose or interrupted):
        return state, ()
    return state, (_held(state, quiet),)


def _look_into(rule: RuleSettings, state: RuleState, seen: Sighting, reading: GateReading) -> tuple[RuleState, Actions]:
    if state.phase == "idle":
        if not reading.open:
            return state, ()
        # `open`, not `rose`: what kept an alert from beginning may have ended while the gate was open
        state = replace(
            state,
            phase="checking",
            began=seen.time,
            votes=(),
            noted=(),
            next_ask=seen.time,
            pause_s=rule.judge.every_s,
        )
    elif not reading.open and not _may_confirm(rule, state, seen.time):
        held = () if state.noted else (_held(state, "unconfirmed"),)
        return _idle(state), held
    elif reading.rose or reading.surged:  # the gate closed and opened again during the check, or the score rose further
        state = replace(state, next_ask=min(state.next_ask, seen.time), pause_s=rule.judge.every_s)
    return _ask(state, seen)


def _may_confirm(rule: RuleSettings, state: RuleState, time: float) -> bool:
    """Return True when an alert may still follow although the rule's gate has closed.

    That is while a verdict is awaited, or when the last one was yes. The gate is the check that decides when the judge,
    a language model, is asked.
    """
    if state.asked is not None:
        return True
    recent = bool(state.votes) and time - state.votes[-1].time <= rule.judge.window_s
    return recent and state.votes[-1].verdict == "yes"


def _saw_while_on(
    rule: RuleSettings, state: RuleState, seen: Sighting, hindered: Hindrance | None, *, fell: bool
) -> tuple[RuleState, Actions]:
    if hindered == "disabled":
        return ended(state, seen.time)
    if hindered == "late":
        return state, ()
    if fell:  # the gate has closed: the alert is probably over, so ask soon
        held_until = (state.last_alert or 0.0) + rule.hold_s
        state = replace(state, next_ask=min(state.next_ask, max(seen.time, held_until)), pause_s=rule.judge.every_s)
    return _ask(state, seen)


def _ask(state: RuleState, seen: Sighting) -> tuple[RuleState, Actions]:
    if state.asked is not None or seen.time < state.next_ask:
        return state, ()
    return replace(state, asked=seen.time, asked_score=state.score), (Ask(seen.frame_id, seen.time),)


def judged(
    rule: RuleSettings, state: RuleState, vote: Vote, hindered: Hindrance | None = None
) -> tuple[RuleState, Actions]:
    """Return the state and the actions after a verdict that an `Ask` requested.

    An answer that is not awaited changes nothing.
    """
    if state.asked != vote.time:
        return state, ()
    state = replace(state, asked=None)
    if state.phase == "on":
        return _judged_while_on(rule, state, vote)
    if state.phase == "idle" or vote.time < state.began:
        return state, ()
    votes = (*state.votes, vote)[-rule.confirm.m :]
    state = _paused(rule, replace(state, votes=votes), vote.time, afresh=vote.verdict == "yes")
    if sum(each.verdict == "yes" for each in votes) < rule.confirm.n:
        return state, ()
    if hindered is not None:
        held = () if hindered == "disabled" else (_held(state, hindered),)
        return _idle(state), held
    return _fire(rule, state, vote)


def _fire(rule: RuleSettings, state: RuleState, vote: Vote) -> tuple[RuleState, Actions]:
    yes = [each for each in state.votes if each.verdict == "yes"]
    on = On(vote.frame_id, yes[0].time, vote.time, len(yes), len(state.votes), state.asked_score, _evidence(yes))
    state = replace(
        state,
        phase="on",
        votes=(),
        noted=(),
        since=on.start_time,
        last_alert=on.time,
        next_ask=on.time + max(rule.hold_s, rule.judge.every_s),
        pause_s=rule.judge.every_s,
    )
    return state, (on,)


def _judged_while_on(rule: RuleSettings, state: RuleState, vote: Vote) -> tuple[RuleState, Actions]:
    votes = {"yes": (), "no": (*state.votes, vote), "unclear": state.votes}[vote.verdict]
    state = _paused(rule, replace(state, votes=votes), vote.time, afresh=vote.verdict == "no")
    if len(votes) < rule.clear:
        return state, ()
    off = Off(state.since or vote.time, votes[0].time, vote.time, len(votes), state.asked_score, _evidence(votes))
    cool_until = vote.time + rule.cooldown_s
    return replace(state, phase="idle", votes=(), since=None, cool_until=cool_until), (off,)


def refused(rule: RuleSettings, state: RuleState, time: float, reason: Refusal) -> tuple[RuleState, Actions]:
    """Return the state and the actions when the judge, a language model, gave no verdict on the frame at `time`.

    reason: why it could not be asked, or how it failed.
    """
    if state.asked != time:
        return state, ()
    state = replace(state, asked=None, next_ask=time + rule.judge.recheck_s)
    if state.phase != "checking" or reason in state.noted:
        return state, ()
    return replace(state, noted=(*state.noted, reason)), (_held(state, reason),)


def ended(state: RuleState, time: float) -> tuple[RuleState, Actions]:
    """Return the state and the actions when the rule is disabled, changed or removed: an active alert ends at `time`."""
    if state.phase != "on":
        return _idle(state), ()
    off = Off(state.since or time, time, time, 0, state.score, ())
    return replace(state, phase="idle", votes=(), since=None), (off,)


def _paused(rule: RuleSettings, state: RuleState, time: float, *, afresh: bool) -> RuleState:
    """Return the state with the next time to ask the judge (a language model), after a pause that begins at `time`.

    afresh: the verdict at `time` brought something new, so the pause is short. Otherwise the pause doubles, up to recheck_s.
    """
    pause_s = rule.judge.every_s if afresh else min(2 * state.pause_s, rule.judge.recheck_s)
    return replace(state, pause_s=pause_s, next_ask=time + pause_s)


def _evidence(votes: Sequence[Vote]) -> tuple[tuple[int, float], ...]:
    """Return the judged frames and the frames that the verdicts are based on, each once, as (id, time) in time order."""
    frames = {frame_id: time for vote in votes for frame_id, time in (*vote.frames, (vote.frame_id, vote.time))}
    return tuple(sorted(frames.items(), key=lambda frame: frame[1]))


def _idle(state: RuleState) -> RuleState:
    return replace(state, phase="idle", votes=(), noted=())


def _held(state: RuleState, reason: Reason) -> Held:
    return Held(reason, state.frame_id, state.time or 0.0, state.score)


# --- the limit on judge calls of one rule, for all its cameras together ---


@dataclass(frozen=True, slots=True)
class Budget:
    """How often a rule may ask the judge, a language model: a token bucket that holds the calls of one minute."""

    tokens: float
    time: float  # unix seconds


def spend(rule: RuleSettings, budget: Budget | None, time: float) -> tuple[Budget, bool]:
    """Return what is left of the rule's budget of judge calls, and whether it allows a call at `time`.

    None: a full budget.

    Worked example, 2 per minute: at 0 s yes, at 1 s yes, at 2 s no, at 30 s yes.
    """
    limit = max(1.0, rule.judge.per_minute)
    if budget is None:
        budget = Budget(limit, time)
    earned = max(0.0, time - budget.time) * rule.judge.per_minute / 60
    tokens = min(limit, budget.tokens + earned)
    affordable = tokens >= 1
    return Budget(tokens - affordable, max(time, budget.time)), affordable
