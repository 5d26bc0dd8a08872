"""Prominence of peaks equals a direct definition, also on long signals of difficult shapes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import prominence
from model.prominence import find_peaks


def by_definition(signal: list[float]) -> dict[int, float]:
    """Compute the prominence of each peak by walking outwards on both sides to the first higher value."""
    found: dict[int, float] = {}
    highest = signal.index(max(signal))
    for row, height in enumerate(signal):
        bases = []
        # an equal value on the left counts as higher
        for side, is_higher in ((signal[:row][::-1], lambda v, h: v >= h), (signal[row + 1 :], lambda v, h: v > h)):
            for distance, value in enumerate(side):
                if is_higher(value, height):
                    bases.append(min([height, *side[:distance]]))
                    break
        prominence = height - (max(bases) if bases else min(signal))
        if prominence > 0 or row == highest:
            found[row] = prominence
    return found


signals = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=40)


@given(
    segments=st.lists(signals, min_size=1, max_size=4),
    least=st.sampled_from([0.0, 1.0, 2.0, 4.0]),
    few=st.sampled_from([0, 3, 1000]),
    folds=st.integers(0, 4),
)
def test_peaks_and_prominences_match_the_definition(
    segments: list[list[float]], least: float, few: int, folds: int
) -> None:
    starts = np.cumsum([0, *(len(segment) for segment in segments[:-1])])
    expected = {}
    for start, segment in zip(starts.tolist(), segments, strict=True):
        top = segment.index(max(segment))
        expected |= {
            start + row: value for row, value in by_definition(segment).items() if value >= least or row == top
        }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prominence, "_FEW_PEAKS", few)  # by array passes, by the loop, or by both
        patch.setattr(prominence, "_FOLDS", folds)
        peaks = find_peaks(np.concatenate(segments), starts, least=least)
    assert dict(zip(peaks.rows.tolist(), peaks.prominences.tolist(), strict=True)) == expected
    assert peaks.highest.sum() == len(segments)


@given(signal=signals, shift=st.integers(-100, 100), scale=st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_a_constant_and_a_scale_change_no_peak(signal: list[float], shift: int, scale: float) -> None:
    peaks, other = find_peaks(np.array(signal)), find_peaks(np.array(signal) * scale + shift)
    assert other.rows.tolist() == peaks.rows.tolist()
    assert other.prominences.tolist() == (peaks.prominences * scale).tolist()


def test_a_plateau_is_one_peak_at_its_first_row() -> None:
    peaks = find_peaks(np.array([0.0, 2, 2, 2, 1, 3, 3, 0]))
    assert peaks.rows.tolist() == [1, 5]
    assert peaks.prominences.tolist() == [1, 3]


def test_equal_peaks_count_the_first_as_the_higher_one() -> None:
    peaks = find_peaks(np.array([1.0, 5, 2, 5, 0]))
    assert peaks.rows.tolist() == [1, 3]
    assert peaks.prominences.tolist() == [5, 3]
    assert peaks.highest.tolist() == [True, False]


def test_no_signal_has_no_peaks() -> None:
    assert not len(find_peaks(np.empty(0)).rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_signal_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        find_peaks(np.array([0.0, bad, 1.0]))


def alternating(heights: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(heights)) % 2, heights, -heights)


LONG = 1_000_000
SHAPES = {
    "monotone": np.arange(LONG, dtype=float),
    "staircase": np.repeat(np.arange(LONG // 1000, dtype=float), 1000),
    "constant": np.zeros(LONG),
    "damped": alternating(np.linspace(1, 0, LONG)),
    "growing": alternating(np.linspace(0, 1, LONG)),
    "sawtooth": np.arange(LONG) % 2 + np.arange(LONG) * 1e-6,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_million_frames_of_any_shape_have_one_highest_peak(shape: str) -> None:
    peaks = find_peaks(SHAPES[shape], least=0.01)
    assert peaks.highest.sum() == 1
    assert peaks.prominences.max() == np.ptp(SHAPES[shape])
