"""Properties of the gate on synthetic similarities. Real ones are measured in docs/alerts-evaluation.md."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from agent.alerts.gate import SURGE, WARM_UP_FRAMES, GateReading, GateState, step
from agent.settings.rules import GateSettings

SETTINGS = GateSettings()
cosines = st.floats(min_value=-1, max_value=1)


def run(
    similarities: Iterable[float],
    settings: GateSettings = SETTINGS,
    *,
    every_s: float = 1.0,
    state: GateState | None = None,
    start: float = 1000.0,
) -> tuple[GateState, list[GateReading]]:
    state, readings = state or GateState(), []
    for number, similarity in enumerate(similarities):
        state, reading = step(settings, state, time=start + number * every_s, similarity=float(similarity))
        readings.append(reading)
    return state, readings


def background(num_frames: int, seed: int = 0, *, level: float = 0.2, noise: float = 0.01) -> np.ndarray:
    return level + noise * np.random.default_rng(seed).standard_normal(num_frames)


@given(cosines, st.integers(1, 200))
def test_a_constant_picture_never_opens(similarity: float, num_frames: int) -> None:
    _, readings = run([similarity] * num_frames)
    assert not any(reading.open for reading in readings)


@given(st.lists(cosines, max_size=WARM_UP_FRAMES))
def test_the_warm_up_never_opens(similarities: list[float]) -> None:
    _, readings = run(similarities)
    assert readings == [GateReading(0.0, False, False)] * len(similarities)


@given(st.lists(cosines, max_size=80), st.lists(cosines, max_size=20))
def test_a_state_restored_from_json_continues_unchanged(before: list[float], after: list[float]) -> None:
    state, _ = run(before)
    read = TypeAdapter(GateState).validate_json(json.dumps(asdict(state)))
    assert read == state
    assert run(after, state=read, start=2000.0) == run(after, state=state, start=2000.0)


@given(st.lists(st.integers(-100, 100), min_size=31, max_size=120), st.integers(-64, 64))
def test_scores_do_not_depend_on_the_level(steps: list[int], shift: int) -> None:
    here = np.array(steps) / 256
    with patch("agent.alerts.gate.MIN_SPREAD", 2**-6):
        _, one = run(here)
        _, other = run(here + shift / 64)
    assert [r.score for r in one] == pytest.approx([r.score for r in other], rel=1e-6, abs=1e-6)


@given(st.lists(st.integers(-100, 100), min_size=31, max_size=120), st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_scores_do_not_depend_on_the_scale_above_the_minimum_spread(steps: list[int], scale: float) -> None:
    here = np.array(steps) / 1024
    with patch("agent.alerts.gate.MIN_SPREAD", 2**-7):
        _, one = run(here)
    with patch("agent.alerts.gate.MIN_SPREAD", scale * 2**-7):
        _, other = run(scale * here)
    assert [r.score for r in one] == pytest.approx([r.score for r in other])


@given(st.lists(cosines, max_size=120))
def test_hysteresis(similarities: list[float]) -> None:
    """The gate opens at `on` and closes below `off`. `rose` is True once for each opening."""
    _, readings = run(similarities)
    was_open = False
    for reading in readings:
        assert reading.open == (reading.score >= (SETTINGS.off if was_open else SETTINGS.on))
        assert reading.rose == (reading.open and not was_open)
        was_open = reading.open


@given(st.lists(cosines, min_size=1, max_size=60), cosines, st.floats(0, 100))
def test_an_older_frame_does_not_change_the_background(similarities: list[float], late: float, ago_s: float) -> None:
    state, _ = run(similarities)
    assert state.time is not None
    assert step(SETTINGS, state, time=state.time - ago_s, similarity=late)[0] == state


def test_an_event_opens_it_and_its_end_closes_it() -> None:
    quiet = background(300)
    _, readings = run([*quiet, *(background(10, 1) + 0.3), *background(20, 2)])
    assert [number for number, reading in enumerate(readings) if reading.rose] == [300]
    assert all(reading.open for reading in readings[300:310])
    assert not any(reading.open for reading in readings[310:])


def test_a_much_higher_score_is_a_surge_and_a_slightly_higher_one_is_not() -> None:
    """A truck comes into view: first its bonnet, then all of it; later the score hardly grows."""
    state, _ = run(background(300))
    _, readings = run([0.4, 0.45, 0.7, 0.75, 0.74], state=state, start=2000.0)
    assert [reading.rose for reading in readings] == [True, False, False, False, False]
    assert [reading.surged for reading in readings] == [False, False, True, False, False]


@given(st.lists(cosines, max_size=120))
def test_surges_are_few(similarities: list[float]) -> None:
    """A surge needs an open gate and a score far above the last peak, so few fit below the highest possible score."""
    _, readings = run(similarities)
    peak = 0.0
    for reading in readings:
        assert not reading.surged or (reading.open and not reading.rose and reading.score >= SURGE * peak)
        peak = reading.score if reading.rose or reading.surged else peak


def test_an_event_during_the_warm_up_does_not_hide_later_ones() -> None:
    started_inside = [*(background(12, 3) + 0.3), *background(60, 4), *(background(10, 5) + 0.3)]
    _, readings = run(started_inside)
    assert [number for number, reading in enumerate(readings) if reading.rose] == [72]


def test_events_during_the_warm_up_do_not_widen_the_spread() -> None:
    """Two events fill nearly half of the warm-up; the next event still opens the gate."""
    busy = [*(background(4, 1) + 0.3), *background(16, 2), *(background(14, 3) + 0.2), *background(10, 4)]
    _, readings = run([*busy, *(background(8, 5) + 0.3)])
    assert readings[len(busy)].rose


def test_an_event_of_ten_minutes_stays_open() -> None:
    _, readings = run([*background(300), *(background(600, 1) + 0.3)])
    assert all(reading.open for reading in readings[300:])


def test_an_object_that_stays_becomes_background() -> None:
    """A parked car is background after some hours, and the next car opens the gate again."""
    parked = background(3 * 3600, 1) + 0.1
    _, readings = run([*background(300), *parked, *(background(10, 2) + 0.4)])
    assert not readings[300 + len(parked) - 1].open
    assert readings[300 + len(parked)].rose


def test_dusk_does_not_open_it_and_does_not_hide_an_event() -> None:
    dusk = background(1800) + np.linspace(0, 0.1, 1800)
    _, readings = run([*background(300, 1), *dusk, dusk[-1] + 0.3])
    assert not any(reading.open for reading in readings[:-1])
    assert readings[-1].rose


def test_a_restless_camera_has_a_wider_spread() -> None:
    _, calm = run([*background(600, noise=0.005), 0.3])
    _, restless = run([*background(600, noise=0.05), 0.3])
    assert calm[-1].rose
    assert not restless[-1].open


def test_after_a_long_gap_one_frame_is_not_the_background() -> None:
    state, _ = run(background(300))
    state, reading = step(SETTINGS, state, time=1e6, similarity=0.6)  # the camera returns during an event
    assert reading.rose
    assert state.level < 0.25


def test_the_background_is_learnt_by_time_not_by_frames() -> None:
    """Ten frames a second and one a second reach the same background after the same time."""
    begun, _ = run(background(300))
    slow, _ = run(background(200, 6, level=0.22), state=begun, start=2000.0)
    fast, _ = run(background(2000, 6, level=0.22), state=begun, start=2000.0, every_s=0.1)
    assert fast.level == pytest.approx(slow.level, abs=0.003)


def test_off_above_on_is_refused() -> None:
    with pytest.raises(ValueError, match="off must not be above on"):
        GateSettings(on=2.0, off=3.0)


def test_the_background_of_a_warm_up_is_its_narrowest_third() -> None:
    """The worked example of `_warmed`."""
    with patch("agent.alerts.gate.WARM_UP_FRAMES", 6):
        state, _ = run([0.20, 0.21, 0.50, 0.61, 0.22, 0.48])
    assert state.level == pytest.approx(0.205)
    assert state.spread == pytest.approx(1.77 * 0.11)


def test_similarities_close_together_by_chance_do_not_open_the_gate() -> None:
    """Noise alone hardly ever opens it, however small the noise is."""
    opened = 0
    for seed in range(200):
        _, readings = run((0.2 + 1e-4 * np.random.default_rng(seed).normal(size=300)).tolist())
        opened += sum(reading.rose for reading in readings)
    assert opened <= 2
