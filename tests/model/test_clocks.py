"""Clock times in answers are only those shown to the model; each is scored as a whole."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from model.clocks import ClockTree, clock_tree, tree_of
from model.generate import Decoding, _tokens
from model.history import ArrayHistory
from model.select import Keyframes
from model.video_model import VideoModel
from model.world.draw import draw
from model.world.scene import Scene

CLOCKS = ("12:00:05", "12:00:07", "13:10:05")
BUILTIN = Path(__file__).parents[2] / "model" / "builtin"


@pytest.fixture(scope="module")
def builtin() -> VideoModel:
    return VideoModel.load(BUILTIN)


def test_texts_with_a_common_prefix_are_read_once() -> None:
    tree = tree_of([(1, 2), (1, 3), (4, 2)], {})
    assert tree.tokens.tolist() == [1, 2, 3, 4, 2]
    assert tree.parents.tolist() == [-1, 0, 0, -1, 3]
    assert tree.depths.tolist() == [0, 1, 1, 0, 1]
    assert tree.ends == (1, 2, 4)
    assert tree.visible.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_tokenizer_that_joins_digits_gets_no_clock_choices() -> None:
    assert clock_tree(CLOCKS, lambda text: [ord(symbol) for symbol in text]) is not None
    assert clock_tree((), lambda text: [ord(symbol) for symbol in text]) is None
    assert clock_tree(("noon",), lambda text: [ord(symbol) for symbol in text]) is None
    assert clock_tree(CLOCKS, lambda text: [int(part) for part in text.split(":") if part] or [0]) is None
    pairs = re.compile(r"\d\d|.")
    assert clock_tree(CLOCKS, lambda text: [hash(part) for part in pairs.findall(text)]) is None
    twice = clock_tree((*CLOCKS, *CLOCKS), lambda text: [ord(symbol) for symbol in text])
    assert twice is not None
    assert len(twice.texts) == 3


def test_one_pass_scores_all_texts_like_separate_passes(builtin: VideoModel) -> None:
    tree = clock_tree(CLOCKS, builtin.tokenizer.encode)
    assert tree is not None
    network = builtin.network
    embeddings = network.embed_tokens(torch.tensor(builtin.tokenizer.encode("when did the red car come? 12:00:06 ")))
    decoding = Decoding(network.language_model)
    first = decoding.prefill(embeddings)
    weighed = decoding.weigh(tree, first)
    for text, found in zip(tree.texts, weighed.tolist(), strict=True):
        alone = Decoding(network.language_model)
        logits, expected = alone.prefill(embeddings), 0.0
        for token in text:
            expected += float(torch.log_softmax(logits, -1)[token])
            logits = alone.step(token)
        assert found == pytest.approx(expected, abs=1e-3)
    untouched = Decoding(network.language_model)
    untouched.prefill(embeddings)
    torch.testing.assert_close(decoding.step(5, 6), untouched.step(5, 6), atol=1e-4, rtol=0)
    decoding.rewind(1)
    decoding.rewind(0)
    torch.testing.assert_close(decoding.step(7), _after(builtin, embeddings, 5, 7), atol=1e-4, rtol=0)


def _after(model: VideoModel, embeddings: Tensor, *tokens: int) -> Tensor:
    decoding = Decoding(model.network.language_model)
    decoding.prefill(embeddings)
    return decoding.step(*tokens)


class Script:
    """A language model that writes a fixed text, one character per token, up to a ".".

    `weigh` prefers the clock time `favourite`. `seen`: the text that the model was given back as its own output.
    """

    def __init__(self, text: str, favourite: int) -> None:
        self.text, self.favourite, self.seen = text, favourite, ""

    def prefill(self, embeddings: Tensor) -> Tensor:
        return self._next()

    def step(self, *tokens: int) -> Tensor:
        self.seen += "".join(map(chr, tokens))
        return self._next()

    def rewind(self, count: int) -> None:
        self.seen = self.seen[: len(self.seen) - count]

    def weigh(self, tree: ClockTree, first: Tensor) -> Tensor:
        assert int(first.argmax()) == ord(self.text[len(self.seen)])  # the logits where the digits begin
        return torch.eye(len(tree.texts))[self.favourite]

    def _next(self) -> Tensor:
        logits = torch.zeros(128)
        logits[ord(self.text[len(self.seen)])] = 9
        return logits


def said(text: str, favourite: int = 0, clocks: tuple[str, ...] = CLOCKS) -> str:
    script = Script(text, favourite)
    tree = clock_tree(clocks, lambda words: [ord(symbol) for symbol in words])
    decoding = cast(Decoding, script)
    tokens: Iterator[int] = _tokens(decoding, torch.zeros(1, 1), 0.0, torch.Generator(), {ord(".")}, tree)
    words = "".join(map(chr, tokens))
    assert script.seen == words
    return words


def test_clock_time_in_an_answer_is_replaced_by_a_shown_one() -> None:
    assert said("29:39:27.") == "12:00:05"
    assert said("at 12:00:09, then 99:99:99.", 2) == "at 13:10:05, then 13:10:05"
    assert said("7:30:27 .", 1, ("12:00:05", "7:30:02")) == "7:30:02 "


@pytest.mark.parametrize(
    "text",
    ["two cars", "12", "3 cars and 14 dogs", "1234:56", "12345:67:89", "room 2: 3", "1:a", "2:1", "a:12 7 ", "::"],
)
def test_other_numbers_are_unchanged(text: str) -> None:
    assert said(text + ".") == text


def test_answer_without_clock_times_is_not_scored() -> None:
    assert said("29:39:27.", clocks=()) == "29:39:27"


def test_answer_names_only_times_of_its_keyframes(builtin: VideoModel) -> None:
    """At a high temperature, digits sampled one by one would form times that were never shown."""
    scene = Scene.from_seed(3, duration_s=60.0, split="eval")
    history = ArrayHistory(builtin.encode([draw(scene, 10.0 * place, 192, 108) for place in range(6)]))
    query = builtin.embed_text("when did the red car come?")
    keyframes = Keyframes(np.arange(6), ("relevant",) * 6, np.full(6, 0.4, np.float32))
    clocks = ["07:03:08", "07:03:09", "07:41:12", "19:39:22", "19:39:23", "20:00:00"]
    context = builtin.build_context(history, keyframes, query)
    found = []
    for seed in range(12):
        words = "".join(
            builtin.stream("when did the red car come?", context, timestamps=clocks, temperature=2.0, seed=seed)
        )
        found += re.findall(r"\d+:\d+:\d+", words)
    assert len(found) >= 6
    assert set(found) <= set(clocks)
