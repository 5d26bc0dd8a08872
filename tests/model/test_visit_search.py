"""The search for visits: which frames it checks, and which visits it returns."""

import itertools
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.visit_search import LOOKS_IN_VAIN, MOST_LOOKS, PATIENCE, Visit, VisitSearch


def searched(search: VisitSearch, truth: np.ndarray, at_once: int = 1) -> list[Visit]:
    """Run the search to its end. `truth` (N,) bool: whether a frame shows the thing. at_once: frames checked together."""
    while rows := search.next_rows(at_once):
        for row in rows:
            search.tell(row, bool(truth[row]))
    return search.visits()


def track(num_frames: int, *stays: tuple[int, int], noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Return (relevance, truth) of a history that shows the thing from the first to the last row of each stay."""
    rng = np.random.default_rng(num_frames)
    truth = np.zeros(num_frames, bool)
    for first, last in stays:
        truth[first : last + 1] = True
    return (0.1 + 0.3 * truth + rng.normal(0, noise, num_frames)).astype(np.float32), truth


def test_every_visit_is_found_with_few_frames_checked() -> None:
    scores, truth = track(10_000, (40, 47), (3000, 3003), (3011, 3020), (9990, 9999))
    search = VisitSearch(np.arange(10_000.0), scores)
    visits = searched(search, truth)
    assert [(visit.first, visit.last) for visit in visits] == [(40, 47), (3000, 3003), (3011, 3020), (9990, 9999)]
    assert all(truth[visit.best] for visit in visits)
    assert search.num_looks <= 4 + 3 * 3 + LOOKS_IN_VAIN * PATIENCE  # three between each two visits
    assert not search.gave_up


def test_long_stay_is_one_visit_and_checks_one_frame() -> None:
    scores, truth = track(2000, (100, 1500))
    search = VisitSearch(np.arange(2000.0), scores)
    assert [(visit.first, visit.last) for visit in searched(search, truth)] == [(100, 1500)]
    assert search.num_looks <= 4 + LOOKS_IN_VAIN * PATIENCE


def test_thing_that_is_always_there_is_one_visit() -> None:
    for noise in (0.0, 0.02, 0.1):
        scores, truth = track(2000, (0, 1999), noise=noise)
        search = VisitSearch(np.arange(2000.0), scores)
        assert len(searched(search, truth)) == 1
        assert search.num_looks <= MOST_LOOKS


def test_passing_object_does_not_split_a_stay() -> None:
    scores, truth = track(2000, (100, 900), noise=0.0)
    truth[300:304] = False  # hidden
    scores[296:308] = [0.2] * 4 + [0.05] * 4 + [0.2] * 4  # less visible around the gap
    assert [(visit.first, visit.last) for visit in searched(VisitSearch(np.arange(2000.0), scores), truth)] == [
        (100, 900)
    ]
    truth[297:307] = False  # ten seconds: too long a gap
    assert len(searched(VisitSearch(np.arange(2000.0), scores), truth)) == 2


def test_short_gap_is_the_same_visit() -> None:
    for missing, expected in ((5, 1), (6, 2)):  # gaps of 6 s and 7 s
        scores, truth = track(200, (50, 60), (61 + missing, 70 + missing))
        assert len(searched(VisitSearch(np.arange(200.0), scores), truth)) == expected


def test_gap_while_the_camera_was_off_splits_a_visit() -> None:
    scores, truth = track(200, (50, 60))
    times = np.concatenate([np.arange(56.0), 1000 + np.arange(144.0)])
    assert [(v.first, v.last) for v in searched(VisitSearch(times, scores), truth)] == [(50, 55), (56, 60)]


@pytest.mark.parametrize(("interval_s", "longest"), [(0.1, 6), (1.0, 6), (1.5, 4), (30.0, 3)])
def test_the_gap_within_a_visit_follows_the_camera_s_rate(interval_s: float, longest: int) -> None:
    for num_intervals, expected in ((longest, 1), (longest + 1, 2)):
        scores, truth = track(200, (50, 60), (60 + num_intervals, 75))
        assert len(searched(VisitSearch(np.arange(200.0) * interval_s, scores), truth)) == expected


def test_slow_camera_has_a_longer_gap() -> None:
    scores, truth = track(200, (50, 51), (53, 54), (60, 61))
    assert len(searched(VisitSearch(np.arange(200.0) * 30, scores), truth)) == 2


def test_visits_of_different_cameras_are_separate() -> None:
    scores, truth = track(100, (47, 52))
    visits = searched(VisitSearch(np.concatenate([np.arange(50.0), np.arange(50.0)]), scores, [50, 0, 50]), truth)
    assert [(visit.first, visit.last) for visit in visits] == [(47, 49), (50, 52)]


def test_thing_that_never_came_needs_few_checks() -> None:
    scores, truth = track(1000)
    search = VisitSearch(np.arange(1000.0), scores)
    assert searched(search, truth) == []
    assert PATIENCE <= search.num_looks <= LOOKS_IN_VAIN * PATIENCE


@pytest.mark.parametrize("only", ["first", "last"])
def test_first_or_last_of_many_visits_needs_few_checks(only: Literal["first", "last"]) -> None:
    stays = [(100 * n, 100 * n + 8) for n in range(95)]
    scores, truth = track(10_000, *stays)
    search = VisitSearch(np.arange(10_000.0), scores, only=only)
    visits = searched(search, truth)
    assert not search.gave_up
    found = visits[0] if only == "first" else visits[-1]
    assert (found.first, found.last) == (stays[0] if only == "first" else stays[-1])
    assert search.num_looks < 40  # checking all of them would exceed the limit


def test_search_stops_at_its_limit() -> None:
    scores, truth = track(3000, *((start, start + 2) for start in range(0, 3000, 30)))
    search = VisitSearch(np.arange(3000.0), scores)
    assert MOST_LOOKS / 4 <= len(searched(search, truth)) < 100
    assert search.num_looks == MOST_LOOKS
    assert search.gave_up


def test_weak_visit_does_not_join_its_neighbours() -> None:
    scores, truth = track(1000, (100, 109), (130, 139), (600, 603), noise=0.0)
    scores[110:130], scores[600:604] = 0.25, 0.26
    visits = searched(VisitSearch(np.arange(1000.0), scores), truth)
    assert [(visit.first, visit.last) for visit in visits] == [(100, 109), (130, 139), (600, 603)]


def test_checked_frame_without_the_thing_is_in_no_visit() -> None:
    scores, truth = track(300, (51, 69), noise=0.0)
    scores[50] = 0.45  # a more relevant frame that shows something else
    visits = searched(VisitSearch(np.arange(300.0), scores), truth)
    assert [(visit.first, visit.last) for visit in visits] == [(51, 69)]


def test_other_static_thing_does_not_exhaust_the_search() -> None:
    scores, truth = track(3000, (500, 505), (1500, 1505), (2500, 2505))
    scores[100:160] += 0.35  # another thing with a higher relevance
    visits = searched(VisitSearch(np.arange(3000.0), scores), truth)
    assert [(visit.first, visit.last) for visit in visits] == [(500, 505), (1500, 1505), (2500, 2505)]


def test_one_wrong_verdict_does_not_hide_a_visit() -> None:
    scores, truth = track(500, (50, 69))
    search = VisitSearch(np.arange(500.0), scores)
    [first] = search.next_rows()
    truth[first] = False
    search.tell(first, False)
    assert any(truth[visit.best] for visit in searched(search, truth))


def test_background_is_computed_per_camera_and_hour() -> None:
    stays = [(start, start + 5) for start in range(300, 3000, 600)]
    scores, truth = track(3000, *stays)
    other = 0.36 + (scores - 0.1) / 3
    visits = searched(
        VisitSearch(np.tile(np.arange(3000.0), 2), np.concatenate([scores, other]), [3000, 3000]), np.tile(truth, 2)
    )
    assert len(visits) == 2 * len(stays)
    light = np.where(np.arange(6000) < 3000, 0.0, 0.25).astype(np.float32)
    visits = searched(VisitSearch(np.arange(6000.0), np.tile(scores, 2) + light), np.tile(truth, 2))
    assert len(visits) == 2 * len(stays)


def test_unknown_verdict_is_not_a_miss() -> None:
    scores, truth = track(500, (50, 55), (200, 205))
    search, num_skipped = VisitSearch(np.arange(500.0), scores), 0
    while rows := search.next_rows():
        [row] = rows
        if 200 <= row <= 205:
            search.skip(row)
            num_skipped += 1
        else:
            search.tell(row, bool(truth[row]))
    assert num_skipped == 6
    assert [(visit.first, visit.last) for visit in search.visits()] == [(50, 55)]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_tiny_histories_are_searched(count: int) -> None:
    truth = np.ones(count, bool)
    assert len(searched(VisitSearch(np.arange(float(count)), np.full(count, 0.3, np.float32)), truth)) == min(count, 1)


@given(st.lists(st.booleans(), max_size=80), st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_each_frame_is_checked_at_most_once_and_visits_do_not_overlap(
    shows: list[bool], seed: int, at_once: int
) -> None:
    truth = np.array(shows, bool)
    scores = np.random.default_rng(seed).normal(size=len(truth)).astype(np.float32)
    search, checked = VisitSearch(np.arange(float(len(truth))), scores), []
    while rows := search.next_rows(at_once):
        assert len(rows) <= at_once
        checked += rows
        for row in rows:
            search.tell(row, bool(truth[row]))
    visits = search.visits()
    assert len(set(checked)) == len(checked) == search.num_looks
    assert all(before.last < after.first for before, after in itertools.pairwise(visits))
    assert all(visit.first <= visit.best <= visit.last and truth[visit.best] for visit in visits)
    assert bool(visits) == any(truth[row] for row in checked)
    ends = {end for visit in visits for end in (visit.first, visit.last)}
    assert all(
        truth[row] for row in ends & set(checked)
    )  # no visit begins or ends with a frame checked without success


def test_checking_eight_at_once_finds_the_same_visits_in_fewer_rounds() -> None:
    stays = [(40, 47), (3000, 3003), (3011, 3020), (5000, 5040), (9990, 9999)]
    scores, truth = track(10_000, *stays)
    search = VisitSearch(np.arange(10_000.0), scores)
    num_rounds = 0
    while rows := search.next_rows(8):
        num_rounds += 1
        for row in rows:
            search.tell(row, bool(truth[row]))
    assert [(visit.first, visit.last) for visit in search.visits()] == stays
    assert num_rounds <= 6


def test_a_search_for_any_visit_ends_with_the_first_one_found() -> None:
    scores, truth = track(1000, (100, 105), (500, 520))
    search = VisitSearch(np.arange(1000.0), scores, only="any")
    assert len(searched(search, truth)) == 1
    assert search.num_looks == 1
    search = VisitSearch(np.arange(1000.0), scores, only="any", most=3)
    assert searched(search, np.zeros(1000, bool)) == []
    assert search.num_looks == 3
    assert search.gave_up
