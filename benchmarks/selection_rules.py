"""Rules that choose keyframes, each with the formulas and parameters of its paper, for `benchmarks.visits`.

Every rule takes a History and a number of keyframes, and returns rows in any order, at most so many, each once. None reserves
places for the newest frames, and none fills gaps.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from agent.evaluation.scores import wilson
from model.select import ArrayCandidates, select_keyframes
from model.select_visits import select_by_visits


@dataclass(frozen=True)
class History:
    """Frames of one camera and their relevance to one question.

    embeddings (N, D) unit rows; relevance (N,) cosine with the question; times (N,) unix seconds, rising; text (D,) the
    question's unit embedding, or None where relevance does not come from one.
    """

    embeddings: np.ndarray
    relevance: np.ndarray
    times: np.ndarray
    text: np.ndarray | None = None

    @cached_property
    def candidates(self) -> ArrayCandidates:
        """The frames as the product's selection takes them."""
        return _Given(self.embeddings, self.relevance)


class _Given(ArrayCandidates):
    """Candidates with a relevance of their own."""

    def __init__(self, embeddings: np.ndarray, relevance: np.ndarray) -> None:
        super().__init__(embeddings, np.zeros(embeddings.shape[1], np.float32))
        self._scores = np.asarray(relevance, np.float32)


def visits(history: History, num_keyframes: int) -> np.ndarray:
    """Selection by visits (`model/select_visits.py`)."""
    chosen = select_by_visits(
        history.candidates,
        np.asarray(history.relevance, np.float32),
        history.times,
        num_keyframes=num_keyframes,
        fill="none",
        background=history.embeddings.mean(axis=0, keepdims=True),
    )
    return chosen.rows


def dks(history: History, num_keyframes: int) -> np.ndarray:
    """Differential keyframe selection as published (arXiv 2504.02438, Algorithm 1): tau 0.85 between embeddings."""
    return select_keyframes(history.candidates, num_keyframes=num_keyframes, tau=0.85, fill="none").rows


def dks_relative(history: History, num_keyframes: int) -> np.ndarray:
    """The same relative to the camera's background, tau 0.98: the rule of the built-in model before selection by visits."""
    background = history.embeddings.mean(axis=0, keepdims=True)
    return select_keyframes(
        history.candidates, num_keyframes=num_keyframes, tau=0.98, fill="none", background=background
    ).rows


def top_k(history: History, num_keyframes: int) -> np.ndarray:
    """The frames with the highest relevance."""
    return history.candidates.top(num_keyframes)[0]


def uniform(history: History, num_keyframes: int) -> np.ndarray:
    """The middles of equally long parts of the history."""
    count = min(num_keyframes, len(history.relevance))
    return ((np.arange(count) + 0.5) / count * len(history.relevance)).astype(np.int64)


def aks(history: History, num_keyframes: int, *, threshold: float = 0.8, most_depth: int = 5) -> np.ndarray:
    """Adaptive keyframe sampling (arXiv 2502.21271), relevance scaled to 0..1, threshold and depth of its published code.

    A part whose best frames are above its mean by the threshold is done; any other is halved, with half of the places each.
    """
    scaled = _scaled(history.relevance)
    found: list[int] = []

    def judge(start: int, end: int, depth: int) -> None:
        places = num_keyframes >> depth
        part = scaled[start:end]
        if not places or not len(part):
            return
        best = np.argsort(-part, kind="stable")[:places]
        halves = num_keyframes >> (depth + 1)
        if depth == most_depth or halves == 0 or part[best].mean() - part.mean() >= threshold or len(part) < 2:
            found.extend((start + best).tolist())
            return
        middle = (start + end) // 2
        judge(start, middle, depth + 1)
        judge(middle, end, depth + 1)

    judge(0, len(scaled), 0)
    return np.array(sorted(found), np.int64)


def bolt(history: History, num_keyframes: int, *, power: float = 2.5) -> np.ndarray:
    """BOLT (arXiv 2503.21483): inverse-transform sampling of the scaled relevance, sharpened by a power.

    The frames at equidistant quantiles of the cumulated relevance, from 1/K to 1 - 1/K as in its published code.
    """
    mass = np.cumsum(_scaled(history.relevance) ** power)
    if mass[-1] == 0:
        return uniform(history, num_keyframes)
    places = np.linspace(1 / num_keyframes, 1 - 1 / num_keyframes, num_keyframes)
    return np.unique(np.searchsorted(mass / mass[-1], places))


def mmr(history: History, num_keyframes: int, *, weight: float = 0.5) -> np.ndarray:
    """Maximal marginal relevance (Carbonell and Goldstein 1998): weighs relevance against the closest frame taken.

    Both are scaled to 0..1 first, because cosines of a fixed camera's frames all lie at 0.98 and above.
    """
    scaled = _scaled(history.relevance)
    count = min(num_keyframes, len(scaled))
    taken = [int(np.argmax(scaled))]
    closest = history.embeddings @ history.embeddings[taken[0]]
    lowest = float(closest.min())
    while len(taken) < count:
        alike = (closest - lowest) / max(1.0 - lowest, 1e-9)
        gain = weight * scaled - (1 - weight) * alike
        gain[taken] = -np.inf
        taken.append(int(np.argmax(gain)))
        closest = np.maximum(closest, history.embeddings @ history.embeddings[taken[-1]])
    return np.array(taken, np.int64)


def mdp3(history: History, num_keyframes: int, *, weight: float = 0.2) -> np.ndarray:
    """MDP3 (arXiv 2501.02885): greedy choice of the largest determinant of a sum of Gaussian kernels, times relevance.

    Kernel widths 2^-3 to 2^1, weight 0.2, the whole history as one segment, as in its published code. The kernel between
    question and frame is taken from their cosine; where there is no embedding of the question, from the given relevance.
    """
    relevance = np.clip(history.relevance, -1, 1) if history.text is None else history.embeddings @ history.text
    widths = 2.0 ** np.arange(-3, 2)

    def kernel(cosines: np.ndarray) -> np.ndarray:
        squared = np.maximum(2 - 2 * cosines, 0)
        return np.exp(-squared[..., None] / (2 * widths)).sum(axis=-1)

    gain_of_text = 2 / weight * np.log(kernel(relevance))
    left = np.full(len(relevance), float(len(widths)))  # what each frame's kernel has beyond the frames taken
    factors = np.empty((0, len(relevance)))
    taken: list[int] = []
    for _ in range(min(num_keyframes, len(relevance))):
        gain = gain_of_text + np.log(np.maximum(left, 1e-12))
        gain[taken] = -np.inf
        row = int(np.argmax(gain))
        taken.append(row)
        similar = kernel(history.embeddings @ history.embeddings[row])
        factor = (similar - factors.T @ factors[:, row]) / np.sqrt(max(left[row], 1e-12))
        factors = np.vstack([factors, factor])
        left = left - factor**2
    return np.array(taken, np.int64)


def _scaled(relevance: np.ndarray) -> np.ndarray:
    lowest, highest = float(relevance.min()), float(relevance.max())
    return (np.asarray(relevance, np.float64) - lowest) / max(highest - lowest, 1e-12)


RULES: dict[str, Callable[[History, int], np.ndarray]] = {
    "visits": visits,
    "DKS, as published": dks,
    "DKS, relative": dks_relative,
    "top-K": top_k,
    "uniform": uniform,
    "AKS": aks,
    "BOLT": bolt,
    "MMR": mmr,
    "MDP3": mdp3,
}

# --- what a rule found ---

_SLACK_S = 0.5


@dataclass(frozen=True)
class Case:
    """One question's history, and the spans of seconds (of the same clock as `history.times`) that prove its answer."""

    history: History
    spans: tuple[tuple[float, float], ...]
    kind: str


Counts = dict[tuple[str, ...], list[int]]


def within(times: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    inside: np.ndarray = (times >= span[0] - _SLACK_S) & (times <= span[1] + _SLACK_S)
    return inside


def count_found(cases: Iterable[Case], counts: Iterable[int], key: tuple[str, ...], into: Counts) -> None:
    """Add what each rule finds with each number of keyframes: key + (kind, K, rule) -> [found, of]."""
    for case in cases:
        for count in counts:
            for name, rule in RULES.items():
                shown = case.history.times[rule(case.history, count)]
                entry = into.setdefault((*key, case.kind, str(count), name), [0, 0])
                entry[0] += sum(bool(within(shown, span).any()) for span in case.spans)
                entry[1] += len(case.spans)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1."""
    scaled: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def table(found: Counts) -> list[dict[str, Any]]:
    """Counts as rows with shares and 95 % intervals (Wilson)."""
    rows = []
    for key, (right, count) in found.items():
        low, high = wilson(right, count)
        *about, kind, places, rule = key
        rows.append(
            {
                "about": about, "kind": kind, "keyframes": int(places), "rule": rule, "found": right, "of": count,
                "share": right / count, "low": low, "high": high,
            }
        )  # fmt: skip
    return rows
