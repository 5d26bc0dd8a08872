"""The trained part of our own reader: a small network over the words of a question, computed with numpy.

Each word is a mean of hashed letter groups and, with the sentence encoder, its projected vector. Two convolutions over
the words give tags: which words name a thing. The maximum and mean over the other words, beside the vector of the
sentence, give the kind and the details. `benchmarks.train_reader` trains the same network with torch and writes the file.
"""

import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.reading.encoder import SentenceEncoder
from agent.reading.types import KINDS, Place, Relation
from agent.reading.words import COLOURS
from agent.reading.words import KINDS as THINGS

LEFT = "left"  # what was left behind: a kind of its own for the network, `state` in a Reading
ABSENT = "absent"  # of an alert's condition: that something is not there; `existence` in a Reading
LABELS = (*KINDS, LEFT, ABSENT)
RELATIONS: tuple[Relation, ...] = ("before or after", "before", "after", "first", "last")
PLACES: tuple[Place, ...] = ("", "side", "room", "camera")
BOUNDS = ("", "more than", "at least")
MEANINGS = (*THINGS, *COLOURS, "")  # what a single word means; "": none of the drawn world's things and colours
NUM_BUCKETS = 8192
KERNEL = 5
MAX_TOKENS = 60

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Probabilities: of LABELS, RELATIONS, PLACES and BOUNDS, and for each word of the tags outside, begin, inside."""

    kind: Floats
    relation: Floats
    place: Floats
    bound: Floats
    tags: Floats


class Network:
    """The network, read from a file. encoder: None for the one that reads letter groups only."""

    def __init__(self, path: Path, encoder: SentenceEncoder | None) -> None:
        with np.load(path) as parts:
            self._weights: dict[str, Floats] = {name: parts[name].astype(np.float32) for name in parts.files}
        self._encoder = encoder
        self._table: dict[str, int] = {}
        if encoder is not None:
            known = bytes(self._weights.pop("known_words").astype(np.uint8)).decode("utf-8").split("\n")
            self._table = {word: place for place, word in enumerate(known)}

    @property
    def known_words(self) -> frozenset[str]:
        """The words of the training examples, in lower case; none for the network over letter groups."""
        return frozenset(self._table)

    def __call__(self, text: str, words: Sequence[str]) -> Outcome:
        """Return what the network says of a question and its words."""
        given = self._weights
        embedded = np.stack([given["letters"][buckets(word)].mean(axis=0) for word in words])
        if self._encoder is not None:
            embedded = np.concatenate([embedded, self.projected(words)], axis=1)
        hidden = np.maximum(_convolved(embedded, given["first.weight"], given["first.bias"]), 0)
        hidden = hidden + np.maximum(_convolved(hidden, given["second.weight"], given["second.bias"]), 0)
        tags = _softmax(hidden @ given["tags.weight"].T + given["tags.bias"])
        others = hidden * (tags.argmax(axis=1) == 0)[:, None]  # the kind must not depend on which things are named
        pooled = [others.max(axis=0), others.sum(axis=0) / max(1, int((tags.argmax(axis=1) == 0).sum()))]
        if self._encoder is not None:
            pooled.insert(0, (self._encoder.sentence(text) - given["sentence_mean"]) * given["sentence_scale"])
        whole = np.concatenate(pooled)
        kind, relation, place, bound = (
            _softmax(given[f"{head}.weight"] @ whole + given[f"{head}.bias"])
            for head in ("kind", "relation", "place", "bound")
        )
        return Outcome(kind, relation, place, bound, tags)

    def meanings(self, text: str) -> Floats:
        """Return (19,) probabilities of what a word or two mean by themselves: MEANINGS. Without encoder: nothing."""
        if self._encoder is None:
            return np.asarray(np.eye(len(MEANINGS))[-1], np.float32)
        given = self._weights
        vector = self._encoder.words([text])[0] - given["word_mean"]
        return _softmax(given["meaning.weight"] @ vector + given["meaning.bias"])

    def projected(self, words: Sequence[str]) -> Floats:
        """Return the projected vectors of words, from the file's table where it has them."""
        given, keys = self._weights, [word.lower() for word in words]
        assert self._encoder is not None
        unknown = [key for key in dict.fromkeys(keys) if key not in self._table and any(map(str.isalpha, key))]
        fresh = (self._encoder.words(unknown) - given["word_mean"]) @ given["word_projection"]
        found = dict(zip(unknown, fresh, strict=True))
        nothing = np.zeros(given["word_projection"].shape[1], np.float32)
        return np.stack([
            given["known_vectors"][self._table[key]] if key in self._table else found.get(key, nothing) for key in keys
        ])  # fmt: skip


def buckets(word: str) -> list[int]:
    """Return the hash buckets of a word: the word, its groups of letters, and whether it has digits or capitals."""
    plain = word.lower()
    bare = "".join(letter for letter in unicodedata.normalize("NFD", plain) if not unicodedata.combining(letter))
    framed = f"<{bare}>"
    groups = [f"w{plain}", f"w{bare}"]
    groups += [f"{size}{framed[place : place + size]}" for size in (3, 4) for place in range(len(framed) - size + 1)]
    if any(map(str.isdigit, word)):
        groups.append("digit")
    return [zlib.crc32(group.encode("utf-8", "replace")) % NUM_BUCKETS for group in groups[:60]]


def _convolved(rows: Floats, weight: Floats, bias: Floats) -> Floats:
    """Return the convolution of (N, channels) rows with a (out, channels, KERNEL) weight, padded with zeros."""
    half = KERNEL // 2
    padded = np.pad(rows, ((half, half), (0, 0)))
    out = sum(padded[shift : shift + len(rows)] @ weight[:, :, shift].T for shift in range(KERNEL))
    return np.asarray(out + bias, np.float32)


def _softmax(values: Floats) -> Floats:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)
