"""Threads that copy the pictures made by the worker processes to where training takes its batches from."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from model.training.data import History


class FramePool:
    """A ring buffer of labelled frames on the device, from which training takes random ones without waiting."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.capacity, self.device = capacity, device
        self.received = 0
        self._columns: dict[str, Tensor] = {}

    def add(self, batch: dict[str, Tensor]) -> None:
        """Store a batch in place of the oldest frames."""
        count = len(batch["images"])
        if not self._columns:
            self._columns = {
                name: torch.zeros(self.capacity, *column.shape[1:], dtype=column.dtype, device=self.device)
                for name, column in batch.items()
            }
        rows = (self.received + torch.arange(count)) % self.capacity
        for name, column in batch.items():
            self._columns[name][rows.to(self.device)] = column.to(self.device)
        self.received += count

    def sample(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the images and labels, by name, of `size` frames chosen at random, some perhaps twice."""
        filled = min(self.received, self.capacity)
        rows = torch.randint(filled, (size,), device=self.device, generator=generator)
        return {name: column[rows] for name, column in self._columns.items()}


class HistoryShelf:
    """A queue of histories (frames of a scene with questions) that are painted but not yet encoded.

    Beyond `capacity` the oldest is dropped.
    """

    def __init__(self, capacity: int) -> None:
        self.waiting: deque[History] = deque(maxlen=capacity)
        self.received = 0

    def add(self, history: History) -> None:
        """Append a history; drop the oldest if there are more than `capacity`."""
        self.waiting.append(history)
        self.received += 1


class Feed:
    """A thread that passes items from the worker processes to `add` until `stop` is called."""

    def __init__(self, items: Iterator[Any], add: Callable[[Any], None]) -> None:
        self._items, self._add = items, add
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for item in self._items:
            if self._stopping.is_set():
                return
            self._add(item)

    def stop(self) -> None:
        """Stop passing items. The workers end with their iterator."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._thread.join(timeout=5)
