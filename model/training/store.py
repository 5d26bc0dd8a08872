"""Store the features of many histories on one device, with questions about their windows (`model.training.data`).

It is a ring buffer: the newest history replaces the oldest. The towers are frozen in this stage, so each frame is
encoded once.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.training.data import History, Window
from model.world.questions import Question

# Seconds between frames as the clock shows them. They vary because cameras are sampled at many rates.
INTERVALS_S = (1.0, 1.0, 1.0, 1.0, 0.2, 0.5, 2.0, 10.0, 30.0, 60.0)
# Weight of a question family when a window has questions of several. Clock times and counts get more, as they suffer most
# from new phrasings. More questions about order, or about rooms on new worlds, did not help (docs/evaluation.md).
FAMILY_WEIGHTS = {
    "present": 4.5, "when": 3.0, "count": 3.0, "last_seen": 2.5, "where": 2.0, "colour": 2.0, "existence": 2.0,
    "left_behind": 0.7, "room": 0.5, "order": 0.2,
}  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One question to train on, about `count` rows of the store from `first` on: frames start, start + 1, ... of a
    history.

    interval_s: seconds between frames as the clock shows them, which may differ from the one second of the drawn world.
    """

    first: int
    count: int
    start: int
    start_unix: float  # local clock of the history's frame 0
    interval_s: float
    question: Question

    def clock(self, frame: float) -> float:
        """Return the time of day in seconds that the clock shows at a frame of the window."""
        return (self.start_unix + (self.start + frame) * self.interval_s) % 86400


class FeatureStore:
    """A ring buffer of the features and labels of many frames, from which training takes questions.

    On `device`, float16: embeddings (capacity, D) and patches (capacity, M, C): M patches of C channels for each frame.
    On the CPU: labels (capacity, 2, M) int8: kind and colour of what each patch shows.
    """

    def __init__(self, capacity: int, patch_shape: tuple[int, int], embedding_dim: int, device: torch.device) -> None:
        self.capacity = capacity
        self.embeddings = torch.zeros(capacity, embedding_dim, dtype=torch.float16, device=device)
        self.patches = torch.zeros(capacity, *patch_shape, dtype=torch.float16, device=device)
        self.labels = torch.full((capacity, 2, patch_shape[0]), -1, dtype=torch.int8)
        self.filled = 0  # rows in use
        self._histories: deque[tuple[int, int, tuple[Window, ...]]] = deque()  # (first row, rows, windows)
        self._next = 0
        self._windows: dict[
            int, list[tuple[int, Window]]
        ] = {}  # length in frames -> (first row of the history, window)

    def __len__(self) -> int:
        return len(self._histories)

    def place(self, count: int) -> int:
        """Free `count` consecutive rows for a new history by dropping the oldest ones. Return the first row."""
        first = self._next if self._next + count <= self.capacity else 0
        while self._histories and self._overlaps(self._histories[0], first, count):
            gone, _, windows = self._histories.popleft()
            self._forget(gone, windows)
        self._next = first + count
        self.filled = max(self.filled, self._next)
        return first

    @staticmethod
    def _overlaps(held: tuple[int, int, tuple[Window, ...]], first: int, count: int) -> bool:
        return held[0] < first + count and first < held[0] + held[1]

    def add(self, history: History, embeddings: Tensor, patches: Tensor) -> None:
        """Add the features of a history of N frames.

        embeddings (N, D): normalised, of width D; patches (N, M, C): M patches of C channels for each frame.
        """
        first = self.place(len(embeddings))
        self.embeddings[first : first + len(embeddings)] = embeddings.half()
        self.patches[first : first + len(patches)] = patches.half()
        self.labels[first : first + len(patches)] = history.labels
        self._histories.append((first, len(embeddings), history.windows))
        for window in history.windows:
            if window.questions:
                self._windows.setdefault(window.stop - window.start, []).append((first, window))

    def sample(self, rng: np.random.Generator, size: int, shortest: int, longest: int) -> list[Item]:
        """Return `size` random questions about windows of `shortest` to `longest` frames, weighted by their family."""
        lengths = [length for length in self._windows if shortest <= length <= longest]
        if not lengths:
            return []
        weights = np.array([len(self._windows[length]) for length in lengths], float)
        picks = rng.choice(len(lengths), size, p=weights / weights.sum())
        return [self._pick(rng, self._windows[lengths[pick]]) for pick in picks]

    @staticmethod
    def _pick(rng: np.random.Generator, held: list[tuple[int, Window]]) -> Item:
        first, window = held[rng.integers(len(held))]
        families = sorted({question.family for question in window.questions})
        weights = np.array([FAMILY_WEIGHTS[family] for family in families])
        family = families[rng.choice(len(families), p=weights / weights.sum())]
        asked = [question for question in window.questions if question.family == family]
        question = asked[rng.integers(len(asked))]
        count, interval_s = window.stop - window.start, float(rng.choice(INTERVALS_S))
        return Item(first + window.start, count, window.start, window.start_unix, interval_s, question)

    def _forget(self, first: int, windows: tuple[Window, ...]) -> None:
        for window in windows:
            held = self._windows.get(window.stop - window.start, [])
            held[:] = [entry for entry in held if entry[0] != first]
