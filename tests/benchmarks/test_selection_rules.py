"""The rules that selection by visits is compared with: each against a small case worked out from its paper."""

from itertools import combinations

import numpy as np
import pytest

from benchmarks.selection_rules import RULES, History, aks, bolt, mdp3, mmr


def history(relevance: list[float] | np.ndarray, dim: int = 6, seed: int = 0) -> History:
    """Frames whose cosine with the first axis is `relevance`."""
    scores = np.asarray(relevance, float)
    other = np.random.default_rng(seed).normal(size=(len(scores), dim - 1))
    other *= (np.sqrt(1 - scores**2) / np.linalg.norm(other, axis=1))[:, None]
    unit = np.column_stack([scores, other])
    return History(unit, scores, np.arange(float(len(scores))), np.eye(dim)[0])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("num_frames", [1, 5, 40])
def test_every_rule_returns_distinct_rows_within_its_places(rule: str, num_frames: int) -> None:
    frames = history(np.random.default_rng(3).uniform(-0.5, 0.9, num_frames))
    rows = RULES[rule](frames, 8).tolist()
    assert 1 <= len(rows) <= min(8, num_frames)
    assert len(set(rows)) == len(rows)
    assert all(0 <= row < num_frames for row in rows)


def test_aks_takes_the_best_frames_where_few_stand_out_and_splits_where_they_do_not() -> None:
    one_peak = np.zeros(64)
    one_peak[10:14] = 1.0
    assert aks(history(one_peak * 0.9), 4).tolist() == [10, 11, 12, 13]
    flat = np.linspace(0.5, 0.6, 64)
    assert aks(history(flat), 4).tolist() == [15, 31, 47, 63]  # the best of every quarter


def test_bolt_gives_places_in_proportion_to_relevance() -> None:
    relevance = np.zeros(100)
    relevance[20:30], relevance[70:80] = 0.8, 0.8
    rows = bolt(history(relevance), 8)
    assert int(((rows >= 20) & (rows < 30)).sum()) == 4
    assert int(((rows >= 70) & (rows < 80)).sum()) == 4


def test_mmr_avoids_frames_that_are_like_one_taken() -> None:
    unit = np.array([[0.9, 0.4, 0.0], [0.9, 0.4, 0.01], [0.8, 0.0, 0.6]])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    frames = History(unit, unit[:, 0], np.arange(3.0), np.eye(3)[0])
    assert mmr(frames, 2, weight=0.3).tolist() == [0, 2]


def test_mdp3_takes_the_greedy_determinant() -> None:
    frames = history(np.random.default_rng(5).uniform(0, 0.9, 9))
    widths = 2.0 ** np.arange(-3, 2)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = ((a[:, None] - b[None]) ** 2).sum(axis=2)
        return np.asarray(np.exp(-squared[..., None] / (2 * widths)).sum(axis=2))

    text = kernel(frames.embeddings, np.eye(6)[:1])[:, 0]

    def objective(rows: list[int]) -> float:
        chosen = frames.embeddings[rows]
        return float(2 / 0.2 * np.log(text[rows]).sum() + np.linalg.slogdet(kernel(chosen, chosen))[1])

    taken: list[int] = []
    for _ in range(4):
        taken.append(max(set(range(9)) - set(taken), key=lambda row: objective([*taken, row])))
    assert mdp3(frames, 4).tolist() == taken
    best = max(combinations(range(9), 2), key=lambda rows: objective(list(rows)))
    assert objective(mdp3(frames, 2).tolist()) <= objective(list(best))
