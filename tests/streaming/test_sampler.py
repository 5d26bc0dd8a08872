"""The sampler keeps a rate without drift, for any timestamps."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.clock import Sampler


def kept(times: list[float], rate_hz: float = 1.0) -> list[float]:
    sampler = Sampler(rate_hz)
    return [time for time in times if sampler.keep(time)]


def test_worked_examples() -> None:
    assert kept([100.0 + i * 0.25 for i in range(9)]) == [100.0, 101.0, 102.0]
    assert kept([100.0, 101.03, 101.97, 103.02]) == [100.0, 101.03, 101.97, 103.02]


def test_an_hour_of_30_fps_does_not_drift() -> None:
    times = [1_700_000_000 + i / 29.97 for i in range(int(3600 * 29.97))]
    chosen = kept(times)
    assert len(chosen) == 3600
    assert all(abs(time - (times[0] + i)) <= 0.5 / 29.97 + 1e-6 for i, time in enumerate(chosen))


def test_a_camera_slower_than_the_rate_loses_nothing() -> None:
    times = [5.0 * i for i in range(20)]
    assert kept(times) == times


def test_after_a_gap_no_burst_follows() -> None:
    times = [0.0, 0.1, 60.03, 60.1, 60.2, 60.9, 61.0, 61.1]
    assert kept(times) == [0.0, 60.03, 60.9]


def test_infinite_rate_keeps_everything() -> None:
    assert kept([0.0, 0.001, 0.002], math.inf) == [0.0, 0.001, 0.002]


def test_a_step_back_restarts_the_grid() -> None:
    assert kept([100.0, 100.5, 40.0, 40.5, 41.0]) == [100.0, 40.0, 41.0]


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, math.nan])
def test_bad_rates_are_refused(rate_hz: float) -> None:
    with pytest.raises(ValueError, match="rate_hz"):
        Sampler(rate_hz)


@given(st.lists(st.floats(0.001, 7.0), min_size=1, max_size=200), st.floats(0.2, 20.0))
def test_never_more_than_one_in_each_period(gaps: list[float], rate_hz: float) -> None:
    times = [1_700_000_000.0]
    for gap in gaps:
        times.append(times[-1] + gap)
    chosen = kept(times, rate_hz)
    assert chosen[0] == times[0]
    for i in range(len(chosen)):
        for j in range(i + 1, min(i + 20, len(chosen))):
            assert j - i <= (chosen[j] - chosen[i]) * rate_hz + 1.5


@given(st.integers(2, 60), st.floats(0.0, 1.0))
def test_a_regular_camera_is_kept_once_in_each_period(rate_hz: int, phase: float) -> None:
    times = [phase + i / rate_hz for i in range(rate_hz * 20)]
    assert len(kept(times)) in (20, 21)
