"""What an encoder's embeddings look like decides nothing: a cone, other distances or a rotation give the same choices.

Embeddings are changed before they become unit vectors. Visits, keyframes and the alert gate must come out the same.
"""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.alerts.gate import GateState, step
from agent.settings.rules import GateSettings
from model.select import ArrayCandidates
from model.select_visits import select_by_visits
from model.visits import find_visits

DIM, NUM_FRAMES = 48, 400
SHAPE = np.array([0.1, 0.25, 0.3, 0.24, 0.22, 0.09])  # of relevance during a visit
STARTS = (80, 200, 310)
TIMES = np.arange(float(NUM_FRAMES))

Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make embeddings (N, D) of a camera with three visits, the second of which changes its looks, and a question's (D,)."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((NUM_FRAMES, DIM))
    rows[:, 0] = 8.0
    rows += rng.uniform(-0.007, 0.007, rows.shape)  # bounded, so that no peak of noise is ever a visit
    for number, start in enumerate(STARTS):
        rows[start : start + len(SHAPE), 1] += SHAPE * (1 - 0.1 * number)
    rows[STARTS[1] + 3 : STARTS[1] + 6, 2] += 0.3
    return rows, np.eye(DIM)[1]


def as_it_is(rows: np.ndarray, text: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rows, text


def in_a_cone(rows: np.ndarray, text: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Add a constant ten times as long as the embeddings, as CLIP's are all alike."""
    axis = rng.normal(size=DIM)
    axis[1] = 0.0  # the part along the question only shortens it
    return rows + 80 * axis / np.linalg.norm(axis), text


def ten_times_as_far_apart(
    rows: np.ndarray, text: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Scale the deviations from the background by ten."""
    return rows[:1] + 10 * (rows - rows[:1]), text


def rotated(rows: np.ndarray, text: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    turn = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    return rows @ turn, text @ turn


def all_of_it(rows: np.ndarray, text: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rotated(*in_a_cone(*ten_times_as_far_apart(rows, text, rng), rng), rng)


def chosen(rows: np.ndarray, text: np.ndarray) -> tuple[list[tuple[int, int, int]], list[int], list[int]]:
    """Return the visits, the keyframes, and the frames at which the gate opens or surges."""
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    query = (text / np.linalg.norm(text)).astype(np.float32)
    scores = unit @ query
    visits = find_visits(scores, TIMES, (NUM_FRAMES,))
    keyframes = select_by_visits(
        ArrayCandidates(unit, query), scores, TIMES, num_keyframes=4, fill="none", background=unit.mean(0)[None]
    )
    state, opened = GateState(), []
    for row, score in enumerate(scores.tolist()):
        state, reading = step(GateSettings(), state, time=float(row), similarity=score)
        if reading.rose or reading.surged:
            opened.append(row)
    return [(visit.start, visit.peak, visit.end) for visit in visits], keyframes.rows.tolist(), opened


@pytest.mark.parametrize("change", [as_it_is, in_a_cone, ten_times_as_far_apart, rotated, all_of_it])
@given(seed=st.integers(0, 2**32))
def test_any_encoder_gives_the_same_visits_keyframes_and_alerts(change: Change, seed: int) -> None:
    visits, keyframes, opened = chosen(*change(*scene(seed), np.random.default_rng(seed)))
    assert visits == [(start + 1, start + 2, start + 4) for start in STARTS]
    assert keyframes == sorted([*(start + 2 for start in STARTS), STARTS[1] + 3])  # and where it looks different
    assert opened == [row for start in STARTS for row in (start, start + 1)]
