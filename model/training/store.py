"""Features of many histories on one device, and the questions about windows of them.

A ring: when it is full, the oldest history makes room for the newest. The towers are frozen by then, so a frame is encoded once.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.training.data import History, Window
from model.world.questions import Question


@dataclass(frozen=True)
class Item:
    """One question about rows first..first + count of the store, which are frames start, start + 1, ... of its history."""

    first: int
    count: int
    start: int
    start_unix: float  # local clock of the history's frame 0
    interval_s: float
    question: Question


class FeatureStore:
    """embeddings (capacity, D) and patches (capacity, M, C), float16, on `device`."""

    def __init__(self, capacity: int, patch_shape: tuple[int, int], embedding_dim: int, device: torch.device) -> None:
        self.capacity = capacity
        self.embeddings = torch.zeros(capacity, embedding_dim, dtype=torch.float16, device=device)
        self.patches = torch.zeros(capacity, *patch_shape, dtype=torch.float16, device=device)
        self._histories: deque[tuple[int, int, History]] = deque()  # (first, count, without its images)
        self._next = 0
        self._by_length: dict[int, list[tuple[int, History, Window]]] = {}

    def __len__(self) -> int:
        return len(self._histories)

    def place(self, count: int) -> int:
        """Free `count` rows in a row and return the first."""
        first = self._next if self._next + count <= self.capacity else 0
        while self._histories and self._overlaps(self._histories[0], first, count):
            self._histories.popleft()
        self._next = first + count
        return first

    @staticmethod
    def _overlaps(held: tuple[int, int, History], first: int, count: int) -> bool:
        return held[0] < first + count and first < held[0] + held[1]

    def add(self, history: History, embeddings: Tensor, patches: Tensor) -> None:
        """Take in one encoded history; embeddings (N, D) unit, patches (N, M, C)."""
        first = self.place(len(embeddings))
        self.embeddings[first : first + len(embeddings)] = embeddings.half()
        self.patches[first : first + len(patches)] = patches.half()
        bare = History(torch.empty(0), history.interval_s, history.windows)
        self._histories.append((first, len(embeddings), bare))
        self._by_length.clear()

    def sample(self, rng: np.random.Generator, size: int, shortest: int, longest: int) -> list[Item]:
        """`size` questions about windows of shortest..longest frames, families as evenly as the windows allow."""
        if not self._by_length:
            self._index()
        windows = [w for length, held in self._by_length.items() if shortest <= length <= longest for w in held]
        items = []
        while windows and len(items) < size:
            first, history, window = windows[rng.integers(len(windows))]
            if window.questions:
                families = sorted({q.family for q in window.questions})
                family = families[rng.integers(len(families))]
                asked = [q for q in window.questions if q.family == family]
                question = asked[rng.integers(len(asked))]
                count = window.stop - window.start
                items.append(Item(first + window.start, count, window.start, window.start_unix, history.interval_s, question))
        return items

    def _index(self) -> None:
        for first, _, history in self._histories:
            for window in history.windows:
                self._by_length.setdefault(window.stop - window.start, []).append((first, history, window))
