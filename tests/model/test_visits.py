"""Visits: peaks of relevance per camera, in units of its noise, never across a gap."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import prominence
from model.prominence import find_peaks
from model.visits import (
    GAP_INTERVALS,
    Visit,
    chance_of,
    clear_visits,
    find_visits,
    noise_of,
    rank_peaks,
    segment_starts,
)


def quiet(num_frames: int, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, noise, num_frames)


def with_visits(*spans: tuple[int, int, float], num_frames: int = 400, noise: float = 0.01) -> np.ndarray:
    """Make the relevance of a quiet camera that rises by `height` in the rows from start to end."""
    signal = quiet(num_frames, noise, 1)
    for start, end, height in spans:
        signal[start : end + 1] += height
    return signal


def found(
    signal: np.ndarray, times: np.ndarray | None = None, sizes: tuple[int, ...] | None = None
) -> list[tuple[int, int]]:
    times = np.arange(len(signal), dtype=float) if times is None else times
    return [(visit.start, visit.end) for visit in find_visits(signal, times, sizes or (len(signal),))]


def test_visits_begin_and_end_where_relevance_rises_and_falls() -> None:
    signal = with_visits((50, 50, 0.4), (120, 160, 0.5), (300, 310, 0.3))
    assert found(signal) == [(50, 50), (120, 160), (300, 310)]


@given(shift=st.floats(-5, 5), scale=st.sampled_from([0.01, 0.5, 3.0, 1000.0]), seed=st.integers(0, 50))
def test_a_constant_and_a_scale_change_no_visit(shift: float, scale: float, seed: int) -> None:
    signal = with_visits((50, 55, 0.4), (200, 230, 0.2)) + quiet(400, 0.005, seed)
    assert found(signal * scale + shift * scale) == found(signal)


def test_a_visit_never_reaches_across_a_gap_in_the_recording() -> None:
    signal = with_visits((190, 210, 0.5))
    times = np.arange(400.0)
    assert found(signal, times) == [(190, 210)]
    times[200:] += 60
    assert found(signal, times) == [(190, 199), (200, 210)]


def test_what_stays_for_a_whole_recording_is_a_visit_of_its_camera() -> None:
    """This recording has no quiet frame, but other recordings of the camera do."""
    signal = with_visits((200, 239, 0.5))
    times = np.arange(400.0)
    times[200:] += 100
    times[240:] += 100
    assert found(signal, times) == [(200, 239)]


def test_cameras_are_compared_in_units_of_their_own_noise() -> None:
    steady, restless = with_visits((50, 60, 0.2), noise=0.002), with_visits((50, 60, 0.3), noise=0.02)
    peaks = rank_peaks(np.concatenate([restless, steady]), np.tile(np.arange(400.0), 2), (400, 400))
    assert peaks.cameras[:2].tolist() == [1, 0]
    assert peaks.prominences[0] < peaks.prominences[1]


def test_visits_of_several_cameras_come_camera_by_camera_in_rising_time() -> None:
    first, second = with_visits((300, 310, 0.2), (20, 25, 0.4)), with_visits((100, 110, 0.3))
    visits = find_visits(np.concatenate([first, second]), np.tile(np.arange(400.0), 2), (400, 400))
    assert [(visit.camera, visit.start) for visit in visits] == [(0, 20), (0, 300), (1, 500)]


def test_visits_do_not_overlap_and_hold_their_peaks() -> None:
    for seed in range(20):
        signal = np.cumsum(np.random.default_rng(seed).normal(size=2000))
        visits = find_visits(signal, np.arange(2000.0), (2000,))
        assert all(visit.start <= visit.peak <= visit.end for visit in visits)
        assert all(a.end < b.start for a, b in pairwise(visits))


@pytest.mark.parametrize("num_frames", [1, 2, 3, 10])
def test_few_frames_are_no_error(num_frames: int) -> None:
    signal = quiet(num_frames)
    assert len(rank_peaks(signal, np.arange(num_frames, dtype=float), (num_frames,)).rows) >= 1
    assert found(signal) == []


def test_empty_cameras_and_empty_windows_have_no_visits() -> None:
    assert find_visits(np.empty(0), np.empty(0), ()) == []
    assert find_visits(np.empty(0), np.empty(0), (0, 0)) == []
    signal = with_visits((50, 60, 0.4))
    assert [v.camera for v in find_visits(signal, np.arange(400.0), (0, 400, 0))] == [1]


def test_a_constant_signal_has_no_visit() -> None:
    assert found(np.full(300, 0.25)) == []


def test_a_camera_that_repeats_its_picture_is_not_noisier_for_it() -> None:
    signal = np.repeat(with_visits((50, 60, 0.4)), 5)
    assert found(signal) == [(250, 304)]


def test_a_quiet_camera_has_fewer_visits_than_the_limit_says() -> None:
    hours = [quiet(3600, seed=seed) for seed in range(100)]
    assert sum(len(found(hour)) for hour in hours) <= 10  # 0.05 are expected per hour


def test_chance_is_an_upper_bound_of_the_peaks_of_noise() -> None:
    signal = quiet(400_000, 1.0, 3)
    prominences = find_peaks(signal, least=6.0).prominences
    for strength in (6.5, 7.0, 7.5):
        counted = int((prominences >= strength).sum())
        assert 0.5 * chance_of(strength, len(signal)) < counted < chance_of(strength, len(signal))


def test_slow_drift_of_light_counts_as_noise() -> None:
    drift = np.sin(np.arange(3600) / 200) * 0.2
    assert found(quiet(3600) + drift) == []
    assert found(quiet(3600) + drift + with_visits((1000, 1010, 3.0), num_frames=3600)) == [(1000, 1010)]


def test_noise_is_that_of_the_frames_between_and_within_visits() -> None:
    signal = with_visits((100, 300, 0.5), noise=0.02)
    assert 0.017 < noise_of(signal, np.zeros(1, np.int64)) < 0.023


def test_visits_of_a_camera_that_is_hardly_ever_empty_are_found() -> None:
    spans = [(row, row + 40, 0.5) for row in range(10, 360, 50)]
    assert found(with_visits(*spans)) == [(start, end) for start, end, _ in spans]


def visits_of(*prominences: float) -> list[Visit]:
    return [Visit(0, 10 * n, 10 * n, 10 * n, each, each * 10, 0.0) for n, each in enumerate(prominences)]


@pytest.mark.parametrize(
    ("prominences", "clear"),
    [
        ([6, 2, 5, 1.9], [6, 5]),
        ([6, 5.5, 5], [6, 5.5, 5]),  # nothing else stands out of the noise
        ([6, 5, 4.5, 4.2, 4, 3.9, 3.5, 3, 2.8, 2.5, 2.2, 2, 1.8, 1.5, 1.2, 1], []),
        ([6, 2.3, 0.8], [6]),  # the wider step below is one between other things
        ([], []),
    ],
)
def test_clear_visits_stand_apart_from_all_others(prominences: list[float], clear: list[float]) -> None:
    assert [visit.prominence for visit in clear_visits(visits_of(*prominences))] == clear


def test_gaps_are_silences_longer_than_usual_intervals() -> None:
    times = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8 + GAP_INTERVALS, 12 + GAP_INTERVALS, 13 + GAP_INTERVALS])
    assert segment_starts(times).tolist() == [0, 10]
    assert segment_starts(np.empty(0)).tolist() == []
    assert segment_starts(np.array([5.0])).tolist() == [0]


def test_a_camera_that_sends_more_slowly_for_a_while_has_no_gap_there() -> None:
    fast, slow = np.arange(500.0), 500 + 10 * np.arange(100.0)
    starts = segment_starts(np.concatenate([fast, slow])).tolist()
    assert len(starts) <= 2  # at most where the rate changes


# --- cost ---


class Counted(np.ndarray):
    """A signal that counts the elements which array operations on it, and on what is computed from it, go through."""

    elements = 0

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: object, **options: object) -> object:
        Counted.elements += max(np.size(each) for each in inputs)
        plain = [each.view(np.ndarray) if isinstance(each, Counted) else each for each in inputs]
        if out := options.pop("out", ()):
            options["out"] = tuple(each.view(np.ndarray) if isinstance(each, Counted) else each for each in out)  # type: ignore[attr-defined]
        result = getattr(ufunc, method)(*plain, **options)
        return result.view(Counted) if isinstance(result, np.ndarray) else result


def square_wave(num_frames: int) -> np.ndarray:
    """Make the relevance of a busy road: something comes every 20 frames."""
    return quiet(num_frames) + 0.5 * (np.arange(num_frames) % 20 < 8)


def wide(num_frames: int) -> np.ndarray:
    """Make a signal in which few visits fill the history."""
    return quiet(num_frames) + 0.5 * (np.arange(num_frames) // (num_frames // 9 + 1) % 2)


SHAPES: dict[str, Callable[[int], np.ndarray]] = {
    "monotone": lambda n: np.arange(n, dtype=float),
    "staircase": lambda n: np.repeat(np.arange(n // 1000, dtype=float), 1000),
    "falling staircase": lambda n: -np.repeat(np.arange(n // 1000, dtype=float), 1000),
    "constant": np.zeros,
    "damped": lambda n: np.linspace(1, 0, n) * (1 - 2 * (np.arange(n) % 2)),
    "sawtooth": lambda n: np.arange(n) % 2 + np.arange(n) * 1e-6,
    "noise": quiet,
    "busy": square_wave,
    "wide": wide,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_twice_the_frames_cost_at_most_twice_the_comparisons(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts what array operations go through, and the peaks left to the loop. Never a time."""
    in_turn = prominence._bases_in_turn

    def counted(heights: list[float], valleys: list[float]) -> list[float]:
        Counted.elements += len(heights)
        return in_turn(heights, valleys)

    monkeypatch.setattr(prominence, "_bases_in_turn", counted)
    cost = []
    for num_frames in (200_000, 400_000):
        Counted.elements = 0
        found = find_visits(SHAPES[shape](num_frames).view(Counted), np.arange(float(num_frames)), (num_frames,))
        cost.append(Counted.elements)
        assert len(found) == {"busy": num_frames // 20, "wide": 4}.get(shape, 0)
    assert cost[1] < 50 * num_frames
    assert cost[1] <= 2.2 * cost[0]


@pytest.mark.parametrize("shape", ["monotone", "staircase", "falling staircase"])
def test_a_million_frames_that_only_rise_or_fall_have_no_visit(shape: str) -> None:
    signal = SHAPES[shape](1_000_000)
    assert find_visits(signal, np.arange(1e6), (1_000_000,)) == []
    assert len(rank_peaks(signal, np.arange(1e6), (1_000_000,)).rows) == 1
