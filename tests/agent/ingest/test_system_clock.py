"""A system clock that is set while the agent runs: believed late, followed once, and no frame is deleted because of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ingest.clock import AGES_SETTLE_S, EARLIEST, STAMPS_SETTLE_S, STEP_S, SteadyClock, WallClock, running_s

NOW = 1_795_363_445.0
YEARS_14 = 14 * 365.25 * 86_400


def test_the_worked_example() -> None:
    clock = SteadyClock(settle_s=10)
    for second in range(300):
        ahead = 3600.0 if 100 <= second < 106 or second >= 200 else 0.0
        now = clock.now(second, NOW + second + ahead)
        assert now == pytest.approx(NOW + second + (3600.0 if second >= 210 else 0.0))


def test_slewing_is_followed() -> None:
    clock = SteadyClock(settle_s=10)
    for second in range(0, 100_000, 5):
        assert abs(clock.now(second, NOW + second * 1.0005) - (NOW + second * 1.0005)) < 0.01
        assert clock.step_s == 0.0


def test_a_clock_that_was_never_set_is_not_followed_and_said() -> None:
    clock = WallClock()
    assert clock.problem is None
    for second in range(100):
        moment = clock.now(second, NOW + second if second < 50 else 5.0 + second)
    assert moment.time == pytest.approx(NOW + 99)
    assert moment.age_from < EARLIEST
    assert clock.problem is not None
    assert "has not been set" in clock.problem


def test_nothing_ages_by_a_clock_that_has_jumped_and_it_is_said() -> None:
    clock = WallClock()
    for second in range(int(STAMPS_SETTLE_S * 20)):
        moment = clock.now(second, NOW + second + (YEARS_14 if second >= 10 else 0.0))
        assert moment.age_from <= NOW + second
        if second == 10:
            assert clock.problem is not None
            assert "set forward by 5114 days" in clock.problem
            assert "uncertain" in clock.problem
    assert clock.problem is not None
    assert "no frame is deleted because of its age" in clock.problem
    moment = clock.now(AGES_SETTLE_S + 11, NOW + AGES_SETTLE_S + 11 + YEARS_14)
    assert moment.age_from > NOW + YEARS_14
    assert clock.problem is None


@given(st.lists(st.tuples(st.integers(1, 30), st.floats(-1e6, 1e6)), max_size=12))
def test_whatever_the_clock_did_it_is_believed_again_once_it_is_steady(steps: list[tuple[int, float]]) -> None:
    clock, second = WallClock(), 0
    for duration, ahead in [*steps, (int(STAMPS_SETTLE_S) + 2, 0.0)]:
        for _ in range(duration):
            second += 1
            moment = clock.now(second, NOW + second + ahead)
            assert moment.age_from <= NOW + second + ahead
            assert abs(moment.time + moment.step_s - (NOW + second + ahead)) <= STEP_S
    assert abs(moment.time - (NOW + second)) <= STEP_S


def test_a_time_that_was_stamped_after_a_step() -> None:
    clock = WallClock()
    assert clock.now(0, NOW).believed(NOW - 1) == NOW - 1
    moment = clock.now(1, NOW + 3601)
    assert moment.believed(NOW + 3600) == NOW  # by the clock that was set
    assert moment.believed(NOW) == NOW  # by one that was not


def test_the_clock_that_only_runs() -> None:
    assert running_s() <= running_s()


def test_a_clock_that_would_forget_everything_at_the_start_is_not_believed_at_once() -> None:
    clock = WallClock(NOW)
    for second in range(0, 3600, 10):
        assert clock.now(second, NOW + YEARS_14 + second).age_from <= NOW + second
        assert clock.problem is not None
        assert "5114 days after the newest picture" in clock.problem
    assert clock.now(3600, NOW + YEARS_14 + 3600).age_from > NOW + YEARS_14
    assert clock.problem is None


def test_a_pause_of_days_is_believed() -> None:
    clock = WallClock(NOW)
    assert clock.now(0, NOW + 20 * 86_400).age_from == NOW + 20 * 86_400
    assert clock.problem is None


def test_a_start_in_a_wrong_time_that_is_put_right() -> None:
    clock = WallClock(NOW)
    clock.now(0, NOW + YEARS_14)
    for second in range(1, 30):
        moment = clock.now(second, NOW + 60 + second)
    assert moment.time == pytest.approx(NOW + 60 + 29)
    assert moment.age_from <= NOW + 60 + 29
    assert clock.problem is not None
    assert "after the newest" not in clock.problem
